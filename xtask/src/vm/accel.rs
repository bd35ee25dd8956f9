//! Hardware virtualization or emulation: whether KVM works here is found out by trying.
//!
//! On nested hosts `/dev/kvm` can exist, open and create a VM, and still no Linux guest comes up. So the kernel that
//! is about to be booted is started under KVM with a deadline, and the answer is remembered until the host reboots.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::process::{Guarded, GuardedCommand};
use crate::flags::AccelChoice;
use crate::{paths, whole_file};

/// How QEMU executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The processor does, through the Linux kernel's KVM.
    Kvm,
    /// QEMU translates them: slower, and works everywhere.
    Tcg,
}

impl Accel {
    /// QEMU's name for it, as in `-accel kvm`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// QEMU's processor model (`-cpu`) to use with it.
    pub fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            // Kernels pick faster code for newer processors, and TCG is slower at it than at the plain one: 10 to 15 %
            // between this model and `max`.
            Self::Tcg => "qemu64",
        }
    }

    /// How long a kernel's run may take unless the user says otherwise: the time to come up, and then some for each
    /// test, but at least as much as one test may take, in seconds.
    pub fn default_limit(self, tests: usize, test_timeout_s: f64) -> Duration {
        let each = match self {
            Self::Kvm => 5.0,
            Self::Tcg => 15.0,
        };
        let all = (each * tests as f64).max(test_timeout_s);
        self.default_timeout() + Duration::try_from_secs_f64(all).unwrap_or_default()
    }

    /// How long a guest may take to come up and run one command.
    pub fn default_timeout(self) -> Duration {
        match self {
            Self::Kvm => Duration::from_secs(60),
            Self::Tcg => Duration::from_secs(180),
        }
    }
}

/// What a VM is to be run with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// KVM or TCG.
    pub accel: Accel,
    /// Why it is not KVM although that was not ruled out, in one sentence.
    pub note: Option<String>,
}

/// Chooses KVM or TCG for a kernel that is about to be booted with this QEMU.
///
/// `auto` ends on TCG when KVM does not work, whatever the cause. Side by side, only one caller on this machine tries
/// and the others wait for its answer.
///
/// # Errors
/// With [`AccelChoice::Kvm`], when KVM does not work: the reason, after at most 10 seconds.
pub fn choose(choice: AccelChoice, qemu: &Path, kernel_image: &Path) -> Result<Chosen> {
    if choice == AccelChoice::Tcg {
        return Ok(Chosen { accel: Accel::Tcg, note: None });
    }
    let trial = Trial::of_this_machine(qemu)?;
    let kvm = match choice {
        // Whoever insists may have changed something, so a failure of an earlier run does not count.
        AccelChoice::Kvm => trial.kvm(kernel_image, Trust::Success),
        AccelChoice::Auto | AccelChoice::Tcg => trial.kvm(kernel_image, Trust::Everything),
    }?;
    match (kvm.trouble(), choice) {
        (None, _) => Ok(Chosen { accel: Accel::Kvm, note: None }),
        (Some(trouble), AccelChoice::Kvm) => bail!("KVM does not work here: {trouble}"),
        (Some(trouble), _) => Ok(Chosen {
            accel: Accel::Tcg,
            note: Some(format!("emulating, since KVM does not work here: {trouble}")),
        }),
    }
}

/// Tries KVM now, whatever is remembered, with `kernel_image` if there is one.
///
/// # Errors
/// When trying itself is not possible: QEMU cannot be started.
pub fn diagnose(qemu: &Path, kernel_image: Option<&Path>) -> Result<Kvm> {
    let trial = Trial::of_this_machine(qemu)?;
    match kernel_image {
        Some(image) => trial.kvm(image, Trust::Nothing),
        None => Ok(trial.device().unwrap_or_else(|| Kvm::Untried("no kernel is at hand".into()))),
    }
}

