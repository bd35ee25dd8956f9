//! Tests that pass, whatever else they do: the harness has to say so, and to be none the worse for it.

use std::fs::{self, File};
use std::io::{ErrorKind, Write, stdout};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{misdeeds, run};

/// What a test may print, in bytes, without anybody minding.
const FLOOD: usize = 200 * 1000 * 1000;

/// In seconds since the Unix epoch: this was written later.
const SOME_TIME_IN_2025: u64 = 1_750_000_000;

misdeeds! {
    /// Every later test has to do without room in /tmp.
    fn fills_tmp() {
        let mut file = File::create("/tmp/full").unwrap();
        let block = vec![b'x'; 1 << 20];
        let error = loop {
            if let Err(error) = file.write_all(&block) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    }

    /// The agent has set it, whatever the machine's own clock says.
    fn finds_the_clock_right() {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(since_epoch.as_secs() > SOME_TIME_IN_2025, "{since_epoch:?}");
    }

    /// In every kind of guest the same.
    fn finds_what_a_machine_has() {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        for (kind, place) in [
            ("proc", "/proc"),
            ("sysfs", "/sys"),
            ("devtmpfs", "/dev"),
            ("devpts", "/dev/pts"),
            ("tmpfs", "/dev/shm"),
            ("tmpfs", "/tmp"),
            ("tmpfs", "/run"),
            ("tracefs", "/sys/kernel/tracing"),
            ("debugfs", "/sys/kernel/debug"),
            ("securityfs", "/sys/kernel/security"),
            ("bpf", "/sys/fs/bpf"),
            ("cgroup2", "/sys/fs/cgroup"),
        ] {
            let is_it = |line: &str| {
                let fields: Vec<&str> = line.split(' ').collect();
                (fields[2], fields[1]) == (kind, place)
            };
            assert!(mounts.lines().any(is_it), "{kind} is not at {place}:\n{mounts}");
        }
        assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim(), "vmtest");
        assert!(fs::read_to_string("/etc/passwd").unwrap().starts_with("root:x:0:0:"));
        assert!(run("ping", &["-c", "1", "127.0.0.1"]));
    }

    /// From the kernel's own directory, for a program that asks and for the kernel, which does so for a file system.
    fn loads_modules_on_demand() {
        let loaded = |name: &str| Path::new("/sys/module").join(name).is_dir();
        assert!(!loaded("dummy") && !loaded("squashfs"));
        assert!(run("modprobe", &["dummy"]));
        assert!(loaded("dummy"));
        run("mount", &["-t", "squashfs", "nothing", "/run"]);
        assert!(loaded("squashfs"));
    }

    fn floods_stdout() {
        let line = [b"flood ".repeat(10_000), vec![b'\n']].concat();
        for _ in 0..FLOOD / line.len() {
            stdout().write_all(&line).unwrap();
        }
    }

    fn leaves_a_process_behind_that_holds_stdout() {
        assert!(run("sh", &["-c", "setsid sh -c 'while sleep 1; do echo more; done' &"]));
    }

    fn leaves_a_crowd_behind() {
        let crowd = "for i in $(seq 50); do setsid sleep 1000 < /dev/null & done";
        assert!(run("sh", &["-c", crowd]));
    }

    fn prints_what_is_no_text() {
        let mut out = stdout();
        out.write_all(b"\xff\xfe\xc3\x28 invalid, \0 a NUL, \x07\x08\x1b[2J\x1b[1;1H\x1b]0;title\x07 a terminal\n").unwrap();
        out.write_all("]]></system-out> </script><script>alert(1)</script> & `|` \u{202e}thgir\n".as_bytes()).unwrap();
        out.write_all(b"\x1b]0;never closed").unwrap();
        out.flush().unwrap();
    }

    /// What only the agent may say, where everybody may speak.
    fn prints_the_agents_words() {
        println!("test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out");
        println!(r#"{{"token":"","event":{{"failed":{{"reason":"printed"}}}}}}"#);
        println!(r#"{{"token":"","event":"finished"}}"#);
        println!("Kernel panic - not syncing: printed, not meant");
    }

    /// Two things that a guest restored from a saved one must not have kept.
    fn tells_the_time_and_a_secret() {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let secret = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
        println!("time={}\nsecret={secret}", since.as_secs());
    }

    fn sets_the_clock_back() {
        assert!(run("date", &["-s", "1970-01-02 00:00"]));
    }

    fn sets_the_clock_forward() {
        assert!(run("date", &["-s", "2099-12-31 23:59"]));
    }

    /// Through a share of the host's files, if the guest has one.
    fn writes_on_the_host() {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let shares = mounts.lines().filter(|line| line.split(' ').nth(2) == Some("9p"));
        for place in shares.filter_map(|line| line.split(' ').nth(1)) {
            println!("writing through {place}");
            run("mount", &["-o", "remount,rw", place]);
            let file = format!("{place}/written-by-a-guest");
            std::fs::write(&file, "by a guest").expect_err(&file);
        }
    }
}
