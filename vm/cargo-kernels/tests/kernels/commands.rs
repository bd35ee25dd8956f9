//! What the subcommands print, write and remove.

use serde_json::Value;

use crate::sandbox::{Sandbox, pin, url_source};
use crate::server::Answer;
use vm_kernels::digest::sha256;
use vm_kernels::lock::{self, How};
use vm_kernels::{fake, whole_file};

const COMMENTED: &str = "# Ours.\n\n[[kernel]]\nname = \"5.4\" # the oldest\nseries = \"5.4.\"\nwhy = \"old\"\n\n\
    [[kernel.source]]\nkind = \"file\"\npath = \"/nowhere\"\nsha256 = \"b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9\"\n# the end\n";

#[test]
fn wrong_pins_and_unknown_kernel_are_usage_errors() {
    let sandbox = Sandbox::new();
    let file = sandbox.pins_file();
    let no_hash = pin("kind = \"url\"\nurl = \"https://localhost/x\"\nsha256 = \"00\"");
    for (pins, arguments, finding) in [
        (no_hash.as_str(), ["list", "--json"], "kernels.toml:6:1: expected 64 lower-case hexadecimal digits"),
        (&no_hash, ["list", "--json"], "\n  [[kernel.source]]"),
        (COMMENTED, ["fetch", "6.99"], "\"6.99\": no pin and no file has this name; the pins are 5.4"),
        (COMMENTED, ["fetch", file.to_str().unwrap()], "it is no kernel image"),
    ] {
        sandbox.pins(pins);
        sandbox.says(&arguments, 2, finding);
    }
}

#[test]
fn an_image_is_fetched_once_and_listed_as_cached() {
    let image = fake::bzimage("6.1.9-test", Some("CONFIG_PCI=y\n"));
    let (server, sandbox) = Sandbox::serving("/bzImage", &image);
    let list = || sandbox.json(&["list", "--json"]);
    let before = &list()[0];
    assert_eq!(before["cached"], false);
    assert_eq!(before["expected"], "6.1.x");
    assert_eq!(before["release"], Value::Null);
    sandbox.says(&["fetch"], 0, "6.1: 6.1.9-test from url, ");
    assert_eq!(std::fs::read(sandbox.entry().join("tree/bzImage")).unwrap(), image);
    assert!(sandbox.incoming().is_empty(), "downloads are left over");
    sandbox.run(&["fetch", "6.1"], 0);
    assert_eq!(server.requests().len(), 1);
    let after = &list()[0];
    assert_eq!(after["cached"], true);
    assert_eq!(after["release"], "6.1.9-test");
    assert_eq!(after["source"], "url");
    // The image, and the configuration that was inside it.
    assert_eq!(after["size"], image.len() + "CONFIG_PCI=y\n".len());
    sandbox.says(&["list"], 0, "6.1.9-test  url");
}

#[test]
fn add_pins_an_address_and_keeps_what_is_written() {
    let image = fake::bzimage("6.14.2-mine", None);
    let (server, sandbox) = Sandbox::serving("/bzImage", &image);
    sandbox.pins(COMMENTED);
    let url = server.url("/bzImage");
    sandbox.says(&["add", "6.14", &url], 0, "6.14: pinned 6.14.2-mine");
    let text = std::fs::read_to_string(sandbox.pins_file()).unwrap();
    let added = format!(
        "\n[[kernel]]\nname = \"6.14\"\nrelease = \"6.14.2-mine\"\nwhy = \"added with `kernels add`\"\n\n\
         [[kernel.source]]\nkind = \"url\"\nurl = \"{url}\"\nsha256 = \"{}\"\n",
        sha256(&image)
    );
    assert_eq!(text, format!("{COMMENTED}{added}"));
    sandbox.run(&["fetch", "6.14"], 0);
    assert_eq!(server.requests().len(), 1, "it was fetched twice");
    let left = std::fs::read_dir(sandbox.cache().join("incoming")).unwrap().count();
    assert_eq!(left, 0, "something is left of the download");
}

#[test]
fn add_keeps_what_others_write_while_it_fetches() {
    let (server, sandbox) = Sandbox::serving("/bzImage", b"");
    let (answer, gate) = Answer::held(fake::bzimage("6.14.2-mine", None), 10);
    server.at("/bzImage", answer);
    sandbox.pins(COMMENTED);
    let adding = |name| sandbox.start(&["add", name, &server.url("/bzImage")]);
    let mut first = adding("6.14");
    gate.wait();
    let edited = format!("{COMMENTED}# Theirs.\n");
    sandbox.pins(&edited);
    // It is answered at once, so it is done before the first.
    assert!(adding("6.15").wait().unwrap().success());
    gate.wait();
    assert!(first.wait().unwrap().success());
    let text = std::fs::read_to_string(sandbox.pins_file()).unwrap();
    assert!(text.starts_with(&edited), "{text}");
    assert!(text.contains("name = \"6.14\"") && text.contains("name = \"6.15\""), "{text}");
}

