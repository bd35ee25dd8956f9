/* A value as large as this can be had since 6.2. */
#include "common.h"

struct {
	__uint(type, 2);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 6 << 20);
} large SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_execve") int large_value(void *ctx)
{
	return bpf_map_lookup_elem(&large, &(u32){ 0 }) == 0;
}
