//! `cargo xtask setup`: installs what the host needs. Debian and Ubuntu: packages, through apt-get; anywhere: the
//! pinned virtme-ng, into an environment of its own in the cache.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};

use crate::dirs::Dirs;
use crate::tools::{self, Need, Unusable};
use crate::{apt, cross, exit, virtme_ng};
use vm_kernels::{Arch, lock};

/// Runs the command.
pub fn run(dirs: &Dirs, arch: Option<&'static Arch>, dry_run: bool) -> Result<u8> {
    if let Some(arch) = arch.filter(|arch| !arch.is_host()) {
        cross::set_up(dirs, arch, dry_run)?;
    }
    if !dry_run {
        ensure(dirs, &[])?;
        println!("Everything that is needed is here.");
        return Ok(exit::OK);
    }
    let Plan { missing, packages, vng } = Plan::new(dirs, &[]);
    if missing.is_empty() {
        println!("Nothing to do: everything that is needed is here.");
    }
    if !packages.is_empty() {
        println!("would install Debian packages: {}", packages.join(" "));
    }
    if vng {
        println!("would install virtme-ng into {}", virtme_ng::environment(dirs).display());
    }
    let by_hand = missing.iter().filter(|one| !one.can_be_installed() || one.tool.name != "vng" && !tools::has_apt());
    by_hand.for_each(|one| println!("cannot install here: {one}"));
    Ok(exit::OK)
}

/// What setup is there for and is not here, and what it does about it.
struct Plan {
    missing: Vec<Unusable>,
    /// For apt-get.
    packages: Vec<&'static str>,
    /// Whether virtme-ng's environment is made.
    vng: bool,
}

impl Plan {
    fn new(dirs: &Dirs, more: &[Need]) -> Self {
        let mut missing = tools::unusable(dirs, &[&[Need::Boot, Need::Build, Need::Extra], more].concat());
        let vng = missing.iter().any(|one| one.tool.name == "vng" && one.can_be_installed());
        if vng {
            missing.extend(tools::unusable(dirs, &[Need::Install]));
        }
        let installable = missing.iter().filter(|one| one.can_be_installed() && tools::has_apt());
        let packages: BTreeSet<_> = installable.flat_map(|one| one.tool.packages.split_whitespace()).collect();
        Self { packages: packages.into_iter().collect(), missing, vng }
    }
}

/// Installs what is missing, and what these `more` take, where that can be installed; says what it is about to do, and is
/// quick and quiet when nothing is missing.
pub fn ensure(dirs: &Dirs, more: &[Need]) -> Result<()> {
    if Plan::new(dirs, more).missing.is_empty() {
        return Ok(());
    }
    // One setup at a time with this cache; apt-get sees to its own.
    let path = dirs.cache.join("setup.lock");
    let failed = || format!("cannot lock {}", path.display());
    fs::create_dir_all(&dirs.cache).with_context(failed)?;
    let _lock = lock::exclusive(&path, || println!("Waiting for another setup to finish.")).with_context(failed)?;
    // Another setup may have done it meanwhile.
    let Plan { packages, vng, .. } = Plan::new(dirs, more);
    if !packages.is_empty() {
        apt::install(dirs, &packages)?;
    }
    if vng {
        // Without Python there is no use in trying; the list at the end names it.
        if let Ok(python) = tools::find(dirs, "python3") {
            virtme_ng::install(dirs, &python)?;
        }
    }
    // No kernel can be tested without these.
    let mut missing = Plan::new(dirs, &[]).missing;
    missing.retain(|one| one.tool.need != Need::Extra);
    tools::all_usable(&missing)
}
