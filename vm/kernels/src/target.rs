//! What was asked for: a pin by its name, or a kernel of the user's own at a path.

use std::io;

use anyhow::{Result, bail, ensure};

use super::obtain::{self, Store, Unavailable};
use super::pins::Pin;
use super::progress::Progress;
use super::{Arch, Expected, Kernel, tree};

/// A kernel that was asked for, and where it is looked for.
#[derive(Debug, Clone)]
pub struct Target {
    store: Store,
    kind: Kind,
    /// What the user calls it; with the architecture, where that would not be known otherwise.
    name: String,
}

#[derive(Debug, Clone)]
enum Kind {
    Pin(Pin),
    Path(tree::Tree),
}

/// Finds what was asked for: pins' names, images, directories; every pin that is not extra if nothing was. A pin is
/// looked for among those of these architectures, this machine's if there are none, or by its full name; a path is for
/// what its image is for.
pub fn select(store: &Store, pins: &[Pin], wanted: &[String], arches: &[&'static Arch]) -> Result<Vec<Target>> {
    let of = if arches.is_empty() { &[Arch::host()][..] } else { arches };
    let target = |asked: &str, kind| {
        let name = match &kind {
            Kind::Pin(pin) if of.len() > 1 => pin.full_name(),
            Kind::Pin(pin) => pin.label(),
            Kind::Path(..) => asked.to_owned(),
        };
        Target { store: store.clone(), kind, name }
    };
    let mut targets: Vec<Target> = Vec::new();
    for arch in of {
        let usual = pins.iter().filter(|pin| wanted.is_empty() && !pin.extra && pin.arch == *arch);
        targets.extend(usual.map(|pin| target(&pin.name, Kind::Pin(pin.clone()))));
        for name in wanted {
            let found = target(name, find(name, pins, arch, arches)?);
            if targets.iter().all(|target| target.name != found.name) {
                targets.push(found);
            }
        }
    }
    Ok(targets)
}

fn find(wanted: &str, pins: &[Pin], arch: &'static Arch, asked: &[&'static Arch]) -> Result<Kind> {
    let is_it = |pin: &&Pin| pin.arch == arch && pin.name == wanted || pin.full_name() == wanted;
    if let Some(pin) = pins.iter().find(is_it) {
        return Ok(Kind::Pin(pin.clone()));
    }
    let of_arch = pins.iter().filter(|pin| pin.arch == arch).map(|pin| pin.name.as_str());
    let known = of_arch.collect::<Vec<_>>().join(", ");
    if pins.iter().any(|pin| pin.name == wanted) {
        bail!("kernel {wanted} is not pinned for {arch}; for that there are {known}");
    }
    let tree = match std::fs::metadata(wanted) {
        Ok(metadata) if metadata.is_dir() => tree::find(&std::path::absolute(wanted)?)?,
        Ok(_) => tree::around(&std::path::absolute(wanted)?)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("unknown kernel {wanted:?}: no pin and no file has this name; the pins are {known}");
        }
        Err(error) => bail!("unknown kernel {wanted:?}: as a path: {error}; the pins are {known}"),
    };
    let arch = tree.header.arch;
    let is_asked = asked.is_empty() || asked.contains(&arch);
    ensure!(is_asked, "{}: it is a kernel for {arch}, which was not asked for", tree.image.display());
    Ok(Kind::Path(tree))
}

