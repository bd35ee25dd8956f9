//! The backend of snapshots: each kernel is booted once, to the point where the agent waits for its job, and saved;
//! every run restores that guest and hands it the payload.
//!
//! A guest's memory is a file, which restored guests map privately: what they never touch is never read, and what they
//! change is theirs alone. Only the devices' state, a few hundred kilobytes, goes through QEMU's migration stream (its
//! capability `x-ignore-shared`). The payload is in other memory, that of a device, which the guest had mapped, unread,
//! when it was saved.

use std::fs::{self, File};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use vmtest_agent::{PROTOCOL, Payload, Ready, Root};

use crate::accel::Accel;
use crate::backend::{Backend, Spec, Vm};
use crate::console::{self, Console};
use crate::deadline::{Until, left};
use crate::decode::{self, Lines};
use crate::guest_root::{self, Programs};
use crate::interrupt::Interrupt;
use crate::module_share::{self, ModuleShare};
use crate::qemu::{self, Fds, INITRAMFS, Machine, Memory, Running};
use crate::qmp::Qmp;
use crate::snapshots::{self, CONSOLE, STATE, Snapshot, Snapshots};
use crate::supervise::PANIC_GRACE;
use crate::{initramfs, payload};
use vm_kernels as kernels;

/// Counts changes of how guests are saved that nothing else of the key shows.
const LAYOUT: u32 = 3;

/// The ivshmem BAR that the payload is in has at least so many bytes. How many is part of a snapshot.
const SMALLEST_BAR: u64 = 64 << 20;

/// How long QEMU may take to restore a snapshot, however busy the host is; one that is no good may have no end.
const RESTORE_LIMIT: Duration = Duration::from_secs(30);

/// The most that a guest may have printed, in bytes, to be saved: all of it is classified again at every run.
const LONGEST_CONSOLE: usize = 1 << 20;

/// Restores snapshots, and makes them first if need be.
pub struct Restore<'a> {
    /// The QEMU program.
    pub qemu: PathBuf,
    /// What runs in its guests.
    pub programs: Programs,
    /// Where they are.
    pub snapshots: Snapshots,
    /// Ends the boot of a guest of which a snapshot is to be made.
    pub interrupt: &'a Interrupt,
}

impl Backend for Restore<'_> {
    fn name(&self) -> &'static str {
        "snapshot"
    }

    fn start(&self, spec: &Spec<'_>, note: &dyn Fn(String)) -> Result<Vm> {
        let guest = Guest::new(self, spec)?;
        match guest.restored(note) {
            // What is wrong with the kernel, if it is the kernel, is said by what classifies the run.
            Err(error) if self.interrupt.signal().is_none() && left(spec.deadline).is_some() => {
                note(format!("no snapshot can be made of it, so it is booted: {error:#}"));
                guest.booted()
            }
            result => result,
        }
    }

    fn verify_snapshot(&self, spec: &Spec<'_>) -> Result<Option<String>> {
        let key_material = Guest::new(self, spec)?.key_material()?;
        match self.snapshots.find(&key_material)? {
            Some(saved) if !snapshots::verify_ram(&saved.dir)? => {
                self.snapshots.discard(&key_material)?;
                Ok(Some("the memory of its snapshot was damaged".into()))
            }
            _ => Ok(None),
        }
    }
}

/// A guest of one run.
struct Guest<'a> {
    backend: &'a Restore<'a>,
    spec: &'a Spec<'a>,
    initramfs: Vec<u8>,
    root: Root,
    /// The directory that it can mount.
    shared: PathBuf,
    archive: File,
    ivshmem: u64,
    payload: Payload,
}

impl<'a> Guest<'a> {
    fn new(backend: &'a Restore<'a>, spec: &'a Spec<'a>) -> Result<Self> {
        let modules = ModuleShare::of(spec.kernel, spec.cache)?;
        let (root, shared) = module_share::root(spec, modules.as_ref())?;
        let contents = spec.run.path().join("root");
        guest_root::stage(&contents, &backend.programs, modules.as_ref())?;
        let mut archive = qemu::blank_memory(0)?;
        let bytes = payload::write_tar(spec.files, &mut archive)?;
        let ivshmem = bytes.next_power_of_two().max(SMALLEST_BAR);
        archive.set_len(ivshmem).context("no memory for the payload")?;
        Ok(Self {
            backend,
            spec,
            initramfs: initramfs::pack(&contents)?,
            root,
            shared,
            archive,
            ivshmem,
            payload: Payload::Memory { bytes },
        })
    }

