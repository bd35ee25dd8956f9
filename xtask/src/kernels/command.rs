//! `cargo xtask kernels`.

use anyhow::{Result, bail};

use super::{Progress, select};
use crate::{exit, flags};

/// Runs the command.
pub fn run(flags: &flags::Kernels) -> Result<u8> {
    match flags {
        flags::Kernels::Fetch { names } => fetch(names),
        _ => bail!("not built yet"),
    }
}

struct Lines(String);

impl Progress for Lines {
    fn bytes(&self, _done: u64, _total: Option<u64>) {}
    fn note(&self, text: &str) {
        println!("{}: {text}", self.0);
    }
}

fn fetch(names: &[String]) -> Result<u8> {
    let mut code = exit::OK;
    for target in select(names)? {
        match target.obtain(&Lines(target.name().to_owned())) {
            Ok(kernel) => println!(
                "{}: {} at {}",
                kernel.name,
                kernel.release.as_deref().unwrap_or("unknown release"),
                kernel.image.display()
            ),
            Err(error) => {
                println!("{error}");
                code = exit::NOT_RUN;
            }
        }
    }
    Ok(code)
}
