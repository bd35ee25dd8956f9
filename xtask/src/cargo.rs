//! Runs cargo and reads what it reports about what it built, so that no path has to be guessed.

use std::io::BufReader;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use cargo_metadata::Message;

use crate::paths;

/// The cargo that runs this program, in the workspace, with a subcommand such as `build`.
pub fn command(subcommand: &str) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(paths::workspace()).arg(subcommand);
    command
}

/// Runs a build and returns its messages. What the compiler says goes to stderr as usual.
///
/// # Errors
///
/// When the build fails.
pub fn messages(cargo: &mut Command) -> Result<Vec<Message>> {
    cargo.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    let mut child = cargo.spawn().context("cannot run cargo")?;
    let stdout = child.stdout.take().context("cargo has no stdout")?;
    let messages: std::io::Result<Vec<_>> = Message::parse_stream(BufReader::new(stdout)).collect();
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        bail!("the build failed: see the messages above");
    }
    messages.context("cannot read cargo's messages")
}
