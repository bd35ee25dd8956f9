//! `cargo xtask shell`: a kernel to look around in.

use std::fs;
use std::io::{IsTerminal, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{Uid, User};

use crate::dirs::Dirs;
use crate::error::Error;
use crate::exit;
use crate::metadata::Metadata;
use crate::{cross, flags, kernels, tools};
use vm_guest::accel;
use vm_guest::vng;

const SCRIPT: &str = "shell";

/// How the end of the shell is told, whose exit code virtme-ng does not pass on: by the guest's second serial port.
const CODE: &str = "vmtest-code";

/// Runs the command: an interactive shell in a kernel, in the working directory, with the host's
/// files read-only; for another architecture, in a root directory with little more than busybox. It ends with the shell,
/// and with its exit code.
pub fn run(dirs: &Dirs, flags: &flags::Shell) -> Result<u8> {
    if !std::io::stdin().is_terminal() {
        let exec = crate::hint::hint("exec -k K -- COMMAND");
        return Err(Error::usage(format!("a shell needs a terminal; for one command there is `{exec}`")));
    }
    if flags.vm.timeout.is_some() {
        return Err(Error::usage("a shell has no time limit: leave --timeout out"));
    }
    let target = kernels::select_one(dirs, flags.kernel.as_ref(), flags.arch, &Metadata::load(dirs)?)?;
    let (arch, program, qemu) = (target.arch(), tools::find(dirs, "vng")?, cross::qemu(dirs, target.arch())?);
    let kernel = kernels::obtain(&target)?;
    let (accel, why_not_kvm) = accel::choose(flags.vm.accel, &qemu, &kernel, &dirs.cache)?;
    if let Some(why) = why_not_kvm {
        eprintln!("{why}");
    }
    let programs = (!arch.is_host()).then(|| cross::programs(dirs, arch)).transpose()?;
    let (run, mut command, root) = vng::host_root(&kernel, accel, &program, &qemu, programs.as_ref(), &dirs.runs())?;
    let shell = match &root {
        Some(root) => {
            start_script(root, Path::new("/"), &flags.env, Path::new("/bin/sh"), arch.channel_device)?;
            format!("/{SCRIPT}")
        }
        None => {
            let cwd = std::env::current_dir().context("cannot find the working directory")?;
            start_script(run.path(), &cwd, &flags.env, &roots_shell(), arch.channel_device)?
        }
    };
    let channel = vng::listen(run.path(), CODE)?;
    command.arg(format!("--qemu-opts={}", vng::second_serial_port(arch, CODE, CODE)));
    // The terminal is virtme-ng's while the shell runs: it stays in the foreground.
    let status = command.args(["--shell", &shell]).status().context("cannot run virtme-ng")?;
    let of_virtme_ng = || status.code().map_or(exit::NOT_RUN, |code| u8::try_from(code).unwrap_or(exit::FAILED));
    Ok(said(&channel).unwrap_or_else(of_virtme_ng))
}

/// The exit code that the guest, which has ended, wrote to its channel; nothing if the shell did not end by itself.
fn said(channel: &UnixListener) -> Option<u8> {
    // Nobody waits for a QEMU that never came.
    channel.set_nonblocking(true).ok()?;
    let (end, _) = channel.accept().ok()?;
    end.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    let mut code = String::new();
    end.take(16).read_to_string(&mut code).ok()?;
    code.trim().parse().ok()
}

fn roots_shell() -> PathBuf {
    let root = User::from_uid(Uid::from_raw(0)).ok().flatten().map(|root| root.shell);
    root.filter(|shell| shell.is_file()).unwrap_or_else(|| "/bin/sh".into())
}

/// Writes what virtme-ng is to take for root's shell, and gives its path: a script that starts the real one where it is
/// wanted. On its way to the guest an argument passes through a shell and the kernel's command line, whose quoting
/// differs; a file is read by one shell, once.
fn start_script(dir: &Path, cwd: &Path, env: &[(String, String)], shell: &Path, device: &str) -> Result<String> {
    let path = dir.join(SCRIPT);
    let plain = |c: char| c.is_ascii_alphanumeric() || "/_.+-".contains(c);
    let Some(name) = path.to_str().filter(|path| path.chars().all(plain)) else {
        let why = "whose name has characters that do not get through to it";
        let remedy = "set CARGO_TARGET_DIR to a directory with a plainer name";
        return Err(Error::usage(format!("the guest finds its shell in {}, {why}: {remedy}", dir.display())));
    };
    let shell = shlex::bytes::try_quote(shell.as_os_str().as_bytes())?.into_owned();
    let mut script = b"#!/bin/sh\ncd -- ".to_vec();
    script.extend_from_slice(&shlex::bytes::try_quote(cwd.as_os_str().as_bytes())?);
    for (name, value) in env {
        script.extend_from_slice(format!("\nexport {name}={}", shlex::try_quote(value)?).as_bytes());
    }
    // Ctrl-C is the shell's.
    let end = format!(" \"$@\"\necho $? > {device}\n");
    script.extend([b"\ntrap : INT\nexport SHELL=", &*shell, b"\n", &*shell, end.as_bytes()].concat());
    fs::write(&path, script)
        // It has what --env says, which may be a secret: only the owner, and root in the guest, read it.
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o700)))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn directory_and_variables_are_quoted_for_shell() {
        let dir = tempfile::tempdir().unwrap();
        let odd = "$(touch x) y'\"\n`touch x`";
        let cwd = dir.path().join(odd);
        fs::create_dir(&cwd).unwrap();
        let env = [("ODD".to_owned(), odd.to_owned())];
        let device = dir.path().join("code");
        let script = start_script(dir.path(), &cwd, &env, &roots_shell(), device.to_str().unwrap()).unwrap();
        let said = dir.path().join("said");
        let mut run = Command::new("sh");
        run.args([script.as_str(), "-c", "printf '%s\\n%s' \"$PWD\" \"$ODD\" > \"$0\"; exit 3"]).arg(&said);
        assert!(run.current_dir(dir.path()).status().unwrap().success());
        let expected = format!("{}\n{odd}", cwd.display());
        assert_eq!(fs::read_to_string(said).unwrap(), expected);
        assert!(!dir.path().join("x").exists() && !cwd.join("x").exists());
        assert_eq!(fs::read_to_string(device).unwrap(), "3\n");
        let error = start_script(&cwd, &cwd, &env, &roots_shell(), "").unwrap_err();
        assert_eq!(crate::exit::code_of(&error), crate::exit::USAGE);
    }
}
