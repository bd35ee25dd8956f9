//! The agent's end of the channel: a serial port that carries bytes and nothing else.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::fcntl::OFlag;
use nix::sys::termios::{SetArg, cfmakeraw, tcdrain, tcgetattr, tcsetattr};
use vmtest_agent::{Event, Frame, Input, JOB_LIMIT, Job, PROTOCOL};

pub struct Channel {
    port: File,
    /// What comes from the port: the job, and what follows it.
    incoming: Option<BufReader<File>>,
    token: String,
}

impl Channel {
    /// Opens the serial port and turns off everything that a terminal does with what is typed:
    /// echo, line editing, signals, newline translation.
    pub fn open(path: &Path) -> Result<Self> {
        let port = File::options()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NOCTTY.bits())
            .open(path)
            .with_context(|| format!("cannot open the channel {}", path.display()))?;
        let mut settings = tcgetattr(&port).context("the channel is not a serial port")?;
        cfmakeraw(&mut settings);
        tcsetattr(&port, SetArg::TCSANOW, &settings).context("cannot set the channel to raw mode")?;
        let incoming = port.try_clone().context("cannot share the channel")?;
        Ok(Self { port, incoming: Some(BufReader::new(incoming)), token: String::new() })
    }

    pub fn send(&mut self, event: Event) -> Result<()> {
        let line = serde_json::to_string(&Frame { token: self.token.clone(), event })? + "\n";
        self.port.write_all(line.as_bytes()).context("cannot write to the channel")
    }

    /// What the host sends after the job; it can be had once.
    pub fn input(&mut self) -> impl Iterator<Item = Input> + use<> {
        let lines = self.incoming.take().into_iter().flat_map(BufReader::lines);
        lines.map_while(|line| serde_json::from_str(&line.ok()?).ok())
    }

    /// Waits for the job, for as long as it takes: a guest is saved while it waits here. From now
    /// on every event carries the job's token.
    pub fn receive_job(&mut self) -> Result<Job> {
        let incoming = self.incoming.as_mut().context("the job was read before")?;
        let job = parse_job(&read_line(incoming)?)?;
        self.token.clone_from(&job.token);
        Ok(job)
    }

    /// Waits until everything sent has left the serial port.
    pub fn drain(&self) -> Result<()> {
        tcdrain(&self.port).context("cannot drain the channel")
    }
}

/// What comes after the line is left.
fn read_line(port: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    let most = JOB_LIMIT as u64 + 1;
    port.by_ref().take(most).read_until(b'\n', &mut line).context("cannot read from the channel")?;
    ensure!(line.len() <= JOB_LIMIT, "the job is longer than {JOB_LIMIT} bytes");
    ensure!(line.ends_with(b"\n"), "the host closed the channel");
    Ok(line)
}

fn parse_job(line: &[u8]) -> Result<Job> {
    const NO_JOB: &str = "what came over the channel is no job";
    let job: serde_json::Value = serde_json::from_slice(line).context(NO_JOB)?;
    let protocol = job["protocol"].as_u64().context(NO_JOB)?;
    ensure!(
        protocol == u64::from(PROTOCOL),
        "the host speaks version {protocol} of the protocol, this agent {PROTOCOL}"
    );
    serde_json::from_value(job).context("cannot read the job")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_any_length_is_put_together_from_pieces() {
        let long = [&vec![b'x'; 2 << 20][..], b"\n"].concat();
        let all = [b"{\"a\":1}\n", &long[..], b"next\n"].concat();
        let mut port = BufReader::with_capacity(3, &*all);
        for line in [b"{\"a\":1}\n", &long[..], b"next\n"] {
            assert!(read_line(&mut port).unwrap() == line);
        }
    }

    #[test]
    fn what_is_no_job_for_this_agent_is_an_error_that_says_why() {
        for (job, words) in [
            (read_line(&mut &b"{"[..]).map(drop), "closed"),
            (read_line(&mut BufReader::new(std::io::repeat(b'x'))).map(drop), "longer"),
            (parse_job(b"{\"protocol\":4711,\"anything\":true}").map(drop), "version 4711"),
            (parse_job(b"login: ").map(drop), "no job"),
        ] {
            let error = job.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
