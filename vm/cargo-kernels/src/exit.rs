//! The exit codes, which scripts depend on.

use crate::text;

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

/// An error that decides the exit code of the whole command; without one in its chain an error is [`NOT_RUN`].
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Exit {
    /// One of this module's constants.
    pub code: u8,
    /// What to tell the person.
    pub message: String,
}

impl Exit {
    /// A kernel failed.
    pub fn failed(message: impl Into<String>) -> anyhow::Error {
        Self { code: FAILED, message: message.into() }.into()
    }

    /// A mistake in what the user typed or wrote.
    pub fn usage(message: impl Into<String>) -> anyhow::Error {
        Self { code: USAGE, message: message.into() }.into()
    }
}

/// The exit code that an error leads to.
pub fn code_of(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<Exit>().map_or(NOT_RUN, |exit| exit.code)
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
