//! QEMU's monitor: commands in, answers and events out, in JSON (docs/interop/qmp-spec.txt).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

/// A connection to the monitor.
pub struct Qmp {
    /// Unbuffered, so that nothing is lost when someone else goes on reading.
    reader: BufReader<UnixStream>,
    /// Events that came while something else was waited for.
    events: Vec<Event>,
    deadline: Instant,
}

/// Something that happened in the machine.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Event {
    /// Its name, such as `RESUME` (qapi/*.json).
    pub event: String,
    /// What it says.
    #[serde(default)]
    pub data: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Message {
    Event(Event),
    Return {
        #[serde(rename = "return")]
        value: Value,
    },
    Error {
        error: Refusal,
    },
    Greeting {
        #[serde(rename = "QMP")]
        _qmp: Value,
    },
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

impl Qmp {
    /// Talks to the monitor at the other end; every wait ends at `deadline`.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn connect(stream: UnixStream, deadline: Instant) -> Result<Self> {
        let reader = BufReader::with_capacity(1, stream);
        let mut qmp = Self { reader, events: Vec::new(), deadline };
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Has a command executed and returns what it says.
    ///
    /// # Errors
    /// When QEMU refuses, is gone, or does not answer in time.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.reader
            .get_mut()
            .write_all(line.as_bytes())
            .with_context(|| format!("QEMU's monitor is gone before {command}"))?;
        loop {
            match self.read().with_context(|| format!("waiting for QEMU to do {command}"))? {
                Message::Event(event) => self.events.push(event),
                Message::Return { value } => return Ok(value),
                Message::Error { error } => bail!("QEMU refuses {command}: {}", error.desc),
                Message::Greeting { .. } => {}
            }
        }
    }

    /// Waits until an event comes that `is_it`; one that came meanwhile counts.
    ///
    /// # Errors
    /// When QEMU is gone, or the event does not come in time.
    pub fn wait_for(&mut self, what: &str, is_it: impl Fn(&Event) -> bool) -> Result<Event> {
        if let Some(index) = self.events.iter().position(&is_it) {
            return Ok(self.events.remove(index));
        }
        loop {
            let message = self.read().with_context(|| format!("waiting for QEMU to {what}"))?;
            match message {
                Message::Event(event) if is_it(&event) => return Ok(event),
                Message::Event(event) => self.events.push(event),
                _ => {}
            }
        }
    }

    fn read(&mut self) -> Result<Message> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("it took too long");
        }
        self.reader.get_ref().set_read_timeout(Some(left))?;
        let mut line = Vec::new();
        let length = self.reader.read_until(b'\n', &mut line).context("it took too long")?;
        if length == 0 {
            bail!("it is gone");
        }
        serde_json::from_slice(&line).with_context(|| {
            format!("its monitor says something strange: {}", String::from_utf8_lossy(&line))
        })
    }
}
