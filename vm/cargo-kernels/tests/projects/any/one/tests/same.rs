//! What a test finds, and what it may do.

use std::fs;
use std::process::Command;

fn sh(script: &str) {
    assert!(Command::new("sh").args(["-ec", script]).status().unwrap().success(), "{script}");
}

#[test]
fn files_beside_the_sources() {
    assert_eq!(fs::read_to_string("tests/data/name.txt").unwrap(), "fixture\n");
}

#[test]
fn cargo_s_variables() {
    let here = std::env::current_dir().unwrap();
    assert_eq!(std::env::var_os("CARGO_MANIFEST_DIR").unwrap(), here);
    assert_eq!(std::env::var("CARGO_PKG_VERSION").unwrap(), "1.2.3");
    assert_eq!(std::env::var("FROM_CONFIG").unwrap(), "config's");
    assert_eq!(std::env::var("FROM_OUTSIDE").unwrap(), "out side");
    assert!(std::env::var("SECRET").is_err());
}

#[test]
fn the_program() {
    let output = Command::new(env!("CARGO_BIN_EXE_one")).arg("x").output().unwrap();
    assert_eq!(output.stdout, b"[\"x\"]\n");
}

#[test]
fn places_to_write_to() {
    for dir in [env!("CARGO_TARGET_TMPDIR"), "/tmp", "."] {
        fs::write(format!("{dir}/written"), "x").unwrap();
    }
}

#[test]
fn file_systems_and_loopback() {
    for dir in ["/sys/fs/bpf/x", "/sys/fs/cgroup/x"] {
        fs::create_dir(dir).unwrap();
    }
    assert!(fs::read_dir("/sys/kernel/debug").unwrap().count() > 3);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
}

#[test]
fn a_module() {
    sh("modprobe dummy; test -d /sys/module/dummy");
}

#[test]
fn host_a_veth_pair_and_a_namespace() {
    sh(
        "ip netns add n; ip link add name va type veth peer name vb netns n; ip -n n link set vb up",
    );
}

#[test]
fn a_daemon_and_another_time() {
    sh("setsid sleep 1000 & date -s 2001-01-01");
}

#[test]
fn a_full_tmp() {
    let _ = Command::new("sh").args(["-c", "cat /dev/zero > /tmp/zero"]).status();
    fs::remove_file("/tmp/zero").unwrap();
}

#[test]
#[ignore = "only where asked for"]
fn reboots() {
    fs::write("/proc/sysrq-trigger", "b").unwrap();
}

#[test]
#[ignore = "only where asked for"]
fn eats_memory() {
    let mut all = Vec::new();
    loop {
        all.push(vec![1_u8; 1 << 22]);
    }
}

#[test]
#[ignore = "only where asked for"]
fn two_processors_and_a_file_kept() {
    assert_eq!(std::thread::available_parallelism().unwrap().get(), 2);
    fs::create_dir_all("/var/kept").unwrap();
    fs::write("/var/kept/file", "kept").unwrap();
}

#[test]
#[ignore = "only where asked for"]
fn passes_the_second_time() {
    let first = !fs::exists("/tmp/count").unwrap();
    fs::write("/tmp/count", "x").unwrap();
    assert!(!first);
}
