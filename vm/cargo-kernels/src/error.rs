//! Errors of which callers have to know the kind. All others mean that something could not be run.

/// What kind of thing went wrong, and what to tell the person.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A mistake in what the user typed or wrote.
    #[error("{0}")]
    Usage(String),
    /// A kernel failed.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    pub fn usage(message: impl Into<String>) -> anyhow::Error {
        Self::Usage(message.into()).into()
    }

    pub fn failed(message: impl Into<String>) -> anyhow::Error {
        Self::Failed(message.into()).into()
    }
}
