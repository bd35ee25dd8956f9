//! Building a kernel from its source: a release's tarball, this crate's configuration, this machine's compiler.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;

use super::compression::decompressed;
use super::progress::Progress;
use super::{Arch, digest, kconfig};

/// Programs that the build runs, called as their packages of Debian's, beside `ld` and the architecture's own compiler. No
/// libssl-dev: nothing is signed. It is pahole 1.13 or later, for the BTF of 5.4.
const PROGRAMS: [&str; 7] = ["gcc", "make", "flex", "bison", "bc", "perl", "pahole"];
/// Headers of libraries that the build's own programs (objtool, resolve_btfids) are linked with.
const HEADERS: [(&str, &str); 2] = [("gelf.h", "libelf-dev"), ("zlib.h", "zlib1g-dev")];

/// The unpacked tree of 6.18 with its objects, in bytes, rounded up.
const SPACE: u64 = 4 << 30;
/// What 6.1 takes on one core of a server of 2020, with a third on top; 5.4 takes two thirds of that.
const CORE_MINUTES: usize = 16;
/// How often a build that nobody watches says that it goes on.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);
/// How much of the compiler's messages is shown of a build that failed, in bytes.
const SHOWN: usize = 2000;

/// All that decides what a build gives, beside the source: the configuration, the compiler, and pahole, which makes the
/// BTF. It is part of the name under which the kernel is cached.
pub fn identity(arch: &Arch) -> String {
    let version = |program: &str| first_line(program, "--version").unwrap_or_default();
    let config = digest::sha256(arch.config.as_bytes());
    format!("config:{config} {} {}", version(&arch.compiler()), version("pahole"))
}

fn first_line(program: &str, option: &str) -> Option<String> {
    let output = Command::new(program).arg(option).stderr(Stdio::null()).output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

/// Looks for all that a build needs, room in `dir` included, before anything is fetched; names all that is missing.
pub fn check(arch: &Arch, dir: &Path) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    let programs = PROGRAMS.iter().map(|name| (*name, *name)).chain([("ld", "binutils")]);
    let mut missing: Vec<_> = programs.filter(|(name, _)| !in_path(name)).collect();
    if !in_path(&arch.compiler()) && !arch.is_host() {
        missing.extend(arch.cross_packages.iter().map(|package| (*package, *package)));
    }
    // Without a compiler there is no telling which headers it would find.
    if in_path("gcc") {
        missing.extend(HEADERS.into_iter().filter(|(name, _)| !has_header(name)));
    }
    let (what, packages): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
    let (what, packages) = (what.join(", "), packages.join(" "));
    ensure!(what.is_empty(), "building it needs {what}; on Debian: apt-get install {packages}");
    let free = statvfs(dir).with_context(|| format!("cannot tell how much room there is in {}", dir.display()))?;
    let free = free.blocks_available() * free.fragment_size();
    let (mib, at) = (SPACE >> 20, dir.display());
    ensure!(free >= SPACE, "building it needs {mib} MiB in {at}, where {} MiB are free", free >> 20);
    Ok(())
}

fn has_header(name: &str) -> bool {
    let output = Command::new("gcc").args(["-E", "-x", "c", "-include", name, "/dev/null"]).output();
    output.is_ok_and(|output| output.status.success())
}

/// Builds the kernel in the tarball in the new directory `work`, which is of no use afterwards, and puts its image and
/// `config` into the directory `into`.
pub fn build(arch: &'static Arch, tarball: &Path, work: &Path, into: &Path, progress: &dyn Progress) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    progress.note(&format!(
        "building it from source, which is done once: about {} minutes on {cores} cores",
        CORE_MINUTES.div_ceil(cores)
    ));
    fs_err::create_dir(work)?;
    let tree = Tree { arch, dir: unpack(arch, tarball, work)?, log: work.join("stderr"), progress };
    let fragment = work.join("fragment");
    fs_err::write(&fragment, arch.config)?;
    tree.make("allnoconfig", &[format!("KCONFIG_ALLCONFIG={}", fragment.display())])?;
    let config = tree.dir.join(".config");
    let text = fs_err::read_to_string(&config)?;
    // An option whose dependencies are not met is dropped without a word.
    let has = kconfig::parse(&text);
    let wanted = kconfig::parse(arch.config).into_iter();
    let dropped = wanted.filter(|(option, value)| has.get(option) != Some(value));
    let dropped: Vec<_> = dropped.map(|(option, value)| format!("{option}={value}")).collect();
    ensure!(dropped.is_empty(), "this release has no {} as configured", dropped.join(", "));
    let [_, image, path] = arch.source;
    tree.make(image, &[format!("-j{cores}")])?;
    for (from, to) in [(path, image), (".config", "config")] {
        fs::copy(tree.dir.join(from), into.join(to)).with_context(|| format!("cannot copy {from}"))?;
    }
    Ok(())
}

