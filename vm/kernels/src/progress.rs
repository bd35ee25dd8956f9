//! What is told while a kernel is fetched or built.

/// Hears of one kernel's progress, or of nothing; called from the thread that gets it.
pub trait Progress: Sync {
    /// So many bytes of the current file are here, of so many if that is known.
    fn bytes(&self, _done: u64, _total: Option<u64>) {}
    /// Something worth a line: what is done next, or what went wrong and is tried another way.
    fn note(&self, _text: &str) {}
    /// What is done at this moment, such as the file that is being compiled; may come a hundred times a second.
    fn working_on(&self, _step: &str) {}
}

/// Hears nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {}
