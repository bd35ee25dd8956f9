//! `cargo xtask exec`: one command in a kernel, with its output and its exit code.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use vmtest_agent::ExecJob;

use crate::dirs::Dirs;
use crate::environment;
use crate::exit::{self, Exit};
use crate::flags;
use crate::shell;
use vm_guest::Link;
use vm_guest::channel;
use vm_guest::console;
use vm_guest::decode::{self, Exec, Lines};
use vm_guest::host_root::HostRoot;
use vm_guest::interrupt::Interrupt;
use vm_guest::process::{Supervised, SupervisedCommand};

/// Runs the command. Its exit code is the command's; a signal is 128 and its number, as in shells.
///
/// # Errors
/// When the command could not be run: the kernel is unavailable, a tool is missing, the guest died.
pub fn run(dirs: &Dirs, flags: &flags::Exec) -> Result<u8> {
    let interrupt = Interrupt::install()?;
    let job = channel::encode(&job(flags)?)?;
    let host = shell::host_root(dirs, &flags.kernel, &flags.vm)?;
    let agent = host.run.path().join("agent");
    fs::write(&agent, vm_guest::agent::PROGRAM)
        .and_then(|()| fs::set_permissions(&agent, Permissions::from_mode(0o755)))
        .context("cannot write the agent")?;
    let listener = host.channel()?;
    let closer = listener.try_clone().context("cannot share the channel")?;
    let mut process = Supervised::spawn(vng(&host, &agent)?)?;
    let log = host.run.path().join("console.log");
    let tail = std::thread::spawn(watch_console(&mut process, &log)?);

    let process = Arc::new(process);
    let ended = Arc::clone(&process);
    let subscription = interrupt.subscribe({
        let process = Arc::clone(&process);
        move || drop(process.kill())
    });
    let limit = flags.vm.timeout.map(Duration::from_secs_f64);
    let timed_out = Arc::new(AtomicBool::new(false));
    let late = Arc::clone(&timed_out);
    std::thread::spawn(move || {
        if let Some(limit) = limit {
            if matches!(ended.wait_timeout(limit), Ok(None)) {
                late.store(true, Ordering::Relaxed);
                let _ = ended.kill();
            }
        }
        let _ = ended.wait();
        // Nobody will connect any more.
        drop(Link::Listening(closer).closer());
    });
    let outcome = channel::connect(Link::Listening(listener))
        .context("the guest never came up")
        .and_then(|stream| converse(stream, &job));
    drop(subscription);
    process.kill()?;
    if let Some(signal) = interrupt.signal() {
        return Ok(exit::interrupted(signal));
    }
    if let Some(limit) = limit.filter(|_| timed_out.load(Ordering::Relaxed)) {
        return Err(Exit::not_run(format!(
            "kernel {}: not finished within {} s",
            flags.kernel,
            limit.as_secs_f64()
        )));
    }
    let tail = tail.join().unwrap_or_default();
    // It did answer.
    if outcome.as_ref().is_err_and(|error| error.is::<Exit>()) {
        return outcome;
    }
    outcome.with_context(|| {
        format!(
            "kernel {}: no answer from the guest; its console's end:\n{}",
            flags.kernel,
            tail.join("\n")
        )
    })
}

