//! Hardware virtualization or emulation: whether KVM works here is found out by trying.
//!
//! On nested hosts `/dev/kvm` can exist, open and create a VM, and still no Linux guest comes up. So the kernel that
//! is about to be booted is started under KVM with a deadline. That KVM works is remembered until the host reboots;
//! that it does not, for a while only: perhaps the host was busy, or it was that kernel's fault.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::deadline::Until;
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
        if self == Self::Kvm { "kvm" } else { "tcg" }
    }

    /// QEMU's processor model (`-cpu`) to use with it.
    pub fn cpu(self, arch: &Arch) -> &'static str {
        if self == Self::Kvm { "host" } else { arch.emulated_cpu[0] }
    }

    /// How much longer a guest may take for each test that it runs, unless the user says otherwise.
    pub fn for_each_test(self) -> Duration {
        Duration::from_secs(if self == Self::Kvm { 5 } else { 15 })
    }

    /// How long a guest may take to come up and run one command.
    pub fn default_timeout(self) -> Duration {
        Duration::from_secs(if self == Self::Kvm { 60 } else { 180 })
    }
}

/// Chooses KVM or TCG for a kernel that is about to be booted with this QEMU, this machine's own; and says, in one sentence,
/// why it is not KVM although that was not ruled out.
///
/// A kernel of another architecture is emulated. Without a `choice` it is KVM where that works, else TCG, whatever the cause.
/// Side by side, only one caller on this machine tries and the others wait for its answer. Where KVM is chosen it is an
/// error when it does not work, after at most 10 seconds.
pub fn choose(choice: Option<Accel>, qemu: &Path, kernel: &Kernel, cache: &Path) -> Result<(Accel, Option<String>)> {
    let (arch, host) = (kernel.arch, Arch::host());
    let insists = choice == Some(Accel::Kvm);
    if insists && arch != host {
        bail!("KVM runs what this machine is, {host}, and this kernel is for {arch}: leave --accel out");
    }
    if choice == Some(Accel::Tcg) || arch != host {
        return Ok((Accel::Tcg, None));
    }
    match diagnose(qemu, Some(&kernel.image), cache, insists)? {
        None => Ok((Accel::Kvm, None)),
        Some(error) if insists => bail!("KVM does not work here: {error}"),
        Some(error) => Ok((Accel::Tcg, Some(format!("emulating, since KVM does not work here: {error}")))),
    }
}

/// Why KVM does not work, as part of a sentence; `None` when it does. With `anew`, since something may have been changed, a
/// failure that is remembered does not count.
pub fn diagnose(qemu: &Path, kernel_image: Option<&Path>, cache: &Path, anew: bool) -> Result<Option<String>> {
    match (device_error(), kernel_image) {
        (None, Some(image)) => remembered_or_tried(qemu, image, cache, anew),
        (None, None) => Ok(Some("it could not be tried: no kernel is cached".into())),
        (error, _) => Ok(error),
    }
}

/// What is wrong with opening the device, and what can be done.
fn device_error() -> Option<String> {
    let error = OpenOptions::new().read(true).write(true).open(DEVICE).err()?;
    Some(match error.kind() {
        ErrorKind::NotFound => format!(
            "there is no {DEVICE} (virtualization is off in the firmware, the module kvm is not loaded, or this \
             machine is itself a guest without nested virtualization)"
        ),
        ErrorKind::PermissionDenied => {
            format!("this user may not open {DEVICE} (`sudo usermod -aG kvm $USER`, then log in again)")
        }
        _ => format!("{DEVICE} is there, but it cannot be opened: {error}"),
    })
}

const DEVICE: &str = "/dev/kvm";

/// How long a kernel may take to its sign of life under KVM, where it takes a few tenths of a second. A test waits for it.
const DEADLINE: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 6 });
/// How long a failure is believed. Trying again takes up to [`DEADLINE`].
const FAILURE_VALID: Duration = Duration::from_secs(15 * 60);

/// What a kernel prints once interrupts, timers and threads work (`net/socket.c`, `net/netlink/af_netlink.c`: an early
/// initcall), or at the latest when it finds no root file system (`init/do_mounts.c`). Earlier words prove nothing:
/// kernels also hang after them, when they wait for the first timer interrupt.
const SIGNS_OF_LIFE: &[&str] = &["NET: Registered", "VFS: ", "Kernel panic"];

/// The last answer if it still counts, else a new one.
fn remembered_or_tried(qemu: &Path, kernel_image: &Path, cache: &Path, anew: bool) -> Result<Option<String>> {
    let memory = cache.join("kvm.json");
    // Held while trying: other kernels and other runs wait for the answer. Where the cache cannot be written to, each
    // tries for itself.
    let _ = fs::create_dir_all(cache);
    let _lock = lock::exclusive(&memory.with_extension("lock"), || ());
    // An answer is for this boot of the host and for this QEMU.
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let boot_id = boot_id.context("cannot tell whether this machine has rebooted")?;
    let modified = qemu.metadata().with_context(|| format!("cannot look at {}", qemu.display()))?.mtime();
    let now = format!("{} {modified} {}", boot_id.trim(), qemu.display());
    let remembered = || -> Option<Option<String>> {
        let (then, error): (String, Option<String>) = serde_json::from_slice(&fs::read(&memory).ok()?).ok()?;
        let age = memory.metadata().ok()?.modified().ok()?.elapsed();
        let counts = error.is_none() || (!anew && age.is_ok_and(|age| age < FAILURE_VALID));
        (counts && then == now).then_some(error)
    };
    if let Some(error) = remembered() {
        return Ok(error);
    }
    let error = boot(qemu, kernel_image)?;
    // Only spares the next kernel a trial, so failing to write it is no error.
    let _ = whole_file::write(&memory, &serde_json::to_vec(&(now, &error))?);
    Ok(error)
}

