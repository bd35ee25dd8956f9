//! Writes down how a program was started: what cargo gives a test binary is known best by asking cargo.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use vmtest_agent::{Program, RECORD_DIR};

/// Records the program that `args` are, with this process's directory and environment, as one file of JSON.
pub fn record(args: impl Iterator<Item = OsString>) -> ExitCode {
    match write(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cannot record what cargo starts: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn write(args: impl Iterator<Item = OsString>) -> Result<()> {
    let dir = PathBuf::from(std::env::var_os(RECORD_DIR).context("the directory is not named")?);
    let cwd = std::env::current_dir()?;
    let variable = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    let program = Program {
        argv: args.map(|arg| arg.to_string_lossy().into_owned()).collect(),
        cwd: cwd.to_str().context("the directory's path is not UTF-8")?.to_owned(),
        env: std::env::vars_os().filter_map(variable).filter(|(name, _)| name != RECORD_DIR).collect(),
    };
    Ok(fs::write(dir.join(format!("{}.json", std::process::id())), serde_json::to_vec(&program)?)?)
}
