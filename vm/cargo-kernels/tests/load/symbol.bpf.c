/* A symbol of the kernel's, by its address only: `folio`s are of 5.16. */
#include "common.h"

extern const void folio_mark_dirty SEC(".ksyms");

SEC("tracepoint/syscalls/sys_enter_execve") int symbol(void *ctx) { return (long)&folio_mark_dirty == 1; }
