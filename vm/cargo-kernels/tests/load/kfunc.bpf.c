/* A kfunc: 6.2. Without it the whole object is refused, so it has one of its own. */
#include "common.h"

struct task_struct {
	int pid;
} __attribute__((preserve_access_index));
extern struct task_struct *bpf_task_from_pid(int pid) SEC(".ksyms");
extern void bpf_task_release(struct task_struct *task) SEC(".ksyms");

SEC("tp_btf/sched_switch") int kfunc(void *ctx)
{
	struct task_struct *task = bpf_task_from_pid(1);

	if (task)
		bpf_task_release(task);
	return 0;
}
