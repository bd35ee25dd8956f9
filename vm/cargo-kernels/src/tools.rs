//! What the harness needs of the host: one table, finding each thing, and saying how to get it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::dirs::Dirs;
use crate::{closure, setup, static_build};

/// A row of [`TOOLS`].
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Qemu,
    Vng,
    Busybox,
    File,
    Modprobe,
    Depmod,
    Cc,
    Make,
    PkgConfig,
    Clang,
    LibC,
    LibElf,
    LibZ,
    Python,
    Objdump,
    Readelf,
    Flex,
    Bison,
    Bc,
    Perl,
    Pahole,
    Sudo,
    Nix,
    Chromium,
}

/// What a tool is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// To boot kernels.
    Boot,
    /// To build what runs in them.
    Build,
    /// To install virtme-ng, and no more once that is there.
    Install,
    /// To look at what was built: setup installs it, and everything else does without.
    Inspect,
    /// To run the program on this machine as root.
    Local,
    /// To run those tests of `cargo xtask test` that are about this.
    Test,
    /// To build a pinned kernel from its source.
    Source,
}

/// A tool, where it is looked for, and what brings it.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Which.
    pub tool: Tool,
    /// When it is needed.
    pub need: Need,
    /// The program, or the file of a static library.
    pub name: &'static str,
    /// Completes "needed to …".
    pub purpose: &'static str,
    /// The packages of Debian and Ubuntu that bring it.
    pub packages: &'static [&'static str],
    /// An environment variable that names the program, if it is set.
    env: &'static str,
    /// Whether there may be only a NAME-14 or the like, as Debian has of everything LLVM's.
    numbered: bool,
    /// Whether it must do without shared libraries.
    is_static: bool,
    /// What stands before the version in the output of `--version`, and the oldest that will do.
    version: Option<(&'static str, &'static str)>,
}

/// The numbers to try of what is [`Spec::numbered`], newest first.
const NUMBERS: std::ops::RangeInclusive<u32> = 10..=30;

#[rustfmt::skip]
const fn spec(
    tool: Tool, need: Need, name: &'static str, purpose: &'static str, packages: &'static [&'static str],
) -> Spec {
    Spec { tool, need, name, purpose, packages, env: "", numbered: false, is_static: false, version: None }
}

/// In the order of [`Tool`]. QEMU: the newest thing asked of it is a machine's memory-backend, of 5.0, and systems with
/// the Python that virtme-ng needs have 6.2 or newer. clang: older ones cannot describe a program's types (BTF).
#[rustfmt::skip]
pub const TOOLS: [Spec; 24] = [
    Spec { env: "VMTEST_QEMU", version: Some(("QEMU emulator version ", "6.0")),
        ..spec(Tool::Qemu, Need::Boot, "qemu-system-x86_64", "run kernels", &["qemu-system-x86"]) },
    Spec { env: "VMTEST_VNG", version: Some(("virtme-ng ", "1.42")),
        ..spec(Tool::Vng, Need::Boot, "vng", "boot kernels through virtme-ng", &[]) },
    Spec { env: "VMTEST_BUSYBOX", is_static: true,
        ..spec(Tool::Busybox, Need::Boot, "busybox", "give the guest its few commands, without shared libraries",
            &["busybox-static"]) },
    spec(Tool::File, Need::Boot, "file", "let virtme-ng read a kernel's version", &["file"]),
    spec(Tool::Modprobe, Need::Boot, "modprobe", "let virtme-ng find the modules that a kernel needs", &["kmod"]),
    spec(Tool::Depmod, Need::Boot, "depmod", "index a kernel's modules", &["kmod"]),
    spec(Tool::Cc, Need::Build, "cc", "compile libbpf and link", &["gcc", "libc6-dev"]),
    spec(Tool::Make, Need::Build, "make", "build libbpf", &["make"]),
    Spec { env: "PKG_CONFIG",
        ..spec(Tool::PkgConfig, Need::Build, "pkg-config", "build libbpf", &["pkg-config"]) },
    Spec { env: "CLANG", numbered: true, version: Some(("clang version ", "10")),
        ..spec(Tool::Clang, Need::Build, "clang", "compile for BPF", &["clang"]) },
    spec(Tool::LibC, Need::Build, "libc.a", "link statically for the guest", &["libc6-dev"]),
    spec(Tool::LibElf, Need::Build, "libelf.a", "link libbpf statically for the guest", &["libelf-dev"]),
    spec(Tool::LibZ, Need::Build, "libz.a", "link libbpf statically for the guest", &["zlib1g-dev"]),
    Spec { version: Some(("Python ", "3.10")),
        ..spec(Tool::Python, Need::Install, "python3", "install virtme-ng", &["python3", "python3-venv"]) },
    Spec { numbered: true,
        ..spec(Tool::Objdump, Need::Inspect, "llvm-objdump", "show a BPF program's instructions", &["llvm"]) },
    Spec { numbered: true,
        ..spec(Tool::Readelf, Need::Inspect, "llvm-readelf", "show a BPF object's sections", &["llvm"]) },
    spec(Tool::Flex, Need::Source, "flex", "build a kernel", &["flex"]),
    spec(Tool::Bison, Need::Source, "bison", "build a kernel", &["bison"]),
    spec(Tool::Bc, Need::Source, "bc", "build a kernel", &["bc"]),
    spec(Tool::Perl, Need::Source, "perl", "build a kernel", &["perl"]),
    spec(Tool::Pahole, Need::Source, "pahole", "describe a kernel's types (BTF)", &["pahole"]),
    spec(Tool::Sudo, Need::Local, "sudo", "run the program on this machine as root", &["sudo"]),
    spec(Tool::Nix, Need::Test, "nix", "check the flake", &["nix-bin"]),
    spec(Tool::Chromium, Need::Test, "chromium", "check report.html", &["chromium"]),
];

