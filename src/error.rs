//! Why the tracer could not do its work, what to do about it, and an exit code that tells scripts.

use std::fs;
use std::io::{self, Write as _};

use libbpf_rs::{ErrorKind, ProgramType};
use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {0}: {1}")]
    Other(&'static str, String),
    #[error("cannot write to stdout: {0}")]
    Stdout(#[from] io::Error),
    #[error("cannot {0}: this needs root{1}")]
    Privileges(&'static str, &'static str),
    #[error("tracefs is not mounted: use --mount-tracefs, or `mount -t tracefs tracefs /sys/kernel/tracing`")]
    TracefsNotMounted,
    #[error("the kernel has no {1}; use one built with {2}")]
    KernelLacks(u8, &'static str, &'static str),
    #[error("cannot {0}: /sys/kernel/security/lockdown forbids tracing; boot with lockdown=integrity")]
    Lockdown(&'static str),
    #[error("cannot {LOAD}: the limit on locked memory is {0} bytes (Linux before 5.11); try `ulimit -l unlimited`")]
    Memlock(u64),
    #[error("another process reads trace_pipe: end it (`fuser -v /sys/kernel/tracing/trace_pipe`), or omit --follow")]
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
            Self::Other(LOAD, _) => 9,
            Self::Other(..) | Self::Stdout(_) => 1,
            Self::Privileges(..) => 3,
            Self::TracefsNotMounted => 5,
            Self::KernelLacks(code, ..) => *code,
            Self::Lockdown(_) => 7,
            Self::Memlock(_) => 8,
            Self::TracePipeBusy => 10,
        }
    }

    /// libbpf-rs tells only the kind of the error number.
    pub fn libbpf(what: &'static str, error: &libbpf_rs::Error) -> Self {
        let errno = match error.kind() {
            ErrorKind::PermissionDenied => Errno::EPERM,
            ErrorKind::InvalidInput => Errno::EINVAL,
            ErrorKind::NotFound => Errno::ENOENT,
            ErrorKind::Unsupported => Errno::ENOSYS,
            _ => Errno::UnknownErrno,
        };
        Self::explain(what, errno, format!("{error:#}; libbpf's messages above, if any, say more"), &Around::look(what))
    }

    pub fn errno(what: &'static str, errno: Errno) -> Self {
        Self::explain(what, errno, errno.to_string(), &Around::look(what))
    }

    /// Explains an error number of the kernel's, which has many causes: what is around the process tells which it is.
    fn explain(what: &'static str, errno: Errno, why: String, around: &Around) -> Self {
        use Errno::{EACCES, EBUSY, EINVAL, ENODEV, ENOENT, ENOSYS, EPERM};
        match (what, errno, around.memlock) {
            (MOUNT, ENODEV | ENOENT, _) => Self::KernelLacks(5, "tracefs, or /sys is not mounted", "CONFIG_TRACING=y"),
            (MOUNT, EPERM | EACCES, _) => Self::Privileges(what, " or CAP_SYS_ADMIN; run it with sudo"),
            (_, EPERM | EACCES, _) if around.locked_down => Self::Lockdown(what),
            // EINVAL where the limit made libbpf believe that the kernel has no maps for global data.
            (LOAD, EPERM | EINVAL, Some(bytes)) => Self::Memlock(bytes),
            (LOAD, ENOSYS, _) => Self::KernelLacks(4, "system call bpf", "CONFIG_BPF_SYSCALL=y"),
            // To attach, libbpf reads the tracepoint's number in tracefs.
            (ATTACH, ENOENT, _) => Self::KernelLacks(6, "tracepoint for execve", "CONFIG_FTRACE_SYSCALLS=y"),
            (ATTACH | OPEN_PIPE, EPERM | EACCES, _) => {
                Self::Privileges(what, " or CAP_DAC_READ_SEARCH; run it with sudo")
            }
            (OPEN_PIPE, EBUSY, _) => Self::TracePipeBusy,
            (LOAD, EINVAL, _) if around.no_bpf_events => {
                Self::KernelLacks(4, "BPF for tracepoints", "CONFIG_BPF_EVENTS=y")
            }
            _ => Self::Other(what, why),
        }
    }
}

/// What an error number does not tell.
#[derive(Debug, Default)]
struct Around {
    /// Lockdown is at the level `confidentiality`, which forbids tracing.
    locked_down: bool,
    /// The limit on locked memory in bytes, where BPF memory counts: before 5.11, if libbpf may not lift the limit.
    memlock: Option<u64>,
    no_bpf_events: bool,
}