fn vng(host: &HostRoot, agent: &Path) -> Result<SupervisedCommand> {
    let agent = agent.to_str().context("the target directory's path is not UTF-8")?;
    let mut command = SupervisedCommand::new(&host.vng)?;
    command
        .current_dir(host.run.path())
        .env_clear()
        .envs(host.environment()?)
        .args(host.arguments(true))
        .args(["--verbose", "--append", "loglevel=5"])
        .args(["--exec", &format!("{} exec", shlex::try_quote(agent)?)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

/// Keeps the console in a file; what comes back, once it is closed, is its last lines.
fn watch_console(
    process: &mut Supervised,
    log: &Path,
) -> Result<impl FnOnce() -> Vec<String> + use<>> {
    let (Some(stderr), Some(stdout)) = (process.stderr.take(), process.stdout.take()) else {
        bail!("virtme-ng was started without pipes");
    };
    let mut recorder = console::record(log).context("cannot keep the console")?;
    Ok(move || {
        // Nothing of interest, but it must not fill up.
        std::thread::spawn(move || console::pump(stdout, |_| {}));
        let mut seen = console::Console::default();
        console::pump(stderr, |bytes| {
            recorder.write(bytes);
            seen.feed(bytes, |_| {});
        });
        seen.finish(|_| {});
        seen.tail
    })
}

fn job(flags: &flags::Exec) -> Result<ExecJob> {
    let cwd = std::env::current_dir().context("cannot find the working directory")?;
    let cwd = cwd.to_str().context("the working directory's path is not UTF-8")?.to_owned();
    // What is not UTF-8 cannot travel as JSON, and nobody will miss it.
    let mut env: BTreeMap<String, String> = vm_guest::environment::allowed()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    env.extend(environment::asked(&flags.env)?);
    Ok(ExecJob { argv: flags.command.clone(), cwd, env })
}

/// Hands the command over and passes its output on, until it has ended.
fn converse(stream: UnixStream, job: &[u8]) -> Result<u8> {
    let mut writer = stream.try_clone().context("cannot share the channel")?;
    let mut lines = Lines::new(stream, decode::EXEC_LIMIT);
    let mut handed_over = false;
    while let Some(line) = lines.next_line().context("cannot read from the guest")? {
        match line.and_then(decode::exec) {
            Ok(Exec::Ready) if handed_over => bail!("the agent started a second time"),
            Ok(Exec::Ready) => {
                writer.write_all(job).context("cannot hand the command over")?;
                handed_over = true;
            }
            Ok(Exec::Stdout(bytes)) => pass_on(&mut io::stdout(), &bytes)?,
            Ok(Exec::Stderr(bytes)) => pass_on(&mut io::stderr(), &bytes)?,
            Ok(Exec::Exited(code)) => return Ok(code),
            Ok(Exec::Killed(signal)) => {
                eprintln!("killed by signal {}", signal.number());
                return Ok(exit::interrupted(signal.number().into()));
            }
            Ok(Exec::NotStarted(reason)) => return Err(Exit::not_run(reason)),
            // A serial line may carry noise before the agent owns it, never after.
            Err(malformed) if handed_over => return Err(malformed.into()),
            Err(_) => {}
        }
    }
    bail!("the guest ended before the command did")
}

fn pass_on(to: &mut impl Write, bytes: &[u8]) -> Result<()> {
    to.write_all(bytes).and_then(|()| to.flush()).context("cannot write the output")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn outcome(lines: &str) -> Result<u8> {
        let (mut guest, host) = UnixStream::pair().unwrap();
        guest.write_all(lines.as_bytes()).unwrap();
        guest.shutdown(std::net::Shutdown::Write).unwrap();
        converse(host, b"{}\n")
    }

    #[test]
    fn exit_codes_come_through_and_signals_are_128_and_their_number() {
        let ready = "noise\n{\"ready\":{\"release\":\"6.1\"}}\n";
        assert_eq!(outcome(&format!("{ready}{{\"exited\":{{\"code\":255}}}}\n")).unwrap(), 255);
        assert_eq!(outcome(&format!("{ready}{{\"killed\":{{\"signal\":9}}}}\n")).unwrap(), 137);
    }

    #[test]
    fn a_guest_that_died_and_a_command_that_does_not_exist_are_errors() {
        assert!(outcome("").unwrap_err().to_string().contains("ended before"));
        let error = outcome("{\"not-started\":{\"reason\":\"no such file\"}}\n").unwrap_err();
        assert_eq!(error.to_string(), "no such file");
    }

    #[test]
    fn what_no_command_ends_with_and_damaged_output_are_errors_and_no_exit_codes() {
        let ready = "{\"ready\":{\"release\":\"6.1\"}}\n";
        for hostile in [
            "{\"killed\":{\"signal\":2147483647}}",
            "{\"exited\":{\"code\":-2147483648}}",
            "{\"stdout\":\"?\"}",
            "{\"ready\":{\"release\":\"again\"}}",
            "{\"stdout\":\"",
        ] {
            let lines = format!("{ready}{hostile}\n{{\"exited\":{{\"code\":0}}}}\n");
            outcome(&lines).expect_err(hostile);
        }
    }
}
