//! Reports in files: JSON, JUnit, Markdown and HTML, all from the same [`KernelReport`]s.

use crate::verdict::KernelReport;

/// A whole run, as reports see it.
#[derive(Debug)]
pub struct RunReport {
    /// One for each kernel, in the order in which they were asked for.
    pub kernels: Vec<KernelReport>,
}
