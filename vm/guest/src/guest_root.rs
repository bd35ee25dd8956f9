//! The guest's root directory: a static busybox, the agent, and nothing that takes time at boot.
//!
//! There is no udev (with it, a guest spends seconds probing drivers) and no shared library.

use std::borrow::Cow;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use memchr::memmem;

use crate::module_share::ModuleShare;

/// Where the agent is in a guest.
pub const AGENT: &str = "/vmtest-agent";

/// Directories that exist, empty, in every guest.
const DIRECTORIES: &[&str] =
    &["bin", "dev", "etc", "lib", "lib/modules", "layers", "newroot", "proc", "root", "run", "sys", "tmp"];

/// Small files that programs expect.
const FILES: &[(&str, &str)] = &[
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
];

/// The programs of the harness's own in a guest, for its architecture.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The agent, an ELF file.
    pub agent: Cow<'static, [u8]>,
    /// A static busybox.
    pub busybox: PathBuf,
    /// A static bash, where virtme-ng needs one: it boots a guest of another architecture by way of a script.
    pub bash: Option<PathBuf>,
}

/// The names under which busybox is to be found in `/bin`, of which it has a sorted list inside (applets/applet_tables.c).
/// It is not asked, since it may be for another machine than this one.
pub fn applets(busybox: &[u8]) -> Result<Vec<String>> {
    const BEGINNING: &[u8] = b"[\0[[\0";
    let start = memmem::find(busybox, BEGINNING).context("it is no busybox: there is no list of commands in it")?;
    let names = busybox[start..].split(|byte| *byte == 0).take_while(|name| !name.is_empty());
    let names = names.map(String::from_utf8_lossy).filter(|name| name != "busybox" && !name.contains('/'));
    Ok(names.map(Cow::into_owned).collect())
}

/// Makes the root as a directory, with what is to be known of these modules.
pub fn stage(root: &Path, programs: &Programs, modules: Option<&ModuleShare>) -> Result<()> {
    for dir in DIRECTORIES {
        let dir = root.join(dir);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    for (name, text) in FILES {
        fs::write(root.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    let busybox = fs::read(&programs.busybox);
    let busybox = busybox.with_context(|| format!("cannot read {}", programs.busybox.display()))?;
    let executable = |name: &str, bytes: &[u8]| {
        let to = root.join(name);
        fs::write(&to, bytes)
            .and_then(|()| fs::set_permissions(&to, Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {name} into the guest's root"))
    };
    executable("bin/busybox", &busybox)?;
    executable(&AGENT[1..], &programs.agent)?;
    for applet in applets(&busybox).with_context(|| format!("cannot use {}", programs.busybox.display()))? {
        symlink("busybox", root.join("bin").join(applet)).context("cannot link busybox")?;
    }
    if let Some(bash) = &programs.bash {
        let read = fs::read(bash).with_context(|| format!("cannot read {}", bash.display()));
        executable("bin/bash", &read?)?;
        fs::create_dir_all(root.join("usr")).and_then(|()| symlink("../bin", root.join("usr/bin")))?;
    }
    modules.map_or(Ok(()), |modules| modules.stage(root))
}

/// Gives everyone in the guest what the owner may do, except for writing, whatever the umask was: tests run programs
/// as ordinary users.
pub fn open_to_all(path: &Path) -> Result<()> {
    let output = Command::new("chmod").args(["-R", "a+rX"]).arg(path).output().context("cannot run chmod")?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cannot make {} readable: {}", path.display(), message.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busybox_has_a_list_of_its_names() {
        let busybox = b"\x7fELF...\0applet not found\0[\0[[\0ash\0busybox\0cat\0\0\x01\x02";
        assert_eq!(applets(busybox).unwrap(), ["[", "[[", "ash", "cat"]);
        assert!(applets(b"\x7fELF...").is_err());
    }

    #[test]
    fn what_a_strict_umask_closed_is_opened() {
        let root = tempfile::tempdir().unwrap();
        let [bin, program, text] = ["bin", "bin/program", "bin/text"].map(|name| root.path().join(name));
        fs::create_dir(&bin).unwrap();
        symlink("/nonexistent", bin.join("link")).unwrap();
        fs::write(&program, "").unwrap();
        fs::write(&text, "").unwrap();
        let modes = [(program, 0o700, 0o755), (text, 0o600, 0o644), (bin, 0o700, 0o755)];
        for (path, closed, _) in &modes {
            fs::set_permissions(path, Permissions::from_mode(*closed)).unwrap();
        }
        open_to_all(root.path()).unwrap();
        for (path, _, opened) in modes {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, opened, "{}", path.display());
        }
    }
}
