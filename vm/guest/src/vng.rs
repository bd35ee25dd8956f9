//! The backend that boots: a kernel through virtme-ng, the way its users know it.
//!
//! virtme-ng builds a shell command from what it is given, without quoting, and QEMU has syntax of
//! its own in option values. So it is run in the run's own directory, and sees only short, plain,
//! relative names, wherever the checkout is.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::accel::Accel;
use crate::backend::{Backend, Link, Spec, Vm};
use crate::environment;
use crate::guest_root::Programs;
use crate::module_share::{self, ModuleShare};
use crate::process::{Supervised, SupervisedCommand};
use crate::rundir::RunDir;
use crate::{command_line, guest_root, payload, qemu};
use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, setrlimit};
use vm_kernels::{Arch, Kernel, image, modules};
use vmtest_agent::{Payload, Root};

/// The directory of the host's that the guest can mount, in the directory that QEMU runs in.
const SHARE: &str = "share";

/// Boots through `vng`.
#[derive(Debug, Clone)]
pub struct Vng {
    /// The `vng` program.
    pub vng: PathBuf,
    /// The QEMU program.
    pub qemu: PathBuf,
    /// What runs in its guests.
    pub programs: Programs,
}

impl Backend for Vng {
    fn name(&self) -> &'static str {
        "boot"
    }

    fn kconfig(&self) -> Option<(&'static str, &'static str)> {
        Some(("vm/kconfig.boot", include_str!("../../kconfig.boot")))
    }

    fn start(&self, spec: &Spec<'_>, _note: &dyn Fn(String)) -> Result<Vm> {
        let dir = spec.run.path();
        let (payload, root) = self.stage(spec)?;
        // An image that we cannot unpack is left to the boot to complain of.
        let direct = unpack_kernel(spec).unwrap_or(false);
        let channel = listen(dir, "channel")?;
        let qmp = listen(dir, "qmp")?;

        let mut process = Supervised::spawn(self.command(spec, direct)?)?;
        let (Some(stdout), Some(stderr)) = (process.stdout.take(), process.stderr.take()) else {
            bail!("virtme-ng was started without pipes");
        };
        Ok(Vm {
            process,
            console: vec![Box::new(stderr), Box::new(stdout)],
            channel: Link::Listening(channel).into(),
            qmp: Link::Listening(qmp).into(),
            payload,
            root,
            ready: None,
        })
    }
}

impl Vng {
    fn stage(&self, spec: &Spec<'_>) -> Result<(Payload, Root)> {
        let dir = spec.run.path();
        let root = dir.join("root");
        let modules = ModuleShare::of(spec.kernel, spec.cache)?;
        guest_root::stage(&root, &self.programs, modules.as_ref())?;
        let payload = payload::stage(spec.files, &root)?;
        guest_root::open_to_all(&root)?;
        // It finds only what it needs: everything else that its guests usually load (keyboards, virtio-fs, consoles)
        // costs time.
        stage_kernel(spec.kernel, &dir.join("kernel"), |_, own| {
            for (name, bytes) in modules::resolve(spec.kernel, &module_share::first(spec.kernel.arch))? {
                let path = own.join(format!("{name}.ko"));
                fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
            }
            Ok(())
        })?;
        let (root, shared) = module_share::root(spec, modules.as_ref())?;
        symlink(shared, dir.join(SHARE)).context("cannot link the share")?;
        Ok((payload, root))
    }

    fn command(&self, spec: &Spec<'_>, direct: bool) -> Result<SupervisedCommand> {
        let mut command = SupervisedCommand::new(&self.vng)?;
        configure(&mut command, &self.vng, &self.qemu, spec.run.path(), spec.accel)?;
        command
            // It makes its initramfs there, and a file that it names to QEMU, for which a comma ends the name;
            // so the directory is called something plain. And a full /tmp must not matter either.
            .env("TMPDIR", "/proc/self/cwd")
            .args(["--root", "root", "--busybox", "root/bin/busybox", "--disable-monitor", "--verbose"])
            .args(["--memory", &format!("{}M", spec.memory_mib), "--cpus", &spec.cpus.to_string()]);
        let arch = spec.kernel.arch;
        for option in command_line::through_virtme_ng(arch, spec.accel).iter().chain(spec.kernel_args) {
            command.args(["--append", option]);
        }
        if !arch.is_host() {
            command.args(["--arch", arch.debian]);
        }
        command.args(["--exec", &start_agent(arch)]);
        // Later ones override virtme-ng's own. The second serial port is the agent's line, and the monitor tells whether it
        // was the guest that wanted to stop.
        command.arg(format!(
            "--qemu-opts=-cpu {} {} \
             -chardev socket,id=vmtest-qmp,path=qmp -mon chardev=vmtest-qmp,mode=control {}{}",
            spec.accel.cpu(arch),
            second_serial_port(arch, "vmtest-channel", "channel"),
            qemu::host_share(SHARE),
            // The same kernel as virtme-ng was given.
            if direct { format!(" -kernel {DIRECT_KERNEL}") } else { String::new() }
        ));
        // SAFETY: one system call and no allocation between fork and exec.
        unsafe {
            command.pre_exec(|| setrlimit(Resource::RLIMIT_FSIZE, LONGEST_FILE, LONGEST_FILE).map_err(Into::into));
        }
        command
            // It opens its standard streams again by name, which truncates a regular file.
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }
}

