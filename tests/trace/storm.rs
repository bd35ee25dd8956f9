//! Many execves from several processes: this test binary again, as a worker.

use std::io::Read as _;
use std::process::{Child, Command, ExitCode, Stdio};

use crate::execve::execve;

/// Tells the test binary to be a worker, and how many execves to make.
const WORKER: &str = "HELLOWORLD_STORM_WORKER";

/// The number of execves, if this process is a worker.
pub fn requested() -> Option<usize> {
    std::env::var(WORKER).ok()?.parse().ok()
}

/// A worker: makes the execves and prints their PIDs.
pub fn work(count: usize) -> ExitCode {
    for _ in 0..count {
        println!("{}", execve());
    }
    ExitCode::SUCCESS
}

/// Runs workers side by side and returns the PIDs of their execves.
pub fn run(workers: usize, execves_each: usize) -> Vec<u32> {
    let workers: Vec<Child> = (0..workers).map(|_| start(execves_each)).collect();
    workers.into_iter().flat_map(pids).collect()
}

fn start(execves: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .env(WORKER, execves.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a worker starts")
}

fn pids(mut worker: Child) -> Vec<u32> {
    let mut text = String::new();
    worker.stdout.take().unwrap().read_to_string(&mut text).expect("a worker's output is read");
    assert!(worker.wait().expect("a worker ends").success());
    text.lines().map(|pid| pid.parse().expect("a worker prints PIDs")).collect()
}
