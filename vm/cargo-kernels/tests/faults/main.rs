//! What must not break a verdict: the harness is run on tests that misbehave (`xtask/tests/misbehave`), on guests that
//! do not come up, and on hosts that lack something, and is attacked while it runs.
//!
//! Each test looks at the verdict, the exit code, the reason that is given, and at whether a process is left. Those
//! that boot a VM are ignored by default; `cargo xtask test` runs them, or
//! `cargo test -p xtask --test faults -- --ignored`. With `--nocapture` each run also prints a row of the table of
//! faults: what was done, the verdict, the seconds until it was given, the processes left.

#![allow(clippy::unwrap_used)]

mod ends;
mod exec;
mod guests;
mod hosts;
mod output;
mod restore;
mod support;
