//! Runs in the guest, as root: loads each program of each object in a process of its own, so that a crash or a hang of
//! libbpf belongs to one program, and prints [`Line`]s.
//!
//! `vmtest-loader JOB` for all; it starts itself as `vmtest-loader JOB OBJECT [PROGRAM]` to list one object's programs,
//! or to load one.

mod legacy_maps;
mod load;

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Output};

use anyhow::{Context, Result};
use vmtest_loader::{Job, Line, Record};

/// Seconds that one program may take. Emulated, a million instructions may take a minute.
const SECONDS: u32 = 240;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.len() > 1 {
        nix::unistd::alarm::set(SECONDS);
    }
    let done = match &args[..] {
        [job] => read(job).and_then(|read| all(job, &read)),
        [job, object] => read(job).and_then(|job| print(&load::list(&job, object.parse()?)?)),
        [job, object, program] => read(job).and_then(|job| print(&load::program(&job, object.parse()?, program)?)),
        _ => Err(anyhow::anyhow!("usage: vmtest-loader JOB [OBJECT [PROGRAM]]")),
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    eprintln!("vmtest-loader: {error:#}");
    ExitCode::FAILURE
}

fn read(job: &str) -> Result<Job> {
    let text = std::fs::read(job).with_context(|| format!("cannot read {job}"))?;
    serde_json::from_slice(&text).with_context(|| format!("cannot read {job}"))
}

fn print(line: &Line) -> Result<()> {
    writeln!(std::io::stdout(), "{}", serde_json::to_string(line)?).context("cannot print")
}

fn all(path: &str, job: &Job) -> Result<()> {
    for object in 0..job.objects.len() {
        let listed = start(&[path, &object.to_string()])?;
        let line = serde_json::from_slice(&listed.stdout);
        let line = line.unwrap_or_else(|_| Line::NotOpened { object, said: ended(&listed) });
        print(&line)?;
        let Line::Object { programs, .. } = line else { continue };
        let chosen = programs.iter().filter(|program| job.wants(program));
        for name in chosen.map(|program| &program.name) {
            let loaded = start(&[path, &object.to_string(), name])?;
            print(&serde_json::from_slice(&loaded.stdout).unwrap_or_else(|_| {
                let (program, crashed) = (name.clone(), Some(ended(&loaded)));
                Line::Program(Box::new(Record { object, program, crashed, ..Record::default() }))
            }))?;
        }
    }
    print(&Line::Done)
}

fn start(args: &[&str]) -> Result<Output> {
    Command::new("/proc/self/exe").args(args).output().context("cannot start /proc/self/exe")
}

/// How a process ended that did not say what it should.
fn ended(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let how = match output.status.signal() {
        Some(nix::libc::SIGALRM) => format!("not finished within {SECONDS} s"),
        Some(signal) => format!("libbpf's process was killed by signal {signal}"),
        None => format!("libbpf's process ended with {}", output.status),
    };
    format!("{how}\n{stderr}").trim_end().to_owned()
}
