//! Reports in files: JSON, JUnit, Markdown and HTML, all from the same [`KernelReport`]s.

use std::time::SystemTime;

use crate::verdict::KernelReport;

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

#[cfg(test)]
pub mod sample;
