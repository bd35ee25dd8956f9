//! Where kernels come from: each kind of source, and the order of them.

use sha1::{Digest, Sha1};
use vm_kernels::digest::sha256;
use vm_kernels::fake::{self, Member};
use vm_kernels::whole_file;

use crate::sandbox::{Sandbox, pin, url_source};
use crate::server::{Answer, Server};

const POOL_PATH: &str = "pool/main/l/linux/linux-image-6.1.9_6.1.9-1_amd64.deb";

/// Pins a package of Debian's by both hashes; the package, and the one of them that is no SHA-256.
fn pin_package(sandbox: &Sandbox) -> (Vec<u8>, String) {
    let deb = fake::kernel_deb("6.1.9-test", ".xz");
    let (sha256, sha1) = (sha256(&deb), hex::encode(Sha1::digest(&deb)));
    let file = format!("{{ path = \"{POOL_PATH}\", sha256 = \"{sha256}\", sha1 = \"{sha1}\" }}");
    sandbox.pins(&pin(&format!("kind = \"debian\"\nfiles = [{file}]")));
    (deb, sha1)
}

#[test]
fn packages_and_archives_are_unpacked() {
    let image = fake::bzimage("6.1.9-test", None);
    let outer = "lib/modules/6.1.9-test/kernel/outer.ko";
    let archive = fake::tar(&[
        Member::Symlink("bzImage", "image"),
        Member::File("image", &image),
        Member::Symlink("config", "linked-config"),
        Member::File("linked-config", b"CONFIG_PCI=y\n"),
        Member::File(outer, b"module"),
        Member::Symlink("lib/modules/6.1.9-test/build", "/usr/src/linux"),
    ]);
    let debs = [".xz", ".zst", ".gz", ""].map(|suffix| fake::kernel_deb("6.1.9-test", suffix));
    for file in debs.into_iter().chain([fake::zstd(&archive)]) {
        let (_server, sandbox) = Sandbox::serving("/linux", &file);
        sandbox.says(&["fetch"], 0, "6.1: 6.1.9-test from url");
        let tree = sandbox.entry().join("tree");
        assert!(tree.join(outer).is_file());
        assert!(!tree.join("usr").exists(), "documentation was unpacked");
        let build = tree.join("lib/modules/6.1.9-test/build");
        assert!(build.symlink_metadata().is_err(), "a link to sources was made");
    }
}

#[test]
fn apt_mirrors_are_asked_in_order() {
    let [without, wrong, good] = [Server::http(), Server::http(), Server::http()];
    let sandbox = Sandbox::new();
    let (deb, _) = pin_package(&sandbox);
    wrong.at(&format!("/{POOL_PATH}"), Answer::File(b"another file".to_vec()));
    good.at(&format!("/debian/{POOL_PATH}"), Answer::File(deb));
    sandbox.mirrors(&[without.url("/security/"), wrong.url("/"), good.url("/debian/")]);
    sandbox.says(&["fetch"], 0, "6.1: 6.1.9-test from debian");
    assert_eq!(without.requests()[0].path, format!("/security/{POOL_PATH}"));
    assert_eq!((wrong.requests().len(), good.requests()[0].start), (1, None));
}

#[test]
fn archive_is_asked_after_the_mirrors_and_without_any() {
    for with_apt in [true, false] {
        let (mirror, archive) = (Server::http(), Server::https());
        // With or without a slash at its end.
        let address = archive.url(if with_apt { "/file/" } else { "/file" });
        let sandbox = Sandbox::new().trusting(&archive).with("VMTEST_DEBIAN_ARCHIVE", address);
        let (deb, sha1) = pin_package(&sandbox);
        archive.at(&format!("/file/{sha1}"), Answer::File(deb));
        if with_apt {
            sandbox.mirrors(&[mirror.url("/debian/")]);
        }
        sandbox.run(&["fetch"], 0);
        assert_eq!(mirror.requests().len(), usize::from(with_apt));
    }
}

#[test]
fn mirrors_in_a_directory_and_in_a_list_are_found() {
    let sandbox = Sandbox::new();
    let (deb, _) = pin_package(&sandbox);
    whole_file::write(&sandbox.path("mirror").join(POOL_PATH), &deb).unwrap();
    let list = sandbox.path("mirrors.list");
    let mirror = format!("# ours\nfile:{}/ priority:1\n", sandbox.path("mirror").display());
    std::fs::write(&list, mirror).unwrap();
    sandbox.mirrors(&[format!("mirror+file:{}/", list.display())]);
    sandbox.run(&["fetch"], 0);
}

#[test]
fn nix_is_first_when_it_is_there() {
    let sandbox = Sandbox::new();
    let nix = sandbox.path("nix");
    whole_file::write(&nix.join("6.1/bzImage"), &fake::bzimage("6.1.9", None)).unwrap();
    std::fs::write(nix.join("6.1/config"), "CONFIG_PCI=y\n").unwrap();
    sandbox.pins(&pin(&url_source("https://localhost:1/x", b"x")));
    let sandbox = sandbox.with("VMTEST_NIX_KERNELS", nix);
    sandbox.says(&["fetch"], 0, "6.1: 6.1.9 from nix, ");
    let rows = sandbox.json(&["list", "--json"]);
    assert_eq!((&rows[0]["cached"], &rows[0]["source"]), (&true.into(), &"nix".into()), "{rows}");
    let finding =
        "6.1: unavailable: none of its sources could be had\n  url: https://localhost:1/x: Connection refused";
    sandbox.with("VMTEST_NIX_KERNELS", "").says(&["fetch"], 3, finding);
}

#[test]
fn file_that_is_not_the_kernel_is_refused() {
    let page = b"<!DOCTYPE html><p>Please log in".to_vec();
    let mut half = fake::kernel_deb("6.1.9-test", ".xz");
    half.truncate(half.len() - 1000);
    let escapes = fake::zstd(&fake::tar(&[Member::File("../../../../kernels.toml", b"x")]));
    for (file, finding) in [
        (fake::bzimage("6.2.0", None), "the image is 6.2.0, pinned is 6.1.x"),
        (page, "it is no kernel image: it is a web page"),
        (half, "cannot unpack the .deb"),
        (fake::deb(b"BZh9", ".bz2"), "cannot unpack the .deb: data.tar.bz2: unknown compression"),
        (escapes, "archive member ../../../../kernels.toml: refused: it would be written outside"),
    ] {
        let (_server, sandbox) = Sandbox::serving("/bzImage", &file);
        sandbox.says(&["fetch"], 3, finding);
        assert!(sandbox.entries().is_empty() && sandbox.incoming().is_empty(), "{finding}: something is left");
        assert_ne!(std::fs::read(sandbox.pins_file()).unwrap(), b"x", "it was written outside");
    }
}

#[test]
fn a_pin_is_of_the_architecture_that_its_source_says() {
    let image = fake::bzimage("6.1.9", None);
    let (server, sandbox) = Sandbox::serving("/bzImage", &image);
    let source = url_source(&server.url("/bzImage"), &image);
    sandbox.pins(&pin(&format!("{source}\narch = \"arm64\"")));
    sandbox.says(&["fetch", "6.1", "--arch", "amd64"], 2, "kernel 6.1 is not pinned for x86_64");
    assert!(server.requests().is_empty());
    sandbox.says(&["fetch", "6.1", "--arch", "aarch64"], 3, "the image is for x86_64, pinned is one for arm64");
    assert!(sandbox.entries().is_empty());
}
