//! What the harness needs of the host: one table, finding each thing, and saying how to get it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::dirs::Dirs;
use crate::{closure, guest_programs, kernels, virtme_ng};

/// What a tool is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// To boot kernels.
    Boot,
    /// To build what runs in them.
    Build,
    /// To install virtme-ng, and no more once that is there.
    Install,
    /// To look at what was built, and to build kernels: setup installs it, and everything else does without.
    Extra,
    /// To run the program on this machine as root.
    Local,
    /// To run those tests of `cargo xtask test` that are about this.
    Test,
}

/// A tool, where it is looked for, and what brings it.
#[derive(Debug)]
pub struct Tool {
    /// The program, or the file of a static library.
    pub name: &'static str,
    /// When it is needed.
    pub need: Need,
    /// Completes "needed to …".
    pub purpose: &'static str,
    /// The packages of Debian and Ubuntu that bring it, blanks between them.
    pub packages: &'static str,
    /// An environment variable that names the program, if it is set.
    env: &'static str,
    /// Whether there may be only a NAME-14 or the like, as Debian has of everything LLVM's.
    numbered: bool,
    /// Whether it must do without shared libraries.
    is_static: bool,
    /// What stands before the version in what it prints, and the oldest that will do.
    version: Option<(&'static str, &'static str)>,
    /// The arguments with which it prints that.
    asked: &'static [&'static str],
}

const fn tool(name: &'static str, need: Need, purpose: &'static str, packages: &'static str) -> Tool {
    let asked = &["--version"];
    Tool { name, need, purpose, packages, env: "", numbered: false, is_static: false, version: None, asked }
}

/// What virtme-ng's environment takes: Debian has `venv` in Python itself, and what that needs in a package of its own.
const PYTHON: &[&str] = &["-c", "import venv, ensurepip, platform; print('Python', platform.python_version())"];

/// QEMU: the newest thing asked of it is a machine's memory-backend, of 5.0, and systems with the Python that virtme-ng
/// needs have 6.2 or newer. clang: older ones cannot describe a program's types (BTF).
#[rustfmt::skip]
pub static TOOLS: [Tool; 24] = [
    Tool { env: "VMTEST_QEMU", version: Some(("QEMU emulator version ", "6.0")),
        ..tool("qemu-system-x86_64", Need::Boot, "run kernels", "qemu-system-x86") },
    Tool { env: "VMTEST_VNG", version: Some(("virtme-ng ", "1.42")),
        ..tool("vng", Need::Boot, "boot kernels through virtme-ng", "") },
    Tool { env: "VMTEST_BUSYBOX", is_static: true,
        ..tool("busybox", Need::Boot, "give the guest its few commands, without shared libraries", "busybox-static") },
    tool("file", Need::Boot, "let virtme-ng read a kernel's version", "file"),
    tool("modprobe", Need::Boot, "let virtme-ng find the modules that a kernel needs", "kmod"),
    tool("depmod", Need::Boot, "index a kernel's modules", "kmod"),
    tool("cc", Need::Build, "compile libbpf and link", "gcc libc6-dev"),
    tool("make", Need::Build, "build libbpf", "make"),
    Tool { env: "PKG_CONFIG", ..tool("pkg-config", Need::Build, "build libbpf", "pkg-config") },
    Tool { env: "CLANG", numbered: true, version: Some(("clang version ", "10")),
        ..tool("clang", Need::Build, "compile for BPF", "clang") },
    tool("libc.a", Need::Build, "link statically for the guest", "libc6-dev"),
    tool("libelf.a", Need::Build, "link libbpf statically for the guest", "libelf-dev"),
    tool("libz.a", Need::Build, "link libbpf statically for the guest", "zlib1g-dev"),
    Tool { version: Some(("Python ", "3.10")), asked: PYTHON,
        ..tool("python3", Need::Install, "install virtme-ng", "python3 python3-venv") },
    Tool { numbered: true, ..tool("llvm-objdump", Need::Extra, "show a BPF program's instructions", "llvm") },
    Tool { numbered: true, ..tool("llvm-readelf", Need::Extra, "show a BPF object's sections", "llvm") },
    tool("flex", Need::Extra, "build a kernel", "flex"),
    tool("bison", Need::Extra, "build a kernel", "bison"),
    tool("bc", Need::Extra, "build a kernel", "bc"),
    tool("perl", Need::Extra, "build a kernel", "perl"),
    tool("pahole", Need::Extra, "describe a kernel's types (BTF)", "pahole"),
    tool("sudo", Need::Local, "run the program on this machine as root", "sudo"),
    tool("nix", Need::Test, "check the flake", "nix-bin"),
    tool("chromium", Need::Test, "check report.html", "chromium"),
];

/// The path of a tool that works.
pub fn find(dirs: &Dirs, name: &str) -> Result<PathBuf> {
    let tool = TOOLS.iter().find(|tool| tool.name == name);
    Ok(tool.with_context(|| format!("{name} is not in the table of tools"))?.check(dirs)?.0)
}

/// Checks every program that is needed for this. Libraries are not looked for: that takes running the C compiler, and the
/// build says which is missing.
pub fn require(dirs: &Dirs, need: Need) -> Result<()> {
    let mut unusable = unusable(dirs, &[need]);
    unusable.retain(|one| !one.tool.is_archive());
    all_usable(&unusable)
}