/// How it stands with KVM on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kvm {
    /// A kernel came up under it.
    Works,
    /// There is no device.
    Absent,
    /// This user may not open the device.
    NotPermitted,
    /// The device is there, and no guest comes up; the text says what was seen.
    Dead(String),
    /// The device can be opened, which says little; the text says why it could not be tried.
    Untried(String),
}

impl Kvm {
    /// What is wrong and what can be done, in one sentence without an end; `None` when it works.
    pub fn trouble(&self) -> Option<String> {
        match self {
            Self::Works => None,
            Self::Absent => Some(format!(
                "there is no {DEVICE} (virtualization is off in the firmware, the module kvm is not loaded, or this \
                 machine is itself a guest without nested virtualization)"
            )),
            Self::NotPermitted => Some(format!(
                "this user may not open {DEVICE} (`sudo usermod -aG kvm $USER`, then log in again)"
            )),
            Self::Dead(seen) => Some(format!("{DEVICE} is there, but {seen}")),
            Self::Untried(why) => Some(format!("it could not be tried: {why}")),
        }
    }
}

const DEVICE: &str = "/dev/kvm";

/// How long a kernel may take to its sign of life under KVM, where it takes a few tenths of a second.
const KVM_DEADLINE: Duration = Duration::from_secs(6);
/// The same under TCG on a busy machine; only waited for once KVM has failed.
const TCG_DEADLINE: Duration = Duration::from_secs(60);

/// What a kernel prints once interrupts, timers and threads work (`net/socket.c`, `net/netlink/af_netlink.c`: an early
/// initcall), or at the latest when it finds no root file system (`init/do_mounts.c`). Earlier words prove nothing:
/// kernels also hang after them, when they wait for the first timer interrupt.
const SIGNS_OF_LIFE: &[&str] = &["NET: Registered", "VFS: ", "Kernel panic"];

/// Which remembered answers count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    Everything,
    Success,
    Nothing,
}

/// An answer, and what it is valid for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    boot_id: String,
    qemu: PathBuf,
    qemu_modified: i64,
    kvm: Kvm,
}

/// What trying showed.
struct Tried {
    kvm: Kvm,
    /// Whether it says something of KVM, and not perhaps only of the kernel.
    holds_for_every_kernel: bool,
}

/// Everything a trial depends on.
#[derive(Debug)]
struct Trial<'a> {
    device: &'a Path,
    qemu: &'a Path,
    /// Where the answer is remembered between runs.
    memory: PathBuf,
    /// Where it is remembered within this one.
    of_this_run: &'a Mutex<Option<Remembered>>,
    kvm_deadline: Duration,
    tcg_deadline: Duration,
}

impl<'a> Trial<'a> {
    fn of_this_machine(qemu: &'a Path) -> Result<Self> {
        static OF_THIS_RUN: Mutex<Option<Remembered>> = Mutex::new(None);
        Ok(Self {
            device: Path::new(DEVICE),
            qemu,
            memory: paths::cache()?.join("kvm.json"),
            of_this_run: &OF_THIS_RUN,
            kvm_deadline: KVM_DEADLINE,
            tcg_deadline: TCG_DEADLINE,
        })
    }

    fn kvm(&self, kernel_image: &Path, trust: Trust) -> Result<Kvm> {
        if let Some(trouble) = self.device() {
            return Ok(trouble);
        }
        // Held while trying: the other kernels of this run wait for the answer.
        let mut of_this_run = self.of_this_run.lock().unwrap_or_else(PoisonError::into_inner);
        let key = self.key()?;
        let fits =
            |answer: &Remembered| Remembered { kvm: key.kvm.clone(), ..answer.clone() } == key;
        if let Some(answer) = of_this_run.as_ref().filter(|answer| fits(answer)) {
            if trust != Trust::Nothing {
                return Ok(answer.kvm.clone());
            }
        }
        // And the other runs. Without a place to remember it each run tries for itself.
        let _lock = lock(&self.memory.with_extension("lock"));
        let earlier = recall(&self.memory).filter(fits).map(|answer| answer.kvm);
        let tried = match (earlier, trust) {
            (Some(kvm), Trust::Everything) => Tried { kvm, holds_for_every_kernel: true },
            (Some(Kvm::Works), Trust::Success) => {
                Tried { kvm: Kvm::Works, holds_for_every_kernel: true }
            }
            _ => self.try_out(kernel_image, trust)?,
        };
        if tried.holds_for_every_kernel {
            let answer = Remembered { kvm: tried.kvm.clone(), ..key };
            remember(&self.memory, &answer);
            *of_this_run = Some(answer);
        }
        Ok(tried.kvm)
    }

