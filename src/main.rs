//! The tracer; see `helloworld --help`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use helloworld::{cli, session};

fn main() -> ExitCode {
    match session::run(&cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // With stderr closed there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "error: {failure}");
            ExitCode::from(failure.kind.exit_code())
        }
    }
}
