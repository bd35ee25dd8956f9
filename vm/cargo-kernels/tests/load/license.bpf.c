/* A license that is not the GPL's, and a helper that wants it. */
#define LICENSE_IS "Proprietary"
#include "common.h"
static long (*bpf_trace_printk)(const char *, u32, ...) = (void *)6;

SEC("tracepoint/syscalls/sys_enter_execve") int prints(void *ctx)
{
	char text[] = "x";

	return bpf_trace_printk(text, sizeof(text));
}
