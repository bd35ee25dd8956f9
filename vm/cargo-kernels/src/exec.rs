//! One command in a kernel, with its input, its output and its exit code: `cargo kernels exec`, and `run`, which is made to
//! be cargo's runner.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use vm_guest::environment;
use vm_guest::interrupt::Interrupt;
use vm_guest::payload::Files;
use vm_guest::supervise::{End, Observed};
use vmtest_agent::{Ended, Event, Program, Task};

use crate::dirs::Dirs;
use crate::error::Error;
use crate::exit;
use crate::launch::{self, Guests, Host, Launch};
use crate::metadata::{Metadata, RootChoice};
use crate::outcome::{Case, Outcome};
use crate::report::words::signal_name;
use crate::verdict::Verdict;
use crate::{backends, closure, flags, kernels, text, ui};

/// `exec`: in a guest that is booted unless the user says otherwise, with the variables that are allowed or asked for.
pub fn exec(dirs: &Dirs, flags: &flags::Exec) -> Result<u8> {
    run(dirs, flags, false)
}

/// `run`, as cargo's runner: in a restored guest, with all that the command would have here.
pub fn as_runner(dirs: &Dirs, flags: &flags::Exec) -> Result<u8> {
    run(dirs, flags, true)
}

/// The exit code is the command's; a signal is 128 and its number, as in shells.
fn run(dirs: &Dirs, flags: &flags::Exec, as_runner: bool) -> Result<u8> {
    let metadata = flags.guest.over(Metadata::load(dirs)?);
    let cwd = std::env::current_dir().context("cannot find the working directory")?;
    let cwd = cwd.to_str().context("the working directory's path is not UTF-8")?.to_owned();
    // What is not UTF-8 cannot travel as JSON, and nobody will miss it.
    let env =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let env = env.filter(|(name, _)| as_runner || environment::is_allowed(name));
    let env = env.chain(flags.one.env.iter().cloned()).collect();
    let program = Program { argv: flags.command.clone(), cwd: cwd.clone(), env };
    let target = kernels::select_one(dirs, flags.one.kernel.as_ref(), flags.one.arch, &metadata)?;
    if let Some(path) = named_by_path(&program).filter(|path| path.is_file()) {
        closure::check_architecture(&path, target.arch())?;
    }
    let interrupt = Interrupt::install()?;
    let backend = backends::open(dirs, target.arch(), as_runner || flags.warm, &interrupt)?;
    let host = Host::open(dirs, &interrupt, Instant::now())?;
    let name = target.name();
    let kernel = kernels::obtain(&target)?;
    let guests = Guests {
        host: &host,
        backend: &*backend,
        metadata: &metadata,
        vm: flags.one.vm.options(),
        keep: &keep(dirs, &program),
        copy_out: flags.guest.keep.as_deref(),
    };
    let log = host.log(&[name]);
    // A script reads what the command says, and nothing else.
    let says = !as_runner && io::stderr().is_terminal();
    let note = |note: String| {
        if says {
            ui::note(name, &note);
        }
    };
    let launch = Launch {
        files: &|| brought_along(dirs, &program),
        has_input: !io::stdin().is_terminal(),
        // It was asked for.
        kept: &|kept| ui::note(name, &kept),
        ..guests.launch(&kernel, &log, Task::Command(program.clone()), &note)?
    };
    let mut written = Ok(());
    let seen = launch.run(|event| {
        written = match event {
            Event::Stdout(piece) => io::stdout().write_all(&piece.0).and_then(|()| io::stdout().flush()),
            Event::Stderr(piece) => io::stderr().write_all(&piece.0),
            _ => Ok(()),
        };
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    // That nobody reads it any more is no news.
    if let Some(error) = written.err().filter(|error| error.kind() != io::ErrorKind::BrokenPipe) {
        return Err(error).context("cannot write the command's output");
    }
    if let Some(signal) = interrupt.signal() {
        return Ok(exit::interrupted(signal));
    }
    conclude(&Case::of_command(&kernel, &metadata), &seen, &log)
}

/// Where the command's program is; any other name is one of busybox's, or of the host's root directory.
fn named_by_path(program: &Program) -> Option<PathBuf> {
    let path = program.argv.first().map(Path::new).filter(|path| path.components().count() > 1);
    path.map(|path| Path::new(&program.cwd).join(path))
}

/// Where the command works, and what it is.
fn keep(dirs: &Dirs, program: &Program) -> Vec<String> {
    let path = program.argv.first().map(Path::new);
    let parent = path.filter(|path| path.is_absolute()).and_then(Path::parent);
    launch::kept([Some(Path::new(&program.cwd)), parent, Some(&dirs.target)].into_iter().flatten())
}

/// The command with its libraries, and the files of the package that cargo starts it for.
fn brought_along(dirs: &Dirs, program: &Program) -> Result<Files> {
    let Some(path) = named_by_path(program) else { return Ok(Files::default()) };
    let mut files = closure::of_program(&path, program)?;
    if let Some(package) = program.env.get("CARGO_MANIFEST_DIR") {
        files.extend(closure::of_package(Path::new(package), &dirs.target)?);
    }
    Ok(closure::in_place(files))
}

fn conclude(case: &Case<'_>, seen: &Observed, log: &Path) -> Result<u8> {
    let kernel = &case.kernel.name;
    // Nobody reads what it prints, as in a pipe to head(1).
    if seen.end == End::Interrupted {
        return Ok(exit::interrupted(nix::libc::SIGPIPE));
    }
    if let Some(Outcome { verdict, reason, excerpt }) = case.broken_off(seen) {
        // Of a guest that was up and did not panic, the console's end says nothing about the command.
        let shows = seen.ready.is_none() || verdict == Verdict::Panic;
        let lines: String = excerpt.iter().filter(|_| shows).map(|line| format!("\n  {}", text::line(line))).collect();
        let why = format!("kernel {kernel}: {reason}{lines}\n  console: {}", log.display());
        return Err(match verdict {
            Verdict::Panic | Verdict::Fail if seen.ready.is_some() => Error::failed(why),
            _ => anyhow!("{why}"),
        });
    }
    let code = match &seen.ended {
        Some(Ended::Exited { code }) => u8::try_from(*code).unwrap_or(exit::FAILED),
        Some(Ended::Killed { signal }) => {
            eprintln!("killed by {}", signal_name(*signal));
            exit::interrupted(*signal)
        }
        Some(Ended::NotStarted { reason }) => {
            let minimal = case.metadata.root == RootChoice::Minimal;
            let root = if minimal { ", whose root directory is a minimal one (--root host)" } else { "" };
            bail!("{reason}, in the guest{root}");
        }
        None => bail!("kernel {kernel}: the agent did not say how the command ended"),
    };
    if let Some(splat) = case.first_splat(seen) {
        eprintln!("kernel {kernel}: the kernel reported: {}", text::line(&splat));
        return Ok(if code == exit::OK { exit::FAILED } else { code });
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmtest_agent::{PROTOCOL, Ready};

    fn seen(ready: bool, ended: Option<Ended>, end: End, console: &str) -> Observed {
        let mut seen = Observed::default();
        seen.console.feed(console.as_bytes());
        let ready = ready.then(|| Ready { protocol: PROTOCOL, release: "6.1".into(), uptime_s: 1.0 });
        Observed { ready, ended, end, ..seen }
    }

    #[test]
    fn exit_code_is_the_commands_unless_the_kernel_splats() {
        let kernel = vm_kernels::fake::kernel();
        let metadata = Metadata::default();
        let case = Case::of_command(&kernel, &metadata);
        let exited = |code| Some(Ended::Exited { code });
        let splat = "[    1.0] WARNING: CPU: 0 PID: 1 at kernel/a.c:1 f+0x1/0x2\n";
        let panic = "Kernel panic - not syncing: x\n";
        let not_started = Some(Ended::NotStarted { reason: "no".into() });
        for (ready, ended, end, console, expected) in [
            (true, exited(0), End::Finished, "", 0),
            (true, exited(255), End::Finished, "", 255),
            (true, exited(0), End::Finished, splat, exit::FAILED),
            (true, exited(7), End::Finished, splat, 7),
            (true, exited(0), End::Panicked, panic, exit::FAILED),
            (false, None, End::Panicked, panic, exit::NOT_RUN),
            (true, Some(Ended::Killed { signal: 9 }), End::Finished, "", 137),
            (true, exited(0), End::AgentFailed("no space".into()), "", exit::NOT_RUN),
            (true, exited(0), End::Deadline, "", exit::NOT_RUN),
            (true, not_started, End::Finished, "", exit::NOT_RUN),
            (true, exited(0), End::GuestShutdown, "", exit::FAILED),
            (true, None, End::ProtocolError("no token".into()), "", exit::FAILED),
            (true, None, End::Interrupted, "", 128 + nix::libc::SIGPIPE as u8),
            (false, None, End::Deadline, "", exit::NOT_RUN),
            (false, None, End::GuestShutdown, "", exit::NOT_RUN),
        ] {
            let words = format!("{ended:?} {end:?}");
            let concluded = conclude(&case, &seen(ready, ended, end, console), Path::new("log"));
            assert_eq!(concluded.unwrap_or_else(|error| exit::code_of(&error)), expected, "{words}");
        }
    }
}
