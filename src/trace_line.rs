//! What comes out of trace_pipe: records, of which this program's are recognised.
//!
//! A record looks like this (`kernel/trace/trace.c`, `print_trace_fmt`):
//!
//! ```text
//!             bash-1234    [001] d..31  4711.123456: bpf_trace_printk: invoke bpf_prog: Hello, World!
//! ```
//!
//! that is the task's name in 16 columns and its number, the CPU, flags of the moment (four or five, depending on the
//! kernel), seconds since boot, who wrote it, and the message. Before Linux 5.9 `bpf_trace_printk()` has `0` for the
//! writer, and no line feed is added to the message, so that records run together:
//!
//! ```text
//!             bash-1234  [001] .... 4711.123456: 0: invoke bpf_prog: Hello, World!            bash-1235  [000] …
//! ```

/// What `bpf/helloworld.bpf.c` prints.
pub const MESSAGE: &str = "invoke bpf_prog: Hello, World!";

/// The writer of a record of `bpf_trace_printk()`: since 5.9, and before.
const WRITERS: [&str; 2] = [": bpf_trace_printk: ", ": 0: "];

/// How our record ends where no line feed follows it.
const UNTERMINATED: &str = ": 0: invoke bpf_prog: Hello, World!";

/// What one record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// This program's message.
    Hello(Hello),
    /// The buffer was full, and this many records of any origin were lost; the kernel may not know how many.
    Lost(Option<u64>),
    /// Anything else.
    Other,
}

/// This program's message, as a task's execve caused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The task's name before the execve; `<...>` where the kernel has forgotten it.
    pub comm: String,
    /// The task's number: of a process with one thread its PID.
    pub pid: u32,
    /// The CPU it ran on.
    pub cpu: u32,
}

impl Record {
    /// Reads a record, without its line feed.
    pub fn parse(record: &str) -> Self {
        if let Some(hello) = Hello::parse(record) {
            Self::Hello(hello)
        } else if let Some(lost) = parse_lost(record) {
            Self::Lost(lost)
        } else {
            Self::Other
        }
    }
}

impl Hello {
    fn parse(record: &str) -> Option<Self> {
        let before_message = record.strip_suffix(MESSAGE)?;
        let header = WRITERS.iter().find_map(|writer| before_message.strip_suffix(writer))?;
        // From the right: a task's name may have anything in it.
        let (task, moment) = header.rsplit_once(" [")?;
        let (cpu, _flags_and_time) = moment.split_once(']')?;
        let (comm, pid) = without_thread_group(task.trim_end()).rsplit_once('-')?;
        Some(Self { comm: last_column(comm), pid: pid.parse().ok()?, cpu: cpu.parse().ok()? })
    }
}

/// Takes the `(1234)` off that the tracing option `record-tgid` adds.
fn without_thread_group(task: &str) -> &str {
    match task.strip_suffix(')').and_then(|task| task.rsplit_once('(')) {
        Some((task, _)) => task.trim_end(),
        None => task,
    }
}

/// The name in the 16 columns before the number, without what an unterminated record left before them.
fn last_column(comm: &str) -> String {
    const WIDTH: usize = 16;
    let start = comm.char_indices().rev().nth(WIDTH - 1).map_or(0, |(index, _)| index);
    comm[start..].trim_start().to_owned()
}

/// `CPU:1 [LOST 12 EVENTS]`, without the number where it is unknown (`print_trace_line`).
fn parse_lost(record: &str) -> Option<Option<u64>> {
    let (_cpu, lost) = record.strip_prefix("CPU:")?.split_once(" [LOST ")?;
    let number = lost.strip_suffix("EVENTS]")?.trim_end();
    if number.is_empty() { Some(None) } else { number.parse().ok().map(Some) }
}

/// Cuts a stream into records.
#[derive(Debug, Default)]
pub struct Splitter {
    pending: Vec<u8>,
}

impl Splitter {
    /// Adds what was read and takes the records that are complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.pending.extend_from_slice(bytes);
        let mut records = Vec::new();
        let mut start = 0;
        while let Some(length) = record_length(&self.pending[start..]) {
            let record = &self.pending[start..start + length];
            let text = String::from_utf8_lossy(record.strip_suffix(b"\n").unwrap_or(record));
            if !text.is_empty() {
                records.push(text.into_owned());
            }
            start += length;
        }
        self.pending.drain(..start);
        records
    }
}

/// The length of the first record, with its line feed if it has one; none when it is not complete yet.
fn record_length(bytes: &[u8]) -> Option<usize> {
    let line_feed = bytes.iter().position(|byte| *byte == b'\n').map(|index| index + 1);
    let line = &bytes[..line_feed.unwrap_or(bytes.len())];
    let unterminated = line
        .windows(UNTERMINATED.len())
        .position(|window| window == UNTERMINATED.as_bytes())
        .map(|index| index + UNTERMINATED.len())
        .filter(|end| may_follow(&line[*end..]));
    unterminated.or(line_feed)
}

