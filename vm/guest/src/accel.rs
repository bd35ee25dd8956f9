//! Hardware virtualization or emulation: whether KVM works here is found out by trying.
//!
//! On nested hosts `/dev/kvm` can exist, open and create a VM, and still no Linux guest comes up. So the kernel that
//! is about to be booted is started under KVM with a deadline. That KVM works is remembered until the host reboots;
//! that it does not, for a while only: perhaps the host was busy.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::process::{Supervised, SupervisedCommand};
use vm_kernels::{lock, whole_file};

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

    /// How much longer a guest may take for each test that it runs, unless the user says otherwise.
    pub fn for_each_test(self) -> Duration {
        match self {
            Self::Kvm => Duration::from_secs(5),
            Self::Tcg => Duration::from_secs(15),
        }
    }

    /// How long a guest may take to come up and run one command.
    pub fn default_timeout(self) -> Duration {
        match self {
            Self::Kvm => Duration::from_secs(60),
            Self::Tcg => Duration::from_secs(180),
        }
    }
}

/// What the user wants of a VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AccelChoice {
    /// KVM where it works, else TCG.
    #[default]
    Auto,
    /// KVM or nothing.
    Kvm,
    /// Emulation.
    Tcg,
}

impl AccelChoice {
    /// The word for it on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
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
pub fn choose(
    choice: AccelChoice,
    qemu: &Path,
    kernel_image: &Path,
    cache: &Path,
) -> Result<Chosen> {
    if choice == AccelChoice::Tcg {
        return Ok(Chosen { accel: Accel::Tcg, note: None });
    }
    let trial = Trial::of_this_machine(qemu, cache)?;
    // Whoever insists may have changed something, so an earlier failure does not count.
    let insists = choice == AccelChoice::Kvm;
    let kvm = trial.kvm(kernel_image, if insists { Trust::Success } else { Trust::Everything })?;
    match (kvm.error(), choice) {
        (None, _) => Ok(Chosen { accel: Accel::Kvm, note: None }),
        (Some(error), AccelChoice::Kvm) => bail!("KVM does not work here: {error}"),
        (Some(error), _) => Ok(Chosen {
            accel: Accel::Tcg,
            note: Some(format!("emulating, since KVM does not work here: {error}")),
        }),
    }
}

/// Tries KVM now, whatever is remembered, with `kernel_image` if there is one.
///
/// # Errors
/// When trying itself is not possible: QEMU cannot be started.
pub fn diagnose(qemu: &Path, kernel_image: Option<&Path>, cache: &Path) -> Result<Kvm> {
    let trial = Trial::of_this_machine(qemu, cache)?;
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
    pub fn error(&self) -> Option<String> {
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
/// How long a failure is believed. Trying again takes [`KVM_DEADLINE`].
const FAILURE_VALID: Duration = Duration::from_secs(15 * 60);

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
    /// When it was found, in seconds since 1970.
    found_s: u64,
    kvm: Kvm,
}

/// Everything a trial depends on.
#[derive(Debug)]
struct Trial<'a> {
    device: &'a Path,
    qemu: &'a Path,
    /// Where the answer is remembered.
    memory: PathBuf,
    kvm_deadline: Duration,
    tcg_deadline: Duration,
}

impl<'a> Trial<'a> {
    fn of_this_machine(qemu: &'a Path, cache: &Path) -> Result<Self> {
        Ok(Self {
            device: Path::new(DEVICE),
            qemu,
            memory: cache.join("kvm.json"),
            kvm_deadline: KVM_DEADLINE,
            tcg_deadline: TCG_DEADLINE,
        })
    }

    fn kvm(&self, kernel_image: &Path, trust: Trust) -> Result<Kvm> {
        if let Some(error) = self.device() {
            return Ok(error);
        }
        // Held while trying: other kernels and other runs wait for the answer. Where the cache cannot be written to, each
        // tries for itself.
        let _ = self.memory.parent().map(std::fs::create_dir_all);
        let _lock = lock::exclusive(&self.memory.with_extension("lock"), || ());
        let now = self.answer(Kvm::Works)?;
        let earlier = std::fs::read(&self.memory).ok().and_then(|json| Remembered::parse(&json));
        match earlier.filter(|earlier| earlier.counts(&now)).map(|earlier| earlier.kvm) {
            Some(Kvm::Works) if trust != Trust::Nothing => return Ok(Kvm::Works),
            Some(kvm) if trust == Trust::Everything => return Ok(kvm),
            _ => {}
        }
        let (kvm, certain) = self.try_out(kernel_image, trust)?;
        if certain {
            // Only spares the next kernel a trial, so failing to write it is no error.
            let json = serde_json::to_vec(&Remembered { kvm: kvm.clone(), ..now })?;
            let _ = whole_file::write(&self.memory, &json);
        }
        Ok(kvm)
    }

