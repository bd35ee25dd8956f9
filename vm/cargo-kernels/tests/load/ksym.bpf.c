/* A variable of the kernel's: from 6.2 to 6.14. */
#include "common.h"

struct pcpu_hot {
	int any;
};
extern const struct pcpu_hot pcpu_hot SEC(".ksyms");

SEC("tracepoint/syscalls/sys_enter_execve") int variable(void *ctx) { return (long)&pcpu_hot == 1; }
