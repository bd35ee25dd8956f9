//! Why the tracer could not do its work: what failed, why, and what to do. Each has an exit code, for scripts.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use libbpf_rs::{ErrorKind, ProgramType};
use nix::errno::Errno;

use crate::environment::Environment;
use crate::libbpf_log;
use crate::trace_pipe::PLACES;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("stdout was closed")]
    StdoutClosed,
    #[error("cannot {what}: {why}")]
    Other { what: String, why: String },
    #[error(
        "not permitted: this is a user namespace, such as a rootless container's, whose capabilities do not count for \
         BPF; run it outside, as root"
    )]
    UserNamespace,
    #[error(
        "not permitted: tracing with BPF needs the capabilities CAP_BPF and CAP_PERFMON (before Linux 5.8 \
         CAP_SYS_ADMIN), of which this process lacks {0}; run it as root, with sudo"
    )]
    Capabilities(String),
    #[error("cannot {0}: {1} run it as root, with sudo")]
    Privileges(String, &'static str),
    #[error("cannot {what}: Linux {release} has no {lacks}; use a kernel built with {option}")]
    NoBpf { what: String, release: String, lacks: &'static str, option: &'static str },
    #[error(
        "tracefs is mounted neither at {0} nor at {1}; mount it with `mount -t tracefs tracefs {0}`, or let \
         --mount-tracefs do it", PLACES[0], PLACES[1]
    )]
    TracefsNotMounted,
    #[error("cannot {0}: {1}; this takes a kernel built with CONFIG_TRACING=y, and sysfs at /sys")]
    NoTracefs(String, Errno),
    #[error(
        "Linux {0} has no tracepoint for execve; use a kernel built with CONFIG_FTRACE_SYSCALLS=y"
    )]
    NoTracepoint(String),
    #[error(
        "cannot {what}: Linux {release} is locked down to `confidentiality`, which forbids tracing; boot it with \
         lockdown=integrity (/sys/kernel/security/lockdown shows the level)"
    )]
    Lockdown { what: String, release: String },
    #[error(
        "cannot {what}: Linux {release} counts BPF memory as locked memory, of which this process may have {bytes} \
         bytes; raise the limit with `ulimit -l unlimited`, or run it with the capability CAP_SYS_RESOURCE, with which \
         it raises the limit itself"
    )]
    Memlock { what: String, release: String, bytes: u64 },
    #[error("{log}cannot {what}: Linux {release} refused: {why}; its reasons are above")]
    Refused { what: String, release: String, why: String, log: String },
    #[error(
        "another process reads {path}, and only one can; end it (`fuser -v {path}` names it), or leave out --follow and \
         read there", path = .0.display()
    )]
    TracePipeBusy(PathBuf),
}

/// What the kernel is asked to do.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    Mount,
    Load,
    Attach,
    OpenPipe(&'a Path),
}

