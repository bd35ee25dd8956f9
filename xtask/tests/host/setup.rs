//! `cargo xtask setup`: what is missing is installed, and nothing is left half-done.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Output, Stdio};

use crate::machine::{Machine, text};

/// Notes how it was called, as root would see it, and brings the tool that the test took away.
fn apt_get(brings: &str) -> String {
    format!(
        "echo \"$DEBIAN_FRONTEND $*\" >> \"$0.calls\"
         case \"$*\" in *install*) PATH=$REAL_PATH; ln -sf \"$(readlink \"${{0%/*}}/make\")\" \"${{0%/*}}/{brings}\";; esac"
    )
}

/// Makes an environment, and in it a vng that works once pip is through.
const PYTHON: &str = r#"
echo "$*" >> "$0.calls"
case "$*" in
    --version) echo 'Python 3.11.2' ;;
    "-m venv --clear "*)
        PATH=$REAL_PATH
        rm -rf "$4" && mkdir -p "$4/bin"
        ln -s "$(readlink "$0")" "$4/bin/python3"
        cp "$0.pip" "$4/bin/python3.sh"
        ;;
esac
"#;
const PIP: &str = r#"
echo "$*" >> "$PIP_CALLS"
PATH=$REAL_PATH
ln -s "$(readlink "$0")" "${0%/*}/vng"
echo 'echo virtme-ng 1.42' > "${0%/*}/vng.sh"
"#;

/// A machine without vng, with a Python that can make environments; `pip` is what its pip does.
fn without_vng(pip: &str) -> Machine {
    let machine = Machine::complete();
    machine.remove("vng");
    machine.tool("python3", PYTHON);
    std::fs::write(machine.path("bin/python3.pip"), pip).unwrap();
    machine
}

fn setup(machine: &Machine, args: &[&str]) -> Output {
    let args = [&["setup"], args].concat();
    machine.xtask(&args).env("PIP_CALLS", machine.path("bin/pip.calls")).output().unwrap()
}

/// The environments of virtme-ng in the cache.
fn environments(machine: &Machine) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(machine.path("cache")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.join("bin").exists()).collect()
}

#[track_caller]
fn check_success(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", text(output));
    assert!(text(output).ends_with("Everything that is needed is here.\n"), "{}", text(output));
}

#[test]
fn a_complete_machine_is_left_alone() {
    let machine = Machine::complete();
    machine.tool("dpkg", "");
    machine.tool("apt-get", &apt_get("none"));
    check_success(&setup(&machine, &[]));
    assert!(machine.calls("apt-get").is_empty());
    assert!(text(&setup(&machine, &["--dry-run"])).contains("Nothing to do"));
}

#[test]
fn packages_are_installed_without_questions_even_when_the_lists_are_stale() {
    let machine = Machine::debian_without("file");
    // Refuses to install until it has updated.
    let code = "case \"$*\" in
        *update*) echo > \"$0.updated\" ;;
        *install*) [ -e \"$0.updated\" ] || exit 100 ;;
    esac\n";
    machine.tool("apt-get", &format!("{code}{}", apt_get("file")));
    let output = setup(&machine, &[]);
    check_success(&output);
    let install = machine.calls("apt-get").pop().unwrap();
    let words = "install --yes --no-install-recommends file";
    assert!(install.starts_with("noninteractive ") && install.ends_with(words), "{install}");
    assert!(text(&output).contains(words), "{}", text(&output));
}

#[test]
fn a_dry_run_only_says_what_would_be_done() {
    let machine = Machine::debian_without("file");
    machine.tool("apt-get", &apt_get("file"));
    machine.remove("vng");
    machine.remove("python3");
    let output = setup(&machine, &["--dry-run"]);
    assert_eq!(output.status.code(), Some(0));
    for part in ["packages: file python3 python3-venv", "install virtme-ng into", "cache/venv-"] {
        assert!(text(&output).contains(part), "{}", text(&output));
    }
    assert!(machine.calls("apt-get").is_empty());
    assert_eq!(environments(&machine), [] as [PathBuf; 0]);
}

