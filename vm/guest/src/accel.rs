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
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::process::{Supervised, SupervisedCommand};
use vm_kernels::{Arch, Kernel, lock, whole_file};

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
    pub fn cpu(self, arch: &Arch) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => arch.emulated_cpu[0],
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

/// Chooses KVM or TCG for a kernel that is about to be booted with this QEMU, this machine's own.
///
/// A kernel of another architecture is emulated. `auto` ends on TCG when KVM does not work, whatever the cause. Side by side, only one caller on this machine tries
/// and the others wait for its answer.
///
/// # Errors
/// With [`AccelChoice::Kvm`], when KVM does not work: the reason, after at most 10 seconds.
pub fn choose(choice: AccelChoice, qemu: &Path, kernel: &Kernel, cache: &Path) -> Result<Chosen> {
    let (arch, host) = (kernel.arch, Arch::host());
    // Whoever insists may have changed something, so an earlier failure does not count.
    let insists = choice == AccelChoice::Kvm;
    if insists && arch != host {
        bail!("KVM runs what this machine is, {host}, and this kernel is for {arch}: leave --accel out");
    }
    if choice == AccelChoice::Tcg || arch != host {
        return Ok(Chosen { accel: Accel::Tcg, note: None });
    }
    let trust = if insists { Trust::Success } else { Trust::Everything };
    match Trial::new(qemu, cache).kvm(&kernel.image, trust)?.error() {
        None => Ok(Chosen { accel: Accel::Kvm, note: None }),
        Some(error) if insists => bail!("KVM does not work here: {error}"),
        Some(error) => {
            let note = format!("emulating, since KVM does not work here: {error}");
            Ok(Chosen { accel: Accel::Tcg, note: Some(note) })
        }
    }
}

/// Tries KVM now, whatever is remembered, with `kernel_image` if there is one.
///
/// # Errors
/// When trying itself is not possible: QEMU cannot be started.
pub fn diagnose(qemu: &Path, kernel_image: Option<&Path>, cache: &Path) -> Result<Kvm> {
    let trial = Trial::new(qemu, cache);
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
            Self::NotPermitted => {
                Some(format!("this user may not open {DEVICE} (`sudo usermod -aG kvm $USER`, then log in again)"))
            }
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
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    Everything,
    Success,
    Nothing,
}

/// Everything a trial depends on.
struct Trial<'a> {
    device: PathBuf,
    qemu: &'a Path,
    /// Where the answer is remembered.
    memory: PathBuf,
    kvm_deadline: Duration,
}

/// What was seen of a kernel that was started.
enum Life {
    Seen,
    /// QEMU gave up, with these words.
    Refused(String),
    /// Nothing in time; what it said last, as the end of a sentence.
    None(String),
}

impl<'a> Trial<'a> {
    fn new(qemu: &'a Path, cache: &Path) -> Self {
        Self { device: DEVICE.into(), qemu, memory: cache.join("kvm.json"), kvm_deadline: KVM_DEADLINE }
    }

    fn kvm(&self, kernel_image: &Path, trust: Trust) -> Result<Kvm> {
        if let Some(error) = self.device() {
            return Ok(error);
        }
        // Held while trying: other kernels and other runs wait for the answer. Where the cache cannot be written to, each
        // tries for itself.
        let _ = self.memory.parent().map(std::fs::create_dir_all);
        let _lock = lock::exclusive(&self.memory.with_extension("lock"), || ());
        let now = self.circumstances()?;
        match self.remembered(&now) {
            Some(Kvm::Works) if trust != Trust::Nothing => return Ok(Kvm::Works),
            Some(kvm) if trust == Trust::Everything => return Ok(kvm),
            _ => {}
        }
        let (kvm, certain) = self.try_out(kernel_image, trust)?;
        if certain {
            // Only spares the next kernel a trial, so failing to write it is no error.
            let _ = whole_file::write(&self.memory, &serde_json::to_vec(&(now, &kvm))?);
        }
        Ok(kvm)
    }

    /// What opening the device shows: error, or nothing.
    fn device(&self) -> Option<Kvm> {
        match OpenOptions::new().read(true).write(true).open(&self.device) {
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::NotFound => Some(Kvm::Absent),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Some(Kvm::NotPermitted),
            Err(error) => Some(Kvm::Dead(format!("it cannot be opened: {error}"))),
        }
    }

