//! Runs a cargo project's tests as root on pinned kernels, and says what happened: the library behind `cargo kernels`.
//!
//! See docs/architecture.md for the way through the code.

pub mod backends;
pub mod bench;
pub mod build;
pub mod cargo;
pub mod closure;
pub mod command;
pub mod cross;
pub mod dirs;
pub mod doctor;
pub mod engine;
pub mod exec;
pub mod exit;
pub mod flags;
pub mod kernels;
pub mod launch;
pub mod load;
pub mod metadata;
mod outcome;
mod parallel;
pub mod payload;
mod recorded;
pub mod report;
mod selection;
pub mod selftest;
pub mod setup;
pub mod shell;
pub mod static_build;
pub mod text;
pub mod tools;
pub mod ui;
pub mod verdict;
pub mod vmtest;
