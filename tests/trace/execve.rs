//! Processes that do nothing but call execve once.

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

/// The program that they become. With its full path, since looking for it along `PATH` would be more execves.
static TRUE: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/bin".into(), "/usr/bin".into()])
        .map(|directory| directory.join("true"))
        .find(|file| file.is_file())
        .expect("there is a program `true`")
});

/// Starts a process that calls execve, and waits for its end. Whatever the execve left in the trace buffer is there
/// when this returns. Returns the process's PID.
pub fn execve() -> u32 {
    let mut child = Command::new(&*TRUE).spawn().expect("`true` starts");
    let pid = child.id();
    assert!(child.wait().expect("`true` ends").success());
    pid
}
