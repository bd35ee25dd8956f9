/* A struct_ops that was made for tests: 5.16. */
#include "common.h"

struct bpf_dummy_ops_state;
struct bpf_dummy_ops {
	int (*test_1)(struct bpf_dummy_ops_state *state);
};

SEC("struct_ops/test_1") int test_1(void *ctx) { return 0; }
SEC(".struct_ops") struct bpf_dummy_ops dummy = { .test_1 = (void *)test_1 };
