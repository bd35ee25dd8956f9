//! Why the tracer could not do its work, what to do about it, and an exit code that tells scripts.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::sync::Mutex;

use libbpf_rs::{ErrorKind, PrintLevel, ProgramType, set_print};
use nix::errno::Errno;

use crate::environment::Environment;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("stdout was closed")]
    StdoutClosed,
    #[error("cannot {0}: {1}")]
    Other(&'static str, String),
    #[error(
        "not permitted: this is a user namespace, such as a rootless container's, whose capabilities do not count for \
         BPF; run it outside, as root"
    )]
    UserNamespace,
    #[error(
        "not permitted: tracing with BPF needs the capabilities CAP_BPF and CAP_PERFMON (before Linux 5.8 \
         CAP_SYS_ADMIN), which this process lacks; run it as root, with sudo"
    )]
    Capabilities,
    #[error("cannot {0}: this needs root, or {1}; run it with sudo")]
    Privileges(&'static str, &'static str),
    #[error("the kernel has no {0}; use one built with {1}")]
    NoBpf(&'static str, &'static str),
    #[error(
        "tracefs is mounted neither at /sys/kernel/tracing nor at /sys/kernel/debug/tracing; mount it with \
         `mount -t tracefs tracefs /sys/kernel/tracing`, or let --mount-tracefs do it"
    )]
    TracefsNotMounted,
    #[error("cannot {MOUNT}: {0}; this takes a kernel built with CONFIG_TRACING=y, and sysfs at /sys")]
    NoTracefs(Errno),
    #[error("the kernel has no tracepoint for execve; use one built with CONFIG_FTRACE_SYSCALLS=y")]
    NoTracepoint,
    #[error(
        "cannot {0}: the kernel is locked down to `confidentiality`, which forbids tracing; boot it with \
         lockdown=integrity (/sys/kernel/security/lockdown shows the level)"
    )]
    Lockdown(&'static str),
    #[error(
        "cannot {LOAD}: Linux before 5.11 counts BPF memory as locked memory, of which this process may have {0} \
         bytes; raise the limit with `ulimit -l unlimited`, or with CAP_SYS_RESOURCE let the program raise it itself"
    )]
    Memlock(u64),
    #[error("cannot {LOAD}: the kernel refused it: {0}; libbpf's log above says why")]
    Refused(String),
    #[error(
        "another process reads trace_pipe, and only one can; end it (`fuser -v /sys/kernel/tracing/trace_pipe` names \
         it), or leave out --follow and read there"
    )]
    TracePipeBusy,
}

/// What the kernel is asked for.
pub const MOUNT: &str = "mount tracefs at /sys/kernel/tracing";
pub const LOAD: &str = "load the BPF program";
pub const ATTACH: &str = "attach the BPF program";
pub const OPEN_PIPE: &str = "open trace_pipe";

impl Error {
    /// `cli.rs` lists them for `--help`. With 2, wrong usage, clap itself exits.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::StdoutClosed => 0,
            Self::Other(..) => 1,
            Self::UserNamespace | Self::Capabilities | Self::Privileges(..) => 3,
            Self::NoBpf(..) => 4,
            Self::TracefsNotMounted | Self::NoTracefs(_) => 5,
            Self::NoTracepoint => 6,
            Self::Lockdown(_) => 7,
            Self::Memlock(_) => 8,
            Self::Refused(_) => 9,
            Self::TracePipeBusy => 10,
        }
    }

    pub fn other(what: &'static str, why: impl Display) -> Self {
        Self::Other(what, why.to_string())
    }

    pub fn stdout(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::StdoutClosed,
            _ => Self::other("write to stdout", error),
        }
    }

    /// Explains an error of libbpf's. If it cannot, libbpf's log is shown, unless `--verbose` did that as it came.
    pub fn libbpf(what: &'static str, error: &libbpf_rs::Error, verbose: bool) -> Self {
        let log = LOG.lock().map(|mut log| std::mem::take(&mut *log)).unwrap_or_default();
        // Of the error number libbpf-rs tells only the kind.
        let errno = match error.kind() {
            ErrorKind::PermissionDenied => Errno::EPERM,
            ErrorKind::InvalidInput => Errno::EINVAL,
            ErrorKind::NotFound => Errno::ENOENT,
            ErrorKind::Unsupported => Errno::ENOSYS,
            _ => Errno::UnknownErrno,
        };
        match Self::explain(what, errno, &Environment::observe()) {
            Self::Other(..) if !ProgramType::Tracepoint.is_supported().unwrap_or(true) => {
                let options = "CONFIG_BPF_EVENTS=y and CONFIG_PERF_EVENTS=y";
                Self::NoBpf("BPF programs for tracepoints", options)
            }
            Self::Other(..) => {
                if !verbose {
                    say(&log);
                }
                Self::unexplained(what, format!("{error:#}"), &log)
            }
            explained => explained,
        }
    }

    /// That it was the kernel who refused the program, and not libbpf that failed, is said in libbpf's log alone.
    fn unexplained(what: &'static str, why: String, log: &str) -> Self {
        if log.contains("BPF program load failed") { Self::Refused(why) } else { Self::Other(what, why) }
    }

    /// Explains an error number of the kernel's, which has many causes: what is around the process tells which it is.
    pub fn explain(what: &'static str, errno: Errno, around: &Environment) -> Self {
        use Errno::{EACCES, EBUSY, EINVAL, ENODEV, ENOENT, ENOSYS, EPERM};
        match (what, errno, around.memlock) {
            (MOUNT, ENODEV | ENOENT, _) => Self::NoTracefs(errno),
            (MOUNT, EPERM | EACCES, _) => Self::Privileges(what, "CAP_SYS_ADMIN"),
            (_, EPERM | EACCES, _) if around.locked_down => Self::Lockdown(what),
            // EINVAL where the limit made libbpf believe that the kernel has no maps for global data.
            (LOAD, EPERM | EINVAL, Some(bytes)) => Self::Memlock(bytes),
            (LOAD, ENOSYS, _) => Self::NoBpf("system call bpf", "CONFIG_BPF_SYSCALL=y"),
            // To attach, libbpf reads the tracepoint's number in tracefs.
            (ATTACH, ENOENT, _) => Self::NoTracepoint,
            (ATTACH | OPEN_PIPE, EPERM | EACCES, _) => Self::Privileges(what, "CAP_DAC_READ_SEARCH to read tracefs"),
            (OPEN_PIPE, EBUSY, _) => Self::TracePipeBusy,
            _ => Self::other(what, errno),
        }
    }
}

