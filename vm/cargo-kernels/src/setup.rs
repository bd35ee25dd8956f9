//! `cargo xtask setup`: installs what the host needs. Debian and Ubuntu: packages, through apt-get; anywhere: the
//! pinned virtme-ng, into an environment of its own in the cache.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, ensure};

use crate::dirs::Dirs;
use crate::tools::{self, Need, Unusable};
use crate::{cross, exit};
use vm_guest::process::{Supervised, SupervisedCommand};
use vm_kernels::digest::sha256;
use vm_kernels::{Arch, cache, lock};

/// What the environment is made of: pip installs exactly this.
const REQUIREMENTS: &str = include_str!("../../requirements.txt");

/// Written last, with the requirements in it: an environment without it was interrupted, or is of older pins.
const MARKER: &str = "vmtest-complete";

/// Runs the command.
pub fn run(dirs: &Dirs, arch: Option<&'static Arch>, dry_run: bool) -> Result<u8> {
    if let Some(arch) = arch.filter(|arch| !arch.is_host()) {
        cross::set_up(dirs, arch, dry_run)?;
    }
    if !dry_run {
        ensure(dirs, &[])?;
        println!("Everything that is needed is here.");
        return Ok(exit::OK);
    }
    let Plan { missing, packages, vng } = Plan::new(dirs, &[]);
    if missing.is_empty() {
        println!("Nothing to do: everything that is needed is here.");
    }
    if !packages.is_empty() {
        println!("would install Debian packages: {}", packages.join(" "));
    }
    if vng {
        println!("would install virtme-ng into {}", environment(dirs).display());
    }
    let by_hand = missing.iter().filter(|one| !one.can_be_installed() || one.tool.name != "vng" && !has_apt());
    by_hand.for_each(|one| println!("cannot install here: {one}"));
    Ok(exit::OK)
}

/// What setup is there for and is not here, and what it does about it.
struct Plan {
    missing: Vec<Unusable>,
    /// For apt-get.
    packages: Vec<&'static str>,
    /// Whether virtme-ng's environment is made.
    vng: bool,
}

impl Plan {
    fn new(dirs: &Dirs, more: &[Need]) -> Self {
        let mut missing = tools::unusable(dirs, &[&[Need::Boot, Need::Build, Need::Extra], more].concat());
        let vng = missing.iter().any(|one| one.tool.name == "vng" && one.can_be_installed());
        if vng {
            missing.extend(tools::unusable(dirs, &[Need::Install]));
        }
        let installable = missing.iter().filter(|one| one.can_be_installed() && has_apt());
        let packages: BTreeSet<_> = installable.flat_map(|one| one.tool.packages.split_whitespace()).collect();
        Self { packages: packages.into_iter().collect(), missing, vng }
    }
}

/// Installs what is missing, and what these `more` take, where that can be installed; says what it is about to do, and is
/// quick and quiet when nothing is missing.
pub fn ensure(dirs: &Dirs, more: &[Need]) -> Result<()> {
    if Plan::new(dirs, more).missing.is_empty() {
        return Ok(());
    }
    // One setup at a time with this cache; apt-get sees to its own.
    let path = dirs.cache.join("setup.lock");
    let failed = || format!("cannot lock {}", path.display());
    fs::create_dir_all(&dirs.cache).with_context(failed)?;
    let _lock = lock::exclusive(&path, || println!("Waiting for another setup to finish.")).with_context(failed)?;
    // Another setup may have done it meanwhile.
    let Plan { packages, vng, .. } = Plan::new(dirs, more);
    if !packages.is_empty() {
        install(dirs, &packages)?;
    }
    if vng {
        // Without Python there is no use in trying; the list at the end names it.
        if let Ok(python) = tools::find(dirs, "python3") {
            make_environment(dirs, &python)?;
        }
    }
    // No kernel can be tested without these.
    let mut missing = Plan::new(dirs, &[]).missing;
    missing.retain(|one| one.tool.need != Need::Extra);
    tools::all_usable(&missing)
}

/// The `vng` of the environment in the cache, if that is complete and the pinned one.
pub fn installed_vng(dirs: &Dirs) -> Option<PathBuf> {
    let environment = environment(dirs);
    let complete = fs::read_to_string(environment.join(MARKER)).ok()? == REQUIREMENTS;
    complete.then(|| environment.join("bin/vng"))
}

/// Whether packages can be installed here the way Debian and Ubuntu do it.
pub fn has_apt() -> bool {
    ["apt-get", "dpkg"].iter().all(|name| tools::program_on_path(name).is_some())
}

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
/// Not under a guard: a package manager that is killed half-way leaves more to repair than one that finishes alone.
fn apt_get(dirs: &Dirs, arguments: &[&str]) -> Result<ExitStatus> {
    let mut line = vec!["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=600"];
    if !nix::unistd::geteuid().is_root() {
        let setup = crate::command::hint("setup");
        let wrong = || format!("run `{setup}` as root, or see what it would install with --dry-run");
        tools::find(dirs, "sudo").with_context(wrong)?;
        line.insert(0, "sudo");
    }
    line.extend(arguments);
    println!("$ {}", line.join(" "));
    let status = Command::new(line[0]).args(&line[1..]).status();
    status.with_context(|| format!("cannot run {}", line[0]))
}

/// In the cache, for every project of this user's; programs of other pins have another one.
fn environment(dirs: &Dirs) -> PathBuf {
    dirs.cache.join(format!("venv-{}", &sha256(REQUIREMENTS.as_bytes()).as_str()[..16]))
}

fn make_environment(dirs: &Dirs, python: &Path) -> Result<()> {
    let environment = environment(dirs);
    let (requirements, marker) = (environment.join("requirements.txt"), environment.join(MARKER));
    println!("Installing virtme-ng into {}", environment.display());
    // A directory that something is wrong with is cleared; the marker goes first.
    cache::remove_all(&marker)?;
    run_python(python, "-m venv --clear", &environment)?;
    fs::write(&requirements, REQUIREMENTS).with_context(|| format!("cannot write {}", requirements.display()))?;
    let pip = "-m pip install --quiet --disable-pip-version-check --no-input --progress-bar off --only-binary :all: \
               --require-hashes -r";
    run_python(&environment.join("bin/python3"), pip, &requirements)?;
    fs::rename(&requirements, &marker).with_context(|| format!("cannot write {}", marker.display()))
}

/// The user's settings for pip (a mirror, certificates) count, those that would change what is installed where do not.
fn run_python(python: &Path, arguments: &str, path: &Path) -> Result<()> {
    let mut command = SupervisedCommand::new(python)?;
    command.args(arguments.split(' ')).arg(path).env("PIP_USER", "0");
    for variable in ["PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"] {
        command.env_remove(variable);
    }
    let status = Supervised::spawn(command)?.wait()?;
    ensure!(status.success(), "installing virtme-ng failed ({status}): see the messages above");
    Ok(())
}
