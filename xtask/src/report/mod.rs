//! Reports in files: JSON, JUnit, Markdown and HTML, all from the same [`KernelReport`]s.

pub mod facts;
pub mod words;

#[cfg(test)]
pub mod sample;

use std::time::SystemTime;

use crate::exit;
use crate::verdict::{KernelReport, Standing};

/// A whole run, as reports see it.
#[derive(Debug)]
pub struct RunReport {
    /// The package that was tested, `[workspace.metadata.vmtest] package`: the reports' title.
    pub program: String,
    /// When the run began.
    pub started: SystemTime,
    /// Seconds it took altogether.
    pub total_s: f64,
    /// One for each kernel, in the order in which they were asked for.
    pub kernels: Vec<KernelReport>,
}

impl RunReport {
    /// How many kernels stand like this.
    pub fn count(&self, standing: Standing) -> usize {
        self.kernels.iter().filter(|kernel| kernel.standing() == standing).count()
    }

    /// The sum of the run: `4 passed, 0 failed, 1 not run`.
    pub fn sum(&self) -> String {
        let (passed, failed) = (self.count(Standing::Passed), self.count(Standing::Failed));
        match self.count(Standing::NotRun) {
            0 => format!("{passed} passed, {failed} failed"),
            not_run => format!("{passed} passed, {failed} failed, {not_run} not run"),
        }
    }

    /// The exit code of the run: a kernel that failed weighs more than one that was not run.
    pub fn exit_code(&self) -> u8 {
        let codes =
            self.kernels.iter().filter(|kernel| !kernel.tolerated).map(KernelReport::exit_code);
        codes.fold(exit::OK, |sum, code| match (sum, code) {
            (exit::FAILED, _) | (_, exit::FAILED) => exit::FAILED,
            (sum, exit::OK) => sum,
            (_, code) => code,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(kernels: Vec<KernelReport>) -> RunReport {
        sample::report(kernels, 1.0)
    }

    #[test]
    fn a_failure_weighs_more_than_a_kernel_that_was_not_run() {
        let failing = || sample::failing("6.1", "6.1.0", 0.0);
        let silent = || sample::silent("6.18", 0.0);
        assert_eq!(run(vec![failing(), silent()]).exit_code(), exit::FAILED);
        assert_eq!(run(vec![silent(), failing()]).exit_code(), exit::FAILED);
        assert_eq!(
            run(vec![silent(), sample::passing("6.6", "6.6", 0.0)]).exit_code(),
            exit::NOT_RUN
        );
        assert_eq!(run(vec![sample::passing("6.6", "6.6", 0.0)]).exit_code(), exit::OK);
    }

    #[test]
    fn what_the_user_allowed_does_not_fail_the_run_and_a_kernel_not_had_is_still_not_a_pass() {
        let unavailable = run(vec![sample::unavailable("5.4")]);
        assert_eq!(
            (unavailable.exit_code(), unavailable.sum()),
            (exit::OK, "0 passed, 0 failed, 1 not run".into())
        );

        let mut complaining = sample::complaining("6.12", "6.12.117", 0.0);
        assert_eq!(run(vec![complaining.clone()]).exit_code(), exit::FAILED);
        complaining.tolerated = true;
        let tolerated = run(vec![complaining]);
        assert_eq!(
            (tolerated.exit_code(), tolerated.sum()),
            (exit::OK, "1 passed, 0 failed".into())
        );
    }
}