/// Writes to stderr. With stderr closed there is nobody to tell, which is no error (and `eprint!` would panic).
pub fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// libbpf's log, the verifier's included. libbpf wants a plain function to print with, so it is kept in a global.
static LOG: Mutex<String> = Mutex::new(String::new());

/// Keeps the log for the case that something fails. When `verbose`, shows it as it comes, too.
pub fn keep_libbpf_log(verbose: bool) {
    fn keep(_: PrintLevel, text: String) {
        if let Ok(mut log) = LOG.lock() {
            log.push_str(&text);
        }
    }
    fn show(level: PrintLevel, text: String) {
        say(&text);
        keep(level, text);
    }
    set_print(Some(if verbose { (PrintLevel::Debug, show) } else { (PrintLevel::Info, keep) }));
}

#[cfg(test)]
mod tests {
    use Errno::{E2BIG, EACCES, EBUSY, EINVAL, EIO, ENODEV, ENOENT, ENOSYS, EPERM};

    use super::*;

    #[test]
    fn an_error_number_is_explained_by_what_was_asked_for_and_what_is_around() {
        let root = Environment::default();
        let locked = Environment { locked_down: true, ..Environment::default() };
        let limited = Environment { memlock: Some(65536), ..Environment::default() };
        for (what, errno, around, code, words) in [
            (LOAD, EPERM, &locked, 7, "lockdown=integrity"),
            (ATTACH, EPERM, &locked, 7, "cannot attach"),
            (OPEN_PIPE, EPERM, &locked, 7, "cannot open trace_pipe"),
            (OPEN_PIPE, EACCES, &root, 3, "CAP_DAC_READ_SEARCH"),
            (ATTACH, EACCES, &root, 3, "sudo"),
            (MOUNT, EPERM, &root, 3, "CAP_SYS_ADMIN"),
            (LOAD, EPERM, &limited, 8, "65536 bytes"),
            (LOAD, EINVAL, &limited, 8, "ulimit -l"),
            (LOAD, ENOSYS, &root, 4, "CONFIG_BPF_SYSCALL"),
            (ATTACH, ENOENT, &root, 6, "CONFIG_FTRACE_SYSCALLS"),
            (MOUNT, ENODEV, &root, 5, "CONFIG_TRACING"),
            (OPEN_PIPE, EBUSY, &root, 10, "fuser -v"),
            (OPEN_PIPE, EIO, &root, 1, "EIO"),
            // Of these `unexplained` makes a refusal or another error.
            (LOAD, EPERM, &root, 1, "cannot load"),
            (LOAD, E2BIG, &limited, 1, "E2BIG"),
        ] {
            let error = Error::explain(what, errno, around);
            assert_eq!(error.exit_code(), code, "{what}, {errno}: {error}");
            assert!(error.to_string().contains(words), "no `{words}` in: {error}");
        }
    }

    #[test]
    fn a_refusal_is_told_where_the_log_has_it_and_of_nothing_else() {
        let refusal = "libbpf: prog 'bpf_prog': BPF program load failed: -EACCES\n";
        for (what, log, code) in [
            (LOAD, refusal, 9),
            (LOAD, "libbpf: map '.rodata': failed to create: -ENOMEM\n", 1),
            (LOAD, "", 1),
            (ATTACH, "", 1),
        ] {
            let error = Error::unexplained(what, "why".into(), log);
            let message = error.to_string();
            assert_eq!(error.exit_code(), code, "{message}");
            assert!(message.starts_with(&format!("cannot {what}: ")) && message.contains(": why"), "{message}");
            assert_eq!(message.contains("above") || message.contains("refused"), code == 9, "{message}");
        }
    }
}
