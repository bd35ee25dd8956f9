//! The messages themselves: one [`Job`] to the guest, [`Frame`]s back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The device of the channel in the guest. The first serial port is the kernel's console.
pub const CHANNEL_DEVICE: &str = "/dev/ttyS1";

/// The first argument that makes the program a supervisor on the host: `supervise PARENT-PID REPORT-FD TRUST PROGRAM
/// ARGS…`.
pub const SUPERVISE: &str = "supervise";

/// As TRUST: the program may be anything, and gets no privileges. Everything else there means that it keeps its own.
pub const UNTRUSTED: &str = "untrusted";

/// Where the payload is in every guest.
pub const PAYLOAD_DIR: &str = "/payload";

/// Where every guest has the lists that modprobe reads of its kernel's modules, and with each module's place as a link
/// into [`MODULES_SHARE`]. Not there for a kernel without modules.
pub const MODULES_DIR: &str = "/modules";

/// Modules without which the share cannot be mounted, in the order in which they are loaded; below [`MODULES_DIR`],
/// in a guest that nothing else brings up.
pub const FIRST_MODULES: &str = "first";

/// Where the host's directory with the kernel's modules is mounted.
pub const MODULES_SHARE: &str = "/run/modules";

/// The mount tag of that directory, a 9p share.
pub const MODULES_TAG: &str = "modules";

/// Version of these messages; an agent saved in an old snapshot may speak another.
pub const PROTOCOL: u32 = 2;

/// The most bytes of one test's output that are kept; the middle of a longer one is dropped.
pub const OUTPUT_LIMIT: usize = 64 * 1024;

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
    /// Where the program and its tests are.
    pub payload: Payload,
    /// The host's time, in nanoseconds since the Unix epoch: a restored guest woke up in the past.
    pub clock_ns: u64,
    /// Random bytes in hexadecimal for the guest's entropy pool: restored guests share theirs.
    pub entropy: String,
    /// Environment of the tests and of the program.
    pub env: BTreeMap<String, String>,
    /// The tests, in the order in which they run, each in a process of its own.
    pub tests: Vec<TestId>,
    /// The longest one test may take, in seconds.
    pub test_timeout_s: f64,
    /// What to start and look at to collect [`Facts`]; nothing is collected when absent.
    pub facts: Option<FactsRequest>,
}

/// How the payload reaches the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Payload {
    /// It is there already, below this directory.
    Directory(String),
    /// It is this file, a tar archive.
    Archive(String),
    /// It is a tar archive in the memory of a PCI device, QEMU's `ivshmem-plain`.
    Memory {
        /// The archive's length in bytes.
        bytes: u64,
    },
}

/// One test: a function of a test binary.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TestId {
    /// The test binary's path, relative to the payload.
    pub binary: String,
    /// The test's name, as `--list` prints it.
    pub name: String,
}

/// What to run while facts are read from the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactsRequest {
    /// The program's path, relative to the payload.
    pub program: String,
    /// What it prints, as part of a line, once its BPF programs are attached.
    pub ready_line: String,
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The guest is up and the agent waits for a job.
    Ready {
        /// [`PROTOCOL`] of the agent.
        protocol: u32,
        /// `uname -r`.
        release: String,
        /// Seconds since the kernel started (`CLOCK_BOOTTIME`).
        uptime_s: f64,
    },
    /// A test is about to start.
    TestStarted(TestId),
    /// A test has ended.
    TestFinished(TestOutcome),
    /// Every test that was asked for has been run: all that decides the verdict has been said.
    Tainted {
        /// `/proc/sys/kernel/tainted`: all flags since the kernel started, in a guest that was saved too.
        flags: u64,
    },
    /// What the kernel says of the program.
    Facts(Facts),
    /// The whole job is done; nothing follows.
    Finished,
    /// The job could not be done; nothing follows.
    Failed {
        /// Why, for a person.
        reason: String,
    },
}

/// How one test ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TestOutcome {
    /// Which test.
    pub test: TestId,
    /// What came of it.
    pub result: TestResult,
    /// How long it took, in seconds of the guest's monotonic clock.
    pub seconds: f64,
    /// Its standard output and error, interleaved, at most [`OUTPUT_LIMIT`] bytes.
    pub output: String,
    /// How many bytes of output were dropped.
    pub dropped_bytes: u64,
}

/// What came of one test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TestResult {
    /// Exit status 0, and the test binary's summary says that the test ran and passed.
    Passed,
    /// Another exit status.
    Failed {
        /// The exit status.
        code: i32,
    },
    /// Ended by a signal.
    Killed {
        /// The signal's number.
        signal: i32,
    },
    /// Killed by the agent after [`Job::test_timeout_s`].
    TimedOut,
    /// It did not run: it could not be started, or its binary exited with 0 without having run it.
    NotStarted {
        /// Why, for a person.
        reason: String,
    },
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

/// What `cargo xtask exec` asks for: the host's one line to an agent that was started as `exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecJob {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Where it runs.
    pub cwd: String,
    /// All of its environment.
    pub env: BTreeMap<String, String>,
}

/// What such an agent says: one `Ready`, any number of outputs, one of the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExecEvent {
    /// The guest is up and waits for the command.
    Ready {
        /// `uname -r`.
        release: String,
    },
    /// Some bytes of standard output, in base64.
    Stdout(String),
    /// Some bytes of standard error, in base64.
    Stderr(String),
    /// The command ended by itself.
    Exited {
        /// Its exit status.
        code: i32,
    },
    /// A signal ended the command.
    Killed {
        /// The signal's number.
        signal: i32,
    },
    /// The command could not be started.
    NotStarted {
        /// Why, for a person.
        reason: String,
    },
}
