//! Waiting that ends: a kernel's run has one deadline, and whatever is waited for on its way ends with it.

use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// What is left until `deadline`; nothing once it has passed.
pub fn left(deadline: Instant) -> Option<Duration> {
    Some(deadline.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
}

/// A stream that is read until a deadline. The limit of a socket is one of each read, so that a byte now
/// and then would hold its reader for ever; this one is one of all reads together.
#[derive(Debug)]
pub struct Until {
    pub stream: UnixStream,
    /// From then on every read fails with [`ErrorKind::TimedOut`].
    pub deadline: Instant,
}

impl Read for Until {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.deadline).ok_or(ErrorKind::TimedOut)?))?;
        match self.stream.read(buffer) {
            // socket(7): a socket's own limit shows as EAGAIN.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
            result => result,
        }
    }
}

impl Drop for Until {
    fn drop(&mut self) {
        // The limit is the socket's, and so that of every other descriptor of it.
        let _ = self.stream.set_read_timeout(None);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_byte_now_and_then_does_not_hold_a_reader() {
        let (mut guest, stream) = UnixStream::pair().unwrap();
        // It ends when nobody reads any more.
        let drip = std::thread::spawn(move || {
            while guest.write_all(b".").is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let deadline = Instant::now() + Duration::from_millis(100);
        let mut until = Until { stream: stream.try_clone().unwrap(), deadline };
        let error = until.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        drop(until);
        assert_eq!(stream.read_timeout().unwrap(), None, "the limit stays");
        drop(stream);
        drip.join().unwrap();
    }
}
