//! Which tests a test binary has.
//!
//! It says so itself, and could do anything instead: with `harness = false` a target need not even look at its arguments,
//! and runs its tests. So it is asked confined: with nothing of the caller's environment, without privileges, for a
//! limited time and with limited output; and only once, as long as it stays the same.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use command_fds::{CommandFdExt, FdMapping};
use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::kernels;
use vm_guest::process::{Supervised, SupervisedCommand};
use vm_kernels::whole_file;

/// How long a binary may take to list its tests, which are a few milliseconds' work.
const LIMIT: Duration = Duration::from_secs(60);
/// How much it may say on each of its outputs, in bytes.
const LONGEST: u64 = 4 << 20;

/// An answer that is still good while the binary is the same.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Listed {
    sha256: String,
    args: Vec<String>,
    tests: Vec<String>,
}

/// The tests that a binary would run if it were given these arguments. Answers are remembered in the directory `memory`.
///
/// # Errors
/// When it does not accept the arguments, takes too long, says too much, or does not answer as libtest does.
pub fn tests(binary: &Path, args: &[String], memory: &Path) -> Result<Vec<String>> {
    let failed = || format!("cannot list the tests of {}", binary.display());
    let sha256 = kernels::sha256_file(binary).with_context(failed)?.to_string();
    let memory = memory.join(binary.file_name().unwrap_or_default()).with_extension("json");
    let known =
        fs::read(&memory).ok().and_then(|json| serde_json::from_slice::<Listed>(&json).ok());
    if let Some(known) = known.filter(|known| known.sha256 == sha256 && known.args == args) {
        return Ok(known.tests);
    }
    let mut tests = ask(binary, args)?;
    if !args.iter().any(|arg| arg == "--ignored" || arg == "--include-ignored") {
        // libtest lists them with the others, and marks them only in JSON, which is unstable.
        let ignored: HashSet<_> = ask(binary, &["--ignored".to_owned()])?.into_iter().collect();
        tests.retain(|test| !ignored.contains(test));
    }
    let listed = Listed { sha256, args: args.to_owned(), tests };
    // Not to remember it costs the next run these few milliseconds.
    let _ = whole_file::write(&memory, &serde_json::to_vec(&listed)?);
    Ok(listed.tests)
}

fn ask(binary: &Path, args: &[String]) -> Result<Vec<String>> {
    let failed = || format!("cannot list the tests of {}", binary.display());
    let (status, said, complaint) = run(binary, args, LIMIT).with_context(failed)?;
    if !status.success() {
        return Err(Exit::usage(format!(
            "the test binary does not accept `{}`: {}",
            args.join(" "),
            complaint.trim()
        )));
    }
    let tests: Vec<String> =
        said.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect();
    let other = said.lines().find(|line| !line.is_empty() && !line.ends_with(": benchmark"));
    match other {
        Some(line) if tests.is_empty() => Err(anyhow!(
            "it answers `--list --format terse` with {line:?}; a test target with `harness = false` must list its tests \
             as libtest does, which the crate libtest-mimic does for it"
        ))
        .with_context(failed),
        _ => Ok(tests),
    }
}

/// Asks for the list, and gives how that ended and both outputs.
fn run(binary: &Path, args: &[String], limit: Duration) -> Result<(ExitStatus, String, String)> {
    let mut process = Supervised::spawn(confined(binary, args)?)?;
    let (Some(stdout), Some(stderr)) = (process.stdout.take(), process.stderr.take()) else {
        bail!("it was started without pipes");
    };
    thread::scope(|scope| {
        let stdout = scope.spawn(|| read(stdout, &process));
        let stderr = scope.spawn(|| read(stderr, &process));
        let status = process.wait_timeout(limit);
        process.kill()?;
        let text = |read: thread::ScopedJoinHandle<'_, Result<String>>| {
            read.join().unwrap_or_else(|_| bail!("its output could not be read"))
        };
        let (stdout, stderr) = (text(stdout)?, text(stderr)?);
        let status = status?
            .with_context(|| format!("it did not list them within {} s", limit.as_secs_f64()))?;
        Ok((status, stdout, stderr))
    })
}

