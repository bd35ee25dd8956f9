//! Hello world for eBPF: a BPF program says hello in the kernel's trace buffer for every execve(2), and this loads it,
//! attaches it, and detaches it again. See `helloworld --help`.
//!
//! The kernel side is `bpf/helloworld.bpf.c`. `build.rs` compiles it and makes a Rust module of it, the skeleton.

mod cli;
mod error;
mod session;
mod trace_pipe;

use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::process::ExitCode;

use clap::Parser as _;
use libbpf_rs::PrintLevel;
use libbpf_rs::skel::{OpenSkel as _, Skel as _, SkelBuilder as _};

use crate::cli::Cli;
use crate::error::{ATTACH, Error, LOAD};
use crate::skeleton::{HelloworldLinks, HelloworldSkelBuilder};
use crate::trace_pipe::TracePipe;

#[allow(clippy::unwrap_used, reason = "generated")]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/helloworld.skel.rs"));
}

fn main() -> ExitCode {
    let result = run(&Cli::parse());
    session::end_dots();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody wants to read on: an end like another.
        Err(Error::Stdout(why)) if why.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            error::say(&format!("error: {error}\n"));
            ExitCode::from(error.exit_code())
        }
    }
}

/// Traces until SIGINT, SIGTERM, the end of `--duration`, or until nobody reads stdout any more. However it returns,
/// the program is detached: dropping the skeleton does that.
fn run(cli: &Cli) -> Result<(), Error> {
    // Before anything is attached, so that a signal always finds it ready.
    let signals = session::stop_signals()?;
    error::check_privileges()?;
    let level = if cli.verbose { PrintLevel::Debug } else { PrintLevel::Warn };
    libbpf_rs::set_print(Some((level, |_, text| error::say(&text))));
    let tracefs = trace_pipe::find_tracefs(cli.mount_tracefs)?;

    let mut object = MaybeUninit::uninit(); // libbpf keeps its state here
    let opened = HelloworldSkelBuilder::default().open(&mut object);
    let mut skeleton = opened.and_then(|opened| opened.load()).map_err(|error| Error::libbpf(LOAD, &error))?;
    let mut pipe = if cli.follow { Some(TracePipe::open(tracefs)?) } else { None };
    skeleton.attach().map_err(|error| Error::libbpf(ATTACH, &error))?;
    announce(tracefs, cli.follow)?;
    session::wait(&signals, &mut pipe, cli.duration)?;

    skeleton.links = HelloworldLinks::default(); // no further execve runs the program
    session::print(&mut pipe)
}

/// Says that the program is attached, and where its lines are.
fn announce(tracefs: &str, follow: bool) -> Result<(), Error> {
    let hint = match follow {
        true => format!("Lines from {tracefs}/trace_pipe:"),
        false => format!("Read the lines with `sudo cat {tracefs}/trace_pipe`; end with Ctrl-C."),
    };
    writeln!(io::stdout(), "Successfully started! {hint}")?;
    let switch = format!("{tracefs}/tracing_on");
    if std::fs::read(&switch).is_ok_and(|value| value.starts_with(b"0")) {
        error::say(&format!("note: tracing is off: there will be no lines until {switch} is 1\n"));
    }
    Ok(())
}
