//! Hello world for eBPF: a BPF program says hello in the kernel's trace buffer for every execve(2), and this loads it,
//! attaches it, and detaches it again. See `helloworld --help`.
//!
//! The kernel side is `bpf/helloworld.bpf.c`. `build.rs` compiles it and makes a Rust module of it, the skeleton.

mod cli;
mod environment;
mod error;
mod libbpf_log;
mod session;
mod trace_pipe;

use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::process::ExitCode;

use clap::Parser as _;
use libbpf_rs::skel::{OpenSkel as _, Skel as _, SkelBuilder as _};

use crate::cli::Cli;
use crate::environment::Environment;
use crate::error::{Error, Step};
use crate::skeleton::{HelloworldLinks, HelloworldSkelBuilder};
use crate::trace_pipe::{TracePipe, Tracefs};

#[allow(clippy::unwrap_used, reason = "generated")]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/helloworld.skel.rs"));
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) | Err(Error::StdoutClosed) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr closed there is nobody left to tell.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Traces until SIGINT, SIGTERM, the end of `--duration`, or until nobody reads stdout any more. However it returns, the
/// program is detached: dropping the skeleton does that.
fn run(cli: &Cli) -> Result<(), Error> {
    // Before anything is attached, so that a signal always finds it ready.
    let signals = session::stop_signals()?;
    libbpf_log::install(cli.verbose);
    Environment::observe().check_privileges()?;
    let tracefs = Tracefs::find(cli.mount_tracefs)?;

    let mut object = MaybeUninit::uninit(); // libbpf keeps its state here
    let mut skeleton = HelloworldSkelBuilder::default()
        .open(&mut object)
        .and_then(|opened| opened.load())
        .map_err(|error| Error::libbpf(Step::Load, &error))?;
    let mut pipe = if cli.follow { Some(TracePipe::open(&tracefs.trace_pipe())?) } else { None };
    skeleton.attach().map_err(|error| Error::libbpf(Step::Attach, &error))?;
    announce(cli.follow, &tracefs)?;
    session::wait(&signals, pipe.as_mut(), cli.duration)?;

    skeleton.links = HelloworldLinks::default(); // no further execve runs the program
    match pipe {
        Some(mut pipe) => session::print_rest(&mut pipe),
        None => Ok(()),
    }
}

/// Says that the program is attached, and where its lines are.
fn announce(follow: bool, tracefs: &Tracefs) -> Result<(), Error> {
    let pipe = tracefs.trace_pipe();
    let pipe = pipe.display();
    let hint = if follow {
        format!("Lines from {pipe}:")
    } else {
        format!("Read the lines with `sudo cat {pipe}`; end with Ctrl-C.")
    };
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "Successfully started! {hint}")
        .and_then(|()| stdout.flush())
        .map_err(Error::stdout)?;
    if !tracefs.is_on() {
        let switch = tracefs.switch();
        session::note(&format!(
            "tracing is off: there will be no lines until {} is 1",
            switch.display()
        ));
    }
    Ok(())
}
