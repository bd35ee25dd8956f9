//! What a person sees while kernels run.
//!
//! The engine reports [`RunEvent`]s and knows nothing of terminals; a [`Screen`] shows them and knows nothing
//! of virtual machines. On a terminal each kernel has a live line; anywhere else there are plain lines.

pub mod grid;
mod live;
mod table;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal, Write};
use std::mem::{Discriminant, discriminant, replace};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::event::RunEvent;
use crate::text;
pub use live::Line;
use live::Live;
pub use table::table;

/// Tells of a kernel on standard error. A guest, or a server, may have had a word in it.
pub fn note(kernel: &str, words: &str) {
    eprintln!("{}", text::line(&format!("{kernel}: {words}")));
}

/// Prints what a command has to say in the end. That the reader went away is no error, and no reason to give no exit code.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Where [`RunEvent`]s are shown: live lines on a terminal, else plain ones. Shared by the threads of a run.
pub enum Screen {
    /// On a terminal that can move its cursor.
    Live(Live),
    /// Anywhere else: a line for each change, behind the kernel's name, without escape sequences.
    Plain(Mutex<Plain>),
}

pub struct Plain {
    out: Box<dyn Write + Send>,
    /// Of each kernel its name, and the kind of event that was shown last.
    kernels: Vec<(String, Option<Discriminant<RunEvent>>)>,
}

impl Screen {
    /// A screen on standard output, with a line for each of these kernels.
    pub fn new(names: &[String]) -> Self {
        // Without a terminal that can move its cursor, indicatif shows nothing at all.
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        if io::stdout().is_terminal() && !dumb {
            Self::Live(Live::new(names, indicatif::ProgressDrawTarget::stdout()))
        } else {
            Self::plain(names, Box::new(io::stdout()))
        }
    }

    fn plain(names: &[String], out: Box<dyn Write + Send>) -> Self {
        let kernels = names.iter().map(|name| (text::line(name), None)).collect();
        Self::Plain(Mutex::new(Plain { out, kernels }))
    }

    /// Shows what happened to the kernel at this index of the names.
    pub fn event(&self, index: usize, event: RunEvent) {
        match self {
            Self::Live(live) => live.event(index, event),
            Self::Plain(plain) => {
                let mut plain = plain.lock().unwrap_or_else(PoisonError::into_inner);
                let Plain { out, kernels } = &mut *plain;
                let (name, shown) = &mut kernels[index];
                let kind = Some(discriminant(&event));
                if !matches!(event, RunEvent::Note(_)) && replace(shown, kind) == kind {
                    return;
                }
                // A reader that went away (`| head`) is no reason to stop testing.
                let _ = writeln!(out, "{name}: {event}").and_then(|()| out.flush());
            }
        }
    }
}
