//! One command for `cargo xtask exec`: its output as it comes, and how it ended.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use vmtest_agent::{ExecEvent, ExecJob};

use crate::channel::Channel;

/// Told this, the program runs one command instead of a job of tests.
pub const ARGUMENT: &str = "exec";

/// How much output goes into one message, in bytes.
const PIECE: usize = 16 * 1024;

/// Says that the guest is ready, waits for the command, and runs it. An error is one of the channel's.
pub fn serve(channel: &mut Channel) -> Result<()> {
    let name = nix::sys::utsname::uname().context("cannot read the kernel's release")?;
    let release = name.release().to_string_lossy().into_owned();
    channel.send_line(&ExecEvent::Ready { release })?;
    let job: ExecJob = channel.receive_line()?;
    let last = run(&job, channel)?;
    channel.send_line(&last)?;
    channel.drain()
}

fn run(job: &ExecJob, channel: &mut Channel) -> Result<ExecEvent> {
    let Some((program, arguments)) = job.argv.split_first() else {
        return Ok(ExecEvent::NotStarted { reason: "there is no command".into() });
    };
    let started = Command::new(program)
        .args(arguments)
        .current_dir(&job.cwd)
        .env_clear()
        .envs(&job.env)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            let reason = format!("cannot run {program} in {}: {error}", job.cwd);
            return Ok(ExecEvent::NotStarted { reason });
        }
    };
    let (sender, pieces) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        forward(stdout, ExecEvent::Stdout, sender.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        forward(stderr, ExecEvent::Stderr, sender);
    }
    for piece in pieces {
        channel.send_line(&piece)?;
    }
    let status = child.wait().context("cannot wait for the command")?;
    Ok(match (status.code(), status.signal()) {
        (Some(code), _) => ExecEvent::Exited { code },
        (None, signal) => ExecEvent::Killed { signal: signal.unwrap_or_default() },
    })
}

fn forward(
    mut from: impl Read + Send + 'static,
    event: fn(String) -> ExecEvent,
    to: mpsc::Sender<ExecEvent>,
) {
    thread::spawn(move || {
        let mut buffer = vec![0; PIECE];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if to.send(event(STANDARD.encode(&buffer[..count]))).is_err() {
                return;
            }
        }
    });
}