impl Around {
    fn look(what: &str) -> Self {
        let memlock = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(RLIM_INFINITY, |(soft, _)| soft);
        let limited = memlock != RLIM_INFINITY && memlock_counts(&read("/proc/sys/kernel/osrelease"));
        Self {
            locked_down: read("/sys/kernel/security/lockdown").contains("[confidentiality]"),
            memlock: limited.then_some(memlock),
            no_bpf_events: what == LOAD && !ProgramType::Tracepoint.is_supported().unwrap_or(true),
        }
    }
}

/// Whether a kernel of this release, such as `5.10.0-32-amd64`, limits BPF memory as locked memory.
fn memlock_counts(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < (5, 11))
}

/// What cannot be read counts as harmless, so that it is not blamed.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Checks what every kernel asks for first, so that this is what an ordinary user is told of.
pub fn check_privileges() -> Result<(), Error> {
    privileges(&read("/proc/self/uid_map"), &read("/proc/self/status"))
}

fn privileges(uid_map: &str, status: &str) -> Result<(), Error> {
    // In the initial user namespace every ID is itself.
    if !uid_map.is_empty() && !uid_map.split_whitespace().eq(["0", "0", "4294967295"]) {
        return Err(Error::Privileges(LOAD, " outside of this user namespace (a rootless container's?); run it there"));
    }
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    // Numbers in include/uapi/linux/capability.h.
    let has = |number: u32| effective.is_none_or(|set| set & (1 << number) != 0);
    let (sys_admin, perfmon, bpf) = (has(21), has(38), has(39));
    let missing = ", or CAP_BPF and CAP_PERFMON (CAP_SYS_ADMIN before Linux 5.8); run it with sudo";
    if sys_admin || (perfmon && bpf) { Ok(()) } else { Err(Error::Privileges(LOAD, missing)) }
}

/// Writes to stderr. With stderr closed there is nobody to tell, which is no error (and `eprint!` would panic).
pub fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use Errno::{E2BIG, EACCES, EBUSY, EINVAL, EIO, EMFILE, ENODEV, ENOENT, ENOSYS, EPERM};

    use super::*;

    #[test]
    fn an_error_number_is_explained_by_what_was_asked_for_and_what_is_around() {
        let root = Around::default();
        let locked = Around { locked_down: true, ..Around::default() };
        let limited = Around { memlock: Some(65536), ..Around::default() };
        let no_bpf_events = Around { no_bpf_events: true, ..Around::default() };
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
            (LOAD, EPERM, &root, 9, "cannot load"),
            (LOAD, E2BIG, &limited, 9, "E2BIG"),
            (LOAD, EINVAL, &no_bpf_events, 4, "CONFIG_BPF_EVENTS"),
            (ATTACH, EMFILE, &root, 1, "cannot attach"),
        ] {
            let error = Error::explain(what, errno, errno.to_string(), around);
            assert_eq!(error.exit_code(), code, "{what}, {errno}: {error}");
            assert!(error.to_string().contains(words), "no `{words}` in: {error}");
        }
    }

    #[test]
    fn what_has_no_explanation_is_told_as_it_is() {
        for (what, code) in [(LOAD, 9), (ATTACH, 1)] {
            let error = Error::explain(what, Errno::UnknownErrno, "why".into(), &Around::default());
            assert_eq!(error.exit_code(), code);
            assert_eq!(error.to_string(), format!("cannot {what}: why"));
        }
    }
    const INITIAL: &str = "         0          0 4294967295\n";

    fn message(uid_map: &str, capabilities: u64) -> Option<String> {
        let status = format!("Name:\tx\nCapEff:\t{capabilities:016x}\n");
        privileges(uid_map, &status).err().map(|error| error.to_string())
    }

    #[test]
    fn the_capabilities_for_tracing_are_asked_for_and_those_of_a_user_namespace_are_none() {
        for (capabilities, suffice) in
            [(0, false), (1 << 39, false), (1 << 38, false), (1 << 38 | 1 << 39, true), (1 << 21, true)]
        {
            assert_eq!(message(INITIAL, capabilities).is_none(), suffice, "{capabilities:x}");
        }
        let message = message("         0       1000          1\n", u64::MAX);
        assert!(message.is_some_and(|message| message.contains("user namespace")));
    }

    #[test]
    fn memlock_counts_before_5_11() {
        assert!(memlock_counts("5.10.0-32-amd64") && memlock_counts("4.19.1"));
        assert!(!memlock_counts("5.11.0") && !memlock_counts("7.3") && !memlock_counts("next"));
    }
}
