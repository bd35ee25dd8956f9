//! Guests of another architecture than this machine's: what is needed for them, which setup installs when it is asked to,
//! and the programs in them, which are built when they are first wanted. Nobody else pays for any of it.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use vm_guest::agent;
use vm_guest::guest_root::Programs;
use vm_guest::process::{Supervised, SupervisedCommand};
use vm_kernels::digest::sha256;
use vm_kernels::sysroot::Sysroot;
use vm_kernels::{Arch, lock, whole_file};

use crate::dirs::Dirs;
use crate::guest_programs::{self, LIBRARY_PATH};
use crate::ui::Line;
use crate::{apt, kernels, tools};

/// The QEMU program for an architecture.
pub fn qemu(dirs: &Dirs, arch: &'static Arch) -> Result<PathBuf> {
    if arch.is_host() {
        return tools::find(dirs, "qemu-system-x86_64");
    }
    let found = tools::program_on_path(arch.qemu);
    found.map_or_else(|| require(dirs, arch).and_then(|()| bail!("{} was not found", arch.qemu)), Ok)
}

/// What runs in guests of an architecture.
pub fn programs(dirs: &Dirs, arch: &'static Arch) -> Result<Programs> {
    if arch.is_host() {
        let busybox = tools::find(dirs, "busybox")?;
        return Ok(Programs { agent: Cow::Borrowed(agent::PROGRAM), busybox, bash: None });
    }
    let sysroot = sysroot(dirs, arch)?;
    if !sysroot.exists() {
        require(dirs, arch)?;
    }
    let agent = Cow::Owned(program(dirs, arch, "agent", agent::PROGRAM, |_| ())?);
    let [busybox, bash] = ["bin/busybox", "bin/bash-static"].map(|name| sysroot.dir.join(name));
    Ok(Programs { agent, busybox, bash: Some(bash) })
}

/// Where its libraries are.
pub fn sysroot(dirs: &Dirs, arch: &'static Arch) -> Result<Sysroot> {
    Ok(Sysroot::of(&kernels::store(dirs)?, arch))
}

/// What cargo has to know to compile and link for another architecture.
pub fn environment(arch: &Arch, sysroot: &Sysroot) -> [(String, OsString); 4] {
    let target = arch.target.replace('-', "_");
    let compiler = OsString::from(arch.compiler());
    let headers = format!("-isystem {}", sysroot.dir.join("usr/include").display());
    [
        (format!("CARGO_TARGET_{}_LINKER", target.to_uppercase()), compiler.clone()),
        (format!("CC_{target}"), compiler),
        (format!("CFLAGS_{target}"), headers.into()),
        (format!("{LIBRARY_PATH}_{target}"), sysroot.libraries().into()),
    ]
}

/// Something that another architecture needs and that is not here.
struct Missing<'a> {
    name: String,
    /// What setup does about it, for a person.
    remedy: String,
    get: Box<dyn Fn() -> Result<()> + 'a>,
}

fn missing<'a>(dirs: &'a Dirs, arch: &'static Arch) -> Result<Vec<Missing<'a>>> {
    let mut missing = Vec::new();
    let qemu = (arch.qemu.to_owned(), std::slice::from_ref(&arch.qemu_package));
    for (name, packages) in [qemu, (arch.compiler(), arch.cross_packages)] {
        if tools::program_on_path(&name).is_none() {
            let remedy = format!("install Debian packages: {}", packages.join(" "));
            missing.push(Missing { name, remedy, get: Box::new(|| apt::install(dirs, packages)) });
        }
    }
    if !has_rust(arch) {
        let line = ["rustup", "target", "add", arch.target];
        let get = move || {
            println!("$ {}", line.join(" "));
            let status = Command::new(line[0]).args(&line[1..]).status().context("cannot run rustup")?;
            ensure!(status.success(), "rustup failed ({status}): see its messages above");
            Ok(())
        };
        let (name, remedy) = (format!("Rust's target {}", arch.target), format!("run: {}", line.join(" ")));
        missing.push(Missing { name, remedy, get: Box::new(get) });
    }
    let sysroot = sysroot(dirs, arch)?;
    if !sysroot.exists() {
        let name = "the libraries and programs for its guests".to_owned();
        let remedy = format!("unpack Debian's for {} in the cache, and not install them", arch.debian);
        let get = move || sysroot.fetch(&kernels::store(dirs)?, &Line::new("setup"));
        missing.push(Missing { name, remedy, get: Box::new(get) });
    }
    Ok(missing)
}

