//! `cargo kernels …`, run as a user runs it, against servers on loopback.
#![allow(clippy::unwrap_used)]

mod build;
mod cache;
mod commands;
mod sandbox;
mod server;
mod sources;
mod transfer;
