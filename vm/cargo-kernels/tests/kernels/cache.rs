//! What can happen to the cache: damage, no room, no permission.

use std::path::{Path, PathBuf};
use std::process::Command;

use assert_cmd::assert::OutputAssertExt;

use crate::sandbox::{self, Sandbox, pin, url_source};
use crate::server::{Answer, Server};
use vm_kernels::fake::{self, Member};

/// A server with one package at `/linux.deb`, and a sandbox that pins it.
fn pinned() -> (Server, Sandbox) {
    Sandbox::serving("/linux.deb", &fake::kernel_deb("6.1.9-test", ".xz"))
}

/// The pin becomes another package of the server's.
fn pin_another(server: &Server, sandbox: &Sandbox) {
    let new = fake::kernel_deb("6.1.10-test", ".xz");
    server.at("/new.deb", Answer::File(new.clone()));
    sandbox.pins(&pin(&url_source(&server.url("/new.deb"), &new)));
}

fn image(sandbox: &Sandbox) -> PathBuf {
    sandbox.entry().join("tree/boot/vmlinuz-6.1.9-test")
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_kernel_is_fetched_again() {
    type Damage = fn(&Sandbox);
    let damages: [(&str, Damage); 6] = [
        ("config cut short", |sandbox| {
            std::fs::write(sandbox.entry().join("tree/boot/config-6.1.9-test"), "").unwrap();
        }),
        ("no list of files", |sandbox| {
            std::fs::remove_file(sandbox.entry().join("SHA256SUMS")).unwrap();
        }),
        ("a bit flipped", |sandbox| flip(&image(sandbox))),
        ("cut short", |sandbox| std::fs::write(image(sandbox), b"half").unwrap()),
        ("image gone", |sandbox| std::fs::remove_file(image(sandbox)).unwrap()),
        ("no manifest", |sandbox| {
            std::fs::remove_file(sandbox.entry().join("manifest.json")).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let (server, sandbox) = pinned();
        sandbox.run(&["fetch"], 0);
        let good = std::fs::read(image(&sandbox)).unwrap();
        damage(&sandbox);
        let said = sandbox.run(&["fetch"], 0);
        assert!(said.contains("the url kernel here is damaged: "), "{what}: {said}");
        assert!(std::fs::read(image(&sandbox)).unwrap() == good, "{what}");
        assert_eq!(server.requests().len(), 2, "{what}");
    }
}

#[test]
fn a_damaged_kernel_that_cannot_be_fetched_again_is_no_kernel() {
    let (server, sandbox) = pinned();
    sandbox.run(&["fetch"], 0);
    flip(&image(&sandbox));
    server.at("/linux.deb", Answer::Status("410 Gone", String::new()));
    let said = sandbox.run(&["fetch"], 3);
    assert!(said.contains("kernel 6.1 is unavailable"), "{said}");
    assert!(said.contains("/linux.deb: 410 Gone"), "{said}");
}

#[test]
fn a_changed_pin_does_not_get_the_old_kernel() {
    let (server, sandbox) = pinned();
    sandbox.run(&["fetch"], 0);
    pin_another(&server, &sandbox);
    let said = sandbox.run(&["fetch"], 0);
    assert!(said.contains("6.1: 6.1.10-test from url"), "{said}");
}

#[test]
fn verify_finds_every_kind_of_damage_and_drops_it() {
    let modules = "tree/lib/modules/6.1.9-test/kernel";
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("outer.ko is not what was unpacked", |dir| flip(&dir.join("outer.ko"))),
        ("outer.ko is gone", |dir| std::fs::remove_file(dir.join("outer.ko")).unwrap()),
        ("extra.ko should not be there", |dir| std::fs::write(dir.join("extra.ko"), "x").unwrap()),
        ("SHA256SUMS is not what was written", |dir| {
            std::fs::write(dir.ancestors().nth(5).unwrap().join("SHA256SUMS"), "").unwrap();
        }),
    ];
    for (finding, damage) in damages {
        let (_server, sandbox) = pinned();
        sandbox.run(&["fetch"], 0);
        assert!(sandbox.run(&["verify"], 0).contains("6.1 (url): good, 5 files"));
        damage(&sandbox.entry().join(modules));
        let said = sandbox.run(&["verify"], 3);
        assert!(said.contains("damaged: ") && said.contains(finding), "{finding}: {said}");
        assert!(sandbox.entries().is_empty(), "{finding}: it is still there");
        sandbox.run(&["verify"], 0);
        let said = sandbox.run(&["verify", "6.1"], 3);
        assert!(said.contains("6.1: not in the cache; `cargo kernels fetch 6.1` gets it"), "{said}");
    }
}

#[test]
fn archives_that_reach_outside_are_refused() {
    let image = fake::bzimage("6.1.9-test", None);
    let members: [(&str, Vec<Member<'_>>); 4] = [
        ("it would be written outside", vec![Member::File("../../../escaped", b"x")]),
        ("it would be written outside", vec![Member::File("a/../../../../escaped", b"x")]),
        ("out/escaped", vec![Member::Symlink("out", "../../../.."), Member::File("out/escaped", b"x")]),
        ("archive member out", vec![Member::Hardlink("out", "../../../../kernels.toml")]),
    ];
    for (finding, mut members) in members {
        members.push(Member::File("bzImage", &image));
        let archive = fake::zstd(&fake::tar(&members));
        let (_server, sandbox) = Sandbox::serving("/linux.tar.zst", &archive);
        let said = sandbox.run(&["fetch"], 3);
        assert!(said.contains("cannot unpack the tar archive") && said.contains(finding), "{finding}: {said}");
        assert!(sandbox.entries().is_empty());
        assert!(sandbox.incoming().is_empty(), "{finding}: something is left");
        for place in [sandbox.path("escaped"), sandbox.cache().join("escaped")] {
            assert!(!place.exists(), "{finding}: {} was written", place.display());
        }
    }
}

/// Runs a shell script with a mount namespace of its own; `$KERNELS` is the program.
pub fn in_namespace(sandbox: &Sandbox, script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
    // Out of this project, which the cargo of a home without rustup's settings cannot read.
    command.current_dir("/");
    sandbox.environment(&mut command);
    command
        .env("KERNELS", assert_cmd::cargo::cargo_bin!("cargo-kernels"))
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// Whether this machine lets its users mount; if not, the test that asks says so, whatever hides its output.
pub fn can_mount(test: &str) -> bool {
    let probe = "unshare --user --map-root-user --mount sh -c 'mount -t tmpfs none /mnt'";
    let output = Command::new("sh").args(["-c", probe]).output().unwrap();
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        let told = format!("NOT RUN: {test}: this machine gives no mount namespace: {why}\n");
        std::io::Write::write_all(&mut std::io::stderr(), told.as_bytes()).unwrap();
    }
    output.status.success()
}

#[test]
fn a_full_disk_is_said_and_nothing_stays_behind() {
    if !can_mount("a_full_disk_is_said_and_nothing_stays_behind") {
        return;
    }
    // Too small for the download (260 KB), and large enough for it but not for what is in it.
    for kib in [128, 384] {
        let (_server, sandbox) = pinned();
        std::fs::create_dir(sandbox.cache()).unwrap();
        let script = format!(
            "mount -t tmpfs -o size={kib}k none \"$VMTEST_CACHE_DIR\"; \"$KERNELS\" fetch; code=$?; \
             find \"$VMTEST_CACHE_DIR\" -type f -size +0 -exec echo LEFT {{}} ';'; exit $code"
        );
        let said = sandbox::said(in_namespace(&sandbox, &script).assert().code(3));
        assert!(said.contains("kernel 6.1 cannot be stored: "), "{kib}: {said}");
        assert!(said.contains("No space left on device"), "{kib}: {said}");
        assert!(!said.contains("LEFT"), "{kib}: {said}");
    }
}

#[test]
fn a_read_only_cache_gives_what_it_has_and_says_what_it_cannot_take() {
    if !can_mount("a_read_only_cache_gives_what_it_has_and_says_what_it_cannot_take") {
        return;
    }
    let (server, sandbox) = pinned();
    sandbox.run(&["fetch"], 0);
    let script = "set -e; cd /; d=$VMTEST_CACHE_DIR; mount --bind \"$d\" \"$d\"; \
        mount -o remount,bind,ro \"$d\"; exec \"$KERNELS\" fetch";
    in_namespace(&sandbox, script).assert().code(0);
    assert_eq!(server.requests().len(), 1);

    pin_another(&server, &sandbox);
    let said = sandbox::said(in_namespace(&sandbox, script).assert().code(3));
    assert!(said.contains("kernel 6.1 cannot be stored: cannot write to the cache"), "{said}");
    assert!(said.contains("make it writable, or set VMTEST_CACHE_DIR"), "{said}");
    assert!(said.contains("Read-only file system"), "{said}");
}
