//! The oldest Rust that Cargo.toml promises to build with: from rustup, or from Debian's packages, which are unpacked
//! under `target/` and not installed, since another Rust builds everything else.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use cargo_kernels::dirs::Dirs;
use cargo_kernels::{apt, cargo, tools};

/// `rust-version` in Cargo.toml.
const VERSION: &str = env!("CARGO_PKG_RUST_VERSION");

/// Debian's names of a Rust, which are followed by these; Debian 12 has one for browsers, Debian 13's own is 1.85.
const SUFFIXES: [&str; 2] = ["-web", ""];

/// Runs cargo with exactly that Rust, into a target directory of its own.
pub fn run(dirs: &Dirs, arguments: &[String]) -> Result<()> {
    let rustup = format!("rustup toolchain install {VERSION} --component rustfmt");
    let remedy = format!("`{rustup}`, or on a Debian that has it `cargo xtask test --setup`");
    let bin = find(dirs).with_context(|| format!("Rust {VERSION} is not here: {remedy}"))?;
    let mut path = OsString::from(&bin);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let target = cargo::plain_target(dirs, &dirs.target.join("minimum-rust"))?;
    let mut command = Command::new(bin.join("cargo"));
    command.current_dir(&dirs.project).args(arguments);
    // Whether it compiles is all that is asked. A build script makes the programs for guests, and others compile C.
    command.envs([("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"), ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")]);
    command.envs([("CARGO_INCREMENTAL", "0"), ("CFLAGS", "-O0")]);
    // A build script finds rustfmt on PATH.
    command.env("PATH", path).env("RUSTC", bin.join("rustc")).env(cargo::TARGET_DIR, target);
    let status = with_libraries(dirs, &mut command).env_remove("CARGO").status();
    let status = status.with_context(|| format!("cannot run cargo in {}", bin.display()))?;
    ensure!(status.success(), "with Rust {VERSION}: {status}");
    Ok(())
}

/// Gets that Rust, where Debian has it; elsewhere the step that needs it says what to do.
pub fn install(dirs: &Dirs) -> Result<()> {
    if find(dirs).is_some() || !tools::has_apt() {
        return Ok(());
    }
    let shell = Shell::new()?;
    let debian_has =
        |suffix: &&str| said(cmd!(shell, "apt-cache madison rustc{suffix}")).contains(&format!("| {VERSION}."));
    let Some(suffix) = SUFFIXES.into_iter().find(debian_has) else { return Ok(()) };
    let (downloads, root) = (dirs.target.join("vmtest/debs"), unpacked(dirs));
    let new = root.with_extension("new");
    shell.create_dir(downloads.join("partial"))?;
    shell.create_dir(&new)?;
    let archives = format!("Dir::Cache::Archives={}", downloads.display());
    // Debian may have newer ones as well, which it would take.
    let pin = downloads.join("preferences");
    shell.write_file(&pin, format!("Package: *rust* cargo*\nPin: version {VERSION}.*\nPin-Priority: 1001\n"))?;
    let preferences = format!("Dir::Etc::preferences={}", pin.display());
    let packages = ["cargo", "rustc", "rustfmt"].map(|name| format!("{name}{suffix}"));
    let mut arguments = vec!["--download-only", "-o", &archives, "-o", &preferences];
    arguments.extend(packages.iter().map(String::as_str));
    apt::install(dirs, &arguments)?;
    for package in shell.read_dir(&downloads)? {
        if package.extension().is_some_and(|extension| extension == "deb") {
            cmd!(shell, "dpkg-deb -x {package} {new}").quiet().run()?;
            shell.remove_path(package)?;
        }
    }
    shell.remove_path(&root)?;
    fs::rename(&new, &root).with_context(|| format!("cannot make {}", root.display()))
}

/// What a program prints; nothing when it fails.
fn said(command: xshell::Cmd<'_>) -> String {
    command.quiet().ignore_stderr().read().unwrap_or_default()
}

/// The directory with `cargo` and `rustc` of exactly that version.
fn find(dirs: &Dirs) -> Option<PathBuf> {
    let shell = Shell::new().ok()?;
    // It would download one that is not here.
    let which = cmd!(shell, "rustup which --toolchain {VERSION} rustc").env("RUSTUP_AUTO_INSTALL", "0");
    let of_rustup = Path::new(&said(which)).parent().map(Path::to_owned);
    let others = [unpacked(dirs).join("usr/bin"), PathBuf::from("/usr/bin")];
    of_rustup.into_iter().chain(others).find(|bin| is_it(dirs, bin))
}

fn is_it(dirs: &Dirs, bin: &Path) -> bool {
    let mut rustc = Command::new(bin.join("rustc"));
    let output = with_libraries(dirs, rustc.arg("--version").stderr(Stdio::null())).output();
    let version = format!("rustc {VERSION}.");
    output.is_ok_and(|output| output.stdout.starts_with(version.as_bytes())) && bin.join("cargo").exists()
}

/// Where Debian's packages are unpacked.
fn unpacked(dirs: &Dirs) -> PathBuf {
    dirs.target.join(format!("vmtest/rust-{VERSION}"))
}

/// What was unpacked brings LLVM's library and the like.
fn with_libraries<'a>(dirs: &Dirs, command: &'a mut Command) -> &'a mut Command {
    let directory = format!("lib/{}-linux-gnu", std::env::consts::ARCH);
    let root = unpacked(dirs);
    let directories = [root.join("usr").join(&directory), root.join(&directory)];
    command.env("LD_LIBRARY_PATH", std::env::join_paths(directories).unwrap_or_default())
}
