//! Kernels that are built from their source: with a compiler and a make that only pretend.

use std::path::PathBuf;
use std::sync::Arc;

use vm_kernels::fake::{self, Member};

use crate::sandbox::{Sandbox, pin, url_source};
use crate::server::Server;
use crate::transfer::wait_until;

/// A `make` that takes what it is given for the configuration.
const CONFIGURES: &str = "/bin/cp \"$config\" .config";
/// A `make` that leaves an option out, as the real one does when a dependency is not met, and changes another.
const DROPS: &str =
    "/bin/sed '/CONFIG_BLOCK=/d; s/CONFIG_PANIC_TIMEOUT=0/CONFIG_PANIC_TIMEOUT=1/' \"$config\" > .config";
const BUILDS: &str = "echo '  CC      init/main.o'";
const FAILS: &str = "echo 'init/main.c:1: error: no' >&2; exit 2";
/// Says so, and goes on when the file `hold` is gone.
const WAITS: &str = "echo $$ > \"$HOME/pid\"; while [ -e \"$HOME/hold\" ]; do /bin/sleep 0.02; done";

/// A server with a source at `/linux.tar.xz`, a sandbox that pins it, and programs that behave like this.
fn pinned(configure: &str, build: &str) -> (Arc<Server>, Sandbox) {
    let tarball = fake::xz(&fake::tar(&[Member::File("linux-6.1.9/arch/x86/Kconfig", b"")]));
    let (server, sandbox) = Sandbox::serving("/linux.tar.xz", &tarball);
    let source = url_source(&server.url("/linux.tar.xz"), &tarball).replace("\"url\"", "\"source\"");
    sandbox.pins(&pin(&source));
    std::fs::write(sandbox.path("image"), fake::bzimage("6.1.9", None)).unwrap();
    for name in ["ld", "flex", "bison", "bc", "perl", "pahole"] {
        sandbox.program(name, "echo 1.24");
    }
    compiler(&sandbox, "12");
    let make = format!(
        "echo \"$*\" >> \"$HOME/make.log\"\n\
         for word; do case $word in KCONFIG_ALLCONFIG=*) config=${{word#*=}};; esac; done\n\
         if [ \"$word\" = allnoconfig ]; then {configure}; exit; fi\n\
         {build}\n/bin/mkdir -p arch/x86/boot; /bin/cp \"$HOME/image\" arch/x86/boot/bzImage\n"
    );
    sandbox.program("make", &make);
    (server, sandbox)
}

fn compiler(sandbox: &Sandbox, version: &str) {
    sandbox.program("gcc", &format!("case $1 in -E) exit;; esac; echo {version}"));
}

/// How make was called, a line each.
fn calls(sandbox: &Sandbox) -> Vec<String> {
    let log = std::fs::read_to_string(sandbox.path("make.log")).unwrap_or_default();
    log.lines().map(str::to_owned).collect()
}

#[test]
fn a_source_is_fetched_and_built_once() {
    let (server, sandbox) = pinned(CONFIGURES, BUILDS);
    let said = sandbox.says(&["fetch"], 0, "building it from source, which is done once: about ");
    assert!(said.contains("6.1: 6.1.9 from source, "), "{said}");
    let config = std::fs::read_to_string(sandbox.entry().join("tree/config")).unwrap();
    assert!(config.contains("CONFIG_BPF_SYSCALL=y\n"));
    assert!(sandbox.incoming().is_empty(), "something is left of the build");
    let calls = calls(&sandbox);
    assert!(calls.iter().all(|call| call.starts_with("ARCH=x86_64 ")), "{calls:?}");
    assert!(calls[1].ends_with(" bzImage") && !calls[1].contains("CC="), "{calls:?}");

    sandbox.run(&["fetch"], 0);
    assert_eq!((server.requests().len(), self::calls(&sandbox).len()), (1, 2));

    // Another compiler makes another kernel, and GCC 15 takes C23 for granted.
    compiler(&sandbox, "15");
    sandbox.run(&["fetch"], 0);
    assert_eq!(sandbox.entries().len(), 2);
    assert!(self::calls(&sandbox)[3].contains(" CC=gcc -std=gnu11 "), "{:?}", self::calls(&sandbox));
}

#[test]
fn missing_build_tools_are_named_before_fetch() {
    let (server, sandbox) = pinned(CONFIGURES, BUILDS);
    sandbox.program("gcc", "case $1 in -E) exit 1;; esac; echo 12");
    for name in ["flex", "pahole"] {
        std::fs::remove_file(sandbox.path("bin").join(name)).unwrap();
    }
    let expected = "source: building it needs flex, pahole, gelf.h, zlib.h; on Debian: \
        apt-get install flex pahole libelf-dev zlib1g-dev";
    sandbox.says(&["fetch"], 3, expected);
    assert!(server.requests().is_empty());
}

#[test]
fn no_space_is_said_before_anything_is_fetched() {
    let (server, sandbox) = pinned(CONFIGURES, BUILDS);
    std::fs::create_dir(sandbox.cache()).unwrap();
    let script = "mount -t tmpfs -o size=64m none \"$VMTEST_CACHE_DIR\"; \
        PATH=$HOME/bin exec \"$KERNELS\" fetch";
    let Some(said) = sandbox.run_mounting(script, 3) else { return };
    assert!(said.contains("source: building it needs 4096 MiB in "), "{said}");
    assert!(server.requests().is_empty());
}

#[test]
fn an_option_that_the_release_does_not_take_is_named() {
    let (_server, sandbox) = pinned(DROPS, BUILDS);
    sandbox.says(&["fetch"], 3, "this release has no CONFIG_BLOCK=y, CONFIG_PANIC_TIMEOUT=0 as configured");
    assert_eq!(calls(&sandbox).len(), 1, "it was built all the same");
}

#[test]
fn a_build_that_fails_says_why_and_the_source_is_kept() {
    let (server, sandbox) = pinned(CONFIGURES, FAILS);
    for _ in 0..2 {
        sandbox.says(&["fetch"], 3, "`make bzImage` failed (exit status: 2):\ninit/main.c:1: error: no");
        assert!(sandbox.entries().is_empty());
        assert_eq!(sandbox.incoming(), [sandbox.incoming()[0].with_file_name("0.part")]);
    }
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_killed_build_ends_with_its_harness_and_leaves_no_kernel() {
    let (server, sandbox) = pinned(CONFIGURES, WAITS);
    std::fs::write(sandbox.path("hold"), "").unwrap();
    let mut first = sandbox.start(&["fetch"]);
    let pid = || std::fs::read_to_string(sandbox.path("pid")).unwrap_or_default();
    wait_until(|| pid().ends_with('\n'));
    let process = PathBuf::from(format!("/proc/{}", pid().trim()));
    assert!(process.exists());
    first.kill().unwrap();
    first.wait().unwrap();
    wait_until(|| !process.exists());
    assert!(sandbox.entries().is_empty(), "half a kernel passes for one");

    std::fs::remove_file(sandbox.path("hold")).unwrap();
    sandbox.run(&["fetch"], 0);
    assert!(sandbox.incoming().is_empty(), "something is left of the first build");
    assert_eq!(server.requests().len(), 1);
}