/// Whether this is what comes after a whole record: nothing, or another one.
fn may_follow(bytes: &[u8]) -> bool {
    bytes.is_empty() || bytes.starts_with(b" ") || bytes.starts_with(b"CPU:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn hello(record: &str, comm: &str, pid: u32, cpu: u32) {
        let expected = Record::Hello(Hello { comm: comm.into(), pid, cpu });
        assert_eq!(Record::parse(record), expected, "{record}");
    }

    #[test]
    fn records_since_5_9() {
        hello(
            "           trace-142     [000] ...21     3.017822: bpf_trace_printk: invoke bpf_prog: Hello, World!",
            "trace",
            142,
            0,
        );
        hello(
            "           <...>-98765   [013] d...1  4711.000001: bpf_trace_printk: invoke bpf_prog: Hello, World!",
            "<...>",
            98765,
            13,
        );
    }

    #[test]
    fn records_before_5_9() {
        hello(
            "           <...>-77    [000] ....     1.532172: 0: invoke bpf_prog: Hello, World!",
            "<...>",
            77,
            0,
        );
    }

    #[test]
    fn a_task_may_have_any_name() {
        for comm in ["a-1 [7] b: 0: c", "kworker/0:1-xy", "(sd-pam)", "ü-ö", "x)"] {
            let record =
                format!("{comm:>16}-5       [001] ...21  1.5: bpf_trace_printk: {MESSAGE}");
            hello(&record, comm, 5, 1);
        }
    }

    #[test]
    fn the_thread_group_column_is_passed_over() {
        for group in ["(   5)", "(-----)"] {
            let record = format!("            bash-5     {group} [001] d..1  1.5: 0: {MESSAGE}");
            hello(&record, "bash", 5, 1);
        }
    }

    #[test]
    fn other_records_are_not_ours() {
        for other in [
            "            bash-5       [001] ...21  1.5: bpf_trace_printk: invoke bpf_prog: Hello, World!!",
            "            bash-5       [001] ...21  1.5: bpf_trace_printk: invoke bpf_prog: Hello, World",
            "            bash-5       [001] ...21  1.5: bpf_trace_printk: Hello, World!",
            "            bash-5       [001] ...21  1.5: tracing_mark_write: invoke bpf_prog: Hello, World!",
            "            bash-x       [001] ...21  1.5: bpf_trace_printk: invoke bpf_prog: Hello, World!",
            "invoke bpf_prog: Hello, World!",
            "",
        ] {
            assert_eq!(Record::parse(other), Record::Other, "{other}");
        }
    }

    #[test]
    fn lost_records_are_counted() {
        assert_eq!(Record::parse("CPU:3 [LOST 1234 EVENTS]"), Record::Lost(Some(1234)));
        assert_eq!(Record::parse("CPU:3 [LOST EVENTS]"), Record::Lost(None));
        assert_eq!(Record::parse("CPU:3 [LOST many EVENTS]"), Record::Other);
    }

    #[test]
    fn lines_are_records() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.push(b"one\ntw"), ["one"]);
        assert_eq!(splitter.push(b"o\n\nth\xffree\n"), ["two", "th\u{fffd}ree"]);
        assert_eq!(splitter.push(b""), [""; 0]);
    }

    #[test]
    fn records_before_5_9_run_together() {
        let first =
            "           <...>-77    [000] ....     1.532172: 0: invoke bpf_prog: Hello, World!";
        let second =
            "            true-78    [000] ....     1.532990: 0: invoke bpf_prog: Hello, World!";
        let lost = "CPU:0 [LOST 2 EVENTS]\n";
        let mut splitter = Splitter::default();
        let stream = [first, second, lost, first].concat();
        let expected = [first, second, lost.trim_end(), first];
        assert_eq!(splitter.push(stream.as_bytes()), expected);
        // A line feed that comes late makes no record of its own.
        assert_eq!(splitter.push(b"\n"), [""; 0]);
    }

    #[test]
    fn a_record_behind_a_strangers_unterminated_one_is_read() {
        hello(
            "            x-9     [000] .... 1.0: 0: no line feed           trace-77    [000] ....     1.5: 0: invoke bpf_prog: Hello, World!",
            "trace",
            77,
            0,
        );
    }

    #[test]
    fn another_message_that_begins_like_ours_is_not_cut() {
        let record = "  x-9 [000] .... 1.0: 0: invoke bpf_prog: Hello, World!!\n";
        assert_eq!(Splitter::default().push(record.as_bytes()), [record.trim_end_matches('\n')]);
    }
}
