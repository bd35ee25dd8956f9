//! QEMU's command line for guests of the harness's own, and starting it.
//!
//! Small functions each yield the arguments for one thing, with the reason for what is odd about
//! them. Everything that connects QEMU to the harness is a descriptor that it inherits under a
//! fixed number: no path to be too long, no file to be left over, no port to be taken. Files are
//! named relative to the directory that QEMU runs in, since its option values have a syntax of
//! their own.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use command_fds::{CommandFdExt, FdMapping};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::accel::Accel;
use super::process::{Guarded, GuardedCommand};

// The numbers of the descriptors that QEMU inherits.
const CONSOLE_FD: i32 = 10;
const CHANNEL_FD: i32 = 11;
const MONITOR_FD: i32 = 12;
const DISK_FD: i32 = 13;
const KEPT_FD: i32 = 14;
/// Where a guest's saved state comes from: QEMU's name for it, as `migrate-incoming` takes it.
const STATE_FD: i32 = 15;

/// The file with the guest's memory, in the directory that QEMU runs in.
pub const RAM: &str = "ram";
/// The initramfs, likewise.
pub const INITRAMFS: &str = "initramfs";

/// A machine to be started.
#[derive(Debug)]
pub struct Machine<'a> {
    /// The QEMU program.
    pub qemu: &'a Path,
    /// KVM or TCG.
    pub accel: Accel,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// What holds that memory.
    pub memory: Memory,
    /// The kernel's image.
    pub kernel: &'a Path,
    /// The directory that QEMU runs in.
    pub dir: &'a Path,
    /// What the guest sees as `/dev/vda`.
    pub disk: Option<File>,
    /// Whether it waits for a saved state instead of booting.
    pub incoming: Option<OwnedFd>,
    /// Stays open as long as QEMU lives: a lock on what it uses.
    pub keep: Option<File>,
}

/// What holds a guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Memory of the host's; gone with the guest.
    Anonymous,
    /// The file [`RAM`], which the guest's memory is written to.
    File,
    /// The file [`RAM`], of which the guest sees the content. What it changes stays its own, and
    /// pages that it does not touch are never read.
    CopyOfFile,
}

/// A machine that was started, and the harness's ends of what leads to it.
#[derive(Debug)]
pub struct Running {
    /// QEMU; dropping it ends it.
    pub process: Guarded,
    /// The first serial port.
    pub console: UnixStream,
    /// The second serial port.
    pub channel: UnixStream,
    /// QEMU's monitor.
    pub monitor: UnixStream,
}

impl Machine<'_> {
    /// Starts QEMU.
    ///
    /// # Errors
    /// When it cannot be executed, or this process has no descriptors left.
    pub fn start(self) -> Result<Running> {
        let mut command = GuardedCommand::new(self.qemu)?;
        command
            .current_dir(self.dir)
            .args(self.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let pair = || UnixStream::pair().context("cannot make a socket pair");
        let (console, its_console) = pair()?;
        let (channel, its_channel) = pair()?;
        let (monitor, its_monitor) = pair()?;
        let inherited = [
            (CONSOLE_FD, Some(its_console.into())),
            (CHANNEL_FD, Some(its_channel.into())),
            (MONITOR_FD, Some(its_monitor.into())),
            (DISK_FD, self.disk.map(OwnedFd::from)),
            (KEPT_FD, self.keep.map(OwnedFd::from)),
            (STATE_FD, self.incoming),
        ];
        let mappings = inherited.into_iter().filter_map(|(child_fd, parent_fd)| {
            parent_fd.map(|parent_fd| FdMapping { parent_fd, child_fd })
        });
        command
            .fd_mappings(mappings.collect())
            .context("two descriptors for QEMU have the same number")?;
        Ok(Running { process: Guarded::spawn(command)?, console, channel, monitor })
    }

    /// The whole command line. It does not depend on this process or on this run.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = [
            bare_machine(),
            acceleration(self.accel),
            memory(self.memory, self.memory_mib),
            serial_port("console", CONSOLE_FD),
            serial_port("channel", CHANNEL_FD),
            monitor(),
            self.disk.as_ref().map(|_| disk()).unwrap_or_default(),
            self.incoming.as_ref().map(|_| waiting()).unwrap_or_default(),
        ]
        .concat()
        .into_iter()
        .map(OsString::from)
        .collect();
        arguments.extend(["-kernel".into(), self.kernel.into()]);
        arguments.extend(["-initrd", INITRAMFS, "-append", COMMAND_LINE].map(OsString::from));
        arguments
    }
}