impl Tool {
    /// Its row of the table.
    pub fn spec(self) -> &'static Spec {
        &TOOLS[self as usize]
    }
}

/// Finds a tool that works.
///
/// # Errors
/// [`Unusable`]: one message that names the tool, what it is for, and how to get it.
pub fn find(dirs: &Dirs, tool: Tool) -> Result<PathBuf> {
    Ok(check(dirs, tool)?.path)
}

/// Checks every program that is needed for this.
///
/// Libraries are not looked for: that takes running the C compiler, and the build says which is missing.
///
/// # Errors
/// As [`all_usable`].
pub fn require(dirs: &Dirs, need: Need) -> Result<()> {
    let mut unusable = unusable(dirs, &[need]);
    unusable.retain(|one| !one.spec.is_archive());
    all_usable(&unusable)
}

/// Everything that is needed for one of these, and is missing or of no use.
pub fn unusable(dirs: &Dirs, needs: &[Need]) -> Vec<Unusable> {
    let needed = TOOLS.iter().filter(|spec| needs.contains(&spec.need));
    needed.filter_map(|spec| check(dirs, spec.tool).err()).collect()
}

/// Makes one error of all.
///
/// # Errors
/// One message that names each tool, what it is for, and how to get it; none if there is none.
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

/// A tool that works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is; absolute.
    pub path: PathBuf,
    /// What it says its version is, for those whose version matters.
    pub version: Option<String>,
}

/// As [`find`], and says which version it is.
///
/// # Errors
/// Why the tool cannot be used.
pub fn check(dirs: &Dirs, tool: Tool) -> Result<Found, Unusable> {
    let spec = tool.spec();
    let path = spec.locate(dirs)?;
    let at = path.display();
    if spec.is_static && !matches!(closure::loader(&path), Ok(None)) {
        return Err(spec.unusable(format!("{at} is not a static executable, and the guest has no shared libraries")));
    }
    let Some((before, minimum)) = spec.version else {
        return Ok(Found { path, version: None });
    };
    let version = ask(&path, before).map_err(|why| spec.unusable(format!("{at} {why}")))?;
    if !at_least(&version, minimum) {
        return Err(spec.unusable(format!("{at} is version {version}, and {minimum} or newer is needed")));
    }
    Ok(Found { path, version: Some(version) })
}

