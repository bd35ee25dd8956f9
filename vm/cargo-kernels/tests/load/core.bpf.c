/* Relocations against the kernel's types and functions. */
#include "common.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct task_struct {
	int pid;
	long state; /* called __state since 5.14 */
};
#pragma clang attribute pop

static void *(*bpf_get_current_task)(void) = (void *)35;
static long (*bpf_probe_read_kernel)(void *, u32, const void *) = (void *)113;
static long (*bpf_copy_from_user)(void *, u32, const void *) = (void *)148;

static long read_state(void)
{
	struct task_struct *task = bpf_get_current_task();
	long state = 0;

	bpf_probe_read_kernel(&state, sizeof(state), &task->state);
	return state;
}

SEC("tracepoint/syscalls/sys_enter_execve") int field(void *ctx) { return read_state() == 7; }

/* In BTF, and inlined, on 6.18. */
SEC("fentry/blk_account_io_done") int inlined(void *ctx) { return 0; }

SEC("fentry/do_nanosleep") int must_not_sleep(u64 *ctx)
{
	char c = 0;

	return bpf_copy_from_user(&c, 1, (void *)ctx[0]);
}
