//! What a guest says, made into values that can be believed to be in range. Nobody but this module parses a guest's
//! bytes: whatever they are, what comes out is a value of the protocol or an error, and never a panic.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::time::Duration;

use anyhow::{Error, Result, anyhow};
use vmtest_agent::{Ended, Event, Frame, OUTPUT_LIMIT, Ready, TestOutcome, TestResult};

/// The longest line, in bytes. A test's output with every byte of it escaped takes 400 KB; a list of tests may be longer.
pub const EVENT_LIMIT: usize = 8 << 20;

/// The longest [`Event::Ready`], in bytes.
pub const READY_LIMIT: usize = 4096;

/// Something that no agent of ours sends; in words, for a person.
fn malformed(what: impl fmt::Display, line: &[u8]) -> Error {
    let start = String::from_utf8_lossy(&line[..line.len().min(80)]);
    anyhow!("{what}: {}", start.trim_end().escape_debug())
}

/// The lines that a guest sends, each of them bounded.
#[derive(Debug)]
pub struct Lines<R> {
    reader: BufReader<R>,
    limit: usize,
    line: Vec<u8>,
    /// In a line that was too long.
    skipping: bool,
}

impl<R: Read> Lines<R> {
    /// Lines of at most `limit` bytes.
    pub fn new(reader: R, limit: usize) -> Self {
        Self { reader: BufReader::new(reader), limit, line: Vec::new(), skipping: false }
    }

    /// The next line without its end, `None` after the last. One that is too long is malformed as soon as it is, once,
    /// and what is left of it is not kept. One that breaks off is no line: QEMU has ended, and how is what matters.
    pub fn next_line(&mut self) -> io::Result<Option<Result<&[u8]>>> {
        if self.skipping {
            self.reader.skip_until(b'\n')?;
            self.skipping = false;
        }
        self.line.clear();
        let most = (self.limit as u64).saturating_add(1);
        self.reader.by_ref().take(most).read_until(b'\n', &mut self.line)?;
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
            return Ok(Some(Ok(&self.line)));
        }
        self.skipping = self.line.len() > self.limit;
        let too_long = || Err(malformed(format!("a line of more than {} bytes", self.limit), &self.line));
        Ok(self.skipping.then(too_long))
    }
}

/// One message; `token` is the job's.
/// It is an error when it is none, has another token, or has values that nothing real has.
pub fn event(line: &[u8], token: &str) -> Result<Event> {
    let frame: Frame = serde_json::from_slice(line).map_err(|_| malformed("not a message of the agent's", line))?;
    if frame.token != token && !matches!(frame.event, Event::Ready(_)) {
        return Err(malformed("a message without this run's token", line));
    }
    // _NSIG in arch/x86/include/uapi/asm/signal.h
    let is_a_signal = |number: i32| (1..=64).contains(&number);
    let impossible = |what: &str| malformed(format!("an impossible {what}"), line);
    match frame.event {
        Event::Ready(ready) if !is_a_time(ready.uptime_s) => Err(impossible("uptime")),
        Event::TestFinished(outcome) if !is_a_time(outcome.seconds) => Err(impossible("time")),
        Event::TestFinished(outcome) => match outcome.result {
            TestResult::Failed { code } if !(1..=255).contains(&code) => Err(impossible("exit status")),
            TestResult::Killed { signal } if !is_a_signal(signal) => Err(impossible("signal")),
            _ => Ok(Event::TestFinished(bounded(outcome))),
        },
        Event::Ended(Ended::Exited { code }) if !(0..=255).contains(&code) => Err(impossible("exit status")),
        Event::Ended(Ended::Killed { signal }) if !is_a_signal(signal) => Err(impossible("signal")),
        Event::Facts(mut facts) => {
            // They decide nothing, so what cannot be is left out and the rest is kept.
            facts.load_s = facts.load_s.filter(|seconds| is_a_time(*seconds));
            for program in &mut facts.programs {
                program.event_ns = program.event_ns.filter(|ns| is_a_time(*ns));
            }
            Ok(Event::Facts(facts))
        }
        other => Ok(other),
    }
}