/// Everything that is needed for one of these, and is missing or of no use.
pub fn unusable(dirs: &Dirs, needs: &[Need]) -> Vec<Unusable> {
    let needed = TOOLS.iter().filter(|tool| needs.contains(&tool.need));
    needed.filter_map(|tool| tool.check(dirs).err()).collect()
}

/// Makes one error of all.
pub fn all_usable(unusable: &[Unusable]) -> Result<()> {
    match unusable {
        [] => Ok(()),
        [one] => bail!("{one}"),
        all => {
            let lines = all.iter().map(|one| format!("\n  {one}")).collect::<String>();
            bail!("tools are missing, or do not work:{lines}")
        }
    }
}

impl Tool {
    /// Finds it: its absolute path, and what it says its version is, where that matters.
    pub fn check(&'static self, dirs: &Dirs) -> Result<(PathBuf, Option<String>), Unusable> {
        let path = self.locate(dirs)?;
        let wrong = |what: String| Unusable { tool: self, what: format!("{} {what}", path.display()) };
        if self.is_static && !matches!(closure::loader(&path), Ok(None)) {
            return Err(wrong("is not a static executable, and the guest has no shared libraries".into()));
        }
        let Some((before, minimum)) = self.version else { return Ok((path, None)) };
        let version = ask(Command::new(&path).args(self.asked), before).map_err(wrong)?;
        let numbers = |text: &str| text.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u64>>();
        if numbers(&version) < numbers(minimum) {
            return Err(wrong(format!("is version {version}, and {minimum} or newer is needed")));
        }
        Ok((path, Some(version)))
    }

    fn locate(&'static self, dirs: &Dirs) -> Result<PathBuf, Unusable> {
        let missing = || Unusable { tool: self, what: format!("{} was not found", self.name) };
        if self.is_archive() {
            return guest_programs::find(self.name).and_then(|path| path.canonicalize().ok()).ok_or_else(missing);
        }
        if let Some(named) = self.named() {
            let what = format!("{} is set to {named}, which is no such program", self.env);
            return program_on_path(&named).ok_or(Unusable { tool: self, what });
        }
        let installed = (self.name == "vng").then(|| virtme_ng::installed(dirs)).flatten();
        // The newest that there is.
        let numbered = || (10..=30).rev().filter(|_| self.numbered).map(|number| format!("{}-{number}", self.name));
        let found = installed.or_else(|| program_on_path(self.name));
        found.or_else(|| numbered().find_map(|name| program_on_path(&name))).ok_or_else(missing)
    }

    fn is_archive(&self) -> bool {
        self.name.ends_with(".a")
    }

    /// What the environment names; as everywhere, a name without a slash is looked up on PATH.
    fn named(&self) -> Option<String> {
        Some(kernels::variable(self.env)?.to_string_lossy().into_owned())
    }
}

/// Whether packages can be installed here the way Debian and Ubuntu do it.
pub fn has_apt() -> bool {
    ["apt-get", "dpkg"].iter().all(|name| program_on_path(name).is_some())
}

/// A program that is on PATH, whatever it is. Root's directories come last: modprobe and depmod are there, and they are not
/// on everyone's PATH.
pub fn program_on_path(name: &str) -> Option<PathBuf> {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    which::which_in(name, Some(path), std::env::current_dir().unwrap_or_default()).ok()
}

/// The program's version, such as `7.2.22`: the digits and points after `before`; else why not.
fn ask(program: &mut Command, before: &str) -> Result<String, String> {
    let output = program.stdin(Stdio::null()).output().map_err(|error| format!("does not work: {error}"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let after = said.split_once(before).map_or("", |(_, after)| after);
    let version = after.split(|c: char| c != '.' && !c.is_ascii_digit()).next().unwrap_or_default().trim_matches('.');
    if output.status.success() && !version.is_empty() {
        return Ok(version.to_owned());
    }
    // A Python traceback ends with the error.
    let mut lines = said.lines().filter(|line| !line.trim().is_empty());
    let line = if output.status.success() { lines.next() } else { lines.next_back() };
    let line: String = line.unwrap_or_default().trim().chars().take(100).collect();
    Err(format!("does not work: asked for its version it printed {line:?} ({})", output.status))
}

/// A tool that is missing, or of no use; its text is all that a person needs.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}; it is needed to {}: {}", .tool.purpose, self.remedy())]
pub struct Unusable {
    /// Which.
    pub tool: &'static Tool,
    /// What is wrong, without what to do.
    pub what: String,
}

impl Unusable {
    /// Whether it would be used once it is installed; not so if an environment variable names another.
    pub fn can_be_installed(&self) -> bool {
        self.tool.named().is_none()
    }

    /// What to do, as the rest of a sentence.
    pub fn remedy(&self) -> String {
        let (packages, setup) = (self.tool.packages, crate::hint::hint("setup"));
        if !self.can_be_installed() {
            format!("correct {}, or unset it", self.tool.env)
        } else if packages.is_empty() {
            format!("run `{setup}`, which installs it in the cache")
        } else if !has_apt() {
            format!("install it (Debian: {packages}), or work inside `nix develop`")
        } else if matches!(self.tool.need, Need::Local | Need::Test) {
            format!("run `apt-get install {packages}` as root")
        } else {
            format!("run `{setup}`, or `sudo apt-get install {packages}`")
        }
    }
}
