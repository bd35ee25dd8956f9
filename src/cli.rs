//! The command line.

use std::time::Duration;

use clap::Parser;

/// Say hello from the kernel, in trace_pipe, whenever a process calls execve
///
/// Loads a BPF program, attaches it to the tracepoint syscalls/sys_enter_execve, and detaches it on SIGINT (Ctrl-C) or
/// SIGTERM. Prints a dot a second on stderr meanwhile. Try: sudo helloworld --follow --duration 10
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    /// Read trace_pipe and print this program's lines
    #[arg(short, long)]
    pub follow: bool,

    /// Stop after this many seconds
    #[arg(short, long, value_name = "SECS", value_parser = seconds, allow_negative_numbers = true)]
    pub duration: Option<Duration>,

    /// Mount tracefs at /sys/kernel/tracing if it is mounted nowhere; it stays mounted
    #[arg(long)]
    pub mount_tracefs: bool,

    /// Show all that libbpf says, not only its warnings
    #[arg(short, long)]
    pub verbose: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let duration = text.parse().ok().and_then(|secs| Duration::try_from_secs_f64(secs).ok());
    let duration = duration.filter(|duration| !duration.is_zero());
    duration.ok_or_else(|| "expected a number of seconds above 0".into())
}

const AFTER_HELP: &str = "\
Exit codes:
   0  stopped as asked, or stdout was closed
   1  another error
   2  wrong usage
   3  missing privileges
   4  the kernel has no BPF, or none for tracepoints
   5  tracefs is not mounted, or the kernel has none
   6  the kernel has no tracepoint for execve
   7  kernel lockdown forbids tracing
   8  the limit on locked memory is too low (kernels before 5.11)
   9  the BPF program cannot be loaded for another reason; libbpf's messages are shown
  10  --follow, and another process reads trace_pipe
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_with_fractions() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for refused in ["0", "-1", "nan", "inf", "1e300", "", "soon"] {
            assert!(seconds(refused).is_err(), "{refused}");
        }
    }
}
