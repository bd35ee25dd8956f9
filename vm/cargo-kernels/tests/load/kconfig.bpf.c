/* Options of the kernel's configuration; the second has been there since 5.18. */
#include "common.h"

extern u32 CONFIG_HZ SEC(".kconfig");
extern _Bool CONFIG_X86_KERNEL_IBT SEC(".kconfig");

SEC("tracepoint/syscalls/sys_enter_execve") int configured(void *ctx)
{
	return CONFIG_HZ == 1 || CONFIG_X86_KERNEL_IBT;
}
