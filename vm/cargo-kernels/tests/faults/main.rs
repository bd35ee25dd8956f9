//! What must not break a verdict: the harness is run on tests that misbehave (`../misbehave`), on guests that do not come
//! up, and on hosts that lack something, and is attacked while it runs.
//!
//! Each test looks at the verdict, the exit code, the reason that is given, and at whether a process is left. Those
//! that boot a VM are ignored by default; `cargo xtask test` runs them, or
//! `cargo test --workspace --test faults -- --ignored`.

#![allow(clippy::unwrap_used)]

mod ends;
mod guests;
mod hosts;
mod output;
mod restore;
mod support;
