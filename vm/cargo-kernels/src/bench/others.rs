//! Other tools that run a command in a kernel, for comparison, where they are on `PATH`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::dirs::Dirs;
use crate::tools::{self, Tool};
use vm_guest::accel::Accel;
use vm_guest::process::{Supervised, SupervisedCommand};
use vm_guest::vng;
use vm_kernels::Kernel;

/// The most bytes of a tool's output that are looked at.
const LONGEST_OUTPUT: u64 = 64 * 1024;

/// One of them.
#[derive(Debug)]
pub enum Other {
    /// virtme-ng as it is run by hand: the host's root directory, no option that is not needed.
    Vng(PathBuf),
    /// danobi/vmtest.
    Vmtest(PathBuf),
}

impl Other {
    /// Those that are here.
    pub fn on_path(dirs: &Dirs) -> Vec<Self> {
        let vmtest = tools::program_on_path("vmtest").map(Self::Vmtest);
        tools::find(dirs, Tool::Vng).ok().map(Self::Vng).into_iter().chain(vmtest).collect()
    }

    /// As in the table.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vng(_) => "vng",
            Self::Vmtest(_) => "vmtest",
        }
    }

    /// What the tool prints when it runs `uname -r` in this kernel.
    ///
    /// # Errors
    /// When it fails, or takes longer than `limit`.
    pub fn uname(&self, kernel: &Kernel, accel: Accel, dir: &Path, limit: Duration) -> Result<String> {
        let command = match self {
            Self::Vng(program) => {
                // It finds a kernel's modules in one place only; see there.
                vng::stage_kernel(kernel, &dir.join("kernel"))?;
                let mut command = SupervisedCommand::new(program)?;
                command.env("PATH", vng::path_with(program)?);
                command.args(["--run", "kernel/vmlinuz", "--user", "root", "--exec", "uname -r"]);
                if accel == Accel::Tcg {
                    command.arg("--disable-kvm");
                }
                command
            }
            Self::Vmtest(program) => {
                let mut command = SupervisedCommand::new(program)?;
                command.arg("--kernel").arg(&kernel.image).arg("uname -r");
                command
            }
        };
        output(command, dir, limit)
    }
}

fn output(mut command: SupervisedCommand, dir: &Path, limit: Duration) -> Result<String> {
    command.current_dir(dir).env("TMPDIR", dir);
    // Pipes: QEMU opens vng's streams again by name, which truncates a regular file.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Supervised::spawn(command)?;
    let stdout = read(process.stdout.take());
    let stderr = read(process.stderr.take());
    let status = process.wait_timeout(limit)?;
    process.kill()?;
    let text = |reader: Reader| reader.join().unwrap_or_default();
    let (stdout, stderr) = (text(stdout), text(stderr));
    match status {
        None => bail!("it was not done within {} s", limit.as_secs()),
        Some(status) if status.success() => Ok(stdout),
        Some(status) => {
            let last = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            bail!("it failed ({status}): {:?}", last)
        }
    }
}

type Reader = std::thread::JoinHandle<String>;

/// Reads all, keeps the start of it.
fn read(from: Option<impl Read + Send + 'static>) -> Reader {
    std::thread::spawn(move || {
        let Some(mut from) = from else { return String::new() };
        let mut bytes = Vec::new();
        let _ = from.by_ref().take(LONGEST_OUTPUT).read_to_end(&mut bytes);
        let _ = std::io::copy(&mut from, &mut std::io::sink());
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