    /// What an answer is valid for: this boot of the host, this QEMU.
    fn circumstances(&self) -> Result<String> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .context("cannot tell whether this machine has rebooted")?;
        let qemu = self.qemu.display();
        let modified = self.qemu.metadata().with_context(|| format!("cannot look at {qemu}"))?.mtime();
        Ok(format!("{} {modified} {qemu}", boot_id.trim()))
    }

    /// The last answer, if it was found as things are now, and a failure not long ago.
    fn remembered(&self, now: &str) -> Option<Kvm> {
        let (then, kvm): (String, Kvm) = serde_json::from_slice(&std::fs::read(&self.memory).ok()?).ok()?;
        let age = self.memory.metadata().ok()?.modified().ok()?.elapsed();
        (then == now && (kvm == Kvm::Works || age.is_ok_and(|age| age < FAILURE_VALID))).then_some(kvm)
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
        let dead = Kvm::Dead(format!("{kernel} does not come up under it within {seconds} s {last_words}"));
        if trust == Trust::Success {
            // It may be the kernel's fault, but whoever insists on KVM wants an answer at once.
            return Ok((dead, false));
        }
        Ok(match self.boot(kernel_image, Accel::Tcg, TCG_DEADLINE)? {
            Life::Seen => (dead, true),
            _ => (Kvm::Untried(format!("{kernel} comes up neither under it nor emulated")), false),
        })
    }

    /// Boots the kernel without a root file system until it shows that it lives.
    fn boot(&self, kernel_image: &Path, accel: Accel, deadline: Duration) -> Result<Life> {
        let arch = Arch::host();
        let parameters = format!("console={} loglevel=7 panic=-1", arch.console);
        let mut command = SupervisedCommand::new(self.qemu)?;
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-machine", arch.board, "-accel", accel.name(), "-cpu", accel.cpu(arch), "-m", "256"])
            .args(["-serial", "stdio", "-append", &parameters, "-kernel"])
            .arg(kernel_image)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Ended when this function returns.
        let mut qemu = Supervised::spawn(command)?;
        let (sender, seen) = mpsc::channel();
        let complaints = sender.clone();
        let (stdout, stderr) = (qemu.stdout.take(), qemu.stderr.take());
        std::thread::spawn(move || stdout.map(|pipe| lines(pipe, |line| sender.send((line, true)).is_ok())));
        std::thread::spawn(move || stderr.map(|pipe| lines(pipe, |line| complaints.send((line, false)).is_ok())));
        let (mut last_words, mut complaint) = ("and prints nothing".to_owned(), None);
        let end = Instant::now() + deadline;
        loop {
            match seen.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok((line, true)) if SIGNS_OF_LIFE.iter().any(|sign| line.contains(sign)) => {
                    return Ok(Life::Seen);
                }
                Ok((line, true)) => last_words = format!("and stops at {line:?}"),
                // QEMU stops the guest then, and stays (accel/kvm/kvm-all.c, kvm_handle_internal_error).
                Ok((line, false)) if line.starts_with("KVM internal error") => {
                    return Ok(Life::Refused(line));
                }
                Ok((line, false)) if line.contains(": warning: ") => {}
                Ok((line, false)) => _ = complaint.get_or_insert(line),
                Err(RecvTimeoutError::Timeout) => return Ok(Life::None(last_words)),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let said = complaint.unwrap_or_else(|| "it ended without a word".into());
        // Its messages begin with its name.
        let name = format!("{}: ", self.qemu.file_name().unwrap_or_default().to_string_lossy());
        let own = said.strip_prefix(&name).unwrap_or(&said);
        Ok(Life::Refused(own.strip_prefix("error: ").unwrap_or(own).to_owned()))
    }
}