    /// A guest from its snapshot, which is made if need be, and made anew if it is no good.
    fn restored(&self, note: &dyn Fn(String)) -> Result<Vm> {
        let snapshots = &self.backend.snapshots;
        let key_material = self.key_material()?;
        match snapshots.find(&key_material).and_then(|saved| saved.map(|it| self.restore(it)).transpose()) {
            Ok(Some(started)) => return Ok(started),
            Ok(None) => note("booting it once, for a snapshot".into()),
            // It had no time, and may be good.
            Err(error) if left(self.spec.deadline).is_none() => return Err(error),
            Err(error) => {
                note(format!("its snapshot is no good, making another: {error:#}"));
                snapshots.discard(&key_material)?;
            }
        }
        let name = &self.spec.kernel.name;
        let mut failed = None;
        let made = snapshots.make(name, key_material, self.spec.deadline, |dir| self.save(dir, &mut failed));
        // Of a guest that panicked, or never came up, there is as much to see as of one that was only booted.
        failed.map_or_else(|| self.restore(made?), Ok)
    }

    /// A guest without a snapshot, for a kernel of which none can be made.
    fn booted(&self) -> Result<Vm> {
        let machine = self.machine(Memory::Anonymous, Some(&self.spec.kernel.image), self.spec.run.path());
        Ok(self.started(machine.start(self.fds(&self.archive)?)?, Vec::new()))
    }

    fn restore(&self, saved: Snapshot) -> Result<Vm> {
        // To a machine that is to boot a bzImage QEMU adds a ROM, so one that restores such a guest must have it as well.
        let image = &*self.spec.kernel.image;
        let adds_a_rom = kernels::image::inspect(image)?.payload.is_some();
        let machine = self.machine(Memory::CopyOfFile, adds_a_rom.then_some(image), &saved.dir);
        let mut fds = self.fds(&self.archive)?;
        fds.push((qemu::LOCK_FD, saved.lock.into()));
        let mut running = machine.start(fds)?;
        let limit = self.spec.deadline.min(Instant::now() + RESTORE_LIMIT);
        if let Err(error) = restore_devices(&running.monitor, limit) {
            let said = running.last_words();
            return Err(if said.is_empty() { error } else { error.context(said) });
        }
        // What its boot said belongs to every run, as if this one had booted it.
        Ok(Vm { ready: Some(saved.ready), ..self.started(running, saved.console) })
    }

    /// Boots the guest and saves it in `dir`. One that cannot come up any more is left in `failed`.
    fn save(&self, dir: &Path, failed: &mut Option<Vm>) -> Result<Ready> {
        let machine = self.machine(Memory::File, Some(&self.spec.kernel.image), dir);
        let running = machine.start(self.fds(&qemu::blank_memory(self.ivshmem)?)?)?;
        let printed = watch_console(&running)?;
        let ready = match self.wait_until_ready(&running) {
            Ok(ready) => ready,
            Err(error) => {
                // Its reader ends with that; whoever watches it from here reads what follows.
                let _ = running.console.shutdown(Shutdown::Read);
                let (printed, panicked) = printed.join().unwrap_or_default();
                if panicked || left(self.spec.deadline).is_none() {
                    *failed = Some(self.started(running, printed));
                }
                return Err(error);
            }
        };
        save_devices(&running.monitor, self.spec.deadline)?;
        // With the process the console ends, and then all of it was read.
        running.process.kill()?;
        let (printed, _) = printed.join().unwrap_or_default();
        ensure!(printed.len() < LONGEST_CONSOLE, "it printed too much to be kept");
        fs::write(dir.join(CONSOLE), printed).context("cannot keep its console")?;
        fs_err::remove_file(dir.join(INITRAMFS))?;
        Ok(ready)
    }

