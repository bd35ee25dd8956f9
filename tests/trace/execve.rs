//! Processes that call execve: this test binary again, as workers.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode};

/// Tells the test binary to be a worker, and how many execves to make.
const WORKER: &str = "HELLOWORLD_EXECVE_WORKER";

/// The number of execves, if this process is a worker.
pub fn requested() -> Option<usize> {
    std::env::var(WORKER).ok()?.parse().ok()
}

/// A worker. Its execves fail, so that it lives to make the next one; the tracepoint is at the system call's entry,
/// where nobody knows that yet.
pub fn work(execves: usize) -> ExitCode {
    for _ in 0..execves {
        let _: std::io::Error = Command::new("/nonexistent").exec();
    }
    ExitCode::SUCCESS
}

/// Runs workers side by side, and returns their PIDs. Each makes so many execves, of which the first makes it a worker.
/// Whatever they left in the trace buffer is there when this returns.
pub fn run(workers: usize, execves_each: usize) -> Vec<u32> {
    let mut worker = Command::new(std::env::current_exe().unwrap());
    worker.env(WORKER, (execves_each - 1).to_string());
    let workers: Vec<Child> = (0..workers).map(|_| worker.spawn().expect("a worker starts")).collect();
    workers.into_iter().map(finish).collect()
}

fn finish(mut worker: Child) -> u32 {
    assert!(worker.wait().expect("a worker ends").success());
    worker.id()
}

/// Starts a process that calls execve once, and waits for its end. Returns its PID.
pub fn execve() -> u32 {
    run(1, 1)[0]
}