impl Error {
    /// The exit code; `cli.rs` lists them for `--help`. With 2, wrong usage, clap itself exits.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::StdoutClosed => 0,
            Self::Other { .. } => 1,
            Self::UserNamespace | Self::Capabilities(_) | Self::Privileges(..) => 3,
            Self::NoBpf { .. } => 4,
            Self::TracefsNotMounted | Self::NoTracefs(..) => 5,
            Self::NoTracepoint(_) => 6,
            Self::Lockdown { .. } => 7,
            Self::Memlock { .. } => 8,
            Self::Refused { .. } => 9,
            Self::TracePipeBusy(_) => 10,
        }
    }

    /// An error with no explanation but the system's own.
    pub fn other(what: &str, why: impl Display) -> Self {
        Self::Other { what: what.into(), why: why.to_string() }
    }

    /// Writing to stdout failed.
    pub fn stdout(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::StdoutClosed,
            _ => Self::other("write to stdout", error),
        }
    }

    /// libbpf could not load or attach the program. Of the error number libbpf-rs tells only the kind.
    pub fn libbpf(step: Step, error: &libbpf_rs::Error) -> Self {
        let errno = match error.kind() {
            ErrorKind::PermissionDenied => Errno::EPERM,
            ErrorKind::InvalidInput => Errno::EINVAL,
            ErrorKind::NotFound => Errno::ENOENT,
            ErrorKind::Unsupported => Errno::ENOSYS,
            _ => Errno::UnknownErrno,
        };
        let log = libbpf_log::take();
        let takes_tracepoints = ProgramType::Tracepoint.is_supported().unwrap_or(true);
        let environment = Environment { takes_tracepoints, ..Environment::observe() };
        Self::explain(step, errno, format!("{error:#}"), log, environment)
    }

    /// The kernel refused something that is not libbpf's.
    pub fn kernel(step: Step, errno: Errno) -> Self {
        Self::explain(step, errno, errno.to_string(), String::new(), Environment::observe())
    }

    /// Explains an error number, which has many causes: what is around the process tells which one it is.
    fn explain(step: Step, errno: Errno, why: String, log: String, around: Environment) -> Self {
        let denied = matches!(errno, Errno::EPERM | Errno::EACCES);
        let what = match step {
            Step::Mount => format!("mount tracefs at {}", PLACES[0]),
            Step::Load => "load the BPF program".into(),
            Step::Attach => "attach the BPF program".into(),
            Step::OpenPipe(path) => format!("open {}", path.display()),
        };
        let release = around.release;
        match (step, errno, around.memlock) {
            (Step::Mount, Errno::ENODEV | Errno::ENOENT, _) => Self::NoTracefs(what, errno),
            (Step::Mount, ..) if denied => Self::Privileges(what, "this needs CAP_SYS_ADMIN;"),
            _ if denied && around.locked_down => Self::Lockdown { what, release },
            // EINVAL where the limit made libbpf believe that the kernel has no maps for global data.
            (Step::Load, Errno::EPERM | Errno::EINVAL, Some(bytes)) => {
                Self::Memlock { what, release, bytes }
            }
            (Step::Load, Errno::ENOSYS, _) => {
                let (lacks, option) = ("system call bpf", "CONFIG_BPF_SYSCALL=y");
                Self::NoBpf { what, release, lacks, option }
            }
            (Step::Load, ..) if !around.takes_tracepoints => {
                let lacks = "BPF programs for tracepoints";
                let option = "CONFIG_BPF_EVENTS=y and CONFIG_PERF_EVENTS=y";
                Self::NoBpf { what, release, lacks, option }
            }
            (Step::Attach, Errno::ENOENT, _) => Self::NoTracepoint(release),
            (Step::OpenPipe(path), Errno::EBUSY, _) => Self::TracePipeBusy(path.into()),
            // To attach, libbpf reads the tracepoint's number there.
            (Step::Attach | Step::OpenPipe(_), ..) if denied => Self::Privileges(
                what,
                "only root may read tracefs, unless it was mounted otherwise, or a process with CAP_DAC_READ_SEARCH;",
            ),
            (Step::Load | Step::Attach, ..) => Self::Refused { what, release, why, log },
            _ => Self::Other { what, why },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Environment {
        Environment { release: "6.1.0".into(), takes_tracepoints: true, ..Environment::default() }
    }

    #[track_caller]
    fn check(step: Step, errno: Errno, around: Environment, code: u8, words: &[&str]) {
        let error = Error::explain(step, errno, errno.to_string(), "libbpf: LOG\n".into(), around);
        let message = error.to_string();
        assert_eq!(error.exit_code(), code, "{message}");
        for word in words {
            assert!(message.contains(word), "no `{word}` in: {message}");
        }
    }

    #[test]
    fn lockdown_is_told_from_missing_privileges() {
        let locked = || Environment { locked_down: true, ..root() };
        let pipe = Path::new("/t/trace_pipe");
        for step in [Step::Load, Step::Attach, Step::OpenPipe(pipe)] {
            check(step, Errno::EPERM, locked(), 7, &["cannot ", "6.1.0", "lockdown=integrity"]);
        }
        let words = ["cannot open /t/trace_pipe", "CAP_DAC_READ_SEARCH", "sudo"];
        check(Step::OpenPipe(pipe), Errno::EACCES, root(), 3, &words);
        check(Step::Attach, Errno::EACCES, root(), 3, &["cannot attach", "CAP_DAC_READ_SEARCH"]);
    }

    #[test]
    fn memlock_is_blamed_when_loading_fails_where_it_counts() {
        let limited = || Environment { memlock: Some(65536), ..root() };
        let words = ["cannot load", "6.1.0", "65536 bytes", "ulimit -l", "CAP_SYS_RESOURCE"];
        for errno in [Errno::EPERM, Errno::EINVAL] {
            check(Step::Load, errno, limited(), 8, &words);
        }
        check(Step::Load, Errno::EPERM, root(), 9, &[]);
    }

    #[test]
    fn a_missing_kernel_feature_is_named_by_its_option() {
        check(Step::Load, Errno::ENOSYS, root(), 4, &["6.1.0", "CONFIG_BPF_SYSCALL"]);
        let old = Environment { takes_tracepoints: false, ..root() };
        check(Step::Load, Errno::EINVAL, old, 4, &["6.1.0", "CONFIG_BPF_EVENTS"]);
        check(Step::Attach, Errno::ENOENT, root(), 6, &["6.1.0", "CONFIG_FTRACE_SYSCALLS"]);
        check(Step::Mount, Errno::ENODEV, root(), 5, &["cannot mount", "CONFIG_TRACING"]);
        check(Step::Mount, Errno::EPERM, root(), 3, &["cannot mount", "CAP_SYS_ADMIN"]);
    }

    #[test]
    fn a_refusal_by_the_verifier_shows_the_log() {
        for errno in [Errno::EPERM, Errno::EINVAL, Errno::E2BIG] {
            let words = ["libbpf: LOG\n", "cannot load the BPF program", "6.1.0", errno.desc()];
            check(Step::Load, errno, root(), 9, &words);
        }
    }

    #[test]
    fn a_second_reader_of_trace_pipe_is_told_how_to_find_the_first() {
        let pipe = Step::OpenPipe(Path::new("/t/trace_pipe"));
        check(pipe, Errno::EBUSY, root(), 10, &["`fuser -v /t/trace_pipe`", "--follow"]);
        check(pipe, Errno::EIO, root(), 1, &["cannot open /t/trace_pipe", "EIO"]);
    }
}
