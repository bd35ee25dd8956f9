//! What can happen to the cache: damage, no room, no permission.

use std::path::Path;
use std::sync::Arc;

use crate::sandbox::{Sandbox, pin, url_source};
use crate::server::{Answer, Server};
use vm_kernels::fake;

/// A server with one package at `/linux.deb`, and a sandbox that pins it.
fn pinned() -> (Arc<Server>, Sandbox) {
    Sandbox::serving("/linux.deb", &fake::kernel_deb("6.1.9-test", ".xz"))
}

/// The pin becomes another package of the server's.
fn pin_another(server: &Server, sandbox: &Sandbox) {
    let new = fake::kernel_deb("6.1.10-test", ".xz");
    server.at("/new.deb", Answer::File(new.clone()));
    sandbox.pins(&pin(&url_source(&server.url("/new.deb"), &new)));
}

const IMAGE: &str = "tree/boot/vmlinuz-6.1.9-test";
const MODULES: &str = "tree/lib/modules/6.1.9-test/kernel";

type Damage = fn(&Path) -> std::io::Result<()>;

fn flip(path: &Path) -> std::io::Result<()> {
    let mut bytes = std::fs::read(path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes)
}

#[test]
fn a_damaged_kernel_is_fetched_again() {
    let damages: [(&str, Damage); 6] = [
        ("config cut short", |entry| std::fs::write(entry.join("tree/boot/config-6.1.9-test"), "")),
        ("no list of files", |entry| std::fs::remove_file(entry.join("SHA256SUMS"))),
        ("a bit flipped", |entry| flip(&entry.join(IMAGE))),
        ("cut short", |entry| std::fs::write(entry.join(IMAGE), b"half")),
        ("image gone", |entry| std::fs::remove_file(entry.join(IMAGE))),
        ("no manifest", |entry| std::fs::remove_file(entry.join("manifest.json"))),
    ];
    let (server, sandbox) = pinned();
    sandbox.run(&["fetch"], 0);
    let image = sandbox.entry().join(IMAGE);
    let good = std::fs::read(&image).unwrap();
    for (index, (what, damage)) in damages.into_iter().enumerate() {
        damage(&sandbox.entry()).unwrap();
        sandbox.says(&["fetch"], 0, "the url kernel here is damaged: ");
        assert!(std::fs::read(&image).unwrap() == good, "{what}");
        assert_eq!(server.requests().len(), index + 2, "{what}");
    }
    // What cannot be fetched again is no kernel.
    flip(&image).unwrap();
    server.at("/linux.deb", Answer::Status("410 Gone".to_owned()));
    sandbox.says(&["fetch"], 3, "/linux.deb: 410 Gone");
    // A changed pin does not get the old kernel, which is good.
    let (server, sandbox) = pinned();
    sandbox.run(&["fetch"], 0);
    pin_another(&server, &sandbox);
    sandbox.says(&["fetch"], 0, "6.1: 6.1.10-test from url");
}

#[test]
fn verify_finds_every_kind_of_damage_and_drops_it() {
    let damages: [(&str, Damage); 4] = [
        ("outer.ko is not what was unpacked", |entry| flip(&entry.join(MODULES).join("outer.ko"))),
        ("outer.ko is gone", |entry| std::fs::remove_file(entry.join(MODULES).join("outer.ko"))),
        ("extra.ko should not be there", |entry| std::fs::write(entry.join(MODULES).join("extra.ko"), "x")),
        ("SHA256SUMS is not what was written", |entry| std::fs::write(entry.join("SHA256SUMS"), "")),
    ];
    let (_server, sandbox) = pinned();
    for (finding, damage) in damages {
        sandbox.run(&["fetch"], 0);
        sandbox.says(&["verify"], 0, "6.1 (url): good, 5 files");
        damage(&sandbox.entry()).unwrap();
        let said = sandbox.says(&["verify"], 3, finding);
        assert!(said.contains("6.1 (url): damaged: "), "{said}");
        assert!(sandbox.entries().is_empty(), "{finding}: it is still there");
        sandbox.run(&["verify"], 0);
        sandbox.says(&["verify", "6.1"], 3, "6.1: not in the cache; `cargo kernels fetch 6.1` gets it");
    }
}

#[test]
fn a_full_disk_is_said_and_nothing_stays_behind() {
    // Too small for the download (260 KB), and large enough for it but not for what is in it.
    for kib in [128, 384] {
        let (_server, sandbox) = pinned();
        std::fs::create_dir(sandbox.cache()).unwrap();
        let script = format!(
            "mount -t tmpfs -o size={kib}k none \"$VMTEST_CACHE_DIR\"; \"$KERNELS\" fetch; code=$?; \
             find \"$VMTEST_CACHE_DIR\" -type f -size +0 -exec echo LEFT {{}} ';'; exit $code"
        );
        let Some(said) = sandbox.run_mounting(&script, 3) else { return };
        assert!(said.contains("6.1: unavailable: it cannot be stored: "), "{kib}: {said}");
        assert!(said.contains("No space left on device"), "{kib}: {said}");
        assert!(!said.contains("LEFT"), "{kib}: {said}");
    }
}

#[test]
fn read_only_cache_serves_kernels_and_refuses_writes() {
    let (server, sandbox) = pinned();
    sandbox.run(&["fetch"], 0);
    let script = "set -e; cd /; d=$VMTEST_CACHE_DIR; mount --bind \"$d\" \"$d\"; \
        mount -o remount,bind,ro \"$d\"; exec \"$KERNELS\" fetch";
    if sandbox.run_mounting(script, 0).is_none() {
        return;
    }
    assert_eq!(server.requests().len(), 1);

    pin_another(&server, &sandbox);
    let said = sandbox.run_mounting(script, 3).unwrap();
    assert!(said.contains("6.1: unavailable: it cannot be stored: cannot write to the cache"), "{said}");
    assert!(said.contains(": make it writable, or set VMTEST_CACHE_DIR: Read-only file system"), "{said}");
}
