//! Runs a cargo project's tests as root on pinned kernels, and says what happened: the library behind `cargo kernels`.
//!
//! See docs/architecture.md for the way through the code.

pub mod apt;
mod backends;
mod bench;
pub mod build;
pub mod cargo;
pub mod closure;
pub mod command;
pub mod cross;
pub mod dirs;
mod doctor;
mod engine;
mod error;
mod event;
pub mod exec;
pub mod exit;
pub mod flags;
#[path = "../../guest_programs.rs"]
mod guest_programs;
mod hint;
mod isolate;
pub mod kernels;
mod launch;
mod load;
pub mod metadata;
mod outcome;
mod parallel;
pub mod payload;
mod recorded;
mod report;
mod selection;
mod selftest;
pub mod setup;
mod shell;
mod static_build;
mod text;
pub mod tools;
mod ui;
mod verdict;
mod virtme_ng;
pub mod vmtest;
mod watch;

pub use ui::print;