    /// What opening the device shows: trouble, or nothing.
    fn device(&self) -> Option<Kvm> {
        match OpenOptions::new().read(true).write(true).open(self.device) {
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::NotFound => Some(Kvm::Absent),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Some(Kvm::NotPermitted),
            Err(error) => Some(Kvm::Dead(format!("it cannot be opened: {error}"))),
        }
    }

    fn key(&self) -> Result<Remembered> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .context("cannot tell whether this machine has rebooted")?;
        let qemu = self.qemu.metadata();
        let qemu = qemu.with_context(|| format!("cannot look at {}", self.qemu.display()))?;
        Ok(Remembered {
            boot_id: boot_id.trim().to_owned(),
            qemu: self.qemu.to_owned(),
            qemu_modified: qemu.mtime(),
            kvm: Kvm::Works,
        })
    }

    fn try_out(&self, kernel_image: &Path, trust: Trust) -> Result<Tried> {
        let certain = |kvm| Tried { kvm, holds_for_every_kernel: true };
        let last_words = match self.boot(kernel_image, Accel::Kvm, self.kvm_deadline)? {
            Life::Seen => return Ok(certain(Kvm::Works)),
            Life::Refused(message) => {
                return Ok(certain(Kvm::Dead(format!("QEMU cannot use it: {message}"))));
            }
            Life::None(last_words) => last_words,
        };
        let kernel = kernel_image.file_name().unwrap_or_default().to_string_lossy();
        let seconds = self.kvm_deadline.as_secs_f64();
        let dead = Kvm::Dead(format!(
            "{kernel} does not come up under it within {seconds} s {last_words}"
        ));
        if trust == Trust::Success {
            // It may be the kernel's fault, but whoever insists on KVM wants an answer at once.
            return Ok(Tried { kvm: dead, holds_for_every_kernel: false });
        }
        match self.boot(kernel_image, Accel::Tcg, self.tcg_deadline)? {
            Life::Seen => Ok(certain(dead)),
            _ => Ok(Tried {
                kvm: Kvm::Untried(format!("{kernel} comes up neither under it nor emulated")),
                holds_for_every_kernel: false,
            }),
        }
    }

    /// Boots the kernel without a root file system until it shows that it lives.
    fn boot(&self, kernel_image: &Path, accel: Accel, deadline: Duration) -> Result<Life> {
        let deadline = Instant::now() + deadline;
        let mut command = GuardedCommand::new(self.qemu)?;
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-machine", "q35", "-accel", accel.name(), "-cpu", accel.cpu(), "-m", "256"])
            .args(["-serial", "stdio", "-append", "console=ttyS0 loglevel=7 panic=-1", "-kernel"])
            .arg(kernel_image)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut qemu = Guarded::spawn(command)?;
        let (sender, lines) = mpsc::channel();
        forward(qemu.stdout.take(), sender.clone(), Said::Guest);
        forward(qemu.stderr.take(), sender, Said::Qemu);
        Ok(match Life::watch(&lines, deadline) {
            Life::Refused(message) => Life::Refused(self.without_own_name(&message)),
            life => life,
        })
    }

    /// QEMU's messages begin with its name.
    fn without_own_name(&self, message: &str) -> String {
        let name = self.qemu.file_name().unwrap_or_default().to_string_lossy();
        let said = message.strip_prefix(&*name).and_then(|rest| rest.strip_prefix(": "));
        let said = said.unwrap_or(message);
        said.strip_prefix("error: ").unwrap_or(said).to_owned()
    }
}

