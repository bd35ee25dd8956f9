/* Options of the kernel's configuration. */
#include "common.h"

extern u32 CONFIG_HZ SEC(".kconfig");
extern u32 CONFIG_NO_SUCH_OPTION SEC(".kconfig");

SEC("tracepoint/syscalls/sys_enter_execve") int configured(void *ctx)
{
	return CONFIG_HZ == 1 || CONFIG_NO_SUCH_OPTION;
}
