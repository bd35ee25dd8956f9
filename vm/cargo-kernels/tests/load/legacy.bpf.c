/* A map as aya has them: numbers in a section `maps`. This type is of 5.16. */
#include "common.h"

struct bpf_map_def {
	u32 type, key_size, value_size, max_entries, map_flags, id, pinning;
};
struct bpf_map_def filter SEC("maps") = { 30, 0, 4, 8 };

static long (*bpf_map_push_elem)(void *, const void *, u64) = (void *)87;

SEC("tracepoint/syscalls/sys_enter_execve") int filters(void *ctx)
{
	return bpf_map_push_elem(&filter, &(u32){ 1 }, 0) == 1;
}
