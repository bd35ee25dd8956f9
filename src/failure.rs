//! Why the tracer could not do its work, and the exit code that says so.

use std::fmt;

/// What went wrong, as far as a script may want to know. The numbers are the exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// None of the others.
    Other = 1,
    /// The command line was wrong. clap itself exits with this code.
    Usage = 2,
    /// The process may not load BPF programs, or may not read tracefs.
    Privileges = 3,
    /// The kernel has no BPF, or none for tracepoints.
    NoBpf = 4,
    /// tracefs is mounted nowhere, or the kernel has none.
    NoTracefs = 5,
    /// The kernel has no tracepoints for system calls.
    NoTracepoint = 6,
    /// Kernel lockdown forbids tracing.
    Lockdown = 7,
    /// An old kernel's limit on locked memory is too low for BPF.
    Memlock = 8,
    /// The kernel refused the program.
    Refused = 9,
    /// Somebody else reads trace_pipe.
    TracePipeBusy = 10,
}

impl Kind {
    /// All of them, in the order of their exit codes.
    pub const ALL: [Self; 10] = [
        Self::Other,
        Self::Usage,
        Self::Privileges,
        Self::NoBpf,
        Self::NoTracefs,
        Self::NoTracepoint,
        Self::Lockdown,
        Self::Memlock,
        Self::Refused,
        Self::TracePipeBusy,
    ];

    /// The exit code.
    pub fn exit_code(self) -> u8 {
        self as u8
    }

    /// One line for `--help`.
    pub fn description(self) -> &'static str {
        match self {
            Self::Other => "another error",
            Self::Usage => "wrong usage",
            Self::Privileges => "missing privileges",
            Self::NoBpf => "the kernel has no BPF, or none for tracepoints",
            Self::NoTracefs => "tracefs is not mounted, or the kernel has none",
            Self::NoTracepoint => "the kernel has no tracepoint for execve",
            Self::Lockdown => "kernel lockdown forbids tracing",
            Self::Memlock => "the limit on locked memory is too low (kernels before 5.11)",
            Self::Refused => "the kernel refused the BPF program; its log is shown",
            Self::TracePipeBusy => "--follow, and another process reads trace_pipe",
        }
    }
}

/// An error with what a person needs to know: what failed, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Decides the exit code.
    pub kind: Kind,
    /// What happened and what to do about it.
    pub message: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// An unforeseen error: what could not be done, and the reason that the system gave.
    pub fn other(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::new(Kind::Other, format!("{what}: {why}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_distinct_and_in_order() {
        let codes: Vec<u8> = Kind::ALL.iter().map(|kind| kind.exit_code()).collect();
        assert!(codes.iter().copied().eq(1..=10), "{codes:?}");
    }
}
