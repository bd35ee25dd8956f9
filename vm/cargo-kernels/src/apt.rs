//! Installing packages the way Debian and Ubuntu do it.

use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, ensure};

use crate::dirs::Dirs;
use crate::tools;

/// `apt-get install` with these packages, or options and packages.
pub fn install(dirs: &Dirs, arguments: &[&str]) -> Result<()> {
    let install = [&["install", "--yes", "--no-install-recommends"], arguments].concat();
    if !apt_get(dirs, &install)?.success() {
        // There are no lists yet, or they name versions that the mirror has dropped.
        for arguments in [&["update"][..], &install] {
            let status = apt_get(dirs, arguments)?;
            ensure!(status.success(), "`apt-get {}` failed ({status}): see its messages above", arguments[0]);
        }
    }
    Ok(())
}

/// As root, and without questions.
///
/// Not under the supervisor: a package manager that is killed half-way leaves more to repair than one that finishes alone.
fn apt_get(dirs: &Dirs, arguments: &[&str]) -> Result<ExitStatus> {
    let mut line = vec!["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=600"];
    if !nix::unistd::geteuid().is_root() {
        let setup = crate::hint::hint("setup");
        let wrong = || format!("run `{setup}` as root, or see what it would install with --dry-run");
        tools::find(dirs, "sudo").with_context(wrong)?;
        line.insert(0, "sudo");
    }
    line.extend(arguments);
    println!("$ {}", line.join(" "));
    let status = Command::new(line[0]).args(&line[1..]).status();
    status.with_context(|| format!("cannot run {}", line[0]))
}
