//! The command line.

use std::time::Duration;

use clap::Parser;

use crate::failure::Kind;

/// Say hello from the kernel, in trace_pipe, whenever a process calls execve
///
/// Loads a BPF program, attaches it to the tracepoint syscalls/sys_enter_execve, and detaches it on SIGINT (Ctrl-C) or
/// SIGTERM. Prints a dot a second on stderr meanwhile.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_long_help = after_help(), after_help = after_help())]
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

    /// Show libbpf's log on stderr
    #[arg(short, long)]
    pub verbose: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "expected a number of seconds above 0".into())
}

fn after_help() -> String {
    let mut help = String::from(
        "Examples:\n  \
         sudo helloworld                          then read the file that it names\n  \
         sudo helloworld --follow --duration 10   ten seconds of lines\n\n\
         Exit codes:\n   0  stopped as asked, or stdout was closed\n",
    );
    for kind in Kind::ALL {
        help.push_str(&format!("  {:>2}  {}\n", kind.exit_code(), kind.description()));
    }
    help
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_seconds_with_fractions() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for refused in ["0", "-1", "nan", "inf", "1e300", "", "soon"] {
            assert!(seconds(refused).is_err(), "{refused}");
        }
    }
}