/// What starts a guest with the host's own root directory, for people, below a new directory in `runs`: an argument
/// `--shell` may follow. The files are read-only there: virtme-ng puts what the guest writes into memory. With `programs`,
/// for an architecture for which the host's are no use, it has a root directory of its own, the last of the three.
pub fn host_root(
    kernel: &Kernel,
    accel: Accel,
    vng: &Path,
    qemu: &Path,
    programs: Option<&Programs>,
    runs: &Path,
) -> Result<(RunDir, Command, Option<PathBuf>)> {
    RunDir::clear_abandoned(runs);
    let run = RunDir::create(runs)?;
    let dir = run.path();
    // Unlike a guest for tests, one for people may want any module.
    stage_kernel(kernel, &dir.join("kernel"), |modules, own| {
        for entry in fs::read_dir(modules).with_context(|| format!("cannot read {}", modules.display()))? {
            let entry = entry.with_context(|| format!("cannot read {}", modules.display()))?;
            symlink(entry.path(), own.join(entry.file_name())).context("cannot link the modules")?;
        }
        Ok(())
    })?;
    let mut command = Command::new(vng);
    configure(&mut command, vng, qemu, dir, accel)?;
    // The host's programs may be compiled for more than the quick, plain CPU of the tests.
    let cpu = if accel == Accel::Tcg { kernel.arch.emulated_cpu[1] } else { accel.cpu(kernel.arch) };
    command.env("TMPDIR", dir).args(["--memory", "1G", "--cpus", "1"]).arg(format!("--qemu-opts=-cpu {cpu}"));
    let Some(programs) = programs else { return Ok((run, command, None)) };
    let root = dir.join("root");
    guest_root::stage(&root, programs, None)?;
    command.args(["--root", "root", "--busybox", "root/bin/busybox", "--arch", kernel.arch.debian]);
    Ok((run, command, Some(root)))
}

/// What every command of virtme-ng's is told, which runs in the directory `dir`.
fn configure(command: &mut Command, vng: &Path, qemu: &Path, dir: &Path, accel: Accel) -> Result<()> {
    symlink(qemu, dir.join("qemu")).context("cannot link QEMU")?;
    command
        .current_dir(dir)
        .env_clear()
        .envs(environment::allowed())
        // virtme-ng reads a configuration there, and that of the user must not matter.
        .env("HOME", dir)
        .env("PATH", environment::path_with(vng)?)
        .args(["--run", "kernel/vmlinuz", "--qemu", "./qemu", "--user", "root"])
        // virtiofsd is not everywhere, and microvm hangs now and then under emulation.
        .args(["--force-9p", "--disable-microvm"]);
    if accel == Accel::Tcg {
        command.arg("--disable-kvm");
    }
    Ok(())
}

/// The unpacked kernel, in the directory that QEMU runs in.
const DIRECT_KERNEL: &str = "vmlinux";

/// No kernel is larger than this, in bytes; what claims to be is not unpacked.
const LARGEST_KERNEL: u64 = 512 << 20;

/// Unpacks a kernel that QEMU can start so; says whether it did. A bzImage unpacks itself, but on an emulated processor
/// that takes seconds for what this machine does in a tenth of the time. What is in it is an ELF file, with an entry
/// for QEMU if it was built with CONFIG_PVH (arch/x86/platform/pvh/head.S).
fn unpack_kernel(spec: &Spec<'_>) -> Result<bool> {
    let pvh = spec.kernel.config.as_ref().and_then(|config| config.get("CONFIG_PVH"));
    if spec.accel != Accel::Tcg || pvh.is_none_or(|value| value != "y") {
        return Ok(false);
    }
    let Some(kernel) = image::payload(&spec.kernel.image)? else { return Ok(false) };
    let mut to = File::create(spec.run.path().join(DIRECT_KERNEL))?;
    Ok(io::copy(&mut kernel.take(LARGEST_KERNEL), &mut to)? < LARGEST_KERNEL)
}

/// The longest file that virtme-ng, or QEMU for the guest, may write, in bytes. Its initramfs is a few megabytes;
/// the guest can reach one file, which is meant for an exit code, by way of a virtio port.
const LONGEST_FILE: u64 = 64 << 20;

/// A program that runs from a 9p root is read page by page, each a round trip; `dd` reads it in a few.
fn start_agent(arch: &Arch) -> String {
    let device = arch.channel_device;
    let (agent, copy) = (guest_root::AGENT, format!("/run{}", guest_root::AGENT));
    format!("dd if={agent} of={copy} bs=4M 2>/dev/null; chmod 755 {copy}; exec {copy} {device}")
}

/// virtme-ng takes `<dir>/lib/modules/<release>` above the image for the kernel's modules, and asks modprobe what to
/// load. `fill` puts them there, from the kernel's own directory.
fn stage_kernel(kernel: &Kernel, dir: &Path, fill: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    symlink(&kernel.image, dir.join("vmlinuz")).with_context(|| format!("cannot link {}", kernel.image.display()))?;
    let Some(modules) = &kernel.modules else { return Ok(()) };
    let Some(release) = modules.file_name() else { return Ok(()) };
    // depmod writes beside the modules, and where they are is not to be written to.
    let own = dir.join("lib/modules").join(release);
    fs::create_dir_all(&own).with_context(|| format!("cannot create {}", own.display()))?;
    fill(modules, &own)?;
    module_share::depmod(dir, release.as_ref())
}

/// QEMU's options for a second serial port, by way of the chardev `id`: it connects to a socket that [`listen`] made.
pub fn second_serial_port(arch: &Arch, id: &str, path: &str) -> String {
    format!("-chardev socket,id={id},path={path} {}{id}", arch.channel_option)
}

/// A socket that is there for QEMU to connect to.
pub fn listen(dir: &Path, name: &str) -> Result<UnixListener> {
    let failed = || format!("cannot listen on {}", dir.join(name).display());
    // A socket's address is at most 107 bytes long (unix(7)); that of a descriptor is always short.
    let dir = File::open(dir).with_context(failed)?;
    UnixListener::bind(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())).with_context(failed)
}
