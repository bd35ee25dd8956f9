//! Runs cargo and reads what it reports about what it built, so that no path has to be guessed.

use std::fs;
use std::io::BufReader;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use cargo_metadata::Message;

use crate::dirs::Dirs;
use vm_guest::process::{Supervised, SupervisedCommand};
use vm_kernels::digest::sha256;

/// The variable that says where cargo puts what it builds.
pub const TARGET_DIR: &str = "CARGO_TARGET_DIR";

/// The cargo that runs this program, in the workspace, with a subcommand such as `build`.
pub fn command(dirs: &Dirs, subcommand: &str) -> Result<Command> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(&dirs.project).arg(subcommand);
    command.env(TARGET_DIR, plain_target(dirs, &dirs.target)?);
    Ok(command)
}

/// A name for a target directory that every build script can work with.
///
/// libbpf is built by make, for which white space, and much else, in a path is the end of it. A directory below such a
/// path is given to cargo by way of a link in the cache, which must not be below one, too.
pub fn plain_target(dirs: &Dirs, target: &Path) -> Result<PathBuf> {
    if is_plain(target) {
        return Ok(target.to_owned());
    }
    let link = dirs.cache.join("targets").join(&sha256(target.as_os_str().as_bytes()).as_str()[..16]);
    let (shown, remedy) = (target.display(), format!("set {TARGET_DIR} to a directory with a plainer one"));
    ensure!(is_plain(&link), "libbpf cannot be built below {shown}: make does not cope with its path; {remedy}");
    if fs::read_link(&link).ok().as_deref() != Some(target) {
        let failed = || format!("cannot link {} to {shown}", link.display());
        fs::create_dir_all(target).with_context(failed)?;
        fs::create_dir_all(link.parent().unwrap_or(&link)).with_context(failed)?;
        // Two that start together make the same link.
        let new = link.with_extension(std::process::id().to_string());
        symlink(target, &new).and_then(|()| fs::rename(&new, &link)).with_context(failed)?;
    }
    Ok(link)
}

/// Whether neither make nor a shell sees more than a word in a path.
fn is_plain(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.chars().all(|c| c.is_alphanumeric() || "/._-+@".contains(c)))
}

/// Runs a build and returns its messages. What the compiler says goes to stderr as usual. It ends with this program.
pub fn messages(cargo: &mut Command) -> Result<Vec<Message>> {
    let mut cargo = SupervisedCommand::like(cargo)?;
    cargo.arg("--message-format=json-render-diagnostics").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut cargo = Supervised::spawn(cargo)?;
    let stdout = cargo.stdout.take().context("cargo has no stdout")?;
    let messages: std::io::Result<Vec<_>> = Message::parse_stream(BufReader::new(stdout)).collect();
    ensure!(cargo.wait()?.success(), "the build failed: see the messages above");
    messages.context("cannot read cargo's messages")
}