#[test]
fn add_pins_a_file_by_its_hash() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("linux.deb");
    std::fs::write(&path, fake::kernel_deb("6.14.2-mine", ".zst")).unwrap();
    sandbox.says(&["add", "mine", path.to_str().unwrap()], 0, "other machines will refuse this pin");
    // Another file of the same name is not the pinned one.
    std::fs::remove_dir_all(sandbox.cache()).unwrap();
    sandbox.run(&["fetch", "mine"], 0);
    std::fs::remove_dir_all(sandbox.cache()).unwrap();
    std::fs::write(&path, fake::kernel_deb("6.14.3-mine", ".zst")).unwrap();
    sandbox.says(&["fetch", "mine"], 3, "has SHA-256 ");
}

#[test]
fn add_refuses_what_makes_no_pin() {
    let (server, sandbox) = Sandbox::serving("/page", b"<html>");
    sandbox.pins(COMMENTED);
    let page = server.url("/page");
    let dir = sandbox.path("bin");
    for (name, from, code, finding) in [
        ("5.4", page.as_str(), 2, "5.4 is pinned already"),
        ("a/b", &page, 2, "expected a name of letters, digits"),
        ("6.14", "http://localhost/x", 2, "expected an https address"),
        ("6.14", "/nowhere\x1b[2J", 2, "error: /nowhere: No such file"),
        ("6.14", dir.to_str().unwrap(), 2, "a directory works with -k"),
        ("6.14", &page, 3, "it is a web page"),
        ("6.14", &server.url("/nothing"), 3, "404 Not Found"),
    ] {
        sandbox.says(&["add", name, from], code, finding);
        assert_eq!(std::fs::read_to_string(sandbox.pins_file()).unwrap(), COMMENTED);
    }
}

#[test]
fn prune_removes_what_no_pin_names_unless_it_is_in_use() {
    let image = fake::bzimage("6.1.9-test", None);
    let (_server, sandbox) = Sandbox::serving("/bzImage", &image);
    sandbox.run(&["fetch"], 0);
    sandbox.says(&["prune"], 0, "Nothing to remove");

    let entry = sandbox.entry();
    let state = sandbox.cache().join("snapshots/6.1-0123");
    whole_file::write(&state.join("lock"), b"").unwrap();
    std::fs::write(state.join("state"), vec![1; 1 << 20]).unwrap();
    sandbox.pins(COMMENTED);
    let said = sandbox.says(&["prune", "--dry-run"], 0, "would be freed");
    for path in [&entry, &state] {
        assert!(said.contains(path.to_str().unwrap()) && path.exists(), "{said}");
    }

    let held = [entry.join("manifest.json"), state.join("lock")];
    let held = held.map(|path| lock::existing(&path, How::NonBlockingLockShared).unwrap().unwrap());
    assert_eq!(sandbox.run(&["prune"], 0).matches("in use, kept").count(), 2);
    assert!(entry.exists() && state.exists());
    drop(held);
    // What a prune that was killed has left.
    let left = sandbox.cache().join("kernels/.5.4-0123.removed");
    std::fs::create_dir(&left).unwrap();
    sandbox.says(&["prune"], 0, "removed");
    assert!(!entry.exists() && !state.exists() && !left.exists());
}

#[test]
fn the_matrix_is_what_github_takes_and_changes_with_the_pins() {
    let sandbox = Sandbox::new();
    let jobs = [b"a", b"b"].map(|content| {
        sandbox.pins(&pin(&url_source("https://localhost/a", content)));
        sandbox.json(&["matrix"])["include"][0].clone()
    });
    assert_eq!(jobs[0]["kernel"], "6.1");
    assert_ne!(jobs[0]["cache_key"], jobs[1]["cache_key"]);
}

#[test]
fn missing_tools_for_other_arch_are_one_sentence() {
    let sandbox = Sandbox::new();
    let other = if cfg!(target_arch = "x86_64") { "arm64" } else { "x86_64" };
    sandbox.pins(&pin(&format!("{}\narch = \"{other}\"", url_source("https://localhost/x", b"x"))));
    let said = sandbox.run(&["exec", "-k", "6.1", "--arch", other, "--warm", "--", "true"], 3);
    assert!(said.starts_with(&format!("error: kernels for {other} need qemu-system-")), "{said}");
    assert!(said.ends_with(&format!("not found here: run `cargo kernels setup --arch {other}`\n")), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}
