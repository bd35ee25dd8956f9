//! How the getting of a kernel is told to whoever waits for it.

/// Hears of one kernel's progress; called from the thread that gets it.
pub trait Progress: Sync {
    /// So many bytes of the current file are here, of so many if that is known.
    fn bytes(&self, done: u64, total: Option<u64>);
    /// Something worth a line: what is done next, or what went wrong and is tried another way.
    fn note(&self, text: &str);
}

/// Hears nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn bytes(&self, _done: u64, _total: Option<u64>) {}
    fn note(&self, _text: &str) {}
}
