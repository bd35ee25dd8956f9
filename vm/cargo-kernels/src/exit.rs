//! The exit codes, which scripts depend on.

use crate::error::Error;
use crate::text;
use crate::verdict::{KernelReport, RunReport, Standing};

/// Everything that was asked for was run and passed.
pub const OK: u8 = 0;
/// A kernel failed a test.
pub const FAILED: u8 = 1;
/// Wrong usage.
pub const USAGE: u8 = 2;
/// Something that was asked for could not be run: a kernel unavailable, a tool missing, a VM that never booted.
pub const NOT_RUN: u8 = 3;

/// The code of a run that a signal ended, as shells give it: 130 for Ctrl-C.
pub fn interrupted(signal: i32) -> u8 {
    u8::try_from(signal).ok().and_then(|signal| signal.checked_add(128)).unwrap_or(NOT_RUN)
}

/// The code of a run: a kernel that failed weighs more than one that was not run.
pub fn of_run(run: &RunReport) -> u8 {
    let codes = run.kernels.iter().filter(|kernel| !kernel.tolerated).map(of_kernel);
    // `FAILED` is the lower number of the two.
    codes.filter(|code| *code != OK).min().unwrap_or(OK)
}

/// The code that a kernel's verdict leads to when it stands alone.
pub fn of_kernel(kernel: &KernelReport) -> u8 {
    match kernel.untolerated() {
        Standing::Passed => OK,
        Standing::Failed => FAILED,
        Standing::NotRun => NOT_RUN,
    }
}

/// The exit code that an error leads to.
pub fn code_of(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(Error::Usage(_)) => USAGE,
        Some(Error::Failed(_)) => FAILED,
        None => NOT_RUN,
    }
}

/// The end of `main`: what went wrong goes to standard error.
pub fn conclude(result: anyhow::Result<u8>) -> std::process::ExitCode {
    result
        .unwrap_or_else(|error| {
            // A guest, or a server, may have had a word in it.
            eprintln!("error: {}", text::block(&format!("{error:#}")));
            code_of(&error)
        })
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn code_and_sum_of_a_run_by_its_verdicts() {
        let passing = || sample::passing("6.6");
        let failing = || sample::failing("6.1");
        let silent = || sample::silent("6.18");
        let tolerated = KernelReport { tolerated: true, ..sample::with_splat("6.12") };
        for (kernels, code, sum) in [
            (vec![passing()], OK, "1 passed, 0 failed"),
            (vec![silent(), passing()], NOT_RUN, "1 passed, 0 failed, 1 not run"),
            (vec![failing(), silent()], FAILED, "0 passed, 1 failed, 1 not run"),
            (vec![silent(), failing()], FAILED, "0 passed, 1 failed, 1 not run"),
            (vec![sample::with_splat("6.12")], FAILED, "0 passed, 1 failed"),
            (vec![tolerated], OK, "1 passed, 0 failed"),
            (vec![sample::unavailable("5.4")], OK, "0 passed, 0 failed, 1 not run"),
        ] {
            let run = sample::report(kernels);
            assert_eq!((of_run(&run), &*run.sum()), (code, sum));
        }
    }
}
