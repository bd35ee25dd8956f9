//! What a person may type next.

use std::path::PathBuf;

/// A command line of the program that runs: `hint("kernels fetch 6.12")` is `cargo xtask kernels fetch 6.12`, and without
/// that word of `cargo kernels`.
pub fn hint(command: &str) -> String {
    let program = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    match program.file_stem().is_some_and(|name| name == "xtask") {
        true => format!("cargo xtask {command}"),
        false => format!("cargo kernels {}", command.strip_prefix("kernels ").unwrap_or(command)),
    }
}
