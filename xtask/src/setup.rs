//! `cargo xtask setup`: installs what the host needs. Debian and Ubuntu: packages, through apt-get; anywhere: the
//! pinned virtme-ng, into an environment of its own under `target/`.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::exit;
use crate::flags;
use crate::paths;
use crate::tools::{self, Need, TOOLS, Tool, Unusable};
use crate::vm::process::{Guarded, GuardedCommand};

/// What the environment is made of: pip installs exactly this.
const REQUIREMENTS: &str = include_str!("../../vm/requirements.txt");

/// Runs the command.
///
/// # Errors
/// When something that is needed could not be installed, or must be installed by hand.
pub fn run(flags: &flags::Setup) -> Result<u8> {
    if flags.dry_run {
        let plan = Plan::make();
        if plan.is_empty() {
            println!("Nothing to do: everything that is needed is here.");
        }
        for step in plan.steps() {
            println!("would {step}");
        }
        for missing in &plan.by_hand {
            println!("cannot install here: {missing}");
        }
        return Ok(exit::OK);
    }
    ensure()?;
    println!("Everything that is needed is here.");
    Ok(exit::OK)
}

/// Installs what is missing, saying what it is about to do; quick and quiet when nothing is.
///
/// # Errors
/// As [`run`].
pub fn ensure() -> Result<()> {
    ensure_with(&[])
}

/// As [`ensure`], and what only `cargo xtask test` needs, where that can be installed: a step that
/// lacks its tool says so.
///
/// # Errors
/// As [`run`].
pub fn ensure_for_tests() -> Result<()> {
    ensure_with(&[Need::Test])
}

fn ensure_with(further: &[Need]) -> Result<()> {
    let plan = || Plan::make().with(further);
    if plan().is_empty() {
        return Ok(());
    }
    let _lock = lock()?;
    // Another setup may have done it meanwhile.
    let plan = plan();
    if !plan.packages.is_empty() {
        Apt::find()?.install(&plan.packages)?;
    }
    // Without Python there is no use in trying; the list at the end names it.
    if plan.environment && tools::check(Tool::Python).is_ok() {
        make_environment()?;
    }
    still_missing(&missing())
}

/// The `vng` of the environment under `target/`, if that is complete and the pinned one.
pub fn installed_vng() -> Option<PathBuf> {
    let environment = environment();
    let complete = fs::read_to_string(environment.join(MARKER)).ok()? == REQUIREMENTS;
    complete.then(|| environment.join("bin/vng"))
}

/// Whether packages can be installed here the way Debian and Ubuntu do it.
pub fn has_apt() -> bool {
    ["apt-get", "dpkg"].iter().all(|name| tools::program_on_path(name).is_some())
}

/// What is to be done.
#[derive(Debug, Default)]
struct Plan {
    /// Packages to install.
    packages: Vec<&'static str>,
    /// Whether to make the environment with virtme-ng.
    environment: bool,
    /// What this program cannot install here.
    by_hand: Vec<Unusable>,
}

impl Plan {
    fn make() -> Self {
        let mut plan = Self::default();
        for unusable in missing() {
            let packages = unusable.tool.spec().packages;
            if !unusable.can_be_installed() {
                plan.by_hand.push(unusable);
            } else if unusable.tool == Tool::Vng {
                plan.environment = true;
                plan.need_python();
            } else if has_apt() {
                plan.add(packages);
            } else {
                plan.by_hand.push(unusable);
            }
        }
        plan
    }

    fn with(mut self, further: &[Need]) -> Self {
        if has_apt() {
            for spec in TOOLS.iter().filter(|spec| further.contains(&spec.need)) {
                if tools::check(spec.tool()).is_err() {
                    self.add(spec.packages);
                }
            }
        }
        self
    }

    fn need_python(&mut self) {
        match tools::check(Tool::Python) {
            Ok(python) if has_venv(&python.path) => {}
            Err(unusable) if !has_apt() => self.by_hand.push(unusable),
            _ if has_apt() => self.add(Tool::Python.spec().packages),
            _ => {}
        }
    }