/// The kernel's command line.
///
/// - `panic=-1` reboots at once after a panic, which `-no-reboot` turns into an exit.
/// - `loglevel=5`: warnings and worse; every line more costs time on an emulated serial port.
pub const COMMAND_LINE: &str = "console=ttyS0 panic=-1 loglevel=5";

/// QEMU's name of the state that a waiting machine is to read.
pub fn incoming_uri() -> String {
    format!("fd:{STATE_FD}")
}

fn strings<const N: usize>(arguments: [&str; N]) -> Vec<String> {
    arguments.map(str::to_owned).to_vec()
}

/// A machine with nothing in it: each device costs time in QEMU and again in the guest, which has
/// to find and probe it.
fn bare_machine() -> Vec<String> {
    strings([
        "-machine",
        // `microvm` is smaller, but under TCG it hangs at boot now and then.
        "q35",
        "-nodefaults",
        // Files in /etc must not change what a saved state depends on.
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-smp",
        "1",
    ])
}

fn acceleration(accel: Accel) -> Vec<String> {
    strings(["-accel", accel.name(), "-cpu", accel.cpu()])
}

fn memory(memory: Memory, mib: u32) -> Vec<String> {
    let share = match memory {
        Memory::Anonymous => return strings(["-m", &format!("{mib}M")]),
        Memory::File => "on",
        Memory::CopyOfFile => "off",
    };
    strings([
        "-m",
        &format!("{mib}M"),
        "-object",
        &format!("memory-backend-file,id=ram,mem-path={RAM},size={mib}M,share={share}"),
        "-machine",
        "memory-backend=ram",
    ])
}

/// The n-th of them is the guest's `/dev/ttyS<n-1>`. A socket that is connected already.
fn serial_port(id: &str, fd: i32) -> Vec<String> {
    strings([
        "-chardev",
        &format!("socket,id={id},fd={fd}"),
        "-serial",
        &format!("chardev:{id}"),
    ])
}

fn monitor() -> Vec<String> {
    strings([
        "-chardev",
        &format!("socket,id=monitor,fd={MONITOR_FD}"),
        "-mon",
        "chardev=monitor,mode=control",
    ])
}

/// A disk that is only read. Opening it again by way of /proc gives QEMU a descriptor with the
/// access mode that it wants; a lock on it would be of no use, since nobody else can get at it.
fn disk() -> Vec<String> {
    strings([
        "-blockdev",
        &format!(
            "driver=raw,node-name=payload,read-only=on,\
             file.driver=file,file.locking=off,file.filename=/proc/self/fd/{DISK_FD}"
        ),
        "-device",
        "virtio-blk-pci,drive=payload",
    ])
}

/// Waits to be told where its state is: the capability that it was saved with must be set first.
fn waiting() -> Vec<String> {
    strings(["-incoming", "defer"])
}

/// A file of this length without a name, full of zeros.
///
/// # Errors
/// When the kernel refuses, for lack of memory.
pub fn blank_disk(bytes: u64) -> Result<File> {
    let file = memfd_create(c"vmtest-payload", MFdFlags::MFD_CLOEXEC)
        .map(File::from)
        .context("cannot make a disk in memory")?;
    file.set_len(bytes).context("cannot make a disk in memory")?;
    Ok(file)
}