    /// What opening the device shows: error, or nothing.
    fn device(&self) -> Option<Kvm> {
        match OpenOptions::new().read(true).write(true).open(self.device) {
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::NotFound => Some(Kvm::Absent),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Some(Kvm::NotPermitted),
            Err(error) => Some(Kvm::Dead(format!("it cannot be opened: {error}"))),
        }
    }

    /// An answer as it would be found now.
    fn answer(&self, kvm: Kvm) -> Result<Remembered> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .context("cannot tell whether this machine has rebooted")?;
        let qemu = self.qemu.metadata();
        let qemu = qemu.with_context(|| format!("cannot look at {}", self.qemu.display()))?;
        Ok(Remembered {
            boot_id: boot_id.trim().to_owned(),
            qemu: self.qemu.to_owned(),
            qemu_modified: qemu.mtime(),
            found_s: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            kvm,
        })
    }

    /// The answer, and whether it holds for every kernel.
    fn try_out(&self, kernel_image: &Path, trust: Trust) -> Result<(Kvm, bool)> {
        let last_words = match self.boot(kernel_image, Accel::Kvm, self.kvm_deadline)? {
            Life::Seen => return Ok((Kvm::Works, true)),
            Life::Refused(why) => {
                return Ok((Kvm::Dead(format!("QEMU cannot use it: {why}")), true));
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
            return Ok((dead, false));
        }
        Ok(match self.boot(kernel_image, Accel::Tcg, self.tcg_deadline)? {
            Life::Seen => (dead, true),
            _ => (Kvm::Untried(format!("{kernel} comes up neither under it nor emulated")), false),
        })
    }

    /// Boots the kernel without a root file system until it shows that it lives.
    fn boot(&self, kernel_image: &Path, accel: Accel, deadline: Duration) -> Result<Life> {
        let mut command = SupervisedCommand::new(self.qemu)?;
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-machine", "q35", "-accel", accel.name(), "-cpu", accel.cpu(), "-m", "256"])
            .args(["-serial", "stdio", "-append", "console=ttyS0 loglevel=7 panic=-1", "-kernel"])
            .arg(kernel_image)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut qemu = Supervised::spawn(command)?;
        let (Some(stdout), Some(stderr)) = (qemu.stdout.take(), qemu.stderr.take()) else {
            bail!("QEMU was started without pipes");
        };
        let (name, late) = (self.qemu.file_name().unwrap_or_default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if matches!(qemu.wait_timeout(deadline), Ok(None)) {
                    late.store(true, Ordering::Relaxed);
                    let _ = qemu.kill();
                }
            });
            let complaint = scope.spawn(|| complaint(stderr, &name.to_string_lossy(), &qemu));
            let mut last = None;
            for line in lines(stdout).filter(|line| !line.is_empty()) {
                if SIGNS_OF_LIFE.iter().any(|sign| line.contains(sign)) {
                    qemu.kill()?;
                    return Ok(Life::Seen);
                }
                last = Some(line);
            }
            qemu.wait()?;
            let last_words = match last {
                Some(line) => format!("and stops at {line:?}"),
                None => "and prints nothing".into(),
            };
            Ok(match late.load(Ordering::Relaxed) {
                true => Life::None(last_words),
                false => Life::Refused(complaint.join().unwrap_or_default()),
            })
        })
    }
}

