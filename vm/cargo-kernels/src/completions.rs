//! `completions`: what a shell needs to complete the command line.

use std::io::Write;

use anyhow::{Context, Result};

use crate::exit;

/// Runs the command for a program such as `cargo xtask`. The script's functions are named for `cargo-xtask`, which is
/// what zsh's own completion of cargo asks for; save it as `_cargo-xtask` in a directory of `$fpath`.
///
/// # Errors
/// When standard output cannot be written to.
pub fn run(shell: clap_complete::Shell, program: clap::Command) -> Result<u8> {
    let name = program.get_name().replace(' ', "-");
    let mut command = program.bin_name(&name);
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, &name, &mut script);
    match std::io::stdout().write_all(&script) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written.context("cannot write to standard output")?,
    }
    Ok(exit::OK)
}
