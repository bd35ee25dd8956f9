//! `cargo xtask completions`: what a shell needs to complete this command line.
//!
//! The shells complete by program, and the program typed here is cargo. So what is generated for `xtask` is hooked
//! into the completion of cargo, which goes on as it was for everything else.

use std::io::Write;

use anyhow::{Context, Result};
use clap_complete::Shell;

use crate::exit;
use crate::flags;

/// Runs the command.
///
/// # Errors
/// When standard output cannot be written to.
pub fn run(flags: &flags::Completions, program: clap::Command) -> Result<u8> {
    let script = script(flags.shell, program);
    match std::io::stdout().write_all(script.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        result => result.context("cannot write to standard output")?,
    }
    Ok(exit::OK)
}

fn script(shell: Shell, program: clap::Command) -> String {
    let mut command = program.name("xtask").bin_name("xtask");
    let mut generated = Vec::new();
    clap_complete::generate(shell, &mut command, "xtask", &mut generated);
    let generated = String::from_utf8_lossy(&generated);
    match HOOKS.iter().find(|hook| hook.shell == shell) {
        // zsh wants `#compdef` on the first line.
        Some(hook) => format!("{generated}\n{}\n{}", comment(hook.install), hook.code),
        None => generated.into_owned(),
    }
}

fn comment(text: &str) -> String {
    text.lines().map(|line| format!("# {line}\n")).collect()
}

/// What makes a shell use the completions of `xtask` after `cargo xtask`.
struct Hook {
    shell: Shell,
    install: &'static str,
    code: &'static str,
}

const HOOKS: &[Hook] = &[
    Hook {
        shell: Shell::Bash,
        install: "\
To have it in every shell:
  cargo xtask completions bash > ~/.cargo-xtask.bash
  echo '. ~/.cargo-xtask.bash' >> ~/.bashrc",
        code: r#"
# The function that completed cargo before; bash-completion loads it when it is first asked for.
if declare -F _comp_load > /dev/null; then
    _comp_load cargo > /dev/null 2>&1
elif declare -F _completion_loader > /dev/null; then
    _completion_loader cargo > /dev/null 2>&1
fi
if [[ $(complete -p cargo 2> /dev/null) =~ \ -F\ ([^ ]+) && ${BASH_REMATCH[1]} != _cargo_or_xtask ]]; then
    _cargo_before_xtask=${BASH_REMATCH[1]}
fi

_cargo_or_xtask() {
    if (( COMP_CWORD > 1 )) && [[ ${COMP_WORDS[1]} == xtask ]]; then
        COMP_WORDS=("${COMP_WORDS[@]:1}")
        (( COMP_CWORD-- ))
        _xtask xtask "$2" "$3"
    elif [[ -n ${_cargo_before_xtask-} ]]; then
        "$_cargo_before_xtask" "$@"
    elif (( COMP_CWORD == 1 )); then
        COMPREPLY=($(compgen -W "xtask" -- "$2"))
    fi
}
complete -F _cargo_or_xtask -o bashdefault -o default cargo
"#,
    },
    Hook {
        shell: Shell::Zsh,
        install: "\
To have it in every shell, after the line with compinit:
  cargo xtask completions zsh > ~/.cargo-xtask.zsh
  echo '. ~/.cargo-xtask.zsh' >> ~/.zshrc",
        code: r#"
# The completion of cargo that comes with it calls this for its subcommand xtask.
_cargo-xtask() {
    _xtask "$@"
}
"#,
    },
    Hook {
        shell: Shell::Fish,
        install: "\
To have it in every shell:
  cargo xtask completions fish > ~/.config/fish/conf.d/cargo-xtask.fish",
        code: r#"
complete -c cargo -n '__fish_seen_subcommand_from xtask' -f \
    -a '(complete -C (commandline -cp | string replace -r "^\S*cargo\s+" ""))'
complete -c cargo -n __fish_use_subcommand -f -a xtask -d 'The project\'s own tasks'
"#,
    },
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use super::*;

    fn program() -> clap::Command {
        <flags::Command as clap::Subcommand>::augment_subcommands(clap::Command::new("xtask"))
    }

    /// What bash offers for the last of these words, where cargo had a completion of its own before.
    fn bash(words: &[&str]) -> Vec<String> {
        let driver = r#"
            _cargo() { COMPREPLY=("cargo's own: $2"); }
            complete -F _cargo cargo
            eval "$1"; shift
            [[ $(complete -p cargo) == *" -F _cargo_or_xtask "* ]] || exit 9
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
            _cargo_or_xtask cargo "${@: -1}" "${@: -2:1}"
            printf '%s\n' "${COMPREPLY[@]}"
        "#;
        let output = Command::new("bash")
            .args(["--norc", "-eu", "-c", driver, "bash", &script(Shell::Bash, program())])
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn bash_completes_commands_options_and_values_after_cargo_xtask() {
        assert_eq!(bash(&["cargo", "xtask", "vmt"]), ["vmtest"]);
        assert_eq!(bash(&["cargo", "xtask", "vmtest", "--ac"]), ["--accel"]);
        assert_eq!(bash(&["cargo", "xtask", "vmtest", "--accel", ""]), ["auto", "kvm", "tcg"]);
        assert_eq!(bash(&["cargo", "xtask", "kernels", "ver"]), ["verify"]);
    }

    #[test]
    fn bash_leaves_everything_else_to_what_completed_cargo_before() {
        assert_eq!(bash(&["cargo", "bu"]), ["cargo's own: bu"]);
        assert_eq!(bash(&["cargo", "build", "--rel"]), ["cargo's own: --rel"]);
    }

    #[test]
    fn every_shell_gets_a_script_and_those_with_a_hook_are_told_how_to_install_it() {
        for shell in <Shell as clap::ValueEnum>::value_variants() {
            assert!(script(*shell, program()).contains("doctor"), "{shell}");
        }
        for hook in HOOKS {
            assert!(
                script(hook.shell, program()).contains("# To have it in every shell"),
                "{}",
                hook.shell
            );
        }
    }
}
