/* What a type of map that is younger than BPF. */
#include "common.h"

struct {
	__uint(type, 31); /* a user's ring buffer: 6.1 */
	__uint(max_entries, 4096);
} ring SEC(".maps");

static long (*bpf_user_ringbuf_drain)(void *, void *, void *, u64) = (void *)209;
static long each(void *dynptr, void *ctx) { return 1; }

SEC("tracepoint/syscalls/sys_enter_execve") int drains(void *ctx)
{
	return bpf_user_ringbuf_drain(&ring, each, 0, 0) == 1;
}