/// Unpacks the tarball, whose hash is known by now; returns the one directory in it.
fn unpack(arch: &Arch, tarball: &Path, work: &Path) -> Result<PathBuf> {
    let dir = work.join("source");
    let reader = BufReader::new(File::open(tarball)?);
    let reader = decompressed(reader, false)?.context("it is no compressed archive")?;
    tar::Archive::new(reader).unpack(&dir).with_context(|| format!("cannot unpack {}", tarball.display()))?;
    let mut entries = fs::read_dir(&dir)?.flatten().map(|entry| entry.path());
    let [kconfig, ..] = arch.source;
    let tree = entries.next().filter(|tree| tree.join(kconfig).is_file());
    tree.with_context(|| format!("it is no kernel's source: there is no {kconfig} in it"))
}

/// A kernel's source tree, unpacked.
struct Tree<'a> {
    arch: &'static Arch,
    dir: PathBuf,
    log: PathBuf,
    progress: &'a dyn Progress,
}

impl Tree<'_> {
    fn make(&self, target: &str, arguments: &[String]) -> Result<()> {
        let log = File::from(fs_err::File::create(&self.log)?);
        let mut command = self.command();
        command.args(arguments).arg(target).stderr(log).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot run make")?;
        if let Some(output) = child.stdout.take() {
            self.watch(output);
        }
        let status = child.wait().context("cannot wait for make")?;
        let messages = || {
            let log = fs::read(&self.log).unwrap_or_else(|error| error.to_string().into_bytes());
            String::from_utf8_lossy(&log[log.len().saturating_sub(SHOWN)..]).trim_end().to_owned()
        };
        ensure!(status.success(), "`make {target}` failed ({status}):\n{}", messages());
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = Command::new("make");
        command.current_dir(&self.dir).stdin(Stdio::null());
        // As an argument, since the environment's variables count for less than the Makefile's own.
        // Without LOCALVERSION the release gets a `+` where the cache happens to be below a Git repository.
        let (arch, prefix) = (self.arch, self.arch.tool_prefix());
        command.args([format!("ARCH={arch}"), format!("CROSS_COMPILE={prefix}")]).args(["LLVM=", "LOCALVERSION="]);
        // GCC 15 takes C23 for granted, in which `bool` and `false` are keywords. Parts of the kernels before 6.14 are
        // compiled without any -std and define them; where there is one it comes later and counts.
        let version = first_line(&arch.compiler(), "-dumpversion").unwrap_or_default();
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_some_and(|major| major >= 15) {
            command.arg(format!("CC={} -std=gnu11", arch.compiler()));
        }
        // The same source gives the same image, whoever builds it whenever.
        command.args(["KBUILD_BUILD_USER=vmtest", "KBUILD_BUILD_HOST=vmtest"]);
        command.args(["KBUILD_BUILD_VERSION=1", "KBUILD_BUILD_TIMESTAMP=1970-01-01"]);
        // What a cargo or a make above this program means for itself, and what a developer has set for other kernels.
        let theirs =
            "MAKEFLAGS MFLAGS MAKELEVEL KCFLAGS KAFLAGS KCPPFLAGS O KBUILD_OUTPUT KCONFIG_CONFIG KBUILD_EXTMOD W C";
        for name in theirs.split(' ') {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").env("TZ", "UTC");
        // SAFETY: prctl(2) is async-signal-safe, and nothing else is done between fork and exec. A build whose harness
        // was killed is told to end too: make passes SIGTERM on to what it runs.
        unsafe {
            command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGTERM)?));
        }
        command
    }

    /// Tells of every file that is compiled, a line each (`  CC      kernel/fork.o`).
    fn watch(&self, output: impl Read) {
        let begun = Instant::now();
        let mut told = 0;
        for (line, steps) in BufReader::new(output).lines().map_while(Result::ok).zip(1..) {
            self.progress.working_on(line.trim());
            let periods = begun.elapsed().as_secs() / SIGN_OF_LIFE.as_secs();
            if periods > told {
                told = periods;
                self.progress.note(&format!("building for {told} min: {steps} steps done"));
            }
        }
    }
}
