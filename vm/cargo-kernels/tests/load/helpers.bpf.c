/* Programs whose answer follows from the kernel that first had a helper or a type of map. */
#include "common.h"

static u64 (*bpf_get_func_ip)(void *) = (void *)173;
static long (*bpf_get_retval)(void) = (void *)186;
static u64 (*bpf_ktime_get_tai_ns)(void) = (void *)208;
static long (*bpf_loop)(u32, void *, void *, u64) = (void *)181;

volatile const u32 limit = 10;

SEC("kprobe/do_nanosleep") int func_ip(void *ctx) { return bpf_get_func_ip(ctx) == 1; }
SEC("tracepoint/syscalls/sys_enter_execve") int tai(void *ctx) { return bpf_ktime_get_tai_ns() == 1; }
SEC("tracepoint/syscalls/sys_enter_execve") int everywhere(void *ctx) { return bpf_ktime_get_ns() == 1; }
SEC("socket") int not_for_sockets(void *ctx) { return bpf_get_retval(); }

static long step(u32 i, void *sum) { *(u32 *)sum += i; return 0; }
SEC("tracepoint/syscalls/sys_enter_execve") int callback(void *ctx)
{
	u32 sum = 0;

	bpf_loop(4, step, &sum, 0);
	return sum == 3;
}

/* Loads with `--set limit=N` unless N is too much. */
SEC("tracepoint/syscalls/sys_enter_execve") int counted(void *ctx)
{
	for (u32 i = 0; i < limit; i++)
		if (bpf_ktime_get_ns() == i)
			return 1;
	return 0;
}

SEC("?tracepoint/syscalls/sys_enter_execve") int only_when_named(void *ctx) { return 0; }
SEC("syscall") int type_syscall(void *ctx) { return 0; }
