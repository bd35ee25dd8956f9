/* As little as these programs need: no header of this machine's, so that they compile everywhere. */
#define SEC(name) __attribute__((section(name)))
typedef unsigned int u32;
typedef unsigned long long u64;
#define __uint(name, value) int (*name)[value]
#define __type(name, value) value *name
#ifndef LICENSE_IS
#define LICENSE_IS "GPL"
#endif
char LICENSE[] SEC("license") = LICENSE_IS;
static void *(*bpf_map_lookup_elem)(void *, const void *) = (void *)1;
static u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static u32 (*bpf_get_prandom_u32)(void) = (void *)7;
