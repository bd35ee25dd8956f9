//! Every `cargo xtask …` in the documentation is one that the program accepts.

use clap::Parser;
use clap::error::ErrorKind;

use crate::flags::Xtask;
use crate::markdown::{Code, pages, workspace};

/// What may be wrong with a command that is only mentioned: it is not whole.
const NOT_WHOLE: [ErrorKind; 3] = [
    ErrorKind::MissingRequiredArgument,
    ErrorKind::MissingSubcommand,
    ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
];

#[test]
fn every_command_is_accepted() {
    let code: Vec<Code> = pages().iter().flat_map(|page| page.code()).collect();
    let commands: Vec<(&Code, &str)> =
        code.iter().filter_map(|code| Some((code, xtask_command(&code.text)?))).collect();
    assert!(commands.len() > 50, "only {} commands were found", commands.len());
    let refused: Vec<String> = commands
        .iter()
        .filter_map(|(code, command)| {
            let error = refusal(command, code.block)?;
            Some(format!("{}: {command}: {error}", code.at))
        })
        .collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// A picture of a run has the command that it shows for a title.
#[test]
fn the_pictures_commands_are_accepted() {
    for entry in std::fs::read_dir(workspace().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "svg") {
            continue;
        }
        let picture = std::fs::read_to_string(&path).unwrap();
        let title = picture.split("</title>").next().unwrap().rsplit('>').next().unwrap();
        let command = xtask_command(title).unwrap_or_else(|| panic!("no command: {title:?}"));
        assert_eq!(refusal(command, true), None, "{}: {command}", path.display());
    }
}

/// The part of a line of code that is a command of ours, without what a shell sees in the rest.
fn xtask_command(line: &str) -> Option<&str> {
    let command = &line[line.find("cargo xtask")?..];
    let end = [" #", " |", " >", " &&", ";"].iter().filter_map(|end| command.find(end)).min();
    Some(command[..end.unwrap_or(command.len())].trim())
}

/// Why the program would not accept this.
fn refusal(command: &str, whole: bool) -> Option<String> {
    assert!(!command.contains(['"', '\'', '\\']), "{command}: a shell is needed to read this");
    let words = command.split_whitespace().skip(1);
    let error = Xtask::try_parse_from(words).err()?;
    if error.kind() == ErrorKind::DisplayHelp || (!whole && NOT_WHOLE.contains(&error.kind())) {
        return None;
    }
    Some(error.to_string().lines().next().unwrap_or_default().to_owned())
}

#[test]
fn a_command_that_does_not_exist_is_refused() {
    for wrong in ["cargo xtask vmtests", "cargo xtask vmtest --wram", "cargo xtask kernels get"] {
        assert!(refusal(wrong, false).is_some(), "{wrong}");
    }
    assert!(refusal("cargo xtask shell", true).is_some());
    assert_eq!(refusal("cargo xtask shell", false), None);
    assert_eq!(xtask_command("x && cargo xtask run -- -f  # why"), Some("cargo xtask run -- -f"));
}
