/* More than a guest has. */
#include "common.h"

struct {
	__uint(type, 2);
	__uint(max_entries, 1536);
	__uint(key_size, 4);
	__uint(value_size, 2 << 20);
} huge SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_execve") int three_gigabytes(void *ctx)
{
	return bpf_map_lookup_elem(&huge, &(u32){ 0 }) == 0;
}