#[test]
fn what_cannot_be_installed_is_said() {
    let failing = Machine::debian_without("file");
    failing.tool("apt-get", "echo \"E: no network\" >&2; exit 100");
    let no_apt = Machine::complete();
    no_apt.remove("file");
    no_apt.remove("clang");
    let list = ["are missing", "\n  file was not found", "\n  clang was not found", "nix develop"];
    for (machine, parts) in [(failing, &["`apt-get update` failed"][..]), (no_apt, &list)] {
        let output = setup(&machine, &[]);
        assert_eq!(output.status.code(), Some(3));
        assert!(parts.iter().all(|part| text(&output).contains(part)), "{}", text(&output));
    }
}

#[test]
fn virtme_ng_is_installed_as_pinned_and_found() {
    let machine = without_vng(PIP);
    check_success(&setup(&machine, &[]));
    let pip = machine.calls("pip").join("\n");
    for part in ["-m pip install", "--require-hashes", "--only-binary :all:"] {
        assert!(pip.contains(part), "{pip}");
    }
    let environments = environments(&machine);
    assert_eq!(environments.len(), 1);
    assert_eq!(machine.doctor("vng")["path"], environments[0].join("bin/vng").to_str().unwrap());
    // And again: nothing to do.
    check_success(&setup(&machine, &[]));
    assert_eq!(machine.calls("pip").len(), 1);
    // Other pins than these: made again.
    std::fs::write(environments[0].join("vmtest-complete"), "1.41").unwrap();
    assert_eq!(machine.doctor("vng")["ok"], false);
    check_success(&setup(&machine, &[]));
    assert_eq!(machine.calls("pip").len(), 2);
}

#[test]
fn an_environment_that_was_not_finished_does_not_count_and_is_made_again() {
    // Its vng is there already, and then something goes wrong.
    let machine = without_vng(&format!("{PIP} exit 1"));
    let output = setup(&machine, &[]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output).contains("installing virtme-ng failed"), "{}", text(&output));
    assert!(environments(&machine)[0].join("bin/vng").exists());
    assert_eq!(machine.doctor("vng")["problem"], "vng was not found");
    std::fs::write(machine.path("bin/python3.pip"), PIP).unwrap();
    check_success(&setup(&machine, &[]));
}

/// A setup whose pip waits for the test before it does anything.
struct Waiting {
    machine: Machine,
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Waiting {
    fn start() -> Self {
        let machine = without_vng("");
        let gate = machine.path("gate");
        nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let pip = format!("echo pip is here; read go < '{}'\n{PIP}", gate.display());
        std::fs::write(machine.path("bin/python3.pip"), pip).unwrap();
        let (child, output) = spawn(&machine);
        let mut waiting = Self { machine, child, output };
        read_to(&mut waiting.output, "pip is here");
        waiting
    }
}

fn spawn(machine: &Machine) -> (Child, BufReader<ChildStdout>) {
    let mut command = machine.xtask(&["setup"]);
    let mut child = command.env("PIP_CALLS", machine.path("bin/pip.calls")).stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

/// Reads up to a line that begins so.
fn read_to(output: &mut impl BufRead, beginning: &str) {
    output.lines().map(Result::unwrap).find(|line| line.starts_with(beginning)).unwrap();
}

#[test]
fn two_setups_at_once_do_the_work_once() {
    let mut first = Waiting::start();
    let (mut second, mut output) = spawn(&first.machine);
    read_to(&mut output, "Waiting for another setup");
    std::fs::write(first.machine.path("gate"), "go\n").unwrap();
    read_to(&mut first.output, "Everything that is needed is here.");
    read_to(&mut output, "Everything that is needed is here.");
    assert!(first.child.wait().unwrap().success() && second.wait().unwrap().success());
    assert_eq!(first.machine.calls("pip").len(), 1);
}

#[test]
fn a_setup_that_is_killed_leaves_no_process_and_the_next_one_succeeds() {
    let Waiting { machine, mut child, mut output } = Waiting::start();
    child.kill().unwrap();
    child.wait().unwrap();
    // The pipe ends when the last process that holds it has ended.
    output.read_to_string(&mut String::new()).unwrap();
    assert_eq!(machine.doctor("vng")["ok"], false);
    std::fs::write(machine.path("bin/python3.pip"), PIP).unwrap();
    check_success(&setup(&machine, &[]));
}
