//! The program from outside, as anybody may run it, and what the documentation says of it. What needs root is in
//! `tests/trace`.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;

use assert_cmd::Command;
use nix::unistd::geteuid;
use predicates::prelude::*;
use predicates::str::contains;
use tempfile::TempDir;

/// The user that may do nothing.
const NOBODY: u32 = 65534;

/// The exit code that says so.
const NOT_PERMITTED: i32 = 3;

fn helloworld() -> Command {
    Command::cargo_bin("helloworld").unwrap()
}

/// A command that runs the program without privileges, also if root runs the test. The directory holds a copy: where it
/// was built may be out of that user's reach.
fn unprivileged() -> (TempDir, std::process::Command) {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    // By another process: what this one has open for writing, a child of another test's inherits for a moment, and
    // then it cannot be executed (ETXTBSY, execve(2)).
    let mut copy = std::process::Command::new("cp");
    assert!(copy.arg(helloworld().get_program()).arg(directory.path()).status().unwrap().success());
    let mut command = std::process::Command::new(directory.path().join("helloworld"));
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    (directory, command)
}

#[test]
fn help_names_every_option_and_exit_code_and_the_short_one_fits_a_screen() {
    let mut help = helloworld().arg("--help").assert().code(0).stderr("");
    for option in ["--follow", "--duration <SECS>", "--mount-tracefs", "--verbose", "--version"] {
        help = help.stdout(contains(option));
    }
    for code in 0..=10 {
        help = help.stdout(contains(format!("\n  {code:>2}  ")));
    }
    let fits = |text: &str| text.lines().count() <= 40 && text.lines().all(|line| line.len() <= 100);
    helloworld().arg("-h").assert().code(0).stdout(predicate::function(fits)).stderr("");
}

#[test]
fn version_is_the_packages() {
    let version = format!("helloworld {}\n", env!("CARGO_PKG_VERSION"));
    helloworld().arg("--version").assert().code(0).stdout(version).stderr("");
}

#[test]
fn wrong_usage_is_told_and_has_its_exit_code() {
    for (arguments, message) in [
        (&["--folow"][..], "unexpected argument '--folow'"),
        (&["extra"], "unexpected argument 'extra'"),
        (&["--duration"], "a value is required for '--duration <SECS>'"),
        (&["--duration", "0"], "expected a number of seconds above 0"),
        (&["--duration", "-1"], "expected a number of seconds above 0"),
        (&["-d", "1", "-d", "2"], "cannot be used multiple times"),
    ] {
        helloworld().args(arguments).assert().code(2).stdout("").stderr(contains(message));
    }
}

#[test]
fn missing_privileges_are_named_whatever_else_is_missing() {
    for arguments in [&[][..], &["--follow"], &["--mount-tracefs"], &["-v", "-d", "1"]] {
        let (_directory, mut command) = unprivileged();
        command.args(arguments);
        Command::from_std(command)
            .assert()
            .code(NOT_PERMITTED)
            .stdout("")
            .stderr(contains("CAP_BPF").and(contains("CAP_PERFMON")).and(contains("CAP_SYS_ADMIN")))
            .stderr(contains("sudo"))
            .stderr(predicate::function(|text: &str| text.lines().count() == 1));
    }
}

#[test]
fn a_closed_stderr_does_not_change_the_exit_code() {
    let (_directory, mut command) = unprivileged();
    let (reader, writer) = UnixStream::pair().unwrap();
    drop(reader);
    let stderr = OwnedFd::from(writer);
    let status = command.stdin(Stdio::null()).stderr(stderr).status().unwrap();
    assert_eq!(status.code(), Some(NOT_PERMITTED));
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What `--help` prints behind these arguments, which are checked, too.
fn help_after(arguments: &str) -> String {
    let output = helloworld().args(arguments.split_whitespace()).arg("--help").unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_walkthrough_shows_the_source_as_it_is() {
    let source = format!("\n```c\n{}```\n", read("bpf/helloworld.bpf.c"));
    assert!(read("docs/walkthrough.md").contains(&source));
}

#[test]
fn the_table_of_exit_codes_is_that_of_the_help() {
    let page = read("docs/troubleshooting.md");
    let (_, section) = page.split_once("\n## The tracer itself\n").unwrap();
    let table = section.lines().skip_while(|line| !line.starts_with("| exit code |")).skip(2);
    let documented: Vec<String> = table
        .take_while(|line| line.starts_with('|'))
        .map(|row| row.split('|').map(str::trim).collect::<Vec<_>>())
        .map(|cells| format!("{:>4}  {}", cells[1], cells[2]))
        .collect();
    assert!(documented.len() > 10, "{documented:?}");
    assert!(help_after("").trim_end().ends_with(&documented.join("\n")));
}

#[test]
fn every_command_line_of_the_documentation_is_accepted() {
    let mut found = 0;
    for name in ["README.md", "docs/walkthrough.md", "docs/troubleshooting.md"] {
        let page = read(name);
        for line in page.lines() {
            for start in ["cargo xtask run -- ", "`helloworld "] {
                for rest in line.split(start).skip(1) {
                    help_after(rest.split(['`', '#']).next().unwrap());
                    found += 1;
                }
            }
        }
    }
    assert!(found > 2, "only {found} command lines were found");
}