impl Remembered {
    fn parse(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// Whether it is of this boot and this QEMU, and not too old.
    fn counts(&self, now: &Self) -> bool {
        let same = Self { kvm: now.kvm.clone(), found_s: now.found_s, ..self.clone() } == *now;
        let age = now.found_s.checked_sub(self.found_s);
        same && (self.kvm == Kvm::Works || age.is_some_and(|age| age < FAILURE_VALID.as_secs()))
    }
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

/// What QEMU has to say against it, warnings aside.
fn complaint(stderr: impl Read, name: &str, qemu: &Supervised) -> String {
    let mut complaint = None;
    for line in lines(stderr).filter(|line| !line.contains(": warning: ")) {
        // QEMU stops the guest then, and stays (accel/kvm/kvm-all.c, kvm_handle_internal_error).
        if line.starts_with("KVM internal error") {
            let _ = qemu.kill();
            return line;
        }
        complaint.get_or_insert(line);
    }
    let said = complaint.unwrap_or_else(|| "it ended without a word".into());
    // Its messages begin with its name.
    let own = said.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&said);
    own.strip_prefix("error: ").unwrap_or(own).to_owned()
}

fn lines(from: impl Read) -> impl Iterator<Item = String> {
    let lines = BufReader::new(from).split(b'\n').map_while(Result::ok);
    lines.map(|line| String::from_utf8_lossy(&line).trim().to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A machine with a QEMU of our own making.
    struct Machine {
        dir: tempfile::TempDir,
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
            Self { dir, kvm_deadline }
        }

        fn kvm(&self, trust: Trust) -> Kvm {
            let (device, qemu) = (self.dir.path().join("kvm"), self.dir.path().join("qemu"));
            let trial = Trial {
                device: &device,
                qemu: &qemu,
                memory: self.memory(),
                kvm_deadline: self.kvm_deadline,
                tcg_deadline: Duration::from_secs(60),
            };
            trial.kvm(Path::new("/boot/vmlinuz-1"), trust).unwrap()
        }

        fn calls(&self) -> usize {
            let calls = std::fs::read_to_string(self.dir.path().join("calls"));
            calls.map_or(0, |calls| calls.lines().count())
        }

        fn memory(&self) -> PathBuf {
            self.dir.path().join("cache/kvm.json")
        }

        fn remembered(&self) -> Option<Remembered> {
            Remembered::parse(&std::fs::read(self.memory()).ok()?)
        }
    }

    const COMES_UP: &str =
        "echo '[    0.1] NET: Registered PF_NETLINK/PF_ROUTE protocol family'; exec sleep 1000";
    const HANGS: &str = "echo '[    0.0] Linux version 6.12'; echo; exec sleep 1000";
    const REFUSES: &str = "echo 'qemu: warning: pni' >&2; echo 'qemu: error: failed to set MSR' >&2; \
        echo 'Assertion failed' >&2; exit 134";

    #[test]
    fn a_kernel_that_comes_up_shows_that_kvm_works_and_is_tried_once() {
        let machine = Machine::new(COMES_UP, "exit 1");
        assert_eq!(machine.kvm(Trust::Everything), Kvm::Works);
        assert_eq!(machine.kvm(Trust::Everything), Kvm::Works);
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
        assert_eq!(machine.kvm(Trust::Everything), dead);
        assert_eq!(machine.calls(), 1);
        assert_eq!(machine.kvm(Trust::Success), dead, "who insists gets a trial of its own");
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
        assert_eq!(machine.kvm(Trust::Everything), dead);
        assert_eq!(machine.calls(), 2, "once under KVM, once emulated, and then remembered");
    }

    #[test]
    fn a_failure_is_forgotten_after_a_while_and_a_success_is_not() {
        let machine = Machine::new(REFUSES, "exit 1");
        machine.kvm(Trust::Everything);
        let age_by = |seconds| {
            let mut answer = machine.remembered().unwrap();
            answer.found_s -= seconds;
            std::fs::write(machine.memory(), serde_json::to_vec(&answer).unwrap()).unwrap();
        };
        age_by(FAILURE_VALID.as_secs() / 2);
        machine.kvm(Trust::Everything);
        assert_eq!(machine.calls(), 1);
        age_by(FAILURE_VALID.as_secs());
        std::fs::write(machine.dir.path().join("qemu.sh"), COMES_UP).unwrap();
        assert_eq!(machine.kvm(Trust::Everything), Kvm::Works, "the host was only busy");
        age_by(100 * FAILURE_VALID.as_secs());
        std::fs::remove_file(machine.dir.path().join("qemu.sh")).unwrap();
        assert_eq!(machine.kvm(Trust::Everything), Kvm::Works, "tried again");
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
        assert_eq!(machine.remembered(), None);
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
        let machine = Machine::new(COMES_UP, "exit 1");
        machine.kvm(Trust::Everything);
        let good = machine.remembered().unwrap();
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let qemu = machine.dir.path().join("qemu").metadata().unwrap();
        assert_eq!((&*good.boot_id, good.qemu_modified), (boot_id.trim(), qemu.mtime()));
        let text = |answer: &Remembered| serde_json::to_string(answer).unwrap();
        for (calls, found) in [
            (2, text(&Remembered { boot_id: "another".into(), ..good.clone() })),
            (3, text(&Remembered { qemu: "/another/qemu".into(), ..good.clone() })),
            (4, text(&Remembered { qemu_modified: 1, ..good.clone() })),
            (5, text(&good)[1..].to_owned()),
            (5, text(&good)),
        ] {
            std::fs::write(machine.memory(), found).unwrap();
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