impl Spec {
    fn locate(&'static self, dirs: &Dirs) -> Result<PathBuf, Unusable> {
        let missing = || self.unusable(format!("{} was not found", self.name));
        if self.is_archive() {
            return static_build::find(self.name).and_then(|path| path.canonicalize().ok()).ok_or_else(missing);
        }
        if let Some(named) = self.named() {
            let what = || self.unusable(format!("{} is set to {named}, which is no such program", self.env));
            return program_on_path(&named).ok_or_else(what);
        }
        let installed = (self.tool == Tool::Vng).then(|| setup::installed_vng(dirs)).flatten();
        let numbered = || NUMBERS.rev().filter(|_| self.numbered).map(|number| format!("{}-{number}", self.name));
        let found = installed.or_else(|| program_on_path(self.name));
        found.or_else(|| numbered().find_map(|name| program_on_path(&name))).ok_or_else(missing)
    }

    fn is_archive(&self) -> bool {
        self.name.ends_with(".a")
    }

    /// What the environment names; as everywhere, a name without a slash is looked up on PATH.
    fn named(&self) -> Option<String> {
        let set = (!self.env.is_empty()).then(|| std::env::var_os(self.env)).flatten()?;
        (!set.is_empty()).then(|| set.to_string_lossy().into_owned())
    }

    /// This tool, with what is wrong with it.
    pub fn unusable(&'static self, what: String) -> Unusable {
        Unusable { spec: self, what }
    }
}

/// A program that is on PATH, whatever it is. Root's directories come last: modprobe and depmod are there, and they are not
/// on everyone's PATH.
pub fn program_on_path(name: &str) -> Option<PathBuf> {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    which::which_in(name, Some(path), std::env::current_dir().unwrap_or_default()).ok()
}

/// The program's version, such as `7.2.22`: the digits and points after `before`; else why not.
fn ask(path: &Path, before: &str) -> Result<String, String> {
    let output = Command::new(path).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("does not work: {error}"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let version = said.split_once(before).map(|(_, after)| {
        let end = after.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(after.len());
        after[..end].trim_matches('.')
    });
    match version {
        Some(version) if output.status.success() && !version.is_empty() => Ok(version.to_owned()),
        _ => {
            // A Python traceback ends with the error.
            let mut lines = said.lines().filter(|line| !line.trim().is_empty());
            let line = if output.status.success() { lines.next() } else { lines.next_back() };
            let line: String = line.unwrap_or_default().trim().chars().take(100).collect();
            Err(format!("does not work: asked for its version it printed {line:?} ({})", output.status))
        }
    }
}

/// Whether a version is not below another; numbers are compared as numbers.
fn at_least(version: &str, minimum: &str) -> bool {
    let numbers = |text: &str| -> Vec<u64> { text.split('.').map(|number| number.parse().unwrap_or(0)).collect() };
    numbers(version) >= numbers(minimum)
}

/// A tool that is missing, or of no use; its text says everything that a person needs.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}; it is needed to {}: {}", .spec.purpose, self.remedy())]
pub struct Unusable {
    /// Which.
    pub spec: &'static Spec,
    /// What is wrong, without what to do.
    pub what: String,
}

impl Unusable {
    /// Whether it would be used once it is installed; not so if an environment variable names another.
    pub fn can_be_installed(&self) -> bool {
        self.spec.named().is_none()
    }

    /// What to do, as the rest of a sentence.
    pub fn remedy(&self) -> String {
        let (packages, setup) = (self.spec.packages.join(" "), crate::command::hint("setup"));
        if !self.can_be_installed() {
            format!("correct {}, or unset it", self.spec.env)
        } else if packages.is_empty() {
            format!("run `{setup}`, which installs it in the cache")
        } else if !setup::has_apt() {
            format!("install what Debian has in {packages}, or work inside `nix develop`")
        } else if matches!(self.spec.need, Need::Local | Need::Test) {
            format!("run `apt-get install {packages}` as root")
        } else {
            format!("run `{setup}`, or `sudo apt-get install {packages}`")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tool_is_at_its_own_place_in_the_table() {
        for (index, spec) in TOOLS.iter().enumerate() {
            assert_eq!(spec.tool as usize, index, "{}", spec.name);
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        for (version, minimum) in [("1.42", "1.42"), ("1.100", "1.42"), ("2", "1.42")] {
            assert!(at_least(version, minimum), "{version}");
        }
        assert!(!at_least("1.9", "1.42") && !at_least("1", "1.42"));
    }
}
