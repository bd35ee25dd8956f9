//! Progress where there is no terminal: a line for each change, prefixed by the kernel's name.

use std::io::Write;
use std::mem::{Discriminant, discriminant};
use std::sync::{Mutex, PoisonError};

use super::RunEvent;
use crate::text;

/// Lines to a writer, in the order in which things happen; no escape sequences.
pub struct Plain {
    names: Vec<String>,
    state: Mutex<State>,
}

struct State {
    out: Box<dyn Write + Send>,
    /// Of each kernel, the kind of event that was shown last.
    shown: Vec<Option<Discriminant<RunEvent>>>,
}

impl Plain {
    pub fn new(names: &[String], out: Box<dyn Write + Send>) -> Self {
        let state = Mutex::new(State { out, shown: vec![None; names.len()] });
        Self { names: names.iter().map(|name| text::line(name)).collect(), state }
    }

    pub fn event(&self, index: usize, event: RunEvent) {
        let kind = discriminant(&event);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(event, RunEvent::Note(_)) {
            if state.shown[index] == Some(kind) {
                return;
            }
            state.shown[index] = Some(kind);
        }
        // A reader that went away (`| head`) is no reason to stop testing.
        let _ = writeln!(state.out, "{}: {event}", self.names[index]);
        let _ = state.out.flush();
    }
}
