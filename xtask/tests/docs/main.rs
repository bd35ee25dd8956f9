//! The documentation is true: its commands are accepted, its links lead somewhere, its tables are those of the code,
//! and what it shows of a command's output is what the command prints.

#![allow(clippy::unwrap_used)]

mod commands;
mod links;
mod markdown;
mod tables;

// Of the program itself, which has no library.
#[allow(dead_code)]
#[path = "../../src/exit.rs"]
mod exit;
#[allow(dead_code)]
#[path = "../../src/flags.rs"]
mod flags;
#[allow(dead_code)]
#[path = "../../src/verdict.rs"]
mod verdict;
