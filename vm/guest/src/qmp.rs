//! QEMU's monitor: commands in, answers and events out, in JSON (docs/interop/qmp-spec.txt).

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::deadline::Until;

pub struct Qmp {
    /// Unbuffered, so that nothing is lost when someone else goes on reading.
    reader: BufReader<Until>,
    /// Events that came while an answer was waited for.
    events: VecDeque<Value>,
}

impl Qmp {
    /// Talks to the monitor at the other end; every wait ends at `deadline`.
    pub fn connect(stream: UnixStream, deadline: Instant) -> Result<Self> {
        let reader = BufReader::with_capacity(1, Until { stream, deadline });
        let mut qmp = Self { reader, events: VecDeque::new() };
        // Refused by one that someone has talked to before, and that is as well.
        qmp.answer("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<()> {
        match self.answer(command, arguments)?.get("error") {
            Some(error) => bail!("QEMU refuses {command}: {}", error["desc"].as_str().unwrap_or_default()),
            None => Ok(()),
        }
    }

    /// A message with `return` or `error`.
    fn answer(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments }).to_string() + "\n";
        // It never waits: a few lines have room in the socket, whether they are read or not.
        let sent = (&self.reader.get_ref().stream).write_all(line.as_bytes());
        sent.with_context(|| format!("QEMU's monitor is gone before {command}"))?;
        loop {
            let message = self.read().with_context(|| format!("waiting for QEMU to do {command}"))?;
            if message.get("event").is_some() {
                self.events.push_back(message);
            } else if message.get("QMP").is_none() {
                return Ok(message);
            }
        }
    }

    /// Waits for the next event that `is_it` (qapi/*.json), also among those that came since the last wait.
    pub fn wait_for(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.read().with_context(|| format!("waiting for QEMU to {what}"))?,
            };
            if is_it(&event) {
                return Ok(event);
            }
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = Vec::new();
        match self.reader.read_until(b'\n', &mut line) {
            Err(error) if error.kind() == ErrorKind::TimedOut => bail!("it took too long"),
            // Reset, when it went without having read all.
            Ok(0) | Err(_) => bail!("it is gone"),
            Ok(_) => {}
        }
        serde_json::from_slice(&line)
            .with_context(|| format!("its monitor says something strange: {}", String::from_utf8_lossy(&line)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {}, "capabilities": []}}"#;
    const DONE: &str = r#"{"return": {}}"#;

    /// A monitor that says all this at once, whatever it is told.
    fn monitor(lines: &[&str]) -> (UnixStream, Result<Qmp>) {
        let (mut qemu, stream) = UnixStream::pair().unwrap();
        qemu.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
        (qemu, Qmp::connect(stream, Instant::now() + Duration::from_secs(60)))
    }

    #[test]
    fn an_event_that_comes_before_it_is_waited_for_counts() {
        let resume = r#"{"timestamp": {}, "event": "RESUME"}"#;
        let stop = r#"{"event": "STOP", "data": {"why": 1}}"#;
        let (_qemu, qmp) = monitor(&[GREETING, DONE, stop, resume, DONE, stop]);
        let mut qmp = qmp.unwrap();
        qmp.execute("x", &json!({})).unwrap();
        qmp.wait_for("go on", |it| it["event"] == "RESUME").unwrap();
        assert_eq!(qmp.wait_for("stop", |it| it["event"] == "STOP").unwrap()["data"]["why"], 1);
    }

    #[test]
    fn a_refusal_a_closed_monitor_and_nonsense_are_errors_that_say_so() {
        let no = r#"{"error": {"class": "GenericError", "desc": "no such state"}}"#;
        let (qemu, qmp) = monitor(&[GREETING, DONE, no]);
        let mut qmp = qmp.unwrap();
        let error = qmp.execute("migrate-incoming", &json!({})).unwrap_err();
        assert_eq!(format!("{error:#}"), "QEMU refuses migrate-incoming: no such state");
        drop(qemu);
        let error = qmp.wait_for("go on", |_| true).unwrap_err();
        assert_eq!(format!("{error:#}"), "waiting for QEMU to go on: it is gone");
        let (_qemu, qmp) = monitor(&["login:"]);
        let error = qmp.err().unwrap();
        assert!(format!("{error:#}").contains("something strange: login:"), "{error:#}");
    }

    /// Whoever goes on reading, as the supervisor does, misses nothing.
    #[test]
    fn nothing_is_read_beyond_what_was_asked_for() {
        let (_qemu, qmp) = monitor(&[GREETING, DONE, r#"{"event": "SHUTDOWN"}"#]);
        let stream = qmp.unwrap().reader.get_ref().stream.try_clone().unwrap();
        assert_eq!(stream.read_timeout().unwrap(), None);
        let mut rest = String::new();
        BufReader::new(stream).read_line(&mut rest).unwrap();
        assert_eq!(rest, "{\"event\": \"SHUTDOWN\"}\n");
    }
}
