//! Hello world for eBPF: a BPF program writes a line into the kernel's trace buffer for every `execve`, and this
//! loads it, attaches it, and detaches it again.
//!
//! [`session::run`] is the whole program. The kernel side is `bpf/helloworld.bpf.c`; `build.rs` compiles it and
//! makes the skeleton that [`tracer`] works with.

pub mod circumstances;
pub mod cli;
pub mod failure;
pub mod libbpf_log;
pub mod session;
pub mod trace_line;
pub mod trace_pipe;
pub mod tracefs;
pub mod tracer;