/// A line, and whose it is.
enum Said {
    Guest(String),
    Qemu(String),
}

fn forward(
    from: Option<impl Read + Send + 'static>,
    to: mpsc::Sender<Said>,
    whose: fn(String) -> Said,
) {
    let Some(from) = from else { return };
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        // Ends with the process, or when nobody listens any more.
        while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            if to.send(whose(String::from_utf8_lossy(&line).trim().to_owned())).is_err() {
                return;
            }
            line.clear();
        }
    });
}

/// What was seen of a kernel that was started.
#[derive(Debug, PartialEq, Eq)]
enum Life {
    /// It lives.
    Seen,
    /// QEMU gave up, with these words.
    Refused(String),
    /// Nothing in time; what it said last, as the end of a sentence.
    None(String),
}

impl Life {
    fn watch(lines: &mpsc::Receiver<Said>, deadline: Instant) -> Self {
        let mut guest = String::new();
        let mut complaint = String::new();
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Said::Guest(line)) if SIGNS_OF_LIFE.iter().any(|sign| line.contains(sign)) => {
                    return Self::Seen;
                }
                Ok(Said::Guest(line)) if line.is_empty() => {}
                Ok(Said::Guest(line)) => guest = line,
                // QEMU stops the guest then, and stays (accel/kvm/kvm-all.c, kvm_handle_internal_error).
                Ok(Said::Qemu(line)) if line.starts_with("KVM internal error") => {
                    return Self::Refused(line);
                }
                Ok(Said::Qemu(line)) => {
                    if complaint.is_empty() && !line.contains(": warning: ") {
                        complaint = line;
                    }
                }
                Err(RecvTimeoutError::Disconnected) if complaint.is_empty() => {
                    return Self::Refused("it ended without a word".into());
                }
                Err(RecvTimeoutError::Disconnected) => return Self::Refused(complaint),
                Err(RecvTimeoutError::Timeout) if guest.is_empty() => {
                    return Self::None("and prints nothing".into());
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Self::None(format!("and stops at {guest:?}"));
                }
            }
        }
    }
}

/// Waits until no other run holds it. Without one (a cache that cannot be written) nothing is remembered either.
fn lock(path: &Path) -> Option<Flock<File>> {
    std::fs::create_dir_all(path.parent()?).ok()?;
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).ok()?;
    Flock::lock(file, FlockArg::LockExclusive).ok()
}

fn recall(memory: &Path) -> Option<Remembered> {
    serde_json::from_slice(&std::fs::read(memory).ok()?).ok()
}

