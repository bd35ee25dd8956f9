//! One command for `cargo xtask exec`: its output as it comes, and how it ended.

use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use vmtest_agent::{ExecEvent, ExecJob};

use crate::channel::Channel;
use crate::process::Watched;

/// Told this, the program runs one command instead of a job of tests.
pub const ARGUMENT: &str = "exec";

/// How much output goes into one message, in bytes.
const PIECE: usize = 16 * 1024;

/// It is the host that has a time limit.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Says that the guest is ready, waits for the command, and runs it. An error is one of the channel's.
pub fn serve(channel: &mut Channel) -> Result<()> {
    let name = nix::sys::utsname::uname().context("cannot read the kernel's release")?;
    let release = name.release().to_string_lossy().into_owned();
    channel.send_line(&ExecEvent::Ready { release })?;
    let job: ExecJob = channel.receive_line()?;
    let last = run(&job, |event| channel.send_line(&event))?;
    channel.send_line(&last)?;
    channel.drain()
}

/// Runs the command until its process ends, whoever may hold its output; what it started ends with it. Nothing is read
/// before `send` has taken what was read last.
fn run(job: &ExecJob, mut send: impl FnMut(ExecEvent) -> Result<()>) -> Result<ExecEvent> {
    let Some((program, arguments)) = job.argv.split_first() else {
        return Ok(ExecEvent::NotStarted { reason: "there is no command".into() });
    };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&job.cwd).env_clear().envs(&job.env);
    let mut process = match Watched::start_with_two_outputs(command) {
        Ok(process) => process,
        Err(error) => {
            let reason = format!("cannot run {program} in {}: {error}", job.cwd);
            return Ok(ExecEvent::NotStarted { reason });
        }
    };
    let mut sent = Ok(());
    let mut forward = |number: usize, bytes: &[u8]| {
        let event = if number == 0 { ExecEvent::Stdout } else { ExecEvent::Stderr };
        let mut pieces = bytes.chunks(PIECE).map(|piece| event(STANDARD.encode(piece)));
        if sent.is_ok() {
            sent = pieces.try_for_each(&mut send);
        }
        if sent.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let followed = process.follow(Instant::now() + FOR_EVER, &mut forward);
    let finished = process.finish(|number, bytes| {
        let _ = forward(number, bytes);
    });
    sent?;
    followed.and(finished).context("cannot watch the command").map(how_it_ended)
}

fn how_it_ended(status: Option<ExitStatus>) -> ExecEvent {
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => ExecEvent::Exited { code },
        Some((None, signal)) => ExecEvent::Killed { signal: signal.unwrap_or_default() },
        // Killed when it was too late for anything else.
        None => ExecEvent::Killed { signal: libc::SIGKILL },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use nix::sys::prctl::set_child_subreaper;

    use super::*;

    /// Programs are where this process finds them, which in a sandbox like Nix's is not the usual places.
    fn env() -> BTreeMap<String, String> {
        [("PATH".to_owned(), std::env::var("PATH").unwrap())].into()
    }

    /// Everything that is sent while a shell runs `script`, and the last word.
    fn events(script: &str) -> (Vec<ExecEvent>, ExecEvent) {
        let _alone = crate::process::alone();
        set_child_subreaper(true).unwrap();
        let argv = ["sh", "-c", script].map(str::to_owned).into();
        let job = ExecJob { argv, cwd: "/".into(), env: env() };
        let mut sent = Vec::new();
        let last = run(&job, |event| {
            sent.push(event);
            Ok(())
        });
        // While no test beside this one has any.
        assert_eq!(crate::process::children(), []);
        (sent, last.unwrap())
    }

    fn stdout(text: &str) -> ExecEvent {
        ExecEvent::Stdout(STANDARD.encode(text))
    }

    #[test]
    fn a_command_is_over_when_its_process_is_whoever_holds_its_output() {
        let (sent, last) = events("sleep 999 & setsid sleep 999 & echo hi");
        assert_eq!((sent, last), (vec![stdout("hi\n")], ExecEvent::Exited { code: 0 }));
    }

    #[test]
    fn an_orphan_that_has_ended_is_gone_while_the_command_still_runs() {
        let orphan = "pid=$(sh -c 'sleep 999 > /dev/null & echo $!'); kill -9 $pid";
        let (_, last) = events(&format!("{orphan}; while kill -0 $pid; do :; done; exit 7"));
        assert_eq!(last, ExecEvent::Exited { code: 7 });
    }

    #[test]
    fn the_outputs_are_told_apart_and_come_whole() {
        let (sent, last) = events("head -c 300000 /dev/zero; echo no >&2; kill -TERM $$");
        let decoded = |text: &String| STANDARD.decode(text).unwrap();
        let mut bytes = 0;
        for event in &sent {
            match event {
                ExecEvent::Stdout(text) => bytes += decoded(text).len(),
                ExecEvent::Stderr(text) => assert_eq!(decoded(text), b"no\n"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((bytes, last), (300_000, ExecEvent::Killed { signal: libc::SIGTERM }));
    }

    #[test]
    fn what_is_not_taken_is_not_read() {
        let _alone = crate::process::alone();
        let argv = ["yes"].map(str::to_owned).into();
        let job = ExecJob { argv, cwd: "/".into(), env: env() };
        let mut taken = 0;
        let error = run(&job, |_| {
            taken += 1;
            anyhow::ensure!(taken < 3, "the host is gone");
            Ok(())
        });
        assert_eq!((error.unwrap_err().to_string().as_str(), taken), ("the host is gone", 3));
    }
}
