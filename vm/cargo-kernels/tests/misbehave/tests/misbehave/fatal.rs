//! Tests that the guest, or the run, does not survive, and two after which the run is no pass.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::{AGENTS_LINE, agent, kill, misdeeds, run, wait_for_the_end};

misdeeds! {
    fn panics_the_kernel() {
        fs::write("/proc/sysrq-trigger", "c").unwrap();
        wait_for_the_end();
    }

    fn kills_the_agent() {
        kill("-KILL", agent());
        wait_for_the_end();
    }

    /// The guest is alive, and nothing will be heard of it again.
    fn stops_the_agent() {
        kill("-STOP", agent());
        wait_for_the_end();
    }

    fn switches_the_guest_off() {
        assert!(run("poweroff", &["-f"]));
        wait_for_the_end();
    }

    /// Through the port on which virtme-ng expects an exit code, and which QEMU has connected to a file.
    fn fills_the_hosts_disk() {
        let ports = fs::read_dir("/sys/class/virtio-ports").unwrap().map(|entry| entry.unwrap().path());
        let names = ports.map(|port| (fs::read_to_string(port.join("name")).unwrap(), port));
        let (_, port) = names.into_iter().find(|(name, _)| name.trim() == "virtme.ret").unwrap();
        let mut file = File::create(Path::new("/dev").join(port.file_name().unwrap())).unwrap();
        let block = vec![b'x'; 1 << 20];
        for _ in 0..1000 {
            file.write_all(&block).unwrap();
        }
    }

    fn forges_an_outcome_without_a_token() {
        forge("");
    }

    /// A token is as long as this, and means something else.
    fn forges_an_outcome_with_a_guess() {
        forge("0123456789abcdef0123456789abcdef");
    }

    /// It then passes, which is no reason to overlook what it wrote.
    fn scribbles_on_the_agents_line() {
        fs::write(AGENTS_LINE, b"\xff\0\x1b[2Jnot a word of the agent's\n").unwrap();
    }

    /// Leaves nothing of a warning but the mark that the kernel makes. It then passes.
    fn hides_a_warning_of_the_kernels() {
        const WARNED: &str = "512";
        fs::write("/proc/sys/kernel/tainted", WARNED).unwrap();
    }

    /// What a kernel says when it warns, in the kernel's own log. It then passes.
    fn makes_the_kernel_warn() {
        let warning = "<4>WARNING: CPU: 0 PID: 1 at kernel/misbehave.c:1 misbehave+0x1/0x2\n";
        fs::write("/dev/kmsg", warning).unwrap();
    }
}

/// Says on the agent's line that this test has passed, and that the job is done.
fn forge(token: &str) {
    // The agent runs `BINARY --exact NAME …`.
    let test = std::env::args().nth(2).unwrap();
    let id = format!(r#"{{"binary":"misbehave::misbehave","name":"{test}"}}"#);
    let outcome =
        format!(r#"{{"test":{id},"result":"passed","attempts":1,"seconds":0.1,"output":"","dropped_bytes":0}}"#);
    let frames = format!(
        "{{\"token\":\"{token}\",\"event\":{{\"test-finished\":{outcome}}}}}\n\
         {{\"token\":\"{token}\",\"event\":\"finished\"}}\n"
    );
    fs::write(AGENTS_LINE, frames).unwrap();
    wait_for_the_end();
}
