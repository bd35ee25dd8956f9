/* Programs that an older kernel's verifier refuses and a newer one's accepts (`lsm_result`: the other way round). */
#include "common.h"

static u64 (*bpf_get_socket_cookie)(void *) = (void *)46;

/* `folio`s are of 5.16. */
SEC("fentry/folio_mark_dirty") int target(void *ctx) { return 0; }

/* In programs for tracing since 5.12. */
SEC("fentry/tcp_sendmsg") int cookie(u64 *ctx)
{
	bpf_get_socket_cookie((void *)ctx[0]);
	return 0;
}

/* An atomic operation that says the old value: 5.12. */
SEC("tracepoint/syscalls/sys_enter_execve") int fetches(void *ctx)
{
	u64 value = 1;

	return __sync_fetch_and_add(&value, 1) == 2;
}

/* Functions of such programs have had a stack each since 6.13. */
static __attribute__((noinline)) int more_stack(int value)
{
	volatile char bytes[300] = {};

	bytes[value & 255] = 1;
	return bytes[bpf_get_prandom_u32() & 255];
}
SEC("tracepoint/syscalls/sys_enter_execve") int two_stacks(void *ctx)
{
	volatile char bytes[300] = {};

	bytes[bpf_get_prandom_u32() & 255] = 1;
	return more_stack(bytes[0]);
}

/* Since 6.12, such a program may only return an error or 0. */
SEC("lsm/file_open") int lsm_result(void *ctx) { return bpf_get_prandom_u32(); }
