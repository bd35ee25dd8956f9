//! `cargo xtask completions`: what a shell needs to complete this command line.

use std::io::Write;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::exit;
use crate::flags;

/// Runs the command. The script's functions are named for `cargo-xtask`, which is what zsh's own completion of cargo
/// asks for behind `cargo xtask`; save it as `_cargo-xtask` in a directory of `$fpath`.
///
/// # Errors
/// When standard output cannot be written to.
pub fn run(flags: &flags::Completions) -> Result<u8> {
    let mut command = flags::Xtask::command().name("cargo-xtask").bin_name("cargo-xtask");
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, &mut command, "cargo-xtask", &mut script);
    match std::io::stdout().write_all(&script) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written.context("cannot write to standard output")?,
    }
    Ok(exit::OK)
}
