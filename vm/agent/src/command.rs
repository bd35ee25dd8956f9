//! One command: its input and its output as they come, and how it ended.

use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStdin, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use vmtest_agent::{Ended, Event, Input, PIECE, Program};

use crate::channel::Channel;
use crate::process::{self, Watched};

/// It is the host that has a time limit.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Runs the command with the host's input, and reports its output. An error is one of the channel's.
pub fn run(program: &Program, channel: &mut Channel) -> Result<Ended> {
    let input = channel.input();
    follow(program, |stdin| feed(stdin, input), |event| channel.send(event))
}

/// Hands on what comes until it ends, or nobody reads it any more. Beside the command: it ends with the machine.
fn feed(mut stdin: ChildStdin, input: impl Iterator<Item = Input> + Send + 'static) {
    std::thread::spawn(move || {
        for Input { stdin: piece } in input {
            let Some(piece) = piece else { return };
            let Ok(bytes) = STANDARD.decode(piece) else { return };
            if stdin.write_all(&bytes).is_err() {
                return;
            }
        }
    });
}

/// Runs the command until its process ends, whoever may hold its output; what it started ends with it. Nothing is read
/// before `send` has taken what was read last.
fn follow(
    program: &Program,
    feed: impl FnOnce(ChildStdin),
    mut send: impl FnMut(Event) -> Result<()>,
) -> Result<Ended> {
    let mut process = match process::command(program).and_then(|mut command| {
        command.stdin(Stdio::piped());
        Watched::start_with_two_outputs(command)
    }) {
        Ok(process) => process,
        Err(error) => {
            let name = program.argv.first().map_or("nothing", String::as_str);
            let reason = format!("cannot run {name} in {}: {error}", program.cwd);
            return Ok(Ended::NotStarted { reason });
        }
    };
    if let Some(stdin) = process.take_stdin() {
        feed(stdin);
    }
    let mut sent = Ok(());
    let mut forward = |number: usize, bytes: &[u8]| {
        let event = if number == 0 { Event::Stdout } else { Event::Stderr };
        let mut pieces = bytes.chunks(PIECE).map(|piece| event(Channel::pack(piece)));
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

fn how_it_ended(status: Option<ExitStatus>) -> Ended {
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => Ended::Exited { code },
        Some((None, signal)) => Ended::Killed { signal: signal.unwrap_or_default() },
        // Killed when it was too late for anything else.
        None => Ended::Killed { signal: libc::SIGKILL },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;
    use std::io::Read;

    use nix::sys::prctl::set_child_subreaper;

    use super::*;

    /// Programs are where this process finds them, which in a sandbox like Nix's is not the usual places.
    fn env() -> BTreeMap<String, String> {
        [("PATH".to_owned(), std::env::var("PATH").unwrap())].into()
    }

    /// Everything that is sent while a shell runs `script`, and the last word.
    fn events(script: &str) -> (Vec<Event>, Ended) {
        let _alone = crate::process::alone();
        set_child_subreaper(true).unwrap();
        let argv = ["sh", "-c", script].map(str::to_owned).into();
        let job = Program { argv, cwd: "/".into(), env: env() };
        let mut sent = Vec::new();
        let last = follow(&job, drop, |event| {
            sent.push(event);
            Ok(())
        });
        // While no test beside this one has any.
        assert_eq!(crate::process::children(), []);
        (sent, last.unwrap())
    }

    fn stdout(text: &str) -> Event {
        Event::Stdout(Channel::pack(text.as_bytes()))
    }

    fn unpacked(piece: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let packed = STANDARD.decode(piece).unwrap();
        flate2::read::DeflateDecoder::new(&*packed).read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_command_is_over_when_its_process_is_whoever_holds_its_output() {
        let (sent, last) = events("sleep 999 & setsid sleep 999 & echo hi");
        assert_eq!((sent, last), (vec![stdout("hi\n")], Ended::Exited { code: 0 }));
    }

    #[test]
    fn an_orphan_that_has_ended_is_gone_while_the_command_still_runs() {
        let orphan = "pid=$(sh -c 'sleep 999 > /dev/null & echo $!'); kill -9 $pid";
        let (_, last) = events(&format!("{orphan}; while kill -0 $pid; do :; done; exit 7"));
        assert_eq!(last, Ended::Exited { code: 7 });
    }

    #[test]
    fn the_outputs_are_told_apart_and_come_whole() {
        let (sent, last) = events("head -c 300000 /dev/zero; echo no >&2; kill -TERM $$");
        let mut bytes = 0;
        for event in &sent {
            match event {
                Event::Stdout(text) => bytes += unpacked(text).len(),
                Event::Stderr(text) => assert_eq!(unpacked(text), b"no\n"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((bytes, last), (300_000, Ended::Killed { signal: libc::SIGTERM }));
    }

    #[test]
    fn what_is_not_taken_is_not_read() {
        let _alone = crate::process::alone();
        let argv = ["yes"].map(str::to_owned).into();
        let job = Program { argv, cwd: "/".into(), env: env() };
        let mut taken = 0;
        let error = follow(&job, drop, |_| {
            taken += 1;
            anyhow::ensure!(taken < 3, "the host is gone");
            Ok(())
        });
        assert_eq!((error.unwrap_err().to_string().as_str(), taken), ("the host is gone", 3));
    }

    #[test]
    fn input_arrives_whole_and_ends() {
        let _alone = crate::process::alone();
        let argv = ["sh", "-c", "cat; echo end"].map(str::to_owned).into();
        let job = Program { argv, cwd: "/".into(), env: env() };
        let input = [Some("one\n"), Some("two\n"), None, Some("three")];
        let input = input.map(|piece| Input { stdin: piece.map(|text| STANDARD.encode(text)) });
        let mut said = String::new();
        let ended = follow(
            &job,
            |stdin| feed(stdin, input.into_iter()),
            |event| {
                let Event::Stdout(text) = event else { anyhow::bail!("{event:?}") };
                said += &String::from_utf8(unpacked(&text))?;
                Ok(())
            },
        );
        assert_eq!((ended.unwrap(), &*said), (Ended::Exited { code: 0 }, "one\ntwo\nend\n"));
    }
}