/// Boots the kernel without a root file system until it shows that it lives; what is wrong, if it does not.
fn boot(qemu: &Path, kernel_image: &Path) -> Result<Option<String>> {
    let arch = Arch::host();
    let parameters = format!("console={} loglevel=7 panic=-1", arch.console);
    let (stream, theirs) = UnixStream::pair().context("cannot make a socket pair")?;
    let mut command = SupervisedCommand::new(qemu)?;
    command
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
        .args(["-machine", arch.board, "-accel", "kvm", "-cpu", Accel::Kvm.cpu(arch), "-m", "256"])
        .args(["-serial", "stdio", "-append", &parameters, "-kernel"])
        .arg(kernel_image)
        .stdin(Stdio::null())
        .stdout(OwnedFd::from(theirs.try_clone().context("cannot hand on a socket")?))
        .stderr(OwnedFd::from(theirs));
    // Ended when this function returns.
    let _qemu = Supervised::spawn(command)?;
    // QEMU's messages begin with its name.
    let name = format!("{}: ", qemu.file_name().unwrap_or_default().to_string_lossy());
    let (mut error, mut last) = (None, String::new());
    for line in BufReader::new(Until { stream, deadline: Instant::now() + DEADLINE }).split(b'\n') {
        let Ok(line) = line else {
            let kernel = kernel_image.file_name().unwrap_or_default().to_string_lossy();
            return Ok(Some(format!(
                "{DEVICE} is there, but {kernel} does not come up under it within {} s; its last line was {last:?}",
                DEADLINE.as_secs()
            )));
        };
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        if SIGNS_OF_LIFE.iter().any(|sign| line.contains(sign)) {
            return Ok(None);
        }
        // QEMU stops the guest then, and stays (accel/kvm/kvm-all.c, kvm_handle_internal_error).
        if line.starts_with("KVM internal error") {
            error = Some(line);
            break;
        }
        if !line.is_empty() && !line.contains(": warning: ") {
            let own = line.strip_prefix(&name).map(|own| own.trim_start_matches("error: ").to_owned());
            error = error.or(own);
            last = line;
        }
    }
    Ok(Some(format!("{DEVICE} is there, but QEMU cannot use it: {}", error.unwrap_or(last))))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tempfile::TempDir;

    use super::*;

    /// A machine with a QEMU of our own making, which does what `script` says.
    fn machine(script: &str) -> TempDir {
        let machine = tempfile::tempdir().unwrap();
        let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-tool");
        std::os::unix::fs::symlink(fake, machine.path().join("qemu")).unwrap();
        now_does(&machine, script);
        machine
    }

    fn now_does(machine: &TempDir, script: &str) {
        let script = format!("echo >> {}\n{script}\n", machine.path().join("calls").display());
        fs::write(machine.path().join("qemu.sh"), script).unwrap();
    }

    fn error(machine: &TempDir, anew: bool) -> String {
        let (qemu, image) = (machine.path().join("qemu"), Path::new("/boot/vmlinuz-1"));
        remembered_or_tried(&qemu, image, machine.path(), anew).unwrap().unwrap_or_default()
    }

    /// The answer has these words (none: KVM works), and QEMU was started so often in all.
    #[track_caller]
    fn check(machine: &TempDir, anew: bool, words: &str, calls: usize) {
        let error = error(machine, anew);
        assert!(error.contains(words) && error.is_empty() == words.is_empty(), "{error}");
        assert_eq!(fs::read(machine.path().join("calls")).unwrap().len(), calls);
    }

    const COMES_UP: &str = "echo '[    0.1] NET: Registered PF_NETLINK/PF_ROUTE protocol family'; exec sleep 1000";

    #[test]
    fn failure_is_remembered_for_a_while_unless_someone_insists() {
        let refuses = "echo 'qemu: warning: pni' >&2; echo 'qemu: error: failed to set MSR' >&2; \
            echo 'Assertion failed' >&2; exit 134";
        let breaks = "echo 'KVM internal error. Suberror: 1' >&2; exec sleep 1000";
        let hangs = "echo '[    0.0] Linux version 6.12'; echo; exec sleep 1000";
        let last = "vmlinuz-1 does not come up under it within 3 s; its last line was \"[    0.0] Linux version 6.12\"";
        for (script, words) in [
            (refuses, "is there, but QEMU cannot use it: failed to set MSR"),
            (breaks, "QEMU cannot use it: KVM internal error. Suberror: 1"),
            (hangs, last),
        ] {
            let machine = machine(script);
            check(&machine, false, words, 1);
            check(&machine, false, words, 1);
            check(&machine, true, words, 2);
            let memory = OpenOptions::new().write(true).open(machine.path().join("kvm.json")).unwrap();
            memory.set_modified(SystemTime::now() - FAILURE_VALID).unwrap();
            now_does(&machine, COMES_UP);
            check(&machine, false, "", 3);
        }
    }

    #[test]
    fn success_is_found_once_until_the_host_reboots_or_qemu_changes() {
        let machine = machine(COMES_UP);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(error(&machine, false), ""));
            }
        });
        check(&machine, true, "", 1);
        let memory = machine.path().join("kvm.json");
        let good = fs::read_to_string(&memory).unwrap();
        let qemu = machine.path().join("qemu");
        let modified = format!(" {} ", qemu.metadata().unwrap().mtime());
        for (index, part) in [&good[2..38], &modified, qemu.to_str().unwrap(), "\""].into_iter().enumerate() {
            fs::write(&memory, good.replacen(part, "other", 1)).unwrap();
            check(&machine, false, "", index + 2);
            check(&machine, false, "", index + 2);
        }
    }
}
