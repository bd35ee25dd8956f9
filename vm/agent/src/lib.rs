//! What the harness and the guest's agent say to each other.
//!
//! The two talk over the guest's second serial port, in JSON, one message a line: the agent says [`Event::Ready`], the
//! host answers with one [`Job`], and the agent reports [`Event`]s until [`Event::Finished`]. Every line after `Ready`
//! carries the job's token, so that nothing a test prints, to whatever device, can pass for an outcome.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde::{Deserialize, Serialize};

pub mod proc;

/// The first argument that makes the program a supervisor on the host: `supervise PARENT-PID PROGRAM ARGS… REPORT-FD`.
pub const SUPERVISE: &str = "supervise";

/// The first argument that makes the program write down, on the host, how it was started, instead of starting anything:
/// `record PROGRAM ARGS…`, what `cargo test` makes of a runner.
pub const RECORD: &str = "record";

/// The variable that names the directory in which [`RECORD`] writes a [`Program`] in JSON. What is not UTF-8 is replaced in
/// its arguments and left out of its environment.
pub const RECORD_DIR: &str = "VMTEST_RECORD";

/// Where the lists that modprobe reads of the kernel's modules are in a guest, and each module's place as a link into
/// [`MODULES_SHARE`]. Not there for a kernel without modules.
pub const MODULES_DIR: &str = "/modules";

/// Modules without which the share cannot be mounted, in the order in which they are loaded; below [`MODULES_DIR`],
/// in a guest that nothing else brings up.
pub const FIRST_MODULES: &str = "first";

/// Where the host's directory with the kernel's modules is.
pub const MODULES_SHARE: &str = "/run/modules";

/// The mount tag of the one directory of the host's that a guest can mount, a read-only 9p share: the one with the
/// kernel's modules, or for [`Root::Host`] the host's root.
pub const SHARE_TAG: &str = "host";

/// Version of these messages; an agent saved in an old snapshot may speak another.
pub const PROTOCOL: u32 = 5;

/// The most bytes of one test's output that are kept; the middle of a longer one is dropped.
pub const OUTPUT_LIMIT: usize = 64 * 1024;

/// The most bytes in a [`Piece`].
pub const PIECE: usize = 64 * 1024;

/// The longest job, in bytes of its line, that an agent reads and the host sends. The agent keeps it in memory, and a
/// kernel takes about 6 MiB of arguments and environment (fs/exec.c, `bprm_stack_limits`), escapes not counted.
pub const JOB_LIMIT: usize = 16 << 20;

/// What the guest is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// [`PROTOCOL`] of the host; an agent that speaks another one says so instead of guessing.
    pub protocol: u32,
    /// Random, new for every run: what marks the agent's messages as the agent's.
    pub token: String,
    /// The host's time, in nanoseconds since the Unix epoch: a restored guest woke up in the past.
    pub clock_ns: u64,
    /// Random bytes in hexadecimal for the guest's entropy pool: restored guests share theirs.
    pub entropy: String,
    /// What programs find as their root directory.
    pub root: Root,
    /// Files that are put into that directory.
    pub payload: Payload,
    /// What is to be run.
    pub task: Task,
    /// A directory that is sent to the host after that.
    pub copy_out: Option<String>,
}

/// The root directory of a guest's programs; whatever it is, what they change in it is gone with the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Root {
    /// A static busybox and the payload.
    Minimal {
        /// Directories of the payload's that must be found where they are, whatever else is mounted there.
        keep: Vec<String>,
    },
    /// The host's.
    Host {
        /// Directories of the host's that must be found where they are, whatever else is mounted there.
        keep: Vec<String>,
        /// The kernel's modules and the lists of them, both as directories of the host's.
        modules: Option<[String; 2]>,
    },
}

/// How the payload, a tar archive, reaches the guest.
#[allow(missing_docs, reason = "the names of the fields say it")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Payload {
    /// It is this file.
    Archive(String),
    /// It is so many bytes in the memory of a PCI device, QEMU's `ivshmem-plain`.
    Memory { bytes: u64 },
}

/// What a job is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Tests, each in a process of its own.
    Tests(Tests),
    /// One command; its output is reported as it comes.
    Command(Program),
}

/// Something to be started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Where it runs.
    pub cwd: String,
    /// All of its environment.
    pub env: BTreeMap<String, String>,
}

/// Tests to be run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tests {
    /// The test binaries by their ids, each with the arguments that choose among its tests.
    pub binaries: BTreeMap<String, Program>,
    /// The tests to be run; all that the binaries list when absent.
    pub only: Option<Vec<TestId>>,
    /// Whether they are only listed.
    pub list: bool,
    /// The longest one test may take, in seconds.
    pub timeout_s: f64,
    /// How often a test that fails is run again.
    pub retries: u32,
    /// Whether none is run any more once one has failed.
    pub fail_fast: bool,
    /// What to start and look at to collect [`Facts`]; nothing is collected when absent.
    pub facts: Option<FactsRequest>,
}

/// One test: a function of a test binary.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TestId {
    /// The test binary's id, such as `package` or `package::target`.
    pub binary: String,
    /// The test's name, as `--list` prints it; empty for a binary that cannot list its tests, which is one test.
    pub name: String,
}

/// What to run while facts are read from the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactsRequest {
    /// The program.
    pub program: Program,
    /// What it prints, as part of a line, once its BPF programs are attached.
    pub ready_line: String,
}

