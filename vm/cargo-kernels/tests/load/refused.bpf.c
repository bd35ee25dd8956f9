/* Programs that no kernel accepts, one for each reason that has no kernel's number. */
#include "common.h"

struct {
	__uint(type, 2);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} values SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_execve") int null_pointer(void *ctx)
{
	u64 *value = bpf_map_lookup_elem(&values, &(u32){ 0 });

	return *value == 1;
}

SEC("tracepoint/syscalls/sys_enter_execve") int beyond_value(void *ctx)
{
	u64 *value = bpf_map_lookup_elem(&values, &(u32){ 0 });

	return value ? value[bpf_get_prandom_u32()] == 1 : 0;
}

SEC("tracepoint/syscalls/sys_enter_execve") int endless(void *ctx)
{
	while (bpf_ktime_get_ns() != 1)
		;
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_execve") int deep_stack(void *ctx)
{
	asm volatile("r1 = 0; *(u64 *)(r10 - 520) = r1" : : : "r1");
	return 0;
}