/// Only spares the next run a trial, so failing to write it is no error.
fn remember(memory: &Path, answer: &Remembered) {
    if let Ok(json) = serde_json::to_vec(answer) {
        let _ = whole_file::write(memory, &json);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A machine with a QEMU of our own making.
    struct Machine {
        dir: tempfile::TempDir,
        of_this_run: Mutex<Option<Remembered>>,
        kvm_deadline: Duration,
    }

    impl Machine {
        /// `kvm` and `tcg` are what its QEMU does, as shell code.
        fn new(kvm: &str, tcg: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let qemu = dir.path().join("qemu");
            let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-tool");
            std::os::unix::fs::symlink(fake, &qemu).unwrap();
            let script = format!(
                "echo \"$*\" >> {}\ncase \"$*\" in *'-accel kvm'*) {kvm};; *) {tcg};; esac\n",
                dir.path().join("calls").display()
            );
            std::fs::write(dir.path().join("qemu.sh"), script).unwrap();
            std::fs::write(dir.path().join("kvm"), "").unwrap();
            // Only waited for by a kernel that hangs; long enough for its last words on a busy machine.
            let kvm_deadline = Duration::from_secs(if kvm == HANGS { 2 } else { 60 });
            Self { dir, of_this_run: Mutex::new(None), kvm_deadline }
        }

        fn kvm(&self, trust: Trust) -> Kvm {
            let (device, qemu) = (self.dir.path().join("kvm"), self.dir.path().join("qemu"));
            let trial = Trial {
                device: &device,
                qemu: &qemu,
                memory: self.dir.path().join("cache/kvm.json"),
                of_this_run: &self.of_this_run,
                kvm_deadline: self.kvm_deadline,
                tcg_deadline: Duration::from_secs(60),
            };
            trial.kvm(Path::new("/boot/vmlinuz-1"), trust).unwrap()
        }

        fn calls(&self) -> usize {
            let calls = std::fs::read_to_string(self.dir.path().join("calls"));
            calls.map_or(0, |calls| calls.lines().count())
        }

        fn next_run(self) -> Self {
            Self { of_this_run: Mutex::new(None), ..self }
        }
    }

    const COMES_UP: &str =
        "echo '[    0.1] NET: Registered PF_NETLINK/PF_ROUTE protocol family'; exec sleep 1000";
    const HANGS: &str = "echo '[    0.0] Linux version 6.12'; echo; exec sleep 1000";
    const REFUSES: &str = "echo 'qemu: warning: pni' >&2; echo 'qemu: error: failed to set MSR' >&2; \
        echo 'Assertion failed' >&2; exit 134";

    #[test]
    fn the_time_limit_grows_with_the_tests_and_leaves_one_all_of_its_own() {
        let seconds = |accel: Accel, tests| accel.default_limit(tests, 60.0).as_secs();
        assert_eq!((seconds(Accel::Kvm, 1), seconds(Accel::Tcg, 1)), (60 + 60, 180 + 60));
        assert_eq!((seconds(Accel::Kvm, 120), seconds(Accel::Tcg, 120)), (60 + 600, 180 + 1800));
    }

    #[test]
    fn a_kernel_that_comes_up_shows_that_kvm_works_and_is_tried_once() {
        let machine = Machine::new(COMES_UP, "exit 1");
        assert_eq!(machine.kvm(Trust::Everything), Kvm::Works);
        assert_eq!(machine.kvm(Trust::Everything), Kvm::Works);
        let machine = machine.next_run();
        assert_eq!(machine.kvm(Trust::Success), Kvm::Works);
        assert_eq!(machine.calls(), 1);
        assert_eq!(machine.kvm(Trust::Nothing), Kvm::Works);
        assert_eq!(machine.calls(), 2);
    }

    #[test]
    fn a_device_that_qemu_cannot_use_is_dead_for_qemus_reason() {
        let machine = Machine::new(REFUSES, "exit 1");
        let dead = Kvm::Dead("QEMU cannot use it: failed to set MSR".into());
        assert_eq!(machine.kvm(Trust::Everything), dead);
        let machine = machine.next_run();
        assert_eq!(machine.kvm(Trust::Everything), dead);
        assert_eq!(machine.calls(), 1);
        let machine = machine.next_run();
        assert_eq!(machine.kvm(Trust::Success), dead, "who insists gets a trial of its own");
        assert_eq!(machine.kvm(Trust::Success), dead, "one a run");
        assert_eq!(machine.calls(), 2);
    }

    #[test]
    fn an_internal_error_of_kvm_is_not_waited_out() {
        let machine =
            Machine::new("echo 'KVM internal error. Suberror: 1' >&2; exec sleep 1000", "exit 1");
        let kvm = machine.kvm(Trust::Everything);
        assert_eq!(kvm, Kvm::Dead("QEMU cannot use it: KVM internal error. Suberror: 1".into()));
    }

    #[test]
    fn a_kernel_that_hangs_only_under_kvm_shows_that_kvm_is_dead() {
        let machine = Machine::new(HANGS, COMES_UP);
        let dead = Kvm::Dead(
            "vmlinuz-1 does not come up under it within 2 s and stops at \
             \"[    0.0] Linux version 6.12\""
                .into(),
        );
        assert_eq!(machine.kvm(Trust::Everything), dead);
        assert_eq!(machine.next_run().kvm(Trust::Everything), dead);
    }

    #[test]
    fn a_kernel_that_comes_up_nowhere_says_nothing_of_kvm() {
        let machine = Machine::new(HANGS, "exit 1");
        let untried = Kvm::Untried("vmlinuz-1 comes up neither under it nor emulated".into());
        assert_eq!(machine.kvm(Trust::Everything), untried);
        assert_eq!(machine.kvm(Trust::Everything), untried);
        assert_eq!(machine.calls(), 4, "the next kernel is another trial");
    }

    #[test]
    fn who_insists_hears_of_a_hang_without_a_second_boot_and_nothing_is_concluded_from_it() {
        let machine = Machine::new(HANGS, COMES_UP);
        assert!(matches!(machine.kvm(Trust::Success), Kvm::Dead(_)));
        assert_eq!(machine.calls(), 1);
        assert_eq!(recall(&machine.dir.path().join("cache/kvm.json")), None);
    }

    #[test]
    fn a_device_that_is_not_there_is_not_tried() {
        let machine = Machine::new(COMES_UP, COMES_UP);
        std::fs::remove_file(machine.dir.path().join("kvm")).unwrap();
        assert_eq!(machine.kvm(Trust::Everything), Kvm::Absent);
        // A directory cannot be opened for writing by anyone, root included.
        std::fs::create_dir(machine.dir.path().join("kvm")).unwrap();
        assert!(matches!(machine.kvm(Trust::Everything), Kvm::Dead(why) if why.contains("opened")));
        assert_eq!(machine.calls(), 0);
    }

    #[test]
    fn a_device_that_this_user_may_not_open_is_told_apart() {
        let machine = Machine::new(COMES_UP, COMES_UP);
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o000);
        std::fs::set_permissions(machine.dir.path().join("kvm"), closed).unwrap();
        // Root may open it all the same, so this thread, and only this, becomes nobody to the file system.
        let nobody = nix::unistd::Uid::from_raw(65534);
        let me = nix::unistd::setfsuid(nobody);
        let kvm = machine.kvm(Trust::Everything);
        nix::unistd::setfsuid(me);
        assert_eq!(kvm, Kvm::NotPermitted);
        assert_eq!(machine.calls(), 0);
    }

    #[test]
    fn another_boot_or_another_qemu_or_a_damaged_memory_means_another_trial() {
        let machine = Machine::new(COMES_UP, "exit 1").next_run();
        machine.kvm(Trust::Everything);
        let memory = machine.dir.path().join("cache/kvm.json");
        let good = recall(&memory).unwrap();
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let qemu = machine.dir.path().join("qemu").metadata().unwrap();
        assert_eq!((&*good.boot_id, good.qemu_modified), (boot_id.trim(), qemu.mtime()));
        let text = |answer: &Remembered| serde_json::to_string(answer).unwrap();
        let mut machine = machine;
        for (calls, found) in [
            (2, text(&Remembered { boot_id: "another".into(), ..good.clone() })),
            (3, text(&Remembered { qemu: "/another/qemu".into(), ..good.clone() })),
            (4, text(&Remembered { qemu_modified: 1, ..good.clone() })),
            (5, text(&good)[1..].to_owned()),
            (5, text(&good)),
        ] {
            std::fs::write(&memory, found).unwrap();
            machine = machine.next_run();
            assert_eq!(machine.kvm(Trust::Everything), Kvm::Works);
            assert_eq!(machine.calls(), calls);
        }
    }

    #[test]
    fn side_by_side_only_one_tries() {
        let machine = Machine::new(COMES_UP, "exit 1");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(machine.kvm(Trust::Everything), Kvm::Works));
            }
        });
        assert_eq!(machine.calls(), 1);
    }
}
