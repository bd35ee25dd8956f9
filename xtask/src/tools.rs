//! What the harness needs of the host: one table, finding each thing, and saying how to get it.

mod version;

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use nix::unistd::{AccessFlags, access};
use object::Endianness;
use object::elf::{FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::setup;
use crate::static_build;
use version::Asked;

/// Something on the host, by the name that the code uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// `qemu-system-x86_64`.
    Qemu,
    /// `vng`, of virtme-ng.
    Vng,
    /// A static busybox.
    Busybox,
    /// `file`.
    File,
    /// `modprobe`.
    Modprobe,
    /// `depmod`.
    Depmod,
    /// Certificates of the authorities that are trusted.
    Certificates,
    /// The C compiler.
    Cc,
    /// `make`.
    Make,
    /// `pkg-config`.
    PkgConfig,
    /// `clang`, which compiles for BPF.
    Clang,
    /// The C library's archive.
    LibC,
    /// libelf's archive.
    LibElf,
    /// zlib's archive.
    LibZ,
    /// Python with `venv`.
    Python,
    /// `sudo`.
    Sudo,
    /// `nix`.
    Nix,
    /// Chromium.
    Chromium,
    /// `llvm-objdump`.
    Objdump,
    /// `llvm-readelf`.
    Readelf,
}

/// What a tool is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// To boot kernels.
    Boot,
    /// To build what runs in them.
    Build,
    /// To fetch kernels that are not at hand.
    Fetch,
    /// To install virtme-ng, and no more once that is there.
    Install,
    /// To run those tests of `cargo xtask test` that are about this.
    Test,
    /// To run the program on this machine as root.
    Local,
    /// To look at what was built.
    Inspect,
}

/// One line of the table.
#[derive(Debug)]
pub struct Spec {
    tool: Tool,
    /// What people call it.
    pub name: &'static str,
    /// Completes "needed to …".
    pub purpose: &'static str,
    /// When it is needed.
    pub need: Need,
    place: Place,
    version: Option<Probe>,
    /// The packages of Debian and Ubuntu that bring it.
    pub packages: &'static [&'static str],
}

