//! The tests that need root and a kernel to trace: in a guest, by `cargo xtask vmtest`, or on this machine, by
//! `cargo xtask test --local`; both set VMTEST=1. Without it every test is there, by name, and ignored.

#![allow(clippy::unwrap_used)]

mod cases;
mod execve;
mod trace_buffer;
mod tracer;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// Set to 1 where the tests may run.
const PERMISSION: &str = "VMTEST";

/// What is shown before the names of tests that are ignored for want of it.
const HOW_TO_RUN: &str = "needs root and a kernel: cargo xtask vmtest, or cargo xtask test --local";

fn main() -> ExitCode {
    if let Some(count) = execve::requested() {
        return execve::work(count);
    }
    let permitted = std::env::var_os(PERMISSION).is_some_and(|value| value == "1");
    let trials = cases::ALL.iter().map(|(name, run, stress)| match permitted {
        true => Trial::test(*name, || {
            run();
            Ok(())
        })
        .with_ignored_flag(*stress),
        false => Trial::test(*name, || Err(HOW_TO_RUN.into())).with_ignored_flag(true).with_kind(HOW_TO_RUN),
    });
    let trials = trials.collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