impl Target {
    /// What the user calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it runs on.
    pub fn arch(&self) -> &'static Arch {
        match &self.kind {
            Kind::Pin(pin) => pin.arch,
            Kind::Path(tree) => tree.header.arch,
        }
    }

    /// The pin, if it is one.
    pub fn pin(&self) -> Option<&Pin> {
        let Kind::Pin(pin) = &self.kind else { return None };
        Some(pin)
    }

    /// Whether it can be had without a network.
    pub fn is_cached(&self) -> bool {
        self.pin().is_none_or(|pin| obtain::is_cached(&self.store, pin))
    }

    /// Gets it: fetches, verifies, unpacks and caches what is not here. Several threads and processes may do so
    /// at once; what one fetches the others wait for and use.
    pub fn obtain(&self, progress: &dyn Progress) -> Result<Kernel, Unavailable> {
        let kernel = match &self.kind {
            Kind::Pin(pin) => obtain::pin(&self.store, pin, progress),
            Kind::Path(tree) => obtain::from_tree(tree.clone(), &self.name, &Expected::Any, "path")
                .map_err(|error| Unavailable { reason: format!("it cannot be used: {error:#}"), attempts: Vec::new() }),
        }?;
        Ok(Kernel { name: self.name.clone(), ..kernel })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{ARCHES, Silent, fake, pins};

    fn chosen(wanted: &[&str], arches: &[&'static Arch]) -> Result<Vec<Target>> {
        let cache = std::env::temp_dir().join("vm-kernels-no-such-cache");
        let store = Store { cache, project: "/".into(), nix: None, debian_archive: None };
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        select(&store, &pins::built_in(), &wanted, arches)
    }

    #[test]
    fn a_path_is_a_kernel_or_wrong_usage() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("bzImage");
        std::fs::write(&image, fake::bzimage("6.9.0-mine", None)).unwrap();
        std::fs::write(dir.path().join(".config"), "CONFIG_PCI=y\n").unwrap();
        let at = |path: &Path| chosen(&[path.to_str().unwrap()], &[]);
        for path in [&image, &dir.path().to_owned()] {
            let target = at(path).unwrap().remove(0);
            assert_eq!(target.name(), path.to_str().unwrap());
            assert!(target.is_cached());
            let kernel = target.obtain(&Silent).unwrap();
            assert_eq!(kernel.image, image);
            assert_eq!(kernel.release.as_deref(), Some("6.9.0-mine"));
            assert_eq!(kernel.expected, Expected::Any);
            assert_eq!(kernel.config.unwrap()["CONFIG_PCI"], "y");
            assert_eq!(kernel.modules, None);
        }
        let error = chosen(&[image.to_str().unwrap()], &[Arch::named("arm64").unwrap()]).unwrap_err().to_string();
        assert!(error.contains(": it is a kernel for x86_64, which was not asked for"), "{error}");
        std::fs::remove_file(&image).unwrap();
        assert!(at(dir.path()).unwrap_err().to_string().contains("no kernel image"));
        assert!(at(&image).unwrap_err().to_string().contains("the pins are 5.4, 5.10"));
    }

    #[test]
    fn foreign_arch_is_part_of_name() {
        let (host, other) = (Arch::host(), ARCHES.iter().find(|arch| !arch.is_host()).unwrap());
        let full = |arch: &Arch| format!("6.1-{arch}");
        for (wanted, arches, expected) in [
            ("6.1", vec![], vec!["6.1".to_owned()]),
            ("6.1", vec![host], vec!["6.1".to_owned()]),
            ("6.1", vec![other], vec![full(other)]),
            ("6.1", vec![host, other], vec![full(host), full(other)]),
            (&full(other), vec![], vec![full(other)]),
            (&full(host), vec![], vec!["6.1".to_owned()]),
        ] {
            let targets = chosen(&[wanted], &arches).unwrap();
            assert_eq!(targets.iter().map(Target::name).collect::<Vec<_>>(), expected, "{wanted} {arches:?}");
        }
        let twice = chosen(&["6.1", "5.4", "6.1"], &[]).unwrap();
        assert_eq!(twice.iter().map(Target::name).collect::<Vec<_>>(), ["6.1", "5.4"]);
        let targets = chosen(&[], &[other]).unwrap();
        assert!(targets.len() > 4 && targets.iter().all(|target| target.arch() == other));
        let error = chosen(&["5.4-cilium"], &[Arch::named("arm64").unwrap()]).unwrap_err().to_string();
        assert!(error.contains("5.4-cilium is not pinned for arm64; for that there are 5.4, 5.10"), "{error}");
    }
}
