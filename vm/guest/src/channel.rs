//! The host's end of the serial line to the agent: bounded lines in, one job out.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use vmtest_agent::{Event, Frame, Job, OUTPUT_LIMIT};

use crate::Link;

/// The longest line that is believed: a test's output, every byte of it escaped, and its frame.
const LINE_LIMIT: u64 = 6 * OUTPUT_LIMIT as u64 + 64 * 1024;

/// What was read.
#[derive(Debug)]
pub enum Received {
    /// A message of the agent's.
    Event(Event),
    /// Something that no agent of ours sends: damaged, too long, or with another token.
    Garbage(String),
}

/// Waits until QEMU is there.
pub fn connect(link: Link) -> io::Result<UnixStream> {
    match link {
        Link::Connected(stream) => Ok(stream),
        Link::Listening(listener) => listener.accept().map(|(stream, _)| stream),
    }
}

/// Hands the job over.
pub fn send_job(mut stream: &UnixStream, job: &Job) -> io::Result<()> {
    let mut line = serde_json::to_vec(job)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Reads messages until the line closes; `token` is the job's.
pub fn read(stream: UnixStream, token: &str, mut on: impl FnMut(Received)) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = reader.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(());
        }
        on(parse(&line, token));
    }
}

fn parse(line: &[u8], token: &str) -> Received {
    let shown = || {
        let start = String::from_utf8_lossy(&line[..line.len().min(80)]);
        start.trim_end().escape_debug().to_string()
    };
    match serde_json::from_slice::<Frame>(line) {
        Ok(Frame { event: event @ Event::Ready { .. }, .. }) => Received::Event(event),
        Ok(frame) if frame.token == token => Received::Event(frame.event),
        Ok(_) => Received::Garbage(format!("a message without this run's token: {}", shown())),
        Err(_) => Received::Garbage(format!("not a message of the agent's: {}", shown())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn received(bytes: &[u8]) -> Vec<Received> {
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
        assert!(matches!(all[..], [Received::Event(Event::Finished)]), "{all:?}");
    }

    #[test]
    fn a_frame_with_another_token_is_garbage() {
        let all = received(b"{\"token\":\"guess\",\"event\":\"finished\"}\n");
        assert!(matches!(all[..], [Received::Garbage(_)]), "{all:?}");
    }

    #[test]
    fn bytes_that_are_no_frame_are_garbage_and_do_not_hide_the_next_one() {
        let all = received(b"\x1b[2J\xff\0\n{\"token\":\"secret\",\"event\":\"finished\"}\n");
        assert!(matches!(all[..], [Received::Garbage(_), Received::Event(Event::Finished)]));
    }

    #[test]
    fn an_endless_line_is_cut_into_bounded_garbage() {
        let (guest, host) = UnixStream::pair().unwrap();
        let writer = std::thread::spawn(move || {
            let mut guest = guest;
            let block = vec![b'x'; 1 << 16];
            for _ in 0..64 {
                guest.write_all(&block).unwrap();
            }
        });
        let mut pieces = 0;
        read(host, "secret", |received| {
            assert!(matches!(received, Received::Garbage(ref text) if text.len() < 200));
            pieces += 1;
        })
        .unwrap();
        writer.join().unwrap();
        assert!(pieces > 1);
    }
}
