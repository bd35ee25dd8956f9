//! One command: its input and its output as they come, and how it ended.

use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStdin, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use vmtest_agent::{Ended, Event, Input, PIECE, Piece, Program};

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
    let mut pieces = input.map_while(|input| input.stdin);
    std::thread::spawn(move || pieces.try_for_each(|Piece(bytes)| stdin.write_all(&bytes)));
}

/// Runs the command until its process ends, whoever may hold its output; what it started ends with it. Nothing is read
/// before `send` has taken what was read last.
fn follow(
    program: &Program,
    feed: impl FnOnce(ChildStdin),
    mut send: impl FnMut(Event) -> Result<()>,
) -> Result<Ended> {
    let started = process::command(program).and_then(|mut command| {
        command.stdin(Stdio::piped());
        Watched::start_with_two_outputs(command)
    });
    let mut process = match started {
        Ok(process) => process,
        Err(error) => {
            let name = program.argv.first().map_or("nothing", String::as_str);
            let reason = format!("cannot run {name} in {}: {error}", program.cwd);
            return Ok(Ended::NotStarted { reason });
        }
    };
    if let Some(stdin) = process.stdin.take() {
        feed(stdin);
    }
    let mut sent = Ok(());
    let ended = process.run(Instant::now() + FOR_EVER, |number, bytes| {
        let event = if number == 0 { Event::Stdout } else { Event::Stderr };
        let mut pieces = bytes.chunks(PIECE).map(|piece| event(Piece(piece.to_vec())));
        if sent.is_ok() {
            sent = pieces.try_for_each(&mut send);
        }
        if sent.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    sent?;
    ended.context("cannot watch the command").map(|(_, status)| how_it_ended(status))
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
    use super::*;

    /// A shell's script. Programs are where this process finds them, which in a sandbox like Nix's is not the usual places.
    fn shell(script: &str) -> Program {
        let env = [("PATH".to_owned(), std::env::var("PATH").unwrap())].into();
        Program { argv: ["sh", "-c", script].map(str::to_owned).into(), cwd: "/".into(), env }
    }

    /// What a script prints on its two outputs, given this input, and how it ends.
    fn run(script: &str, input: Vec<Input>) -> ([String; 2], Ended) {
        let _alone = crate::process::alone();
        let mut printed = [const { Vec::new() }; 2];
        let feed = |stdin| feed(stdin, input.into_iter());
        let ended = follow(&shell(script), feed, |event| {
            // As the host gets it.
            match serde_json::from_value(serde_json::to_value(&event)?)? {
                Event::Stdout(piece) => printed[0].extend(piece.0),
                Event::Stderr(piece) => printed[1].extend(piece.0),
                other => anyhow::bail!("{other:?}"),
            }
            Ok(())
        });
        let printed = printed.map(|bytes| String::from_utf8(bytes).unwrap());
        (printed, ended.unwrap())
    }

    #[test]
    fn the_outputs_are_told_apart_and_come_whole() {
        let ([out, errors], ended) = run("head -c 300000 /dev/zero; echo no >&2; kill -TERM $$", Vec::new());
        assert_eq!((out.len(), &*errors, ended), (300_000, "no\n", Ended::Killed { signal: libc::SIGTERM }));
    }

    #[test]
    fn input_arrives_whole_and_ends() {
        let input = [Some("one\n"), Some("two\n"), None, Some("three")];
        let input = input.map(|piece| Input { stdin: piece.map(|text| Piece(text.into())) });
        let ([out, _], ended) = run("cat; echo end", input.into());
        assert_eq!((&*out, ended), ("one\ntwo\nend\n", Ended::Exited { code: 0 }));
    }

    #[test]
    fn what_is_not_taken_is_not_read() {
        let _alone = crate::process::alone();
        let mut taken = 0;
        let error = follow(&shell("exec yes"), drop, |_| {
            taken += 1;
            anyhow::ensure!(taken < 3, "the host is gone");
            Ok(())
        });
        assert_eq!((error.unwrap_err().to_string().as_str(), taken), ("the host is gone", 3));
    }
}