/// Whether programs for it can be compiled: its standard library is an option of Rust's.
fn has_rust(arch: &Arch) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut rustc = Command::new(rustc);
    rustc.args(["--print", "target-libdir", "--target", arch.target]).stdin(Stdio::null()).stderr(Stdio::null());
    let directory = rustc.output().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    directory.is_ok_and(|directory| Path::new(&directory).is_dir())
}

/// Checks that all is here that an architecture needs beside what this machine's own does; else says in one sentence what
/// is missing, and how to get it.
pub fn require(dirs: &Dirs, arch: &'static Arch) -> Result<()> {
    if arch.is_host() {
        return Ok(());
    }
    let missing: Vec<String> = missing(dirs, arch)?.into_iter().map(|missing| missing.name).collect();
    let setup = crate::hint::hint(&format!("setup --arch {arch}"));
    ensure!(missing.is_empty(), "kernels for {arch} need {}, not found here: run `{setup}`", missing.join(", "));
    Ok(())
}

/// `setup --arch`: says what is to be done, and unless it is only to be said, does it.
pub fn set_up(dirs: &Dirs, arch: &'static Arch, dry_run: bool) -> Result<()> {
    let missing = missing(dirs, arch)?;
    if missing.is_empty() {
        println!("Everything that is needed for {arch} is here.");
    }
    for Missing { name, remedy, .. } in &missing {
        println!("for {arch}, {name}: {remedy}");
    }
    missing.iter().filter(|_| !dry_run).try_for_each(|missing| (missing.get)())
}

/// Where such programs are kept, and built.
pub fn built(dirs: &Dirs) -> PathBuf {
    dirs.cache.join("programs")
}

/// Held by a run that builds one; below [`built`].
pub const LOCK: &str = "build/lock";

/// A static program for guests, `vmtest-NAME`, of the package `vm/NAME`, built with what `configure` adds. It is kept
/// under the name of `native`, which is the same program for this machine, built together with this one.
pub fn program(
    dirs: &Dirs,
    arch: &'static Arch,
    name: &str,
    native: &[u8],
    configure: impl FnOnce(&mut Command),
) -> Result<Vec<u8>> {
    let kept = built(dirs).join(format!("{name}-{arch}-{}", &sha256(native).as_str()[..16]));
    let read = || std::fs::read(&kept);
    if let Ok(program) = read() {
        return Ok(program);
    }
    let build = built(dirs).join("build");
    let failed = || format!("cannot write to {}", build.display());
    std::fs::create_dir_all(&build).with_context(failed)?;
    let _lock = lock::exclusive(&built(dirs).join(LOCK), || ()).with_context(failed)?;
    // Another run may have built it meanwhile.
    if let Ok(program) = read() {
        return Ok(program);
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("Cargo.toml");
    let gone = manifest.display();
    ensure!(manifest.exists(), "{gone} is gone, from which this program was built: install it anew");
    require(dirs, arch)?;
    eprintln!("building the {name} for {arch}, which is done once");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let (mut command, built) = guest_programs::command(&cargo, name, &manifest, arch.target, &build);
    command.envs(environment(arch, &sysroot(dirs, arch)?));
    configure(&mut command);
    let status = Supervised::spawn(SupervisedCommand::like(&command)?)?.wait()?;
    ensure!(status.success(), "the {name} for {arch} was not built: see above");
    let bytes = std::fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    whole_file::write(&kept, &bytes)?;
    Ok(bytes)
}