/// One line of the host's after the job, for a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// What comes next on its standard input; nothing when that is at its end.
    pub stdin: Option<Piece>,
}

/// Some bytes of a stream, at most [`PIECE`]. In a message they are compressed (RFC 1951), since a serial port is slow, and
/// in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Piece(pub Vec<u8>);

impl From<Piece> for String {
    fn from(piece: Piece) -> Self {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        // Writing to memory does not fail.
        let packed = encoder.write_all(&piece.0).and_then(|()| encoder.finish());
        STANDARD.encode(packed.unwrap_or_default())
    }
}

impl TryFrom<String> for Piece {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let packed = STANDARD.decode(text).map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        let unpacked = DeflateDecoder::new(&*packed).take(PIECE as u64 + 1).read_to_end(&mut bytes);
        match unpacked {
            Ok(0..=PIECE) => Ok(Self(bytes)),
            Ok(_) => Err(format!("more than {PIECE} bytes")),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// One line from the guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// The job's token; empty in [`Event::Ready`], which comes before the job.
    pub token: String,
    /// What happened.
    pub event: Event,
}

/// What the agent reports, in the order in which it happens.
#[allow(missing_docs, reason = "the names of the fields say it")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The guest is up and the agent waits for a job.
    Ready(Ready),
    /// The tests that will be run.
    Listed(Vec<TestId>),
    /// A test is about to start.
    TestStarted(TestId),
    /// A test has ended.
    TestFinished(TestOutcome),
    /// Every test that was asked for has been run: all that decides the verdict has been said, with
    /// `/proc/sys/kernel/tainted`: all flags since the kernel started, in a guest that was saved too.
    Tainted { flags: u64 },
    /// What the kernel says of the program.
    Facts(Facts),
    /// What comes next on a command's standard output.
    Stdout(Piece),
    /// What comes next on its standard error.
    Stderr(Piece),
    /// What comes next of the directory that the host wanted, as a tar archive.
    Archive(Piece),
    /// The command is about to start: its input can be taken from the host's, which another guest cannot have then.
    Started,
    /// The command has ended.
    Ended(Ended),
    /// The whole job is done; nothing follows.
    Finished,
    /// The kernel cannot have [`Root::Host`]; nothing follows.
    NoHostRoot { reason: String },
    /// The job could not be done; nothing follows.
    Failed { reason: String },
}

/// What the agent says of the guest once it is up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// [`PROTOCOL`] of the agent.
    pub protocol: u32,
    /// `uname -r`.
    pub release: String,
    /// Seconds since the kernel started (`CLOCK_BOOTTIME`).
    pub uptime_s: f64,
}

/// How one test ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TestOutcome {
    /// Which test.
    pub test: TestId,
    /// What came of it.
    pub result: TestResult,
    /// How often it was run: more than once when it failed before. The rest tells of the last time.
    pub attempts: u32,
    /// How long it took, in seconds of the guest's monotonic clock.
    pub seconds: f64,
    /// Its standard output and error, interleaved, of at most [`OUTPUT_LIMIT`] bytes.
    pub output: String,
    /// How many bytes of output were dropped.
    pub dropped_bytes: u64,
}

/// What came of one test.
#[allow(missing_docs, reason = "the names of the fields say it")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TestResult {
    /// Exit status 0, and a test binary that prints a summary says in it that one test passed.
    Passed,
    /// Another exit status.
    Failed { code: i32 },
    /// Ended by a signal.
    Killed { signal: i32 },
    /// Killed by the agent after [`Tests::timeout_s`].
    TimedOut,
    /// It did not run to its end: it could not be started, or its binary exited with 0 without having run it.
    NotStarted { reason: String },
}

/// What the kernel says of itself and of the program, for comparing kernels.
/// A value that this kernel does not tell is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// `/sys/kernel/btf/vmlinux` exists.
    pub btf: Option<bool>,
    /// `net.core.bpf_jit_enable` is on.
    pub jit: Option<bool>,
    /// Seconds from starting the program to its ready line.
    pub load_s: Option<f64>,
    /// Why there is nothing of the program, if there is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// One entry for each BPF program that the program loaded.
    pub programs: Vec<ProgramFacts>,
}

/// What `BPF_OBJ_GET_INFO_BY_FD` says of one BPF program (include/uapi/linux/bpf.h, `bpf_prog_info`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProgramFacts {
    /// Name in the kernel, at most 15 bytes.
    pub name: String,
    /// Instructions that the verifier processed (since 5.16).
    pub verified_insns: Option<u64>,
    /// Size of the translated program, in bytes.
    pub xlated_bytes: Option<u64>,
    /// Size of the JITed program, in bytes.
    pub jited_bytes: Option<u64>,
    /// Mean cost of one event, in nanoseconds (`run_time_ns / run_cnt`, since 5.1).
    pub event_ns: Option<f64>,
    /// Events that mean was taken over.
    pub events: Option<u64>,
    /// How it is attached: `link` (a `bpf_link` refers to it) or `ioctl`.
    pub attached: Option<String>,
}

/// How a command ended.
#[allow(missing_docs, reason = "the names of the fields say it")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// By itself.
    Exited { code: i32 },
    /// By a signal.
    Killed { signal: i32 },
    /// It could not be started.
    NotStarted { reason: String },
}
