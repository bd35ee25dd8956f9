//! From a list of pins to a kernel, as a program that uses this crate does it.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use tempfile::TempDir;
use vm_kernels::{Expected, Silent, Store, Target, digest, fake, obtain, pins, select};

/// A project with a package of a kernel, and a list that pins the file with this hash.
fn project(pinned: &[u8]) -> (TempDir, Store, Vec<pins::Pin>) {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("linux.deb"), fake::kernel_deb("6.1.9-test", ".xz")).unwrap();
    let list = format!(
        "[[kernel]]\nname = \"mine\"\nrelease = \"6.1.9-test\"\nwhy = \"a test\"\n\
         [[kernel.source]]\nkind = \"file\"\npath = \"linux.deb\"\nsha256 = \"{}\"\n",
        digest::sha256(pinned)
    );
    let store =
        Store { cache: dir.path().join("cache"), project: dir.path().to_owned(), nix: None, debian_archive: None };
    let pins = pins::parse(&list, Path::new("kernels.toml")).unwrap();
    (dir, store, pins)
}

fn mine(store: &Store, pins: &[pins::Pin]) -> Target {
    select(store, pins, &["mine".to_owned()], &[]).unwrap().remove(0)
}

#[test]
fn a_file_of_the_project_is_verified_unpacked_and_cached() {
    let (dir, store, pins) = project(&fake::kernel_deb("6.1.9-test", ".xz"));
    let target = mine(&store, &pins);
    assert!(!target.at_hand());
    let kernel = target.obtain(&Silent).unwrap();
    assert!(kernel.image.starts_with(&store.cache));
    assert!(kernel.modules.unwrap().join("kernel/outer.ko").is_file());
    assert_eq!(kernel.config.unwrap()["CONFIG_PCI"], "y");
    assert_eq!(kernel.expected, Expected::Exact("6.1.9-test".to_owned()));

    std::fs::remove_file(dir.path().join("linux.deb")).unwrap();
    assert!(target.at_hand());
    assert_eq!(target.obtain(&Silent).unwrap().image, kernel.image);
}

#[test]
fn a_file_that_is_not_the_pinned_one_is_no_kernel() {
    let (_dir, store, pins) = project(b"another file");
    let error = mine(&store, &pins).obtain(&Silent).unwrap_err();
    assert_eq!(error.reason, "kernel mine is unavailable: none of its sources has it");
    assert!(error.attempts[0].contains("linux.deb: has SHA-256 "), "{error}");
}

#[test]
fn the_key_of_a_pin_changes_with_its_hash() {
    let (_dir, store, one) = project(b"one");
    let (_other, _, two) = project(b"two");
    assert_ne!(obtain::key(&store, &one[0]), obtain::key(&store, &two[0]));
    assert_eq!(obtain::key(&store, &one[0]), obtain::key(&store, &one[0]));
}