/// Where to look.
#[derive(Debug)]
enum Place {
    /// A program: what an environment variable names, else the first of these names that is on PATH.
    Program { env: &'static str, names: &'static [&'static str] },
    /// A program that is linked statically, found likewise.
    StaticProgram { env: &'static str, names: &'static [&'static str] },
    /// A static library.
    Archive(&'static str),
    /// Certificates: the file that an environment variable names, else wherever systems are known to have them.
    Certificates { env: &'static str },
}

/// How a program says its version.
#[derive(Debug)]
pub struct Probe {
    /// What it is asked with.
    argument: &'static str,
    /// What stands before the number.
    before: &'static str,
    /// What is needed at least.
    minimum: &'static str,
}

/// In the order of [`Tool`].
pub const TOOLS: &[Spec] = &[
    Spec {
        tool: Tool::Qemu,
        name: "qemu-system-x86_64",
        purpose: "run kernels",
        need: Need::Boot,
        place: Place::Program { env: "VMTEST_QEMU", names: &["qemu-system-x86_64"] },
        // The newest thing asked of it is a machine's memory-backend, of 5.0; systems with the Python that virtme-ng
        // needs have 6.2 or newer.
        version: Some(Probe {
            argument: "--version",
            before: "QEMU emulator version ",
            minimum: "6.0",
        }),
        packages: &["qemu-system-x86"],
    },
    Spec {
        tool: Tool::Vng,
        name: "vng",
        purpose: "boot kernels through virtme-ng",
        need: Need::Boot,
        place: Place::Program { env: "VMTEST_VNG", names: &["vng"] },
        version: Some(Probe { argument: "--version", before: "virtme-ng ", minimum: "1.42" }),
        packages: &[],
    },
    Spec {
        tool: Tool::Busybox,
        name: "busybox",
        purpose: "give the guest its few commands, without shared libraries",
        need: Need::Boot,
        place: Place::StaticProgram {
            env: "VMTEST_BUSYBOX",
            names: &["busybox", "busybox-static", "busybox.static"],
        },
        version: None,
        packages: &["busybox-static"],
    },
    Spec {
        tool: Tool::File,
        name: "file",
        purpose: "let virtme-ng read a kernel's version",
        need: Need::Boot,
        place: Place::Program { env: "", names: &["file"] },
        version: None,
        packages: &["file"],
    },
    Spec {
        tool: Tool::Modprobe,
        name: "modprobe",
        purpose: "let virtme-ng find the modules that a kernel needs",
        need: Need::Boot,
        place: Place::Program { env: "", names: &["modprobe"] },
        version: None,
        packages: &["kmod"],
    },
    Spec {
        tool: Tool::Depmod,
        name: "depmod",
        purpose: "index a kernel's modules",
        need: Need::Boot,
        place: Place::Program { env: "", names: &["depmod"] },
        version: None,
        packages: &["kmod"],
    },
    Spec {
        tool: Tool::Certificates,
        name: "CA bundle",
        purpose: "fetch kernels over https",
        need: Need::Fetch,
        place: Place::Certificates { env: "SSL_CERT_FILE" },
        version: None,
        packages: &["ca-certificates"],
    },
    Spec {
        tool: Tool::Cc,
        name: "cc",
        purpose: "compile libbpf and link",
        need: Need::Build,
        place: Place::Program { env: "", names: &["cc"] },
        version: None,
        packages: &["gcc", "libc6-dev"],
    },
    Spec {
        tool: Tool::Make,
        name: "make",
        purpose: "build libbpf",
        need: Need::Build,
        place: Place::Program { env: "", names: &["make"] },
        version: None,
        packages: &["make"],
    },
    Spec {
        tool: Tool::PkgConfig,
        name: "pkg-config",
        purpose: "build libbpf",
        need: Need::Build,
        place: Place::Program { env: "PKG_CONFIG", names: &["pkg-config"] },
        version: None,
        packages: &["pkg-config"],
    },
    Spec {
        tool: Tool::Clang,
        name: "clang",
        purpose: "compile for BPF",
        need: Need::Build,
        place: Place::Program {
            env: "CLANG",
            names: &[
                "clang", "clang-23", "clang-22", "clang-21", "clang-20", "clang-19", "clang-18",
                "clang-17", "clang-16", "clang-15", "clang-14", "clang-13", "clang-12", "clang-11",
                "clang-10",
            ],
        },
        // Older ones cannot describe a BPF program's types (BTF).
        version: Some(Probe { argument: "--version", before: "clang version ", minimum: "10" }),
        packages: &["clang"],
    },
    Spec {
        tool: Tool::LibC,
        name: "libc.a",
        purpose: "link statically for the guest",
        need: Need::Build,
        place: Place::Archive("libc.a"),
        version: None,
        packages: &["libc6-dev"],
    },
    Spec {
        tool: Tool::LibElf,
        name: "libelf.a",
        purpose: "link libbpf statically for the guest",
        need: Need::Build,
        place: Place::Archive("libelf.a"),
        version: None,
        packages: &["libelf-dev"],
    },
    Spec {
        tool: Tool::LibZ,
        name: "libz.a",
        purpose: "link libbpf statically for the guest",
        need: Need::Build,
        place: Place::Archive("libz.a"),
        version: None,
        packages: &["zlib1g-dev"],
    },
    Spec {
        tool: Tool::Python,
        name: "python3",
        purpose: "install virtme-ng",
        need: Need::Install,
        place: Place::Program { env: "", names: &["python3"] },
        version: Some(Probe { argument: "--version", before: "Python ", minimum: "3.10" }),
        packages: &["python3", "python3-venv"],
    },
    Spec {
        tool: Tool::Sudo,
        name: "sudo",
        purpose: "run the program on this machine as root",
        need: Need::Local,
        place: Place::Program { env: "", names: &["sudo"] },
        version: None,
        packages: &["sudo"],
    },
    Spec {
        tool: Tool::Nix,
        name: "nix",
        purpose: "check the flake",
        need: Need::Test,
        place: Place::Program { env: "", names: &["nix"] },
        version: None,
        packages: &["nix-bin"],
    },
    Spec {
        tool: Tool::Chromium,
        name: "Chromium",
        purpose: "check report.html",
        need: Need::Test,
        place: Place::Program { env: "", names: &["chromium"] },
        version: None,
        packages: &["chromium"],
    },
    Spec {
        tool: Tool::Objdump,
        name: "llvm-objdump",
        purpose: "show what the compiler made of a BPF program",
        need: Need::Inspect,
        place: Place::Program {
            env: "",
            names: &[
                "llvm-objdump",
                "llvm-objdump-23",
                "llvm-objdump-22",
                "llvm-objdump-21",
                "llvm-objdump-20",
                "llvm-objdump-19",
                "llvm-objdump-18",
                "llvm-objdump-17",
                "llvm-objdump-16",
                "llvm-objdump-15",
                "llvm-objdump-14",
                "llvm-objdump-13",
                "llvm-objdump-12",
                "llvm-objdump-11",
            ],
        },
        version: None,
        packages: &["llvm"],
    },
    Spec {
        tool: Tool::Readelf,
        name: "llvm-readelf",
        purpose: "show what the compiler made of a BPF program",
        need: Need::Inspect,
        place: Place::Program {
            env: "",
            names: &[
                "llvm-readelf",
                "llvm-readelf-23",
                "llvm-readelf-22",
                "llvm-readelf-21",
                "llvm-readelf-20",
                "llvm-readelf-19",
                "llvm-readelf-18",
                "llvm-readelf-17",
                "llvm-readelf-16",
                "llvm-readelf-15",
                "llvm-readelf-14",
                "llvm-readelf-13",
                "llvm-readelf-12",
                "llvm-readelf-11",
            ],
        },
        version: None,
        packages: &["llvm"],
    },
];

impl Spec {
    /// Which tool this is.
    pub fn tool(&self) -> Tool {
        self.tool
    }
}

impl Tool {
    /// Its line of the table.
    pub fn spec(self) -> &'static Spec {
        &TOOLS[self as usize]
    }
}

/// Finds a tool that works.
///
/// # Errors
/// [`Unusable`]: one message that names the tool, what it is for, and how to get it.
pub fn find(tool: Tool) -> Result<PathBuf> {
    Ok(check(tool)?.path)
}

/// Checks every program that is needed for one of these.
///
/// Libraries are not looked for: that takes running the C compiler, and the build says which is missing.
///
/// # Errors
/// One message that names each that is missing, what it is for, and how to get it.
pub fn require(needs: &[Need]) -> Result<()> {
    let programs = TOOLS.iter().filter(|spec| !matches!(spec.place, Place::Archive(_)));
    let needed = programs.filter(|spec| needs.contains(&spec.need));
    let unusable: Vec<Unusable> = needed.filter_map(|spec| check(spec.tool).err()).collect();
    match <[Unusable; 1]>::try_from(unusable) {
        Ok([only]) => Err(only.into()),
        Err(none) if none.is_empty() => Ok(()),
        Err(several) => bail!("{}", list(&several)),
    }
}

/// Several unusable tools, a line each, and how to get those that are nowhere.
pub fn list(unusable: &[Unusable]) -> String {
    let mut text = "tools are missing, or do not work:".to_owned();
    let mut not_found = Vec::new();
    for one in unusable {
        let purpose = one.tool.spec().purpose;
        text += &format!("\n  {}; it is needed to {purpose}", one.what());
        match one.problem {
            Problem::Missing => not_found.push(one.tool),
            _ => text += &format!(": {}", one.remedy()),
        }
    }
    if !not_found.is_empty() {
        text += &format!("\nto get what was not found, {}", how_to_get(&not_found));
    }
    text
}

/// A tool that works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is; absolute.
    pub path: PathBuf,
    /// What it says its version is, for those whose version matters.
    pub version: Option<String>,
}

/// As [`find`], and says which version it is. Asking a program takes long enough (Python: 0.3 s) that the answer is
/// kept under `target/` until the program changes.
///
/// # Errors
/// Why the tool cannot be used.
pub fn check(tool: Tool) -> Result<Found, Unusable> {
    let spec = tool.spec();
    let unusable = |problem| Unusable { tool, problem };
    let path = locate(spec).map_err(unusable)?;
    let Some(probe) = &spec.version else { return Ok(Found { path, version: None }) };
    match version::ask(&path, probe) {
        Ok(version) if version::at_least(&version, probe.minimum) => {
            Ok(Found { path, version: Some(version) })
        }
        Ok(version) => Err(unusable(Problem::TooOld { path, version, minimum: probe.minimum })),
        Err(Asked::Nonsense(printed)) => Err(unusable(Problem::Nonsense { path, printed })),
        Err(Asked::Failed(why)) => Err(unusable(Problem::Broken { path, why })),
    }
}

fn locate(spec: &Spec) -> Result<PathBuf, Problem> {
    match spec.place {
        Place::Program { env, names } => program(spec.tool, env, names, |_| true),
        Place::StaticProgram { env, names } => program(spec.tool, env, names, is_static),
        Place::Archive(file) => archive(file).ok_or(Problem::Missing),
        Place::Certificates { env } => match named_by(env) {
            Some(path) if path.is_file() => Ok(path),
            Some(path) => Err(Problem::Misnamed { env, path }),
            None => {
                let known = openssl_probe::probe();
                known.cert_file.into_iter().chain(known.cert_dir).next().ok_or(Problem::Missing)
            }
        },
    }
}

/// The first that suits. If there are only others, the first of those is the problem.
fn program(
    tool: Tool,
    env: &'static str,
    names: &[&str],
    suits: impl Fn(&Path) -> bool,
) -> Result<PathBuf, Problem> {
    let candidates = match named_by(env) {
        // As everywhere, a name without a slash is looked up on PATH.
        Some(named) => match on_path(named.as_os_str()).next() {
            Some(path) => vec![path],
            None => return Err(Problem::Misnamed { env, path: named }),
        },
        None => {
            let installed = (tool == Tool::Vng).then(setup::installed_vng).flatten();
            let found = names.iter().flat_map(|name| on_path(OsStr::new(name)));
            installed.into_iter().chain(found).collect()
        }
    };
    let unsuitable = candidates.first().cloned();
    candidates.into_iter().find(|path| suits(path)).ok_or(match unsuitable {
        Some(path) => Problem::Dynamic { path },
        None => Problem::Missing,
    })
}

fn named_by(env: &str) -> Option<PathBuf> {
    if env.is_empty() {
        return None;
    }
    std::env::var_os(env).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// A program that is on PATH, whatever it is.
pub fn program_on_path(name: &str) -> Option<PathBuf> {
    on_path(OsStr::new(name)).next()
}

/// Root's directories come last: modprobe and depmod are there, and they are not on everyone's PATH.
fn on_path(name: &OsStr) -> impl Iterator<Item = PathBuf> + use<> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> =
        std::env::split_paths(&path).filter(|directory| directory.is_absolute()).collect();
    directories.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    if name.as_encoded_bytes().contains(&b'/') {
        directories = std::env::current_dir().into_iter().collect();
    }
    let name = name.to_owned();
    directories
        .into_iter()
        .map(move |directory| directory.join(&name))
        .filter(|path| path.is_file() && access(path, AccessFlags::X_OK).is_ok())
}

/// Whether an ELF executable needs no interpreter, which is what loads shared libraries (elf(5), `PT_INTERP`).
fn is_static(path: &Path) -> bool {
    let read = || -> Option<bool> {
        let mut start = vec![0; 4096];
        let length = std::io::Read::read(&mut std::fs::File::open(path).ok()?, &mut start).ok()?;
        let start = &start[..length];
        let header = FileHeader64::<Endianness>::parse(start).ok()?;
        let endian = header.endian().ok()?;
        let mut segments = header.program_headers(endian, start).ok()?.iter();
        Some(segments.all(|segment| segment.p_type(endian) != PT_INTERP))
    };
    read().unwrap_or(false)
}

fn archive(file: &str) -> Option<PathBuf> {
    let path = static_build::find(file).ok().flatten()?;
    path.canonicalize().ok()
}

/// A tool that is missing, or of no use; its text says everything that a person needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// Which.
    pub tool: Tool,
    /// Why.
    pub problem: Problem,
}

/// Why a tool cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// It is nowhere.
    Missing,
    /// An environment variable names something that is no program.
    Misnamed {
        /// The variable.
        env: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// It is an older version.
    TooOld {
        /// Where it is.
        path: PathBuf,
        /// What it is.
        version: String,
        /// What is needed.
        minimum: &'static str,
    },
    /// It answered the question for its version with something else.
    Nonsense {
        /// Where it is.
        path: PathBuf,
        /// What it printed, or as much as fits into a line.
        printed: String,
    },
    /// It does not run.
    Broken {
        /// Where it is.
        path: PathBuf,
        /// What happened.
        why: String,
    },
    /// It needs shared libraries.
    Dynamic {
        /// Where it is.
        path: PathBuf,
    },
}

impl Unusable {
    /// Whether it would be used once it is installed; not so if an environment variable names another.
    pub fn can_be_installed(&self) -> bool {
        self.named_by().is_none()
    }

    fn named_by(&self) -> Option<&'static str> {
        let (Place::Program { env, .. }
        | Place::StaticProgram { env, .. }
        | Place::Certificates { env }) = self.tool.spec().place
        else {
            return None;
        };
        named_by(env).map(|_| env)
    }

    /// What is wrong, without what to do.
    pub fn what(&self) -> String {
        let name = self.tool.spec().name;
        match &self.problem {
            Problem::Missing => format!("{name} was not found"),
            Problem::Misnamed { env, path } => {
                format!("{env} is set to {}, which is no such program", path.display())
            }
            Problem::TooOld { path, version, minimum } => {
                format!("{} is version {version}, and {minimum} or newer is needed", path.display())
            }
            Problem::Nonsense { path, printed } => format!(
                "{} does not seem to be {name}: asked for its version it printed {printed:?}",
                path.display()
            ),
            Problem::Broken { path, why } => format!("{} does not work: {why}", path.display()),
            Problem::Dynamic { path } => format!(
                "{} is not a static executable, and the guest has no shared libraries",
                path.display()
            ),
        }
    }

    /// What to do, as the rest of a sentence.
    pub fn remedy(&self) -> String {
        if let Some(env) = self.named_by() {
            return format!("correct {env}, or unset it");
        }
        how_to_get(&[self.tool])
    }
}

/// What to do to get these tools, as the rest of a sentence.
pub fn how_to_get(tools: &[Tool]) -> String {
    let by_hand = |tool: &Tool| matches!(tool.spec().need, Need::Local | Need::Test);
    let (by_hand, by_setup): (Vec<Tool>, Vec<Tool>) = tools.iter().partition(|tool| by_hand(tool));
    let mut ways = Vec::new();
    if !by_setup.is_empty() {
        ways.push(by_setup_or_packages(&by_setup));
    }
    if !by_hand.is_empty() {
        ways.push(match setup::has_apt() {
            true => format!("run `apt-get install {}` as root", packages(&by_hand)),
            false => what_debian_has(&packages(&by_hand)),
        });
    }
    ways.join(", and ")
}

fn by_setup_or_packages(tools: &[Tool]) -> String {
    let all_packaged = tools.iter().all(|tool| !tool.spec().packages.is_empty());
    match (packages(tools), setup::has_apt()) {
        (none, _) if none.is_empty() => {
            "run `cargo xtask setup`, which installs it under target/".into()
        }
        (packages, false) => what_debian_has(&packages),
        (packages, true) if all_packaged => {
            format!("run `cargo xtask setup`, or `sudo apt-get install {packages}`")
        }
        (_, true) => "run `cargo xtask setup`".into(),
    }
}

fn what_debian_has(packages: &str) -> String {
    format!("install what Debian has in {packages}, or work inside `nix develop`")
}

fn packages(tools: &[Tool]) -> String {
    let mut packages: Vec<&str> = Vec::new();
    for package in tools.iter().flat_map(|tool| tool.spec().packages) {
        if !packages.contains(package) {
            packages.push(package);
        }
    }
    packages.join(" ")
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let purpose = self.tool.spec().purpose;
        write!(f, "{}; it is needed to {purpose}: {}", self.what(), self.remedy())
    }
}

impl std::error::Error for Unusable {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_tool_has_its_own_line() {
        for (index, spec) in TOOLS.iter().enumerate() {
            assert_eq!(spec.tool as usize, index, "{}", spec.name);
            assert_eq!(spec.tool.spec().name, spec.name);
        }
        assert_eq!(TOOLS.len(), Tool::Readelf as usize + 1);
    }

    #[test]
    fn this_test_is_not_static_and_a_script_is_no_executable() {
        assert!(!is_static(&std::env::current_exe().unwrap()));
        assert!(!is_static(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-tool")));
        assert!(!is_static(Path::new("/nonexistent")));
    }

    #[test]
    fn a_message_names_the_tool_its_purpose_and_the_remedy() {
        let unusable = |tool, problem| Unusable { tool, problem }.to_string();
        let missing = unusable(Tool::Qemu, Problem::Missing);
        for part in ["qemu-system-x86_64 was not found", "run kernels", "qemu-system-x86"] {
            assert!(missing.contains(part), "{missing}");
        }
        let old = unusable(
            Tool::Vng,
            Problem::TooOld { path: "/x/vng".into(), version: "1.9".into(), minimum: "1.42" },
        );
        assert_eq!(
            old,
            "/x/vng is version 1.9, and 1.42 or newer is needed; it is needed to boot kernels \
             through virtme-ng: run `cargo xtask setup`, which installs it under target/"
        );
    }
}