fn confined(binary: &Path, args: &[String]) -> Result<SupervisedCommand> {
    let file = File::open(binary)?;
    let mode = file.metadata()?.permissions().mode();
    if nix::unistd::geteuid().is_root() && mode & 0o005 != 0o005 {
        // Who may not enter its directory still does not get to it.
        file.set_permissions(fs::Permissions::from_mode(mode | 0o005))?;
    }
    // Nobody may not be allowed into the directory where it is, but is handed the open file.
    let mut command = SupervisedCommand::untrusted("/proc/self/fd/3")?;
    command.fd_mappings(vec![FdMapping { parent_fd: file.into(), child_fd: 3 }])?;
    command
        .args(["--list", "--format", "terse"])
        .args(args)
        .env_clear()
        .envs([("LANG", "C.UTF-8"), ("PATH", "/usr/bin:/bin"), ("VMTEST", "1")])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

fn read(from: impl Read, process: &Supervised) -> Result<String> {
    let mut bytes = Vec::new();
    from.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        process.kill()?;
        bail!("it prints more than {} MiB", LONGEST >> 20);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    /// A test binary that is a shell script, and a directory beside it for what is remembered.
    struct Fixture(tempfile::TempDir);

    impl Fixture {
        fn new(script: &str) -> Self {
            let fixture = Self(tempfile::tempdir().unwrap());
            // By another process: as long as this one may have it open for writing in a child that some thread has just
            // forked, it cannot be executed (ETXTBSY). Not executable for others, as with a umask of 077.
            let mut install = Command::new("install")
                .args(["-m", "700", "/dev/stdin"])
                .arg(fixture.binary())
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            // In a sandbox like Nix's programs are not in the usual places.
            let path = std::env::var("PATH").unwrap();
            let script = format!("#!/bin/sh\nPATH='{path}'\n{script}\n");
            install.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            assert!(install.wait().unwrap().success());
            fixture
        }

        fn binary(&self) -> PathBuf {
            self.0.path().join("binary-0123")
        }

        fn tests(&self, args: &[&str]) -> Result<Vec<String>> {
            let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
            tests(&self.binary(), &args, &self.0.path().join("lists"))
        }

        fn error(&self) -> String {
            format!("{:#}", self.tests(&[]).unwrap_err())
        }
    }

    const LISTS: &str = "case \"$*\" in *--ignored*) echo 'slow: test' ;; \
        *) printf '%s: test\\n' quick slow \"$4\" ;; esac; echo 'fast: benchmark'";

    #[test]
    fn ignored_tests_and_benchmarks_are_left_out_unless_asked_for() {
        let fixture = Fixture::new(LISTS);
        assert_eq!(fixture.tests(&["filter"]).unwrap(), ["quick", "filter"]);
        assert_eq!(fixture.tests(&["--ignored"]).unwrap(), ["slow"]);
    }

    #[test]
    fn the_answer_is_remembered_for_these_arguments_and_this_binary() {
        let fixture = Fixture::new(LISTS);
        fixture.tests(&["a"]).unwrap();
        let memory = fixture.0.path().join("lists/binary-0123.json");
        let edited = fs::read_to_string(&memory).unwrap().replace("quick", "remembered");
        fs::write(&memory, &edited).unwrap();
        assert_eq!(fixture.tests(&["a"]).unwrap(), ["remembered", "a"]);
        assert_eq!(fixture.tests(&["b"]).unwrap(), ["quick", "b"]);
        fs::write(&memory, &edited).unwrap();
        let mut binary = File::options().append(true).open(fixture.binary()).unwrap();
        binary.write_all(b"# another\n").unwrap();
        // Until the last descriptor for writing is closed, see above.
        drop(binary);
        let again = std::iter::repeat_with(|| fixture.tests(&["a"])).find_map(Result::ok).unwrap();
        assert_eq!(again, ["quick", "a"]);
    }

    #[test]
    fn it_runs_without_the_callers_environment_privileges_and_directory() {
        // Cargo sets the first in the environment of this test.
        let script = "echo \"${CARGO_PKG_NAME:-nothing} $(id -u) $(id -G) $(pwd) $VMTEST: test\"; \
            grep -q 'NoNewPrivs:.1' /proc/self/status && echo 'no new privileges: test'";
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some());
        let id = |flag: &str| {
            let output = Command::new("id").arg(flag).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let who = match nix::unistd::geteuid().is_root() {
            true => "65534 65534".to_owned(),
            false => format!("{} {}", id("-u"), id("-G")),
        };
        let expected = [format!("nothing {who} / 1"), "no new privileges".to_owned()];
        assert_eq!(Fixture::new(script).tests(&["--ignored"]).unwrap(), expected);
    }

    #[test]
    fn what_hangs_or_floods_is_ended_with_all_that_it_started() {
        let hangs = Fixture::new("sleep 1000 & sleep 1000");
        let limit = Duration::from_millis(200);
        let error = run(&hangs.binary(), &[], limit).unwrap_err().to_string();
        assert_eq!(error, "it did not list them within 0.2 s");
        let floods = Fixture::new("sleep 1000 & exec yes");
        let error = floods.error();
        assert!(error.ends_with("it prints more than 4 MiB"), "{error}");
    }

    #[test]
    fn what_does_not_answer_as_libtest_does_is_an_error_and_not_remembered() {
        let fixture = Fixture::new("echo 'running 3 root tests'");
        for _ in 0..2 {
            let error = fixture.error();
            assert!(error.contains("with \"running 3 root tests\"; a test target"), "{error}");
        }
        let refuses = Fixture::new("echo 'unknown option' >&2; exit 2");
        let error = refuses.tests(&["--wrong"]).unwrap_err();
        assert_eq!(error.to_string(), "the test binary does not accept `--wrong`: unknown option");
        assert_eq!(crate::exit::code_of(&error), crate::exit::USAGE);
        assert_eq!(Fixture::new("").tests(&[]).unwrap(), [""; 0]);
    }
}
