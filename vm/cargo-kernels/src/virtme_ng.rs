//! The pinned virtme-ng, in an environment of its own in the cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::dirs::Dirs;
use vm_guest::process::{Supervised, SupervisedCommand};
use vm_kernels::cache;
use vm_kernels::digest::sha256;

/// What the environment is made of: pip installs exactly this.
const REQUIREMENTS: &str = include_str!("../../requirements.txt");

/// Written last, with the requirements in it: an environment without it was interrupted, or is of older pins.
const MARKER: &str = "vmtest-complete";

/// The `vng` of the environment in the cache, if that is complete and the pinned one.
pub fn installed(dirs: &Dirs) -> Option<PathBuf> {
    let environment = environment(dirs);
    let complete = fs::read_to_string(environment.join(MARKER)).ok()? == REQUIREMENTS;
    complete.then(|| environment.join("bin/vng"))
}

/// In the cache, for every project of this user's; programs of other pins have another one.
pub fn environment(dirs: &Dirs) -> PathBuf {
    dirs.cache.join(format!("venv-{}", &sha256(REQUIREMENTS.as_bytes()).as_str()[..16]))
}

pub fn install(dirs: &Dirs, python: &Path) -> Result<()> {
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