    fn add(&mut self, packages: &[&'static str]) {
        for package in packages {
            if !self.packages.contains(package) {
                self.packages.push(package);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.packages.is_empty() && !self.environment && self.by_hand.is_empty()
    }

    /// What would be done, each as the rest of a sentence.
    fn steps(&self) -> Vec<String> {
        let mut steps = Vec::new();
        if !self.packages.is_empty() {
            steps.push(format!("install Debian packages: {}", self.packages.join(" ")));
        }
        if self.environment {
            steps.push(format!("install virtme-ng into {}", environment().display()));
        }
        steps
    }
}

/// Everything that booting and building need and that is not here.
fn missing() -> Vec<Unusable> {
    let needed =
        TOOLS.iter().filter(|spec| !matches!(spec.need, Need::Install | Need::Test | Need::Local));
    needed.filter_map(|spec| tools::check(spec.tool()).err()).collect()
}

fn still_missing(missing: &[Unusable]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    bail!("{}", tools::list(missing));
}

/// One setup at a time in this checkout; apt-get sees to its own.
fn lock() -> Result<Flock<File>> {
    let path = paths::target().join("vmtest/setup.lock");
    let failed = || format!("cannot lock {}", path.display());
    fs::create_dir_all(paths::target().join("vmtest")).with_context(failed)?;
    let open = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    match Flock::lock(open.with_context(failed)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
            println!("Waiting for another setup to finish.");
            let lock = Flock::lock(file, FlockArg::LockExclusive);
            lock.map_err(|(_, errno)| errno).with_context(failed)
        }
        Err((_, errno)) => Err(errno).with_context(failed),
    }
}

/// apt-get, run as root.
struct Apt {
    /// What stands before it on the command line.
    prefix: Vec<&'static str>,
}

impl Apt {
    fn find() -> Result<Self> {
        if nix::unistd::geteuid().is_root() {
            return Ok(Self { prefix: vec!["env"] });
        }
        if tools::find(Tool::Sudo).is_err() {
            bail!(
                "installing packages needs root, and there is no sudo: run `cargo xtask setup` as root, or see \
                 `cargo xtask setup --dry-run` for what to install"
            );
        }
        Ok(Self { prefix: vec!["sudo", "env"] })
    }

    fn install(&self, packages: &[&str]) -> Result<()> {
        let install = [&["install", "--yes", "--no-install-recommends"], packages].concat();
        if has_package_lists() && self.run(&install)?.success() {
            return Ok(());
        }
        // The lists are empty or name versions that the mirror has dropped.
        let updated = self.run(&["update"])?;
        if !updated.success() {
            bail!("`apt-get update` failed ({updated}): see its messages above");
        }
        let installed = self.run(&install)?;
        if !installed.success() {
            bail!("`apt-get install` failed ({installed}): see its messages above");
        }
        Ok(())
    }

    /// Not under a guard: a package manager that is killed half-way leaves more trouble than one that finishes alone.
    fn run(&self, arguments: &[&str]) -> Result<ExitStatus> {
        let mut line = self.prefix.clone();
        line.extend(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=600"]);
        line.extend(arguments);
        println!("$ {}", line.join(" "));
        let status = Command::new(line[0]).args(&line[1..]).status();
        status.with_context(|| format!("cannot run {}", line[0]))
    }
}

/// A fresh system has none until the first `apt-get update`.
fn has_package_lists() -> bool {
    fs::read_dir("/var/lib/apt/lists").is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
        })
    })
}

/// Written last, with the requirements in it: an environment without it was interrupted, or is of older pins.
const MARKER: &str = "vmtest-complete";

fn environment() -> PathBuf {
    paths::target().join("vmtest/venv")
}

/// Debian has `venv` in Python itself, and what that needs in a package of its own.
fn has_venv(python: &Path) -> bool {
    let mut command = Command::new(python);
    command.args(["-c", "import venv, ensurepip"]).stderr(std::process::Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn make_environment() -> Result<()> {
    let environment = environment();
    let python = tools::find(Tool::Python)?;
    let requirements = environment.join("requirements.txt");
    println!("Installing virtme-ng into {}", environment.display());
    // A directory that something is wrong with is cleared; the marker goes first.
    if let Err(error) = fs::remove_file(environment.join(MARKER)) {
        if error.kind() != std::io::ErrorKind::NotFound {
            return Err(error).context("cannot replace the environment of virtme-ng");
        }
    }
    run_python(&python, |command| {
        command.args(["-m", "venv", "--clear"]).arg(&environment);
    })?;
    fs::write(&requirements, REQUIREMENTS)
        .with_context(|| format!("cannot write {}", requirements.display()))?;
    run_python(&environment.join("bin/python3"), |command| {
        command
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
            .args(["--progress-bar", "off", "--only-binary", ":all:", "--require-hashes", "-r"])
            .arg(&requirements);
    })?;
    let marker = environment.join(MARKER);
    fs::rename(&requirements, &marker).with_context(|| format!("cannot write {}", marker.display()))
}

/// The user's settings for pip (a mirror, certificates) count, those that would change what is installed where do not.
fn run_python(python: &Path, arguments: impl FnOnce(&mut Command)) -> Result<()> {
    let mut command = GuardedCommand::new(python)?;
    command.env("PIP_USER", "0");
    for variable in ["PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"] {
        command.env_remove(variable);
    }
    arguments(&mut command);
    let status = Guarded::spawn(command)?.wait()?;
    if !status.success() {
        bail!("installing virtme-ng failed ({status}): see the messages above");
    }
    Ok(())
}