/// Hands over each line that is not empty, until that is refused.
fn lines(from: impl Read, mut hand_over: impl FnMut(String) -> bool) {
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        if !line.is_empty() && !hand_over(line) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::SystemTime;

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
            let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-tool");
            symlink(fake, dir.path().join("qemu")).unwrap();
            let calls = dir.path().join("calls");
            let script =
                format!("echo >> {}\ncase \"$*\" in *'-accel kvm'*) {kvm};; *) {tcg};; esac\n", calls.display());
            std::fs::write(dir.path().join("qemu.sh"), script).unwrap();
            std::fs::write(dir.path().join("kvm"), "").unwrap();
            // Only waited for by a kernel that hangs; long enough for its last words on a busy machine.
            let kvm_deadline = Duration::from_secs(if kvm == HANGS { 2 } else { 60 });
            Self { dir, kvm_deadline }
        }

        fn kvm(&self, trust: Trust) -> Kvm {
            let (qemu, memory) = (self.dir.path().join("qemu"), self.memory());
            let (device, kvm_deadline) = (self.dir.path().join("kvm"), self.kvm_deadline);
            Trial { device, qemu: &qemu, memory, kvm_deadline }.kvm(Path::new("/boot/vmlinuz-1"), trust).unwrap()
        }

        /// Asks so, one after the other: each gets this answer, and QEMU was started so often in all.
        #[track_caller]
        fn check(&self, trust: &[Trust], answer: &Kvm, calls: usize) {
            for trust in trust {
                assert_eq!(self.kvm(*trust), *answer);
            }
            let lines = std::fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default().lines().count();
            assert_eq!(lines, calls);
        }

        fn memory(&self) -> PathBuf {
            self.dir.path().join("cache/kvm.json")
        }
    }

    const COMES_UP: &str = "echo '[    0.1] NET: Registered PF_NETLINK/PF_ROUTE protocol family'; exec sleep 1000";
    const HANGS: &str = "echo '[    0.0] Linux version 6.12'; echo; exec sleep 1000";
    const REFUSES: &str = "echo 'qemu: warning: pni' >&2; echo 'qemu: error: failed to set MSR' >&2; \
        echo 'Assertion failed' >&2; exit 134";

    fn dead(why: &str) -> Kvm {
        Kvm::Dead(why.into())
    }

    #[test]
    fn each_trial_gives_its_answer_and_is_remembered_if_certain() {
        use Trust::{Everything, Nothing, Success};
        let machine = Machine::new(COMES_UP, "exit 1");
        machine.check(&[Everything, Everything, Success], &Kvm::Works, 1);
        machine.check(&[Nothing], &Kvm::Works, 2);
        let machine = Machine::new(REFUSES, "exit 1");
        let refused = dead("QEMU cannot use it: failed to set MSR");
        machine.check(&[Everything, Everything], &refused, 1);
        machine.check(&[Success], &refused, 2);
        // Is not waited out.
        let internal_error = "echo 'KVM internal error. Suberror: 1' >&2; exec sleep 1000";
        let refused = dead("QEMU cannot use it: KVM internal error. Suberror: 1");
        Machine::new(internal_error, "exit 1").check(&[Everything], &refused, 1);
        let hangs =
            dead("vmlinuz-1 does not come up under it within 2 s and stops at \"[    0.0] Linux version 6.12\"");
        // Once under KVM, once emulated, and then remembered.
        Machine::new(HANGS, COMES_UP).check(&[Everything, Everything], &hangs, 2);
        // A kernel that comes up nowhere says nothing of KVM: the next one is another trial.
        let untried = Kvm::Untried("vmlinuz-1 comes up neither under it nor emulated".into());
        Machine::new(HANGS, "exit 1").check(&[Everything, Everything], &untried, 4);
        // Who insists hears of a hang without a second boot, and nothing is concluded from it.
        let machine = Machine::new(HANGS, COMES_UP);
        machine.check(&[Success], &hangs, 1);
        assert!(!machine.memory().exists());
    }

    #[test]
    fn failure_expires_and_success_does_not() {
        let machine = Machine::new(REFUSES, "exit 1");
        let refused = machine.kvm(Trust::Everything);
        let age = |age| {
            let memory = OpenOptions::new().write(true).open(machine.memory()).unwrap();
            memory.set_modified(SystemTime::now() - age).unwrap();
        };
        age(FAILURE_VALID / 2);
        machine.check(&[Trust::Everything], &refused, 1);
        age(FAILURE_VALID);
        std::fs::write(machine.dir.path().join("qemu.sh"), COMES_UP).unwrap();
        assert_eq!(machine.kvm(Trust::Everything), Kvm::Works, "the host was only busy");
        age(100 * FAILURE_VALID);
        std::fs::remove_file(machine.dir.path().join("qemu.sh")).unwrap();
        assert_eq!(machine.kvm(Trust::Everything), Kvm::Works, "tried again");
    }

    #[test]
    fn device_that_cannot_be_opened_is_not_tried() {
        let machine = Machine::new(COMES_UP, COMES_UP);
        let device = machine.dir.path().join("kvm");
        std::fs::set_permissions(&device, std::fs::Permissions::from_mode(0o000)).unwrap();
        // Root may open it all the same, so this thread, and only this, becomes nobody to the file system.
        let me = nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
        let kvm = machine.kvm(Trust::Everything);
        nix::unistd::setfsuid(me);
        assert_eq!(kvm, Kvm::NotPermitted);
        std::fs::remove_file(&device).unwrap();
        machine.check(&[Trust::Everything], &Kvm::Absent, 0);
        // A directory cannot be opened for writing by anyone, root included.
        std::fs::create_dir(&device).unwrap();
        assert!(matches!(machine.kvm(Trust::Everything), Kvm::Dead(why) if why.contains("opened")));
        machine.check(&[], &Kvm::Absent, 0);
    }

    #[test]
    fn other_boot_other_qemu_or_damaged_memory_means_another_trial() {
        let machine = Machine::new(COMES_UP, "exit 1");
        machine.kvm(Trust::Everything);
        let good = std::fs::read_to_string(machine.memory()).unwrap();
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let qemu = machine.dir.path().join("qemu");
        let modified = format!(" {} ", qemu.metadata().unwrap().mtime());
        for (index, part) in [boot_id.trim(), &modified, qemu.to_str().unwrap(), "\""].into_iter().enumerate() {
            assert!(good.contains(part), "{good}");
            std::fs::write(machine.memory(), good.replace(part, "other")).unwrap();
            machine.check(&[Trust::Everything, Trust::Everything], &Kvm::Works, index + 2);
        }
    }

    #[test]
    fn concurrent_trials_run_once() {
        let machine = Machine::new(COMES_UP, "exit 1");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(machine.kvm(Trust::Everything), Kvm::Works));
            }
        });
        machine.check(&[], &Kvm::Works, 1);
    }
}
