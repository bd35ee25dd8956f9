//! The host's end of the serial line to the agent: bounded lines in, one job out.

use std::io;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use vmtest_agent::{Event, JOB_LIMIT};

use crate::Link;
use crate::decode::{self, Lines, Malformed};

/// Waits until QEMU is there.
pub fn connect(link: Link) -> io::Result<UnixStream> {
    match link {
        Link::Connected(stream) => Ok(stream),
        Link::Listening(listener) => listener.accept().map(|(stream, _)| stream),
    }
}

/// A job of either kind as the agent reads it.
///
/// # Errors
/// When it is longer than the agent would read.
pub fn encode(job: &impl Serialize) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(job).context("cannot put the job into words")?;
    line.push(b'\n');
    ensure!(
        line.len() <= JOB_LIMIT,
        "the job is {} bytes long, and a guest takes at most {JOB_LIMIT}: pass fewer or shorter variables or arguments",
        line.len()
    );
    Ok(line)
}

/// Reads messages until the line closes; `token` is the job's.
pub fn read(stream: UnixStream, token: &str, mut on: impl FnMut(Result<Event, Malformed>)) -> io::Result<()> {
    let mut lines = Lines::new(stream, decode::EVENT_LIMIT);
    while let Some(line) = lines.next_line()? {
        on(line.and_then(|line| decode::event(line, token)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use super::*;

    fn received(bytes: &[u8]) -> Vec<Result<Event, Malformed>> {
        let (mut guest, host) = UnixStream::pair().unwrap();
        guest.write_all(bytes).unwrap();
        drop(guest);
        let mut all = Vec::new();
        read(host, "secret", |received| all.push(received)).unwrap();
        all
    }

    #[test]
    fn a_frame_with_the_token_is_an_event() {
        let all = received(b"{\"token\":\"secret\",\"event\":\"finished\"}\n");
        assert!(matches!(all[..], [Ok(Event::Finished)]), "{all:?}");
    }

    #[test]
    fn a_frame_with_another_token_is_garbage() {
        let all = received(b"{\"token\":\"guess\",\"event\":\"finished\"}\n");
        assert!(matches!(all[..], [Err(_)]), "{all:?}");
    }

    #[test]
    fn bytes_that_are_no_frame_are_garbage_and_do_not_hide_the_next_one() {
        let all = received(b"\x1b[2J\xff\0\n{\"token\":\"secret\",\"event\":\"finished\"}\n");
        assert!(matches!(all[..], [Err(_), Ok(Event::Finished)]));
    }

    #[test]
    fn an_endless_line_is_garbage_once() {
        let (mut guest, host) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || guest.write_all(&[b'x'; 4 << 20]).unwrap());
        let mut all = Vec::new();
        read(host, "secret", |received| all.push(received)).unwrap();
        writer.join().unwrap();
        assert!(matches!(&all[..], [Err(text)] if text.to_string().len() < 200), "{all:?}");
    }

    #[test]
    fn a_job_over_a_megabyte_is_sent_and_one_over_the_limit_is_an_error_that_says_so() {
        assert!(encode(&"x".repeat(2 << 20)).is_ok());
        let error = encode(&"x".repeat(JOB_LIMIT)).unwrap_err().to_string();
        assert!(error.contains(&format!("at most {JOB_LIMIT}")), "{error}");
    }
}
