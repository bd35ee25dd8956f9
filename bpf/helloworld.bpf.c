// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* Says hello in the kernel's trace buffer whenever a process calls execve(2). */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("tracepoint/syscalls/sys_enter_execve")
int bpf_prog(void *ctx)
{
	char msg[] = "Hello, World!";

	/* Before Linux 5.9 the kernel does not end the line. */
	bpf_printk("invoke bpf_prog: %s\n", msg);
	return 0;
}
