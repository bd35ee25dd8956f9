//! The program that runs in the guest. Vm as process 1 of an initramfs it brings the guest up
//! itself; started as any other process it relies on what did. From there on both are the same:
//! take a job from the channel, run it, report, switch the machine off.

mod bpf;
mod channel;
mod clock;
mod entropy;
mod exec;
mod facts;
mod ivshmem;
mod job;
mod machine;
mod modules;
mod mounts;
mod network;
mod output;
mod process;
mod run_tests;
mod supervise;
mod taint;
mod unpack;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use channel::Channel;
use machine::Machine;
use vmtest_agent::{CHANNEL_DEVICE, SUPERVISE};

/// Told this, the program does nothing: something to execute that is there in any guest.
const DO_NOTHING: &str = "do-nothing";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let argument = arguments.next();
    if argument.as_ref().is_some_and(|argument| argument == SUPERVISE) {
        supervise::supervise(arguments);
    }
    if argument.as_ref().is_some_and(|argument| argument == DO_NOTHING) {
        return ExitCode::SUCCESS;
    }
    // Whatever outlives its parent in a test becomes a child of this process, to be reaped or ended by it.
    let _ = nix::sys::prctl::set_child_subreaper(true);
    if argument.is_some_and(|argument| argument == exec::ARGUMENT) {
        for error in Machine::complete().errors {
            eprintln!("vmtest-agent: {error}");
        }
        let served = Channel::open(Path::new(CHANNEL_DEVICE))
            .and_then(|mut channel| exec::serve(&mut channel));
        return conclude(served);
    }
    let is_init = std::process::id() == 1;
    let mut machine = if is_init { Machine::bring_up() } else { Machine::complete() };
    let served = Channel::open(Path::new(CHANNEL_DEVICE))
        .and_then(|mut channel| job::serve(&mut channel, &mut machine));
    conclude(served)
}

fn conclude(served: Result<()>) -> ExitCode {
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