/// The agent's first message, which says that it is ready.
pub fn ready(line: &[u8]) -> Result<Ready> {
    match event(line, "")? {
        Event::Ready(ready) => Ok(ready),
        _ => Err(malformed("not the agent's first message", line)),
    }
}

/// What [`Duration`] can be made of is not negative, a number, and not too large for what reports do with it.
fn is_a_time(seconds: f64) -> bool {
    Duration::try_from_secs_f64(seconds).is_ok()
}

/// The agent keeps as many bytes, which as text may be more; what speaks in its name keeps to nothing.
fn bounded(mut outcome: TestOutcome) -> TestOutcome {
    if outcome.output.len() > OUTPUT_LIMIT {
        let end = (0..=OUTPUT_LIMIT).rfind(|end| outcome.output.is_char_boundary(*end)).unwrap_or(0);
        let cut = (outcome.output.len() - end) as u64;
        outcome.dropped_bytes = outcome.dropped_bytes.saturating_add(cut);
        outcome.output.truncate(end);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use vmtest_agent::Facts;

    use super::*;

    fn finished(result: &str, seconds: &str, output: &str, dropped: u64) -> String {
        let test = r#""test":{"binary":"t","name":"n"},"attempts":1"#;
        format!(
            r#"{{"test-finished":{{{test},"result":{result},"seconds":{seconds},"output":"{output}","dropped_bytes":{dropped}}}}}"#
        )
    }

    /// The event of a frame with the right token.
    fn of(event: &str) -> Result<Event> {
        super::event(format!(r#"{{"token":"t","event":{event}}}"#).as_bytes(), "t")
    }

    /// That nothing else comes out is what tests/hostile.rs tries.
    #[test]
    fn what_an_agent_sends_is_an_event() {
        let passed = |result: &str| finished(result, "1", "", 0);
        for (event, good) in [
            (passed("\"passed\""), true),
            (passed(r#"{"failed":{"code":101}}"#), true),
            (passed(r#"{"failed":{"code":0}}"#), false),
            (passed(r#"{"killed":{"signal":64}}"#), true),
            (passed(r#"{"killed":{"signal":65}}"#), false),
            (finished("\"passed\"", "-1", "", 0), false),
            (r#"{"ended":{"exited":{"code":255}}}"#.into(), true),
            (r#"{"ended":{"exited":{"code":256}}}"#.into(), false),
            (r#"{"ready":{"protocol":3,"release":"6","uptime_s":1.5}}"#.into(), true),
        ] {
            assert_eq!(of(&event).is_ok(), good, "{event}");
            // Without the token only that it is ready is believed.
            let guessed = super::event(format!(r#"{{"token":"","event":{event}}}"#).as_bytes(), "t");
            assert_eq!(guessed.is_ok(), event.contains("ready"), "{event}");
        }
        let facts = Facts { btf: Some(true), ..Facts::default() };
        let impossible_time = r#"{"facts":{"btf":true,"jit":null,"load_s":-1e300,"programs":[]}}"#;
        assert_eq!(of(impossible_time).unwrap(), Event::Facts(facts));
    }

    #[test]
    fn long_output_is_cut_between_characters_and_counted() {
        for (said, counted) in [(1, 1 + OUTPUT_LIMIT as u64 + 2), (u64::MAX, u64::MAX)] {
            let output = format!("x{}", "ä".repeat(OUTPUT_LIMIT));
            let Ok(Event::TestFinished(outcome)) = of(&finished("\"passed\"", "1", &output, said)) else {
                panic!("no outcome")
            };
            assert_eq!(outcome.output.len(), OUTPUT_LIMIT - 1);
            assert_eq!(outcome.dropped_bytes, counted);
        }
    }
}
