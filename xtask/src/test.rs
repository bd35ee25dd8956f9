//! `cargo xtask test`: everything that can be tested here, step by step, and a sum at the end.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::exit;
use crate::flags::{self, KernelArgs};
use crate::kernels;
use crate::metadata::Metadata;
use crate::paths;
use crate::setup;

/// What `vmtest` must have passed on for the whole to pass: the mirror may have dropped a pin, but
/// a run on hardly any kernel proves nothing.
const FEWEST_KERNELS: usize = 3;

/// One step: what it is, and how it is done.
struct Step {
    name: &'static str,
    run: fn(&flags::Test) -> Result<()>,
}

/// Runs the command.
///
/// # Errors
/// When what the steps need cannot be installed or found. A failing step is no error: the others
/// still run.
pub fn run(flags: &flags::Test) -> Result<u8> {
    if flags.setup {
        setup::ensure()?;
    }
    let steps = if flags.local { LOCAL } else { EVERYWHERE };
    let mut failed = Vec::new();
    for step in steps {
        println!("\n== {}", step.name);
        if let Err(error) = (step.run)(flags) {
            eprintln!("error: {}: {error:#}", step.name);
            failed.push(step.name);
        }
    }
    println!();
    for name in &failed {
        println!("failed: {name}");
    }
    println!("{} passed, {} failed", steps.len() - failed.len(), failed.len());
    Ok(if failed.is_empty() { exit::OK } else { exit::FAILED })
}