    fn machine<'m>(&'m self, memory: Memory, kernel: Option<&'m Path>, dir: &'m Path) -> Machine<'m> {
        let (spec, qemu, initramfs) = (self.spec, &self.backend.qemu, &self.initramfs);
        Machine { spec, qemu, memory, kernel, initramfs, dir, ivshmem: Some(self.ivshmem) }
    }

    fn started(&self, running: Running, printed: Vec<u8>) -> Vm {
        running.into_started(printed, self.payload.clone(), self.root.clone())
    }

    fn fds(&self, payload: &File) -> Result<Fds> {
        let payload = payload.try_clone().context("cannot hand the payload to QEMU")?;
        let shared = File::open(&self.shared).with_context(|| format!("cannot open {}", self.shared.display()))?;
        Ok(vec![(qemu::PAYLOAD_FD, payload.into()), (qemu::SHARE_FD, shared.into())])
    }

    /// Everything that a snapshot depends on.
    fn key_material(&self) -> Result<Value> {
        let image = &self.spec.kernel.image;
        let kernel = match &self.spec.kernel.sha256 {
            Some(sha256) => sha256.clone(),
            None => kernels::sha256_file(image).with_context(|| format!("cannot read {}", image.display()))?,
        };
        let qemu = &self.backend.qemu;
        let qemu = qemu.canonicalize().with_context(|| format!("cannot find {}", qemu.display()))?;
        // Where the kernel and the guest lie does not matter.
        let arguments = self.machine(Memory::File, Some(Path::new("kernel")), Path::new(".")).arguments();
        let arguments: Vec<_> = arguments.iter().map(|it| it.to_string_lossy()).collect();
        Ok(json!({
            "layout": LAYOUT,
            "protocol": PROTOCOL,
            "kernel": kernel,
            "initramfs": kernels::digest::sha256(&self.initramfs),
            "qemu": [json!(qemu), json!(snapshots::stamp(&qemu)?)],
            "processor": processor(self.spec.accel)?,
            "arguments": arguments,
        }))
    }

    /// Waits for the agent's first word, which says that it is ready, and no longer than the kernel lives.
    fn wait_until_ready(&self, running: &Running) -> Result<Ready> {
        let channel = running.channel.try_clone()?;
        let _interrupt = self.backend.interrupt.subscribe(move || hang_up(&channel));
        let stream = running.channel.try_clone()?;
        let mut lines = Lines::new(Until { stream, deadline: self.spec.deadline }, decode::READY_LIMIT);
        let line = lines.next_line().context("nothing was heard of its agent in time")?;
        let line = line.context("it ended before it was ready")?;
        line.and_then(decode::ready).context("its agent is not ours")
    }
}

fn hang_up(channel: &UnixStream) {
    let _ = channel.shutdown(Shutdown::Both);
}

/// Reads the console to its end, or until a kernel that has panicked falls silent; then nothing will come of the agent
/// either. Returns at most [`LONGEST_CONSOLE`] of what was printed, and whether the kernel panicked.
fn watch_console(running: &Running) -> Result<JoinHandle<(Vec<u8>, bool)>> {
    let console = running.console.try_clone()?;
    let channel = running.channel.try_clone()?;
    Ok(thread::spawn(move || {
        let (mut printed, mut seen) = (Vec::new(), Console::default());
        console::pump(&console, |bytes| {
            let room = LONGEST_CONSOLE - printed.len();
            printed.extend_from_slice(&bytes[..room.min(bytes.len())]);
            seen.feed(bytes);
            if seen.panic.is_some() {
                let _ = console.set_read_timeout(Some(PANIC_GRACE));
            }
        });
        hang_up(&channel);
        (printed, seen.panic.is_some())
    }))
}

/// Makes a waiting machine read its devices' state from [`STATE`], and run.
fn restore_devices(monitor: &UnixStream, deadline: Instant) -> Result<()> {
    let mut qmp = Qmp::connect(monitor.try_clone()?, deadline)?;
    set_capabilities(&mut qmp, &["x-ignore-shared"])?;
    qmp.execute("migrate-incoming", &json!({ "uri": format!("exec:cat {STATE}") }))?;
    qmp.wait_for("restore the devices", |it| it["event"] == "RESUME").map(drop)
}

/// Makes a machine stop and write the state of its devices to [`STATE`].
fn save_devices(monitor: &UnixStream, deadline: Instant) -> Result<()> {
    let mut qmp = Qmp::connect(monitor.try_clone()?, deadline)?;
    set_capabilities(&mut qmp, &["x-ignore-shared", "events"])?;
    // A shell does it in the directory that QEMU runs in, so there is nothing to be quoted.
    qmp.execute("migrate", &json!({ "uri": format!("exec:cat > {STATE}") }))?;
    let last = qmp.wait_for("save the guest", |it| {
        it["event"] == "MIGRATION" && (it["data"]["status"] == "completed" || it["data"]["status"] == "failed")
    })?;
    ensure!(last["data"]["status"] == "completed", "QEMU cannot save the devices");
    Ok(())
}

fn set_capabilities(qmp: &mut Qmp, names: &[&str]) -> Result<()> {
    let capabilities = names.iter().map(|name| json!({ "capability": name, "state": true }));
    qmp.execute("migrate-set-capabilities", &json!({ "capabilities": capabilities.collect::<Vec<_>>() }))
}

/// What a guest sees of the host's processor, and of the host's kernel that shows it: nothing under emulation.
fn processor(accel: Accel) -> Result<Value> {
    if accel == Accel::Tcg {
        return Ok(Value::Null);
    }
    let text = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let first = text.split("\n\n").next().unwrap_or_default();
    let stable = ["vendor_id", "model name", "stepping", "microcode", "flags"];
    let lines = first.lines().filter(|line| stable.iter().any(|name| line.starts_with(name)));
    let host = nix::sys::utsname::uname()?;
    Ok(json!([lines.collect::<Vec<_>>(), host.release().to_string_lossy()]))
}
