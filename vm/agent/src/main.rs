//! The program that runs in the guest. As process 1 of an initramfs it brings the guest up
//! itself; started as any other process it relies on what did. From there on both are the same:
//! take a job from the channel, run it, report, switch the machine off. Its argument is the channel's device.

mod bpf;
mod channel;
mod command;
mod copy_out;
mod entropy;
mod facts;
mod ivshmem;
mod job;
mod machine;
mod modules;
mod mounts;
mod output;
mod process;
mod record;
mod root;
mod run_tests;
mod supervise;
mod unpack;

use std::path::Path;
use std::process::ExitCode;

use channel::Channel;
use machine::Machine;
use vmtest_agent::{RECORD, SUPERVISE};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let argument = arguments.next();
    match argument.as_ref().and_then(|argument| argument.to_str()) {
        Some(SUPERVISE) => supervise::supervise(arguments),
        Some(RECORD) => return record::record(arguments),
        Some(facts::DO_NOTHING) => return ExitCode::SUCCESS,
        _ => {}
    }
    // The last argument: of a kernel's parameters, those that it does not know come first.
    let device = arguments.last().or(argument).unwrap_or_default();
    // Whatever outlives its parent in a test becomes a child of this process, to be reaped or ended by it.
    let _ = nix::sys::prctl::set_child_subreaper(true);
    let is_init = std::process::id() == 1;
    let mut machine = if is_init { Machine::bring_up() } else { Machine::complete() };
    let served = Channel::open(Path::new(&device)).and_then(|mut channel| job::serve(&mut channel, &mut machine));
    let code = match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The channel is what failed, so the console is all that is left to say it on.
            eprintln!("vmtest-agent: {error:#}");
            ExitCode::FAILURE
        }
    };
    machine::power_off();
    code
}
