//! QEMU's command line for guests of the harness's own, and starting it.
//!
//! Everything that connects QEMU to the harness is a descriptor that it inherits under a fixed number: no path to be too
//! long, no file to be left over, no port to be taken. Files are named relative to the directory that QEMU runs in, since
//! its option values have a syntax of their own.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use command_fds::{CommandFdExt, FdMapping};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vmtest_agent::{Payload, Root, SHARE_TAG};

use crate::backend::{Link, Spec, Vm};
use crate::command_line;
use crate::process::{Supervised, SupervisedCommand};

// The numbers of the descriptors that QEMU inherits.
const CONSOLE_FD: i32 = 10;
const CHANNEL_FD: i32 = 11;
const MONITOR_FD: i32 = 12;
/// The memory that the guest sees as a device.
pub const PAYLOAD_FD: i32 = 13;
pub const LOCK_FD: i32 = 14;
/// The directory that the guest can mount.
pub const SHARE_FD: i32 = 15;

/// The file with the guest's memory, in the directory that QEMU runs in.
pub const RAM: &str = "ram";
/// The initramfs, likewise.
pub const INITRAMFS: &str = "initramfs";

#[derive(Debug)]
pub struct Machine<'a> {
    /// Its architecture, memory, processors and kernel parameters.
    pub spec: &'a Spec<'a>,
    pub qemu: &'a Path,
    /// What holds its memory, and with that whether it boots or waits to be told where its devices' state is.
    pub memory: Memory,
    /// The kernel's image; one that waits needs none, or the same: see [`crate::restore`].
    pub kernel: Option<&'a Path>,
    pub initramfs: &'a [u8],
    pub dir: &'a Path,
    /// How many bytes [`PAYLOAD_FD`] has, a power of two; a guest that has this has [`SHARE_FD`], too.
    pub ivshmem: Option<u64>,
}

/// What a machine is given to read from, and to keep open as long as it lives, and under which number.
pub type Fds = Vec<(i32, OwnedFd)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Memory of the host's; gone with the guest.
    Anonymous,
    /// The file [`RAM`], which the guest's memory is written to.
    File,
    /// The file [`RAM`], as it was: what the guest changes stays its own, and what it does not touch is never read.
    CopyOfFile,
}

/// A machine that was started, and the harness's ends of what leads to it.
#[derive(Debug)]
pub struct Running {
    pub process: Supervised,
    /// The first serial port.
    pub console: UnixStream,
    /// The second serial port.
    pub channel: UnixStream,
    pub monitor: UnixStream,
}

impl Machine<'_> {
    pub fn start(&self, handed: Fds) -> Result<Running> {
        if self.memory != Memory::CopyOfFile {
            let path = self.dir.join(INITRAMFS);
            fs::write(&path, self.initramfs).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let mut command = SupervisedCommand::new(self.qemu)?;
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
        let streams = [(CONSOLE_FD, its_console), (CHANNEL_FD, its_channel), (MONITOR_FD, its_monitor)];
        let streams = streams.map(|(child_fd, stream)| (child_fd, OwnedFd::from(stream)));
        let mappings = streams.into_iter().chain(handed).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd });
        command.fd_mappings(mappings.collect()).context("two descriptors for QEMU have the same number")?;
        let process = Supervised::spawn(command)?;
        Ok(Running { process, console, channel, monitor })
    }

    /// The whole command line. It does not depend on this process or on this run. Every device costs time in QEMU, and
    /// again in the guest, which has to find it and probe it, so there are few.
    pub fn arguments(&self) -> Vec<OsString> {
        let Spec { kernel, accel, memory_mib, cpus, .. } = *self.spec;
        let arch = kernel.arch;
        // Files in /etc must not change what a snapshot depends on: -no-user-config.
        let mut options = format!(
            "-machine {} -nodefaults -no-user-config -display none -no-reboot -accel {} -cpu {} \
             -m {memory_mib}M -smp {cpus} \
             -chardev socket,id=console,fd={CONSOLE_FD} -serial chardev:console \
             -chardev socket,id=channel,fd={CHANNEL_FD} {}channel \
             -chardev socket,id=monitor,fd={MONITOR_FD} -mon chardev=monitor,mode=control",
            arch.board,
            accel.name(),
            accel.cpu(arch),
            arch.channel_option
        );
        // Memory that is shared when a guest is saved stays out of its state, but must be at the same address when it is
        // restored, which a device's is not yet at that time; memory that is private then may be anywhere.
        let share = if self.memory == Memory::CopyOfFile { "off" } else { "on" };
        if self.memory != Memory::Anonymous {
            options += &format!(
                " -object memory-backend-file,id=ram,mem-path={RAM},size={memory_mib}M,share={share} \
                 -machine memory-backend=ram"
            );
        }
        if let Some(bytes) = self.ivshmem {
            // Only memory with a file's name is left out of the devices' state, so it is named by way of /proc. Being the
            // `master` is what allows it to be saved at all.
            options += &format!(
                " -object memory-backend-file,id=payload,mem-path=/proc/self/fd/{PAYLOAD_FD},size={bytes},share={share} \
                 -device ivshmem-plain,memdev=payload,master=on {}",
                host_share(&format!("/proc/self/fd/{SHARE_FD}"))
            );
        }
        let mut arguments: Vec<OsString> = options.split(' ').map(OsString::from).collect();
        if let Some(kernel) = self.kernel {
            arguments.extend(["-kernel".into(), kernel.into()]);
        }
        if self.memory == Memory::CopyOfFile {
            // It waits to be told where its state is: the capability that it was saved with must be set first.
            arguments.extend(["-incoming", "defer"].map(OsString::from));
        } else {
            let parameters = command_line::own(arch, accel, self.spec.kernel_args).join(" ");
            arguments.extend(["-initrd", INITRAMFS, "-append", &parameters].map(OsString::from));
        }
        arguments
    }
}

impl Running {
    /// For the one who watches it: the guest has `printed` this already, its agent finds the payload there, and makes this
    /// root directory.
    pub fn into_started(mut self, printed: Vec<u8>, payload: Payload, root: Root) -> Vm {
        let mut console: Vec<Box<dyn Read + Send>> = vec![Box::new(Cursor::new(printed).chain(self.console))];
        if let Some(stderr) = self.process.stderr.take() {
            console.push(Box::new(stderr));
        }
        Vm {
            process: self.process,
            console,
            channel: Link::Connected(self.channel).into(),
            qmp: Link::Connected(self.monitor).into(),
            payload,
            root,
            ready: None,
        }
    }

    /// Ends QEMU; returns what it said on standard error.
    pub fn last_words(&mut self) -> String {
        let _ = self.process.kill();
        // Not to be trusted to be text, or to be short.
        let words = self.process.stderr.take().map(|stderr| io::read_to_string(stderr.take(4096)));
        words.and_then(Result::ok).unwrap_or_default().trim().replace('\n', "; ")
    }
}

/// A directory that the guest can mount, and only read. A machine can be saved with it while it is not mounted.
/// What is mounted in it on the host is told apart (`multidevs`): two files of one number would be one to the guest.
pub fn host_share(path: &str) -> String {
    format!(
        "-fsdev local,id=host,path={path},security_model=none,readonly=on,multidevs=remap \
         -device virtio-9p-pci,fsdev=host,mount_tag={SHARE_TAG}"
    )
}

pub fn blank_memory(bytes: u64) -> Result<File> {
    let memory =
        memfd_create(c"vmtest-payload", MFdFlags::MFD_CLOEXEC).context("cannot make memory for the payload")?;
    let memory = File::from(memory);
    memory.set_len(bytes).context("no memory for the payload")?;
    Ok(memory)
}
