//! Cargo's own arguments for choosing what is built and tested.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches, value_parser};

/// The arguments of `cargo test` that choose packages, targets, features and a profile; they mean what they mean there. Kept as
/// arguments of cargo.
#[derive(Debug, Clone, Default)]
pub struct Selection(pub Vec<OsString>);

/// An option's name, its short name, its value's (a switch has none), and its help.
const OPTIONS: [(&str, Option<char>, &str, &str); 22] = [
    ("package", Some('p'), "SPEC", "Packages to test"),
    ("workspace", None, "", "All packages of the workspace"),
    ("exclude", None, "SPEC", "Packages to leave out"),
    ("lib", None, "", "The library's unit tests"),
    ("bins", None, "", "All binaries' unit tests"),
    ("bin", None, "NAME", "One binary's unit tests"),
    ("test", None, "NAME", "One test target"),
    ("tests", None, "", "All test targets"),
    ("example", None, "NAME", "One example"),
    ("examples", None, "", "All examples"),
    ("bench", None, "NAME", "One benchmark, as a test"),
    ("benches", None, "", "All benchmarks, as tests"),
    ("all-targets", None, "", "All of these"),
    ("features", Some('F'), "FEATURES", "Features to turn on"),
    ("all-features", None, "", "Turn all features on"),
    ("no-default-features", None, "", "Turn the default features off"),
    ("release", Some('r'), "", "Build with optimizations"),
    ("profile", None, "NAME", "Build with this profile"),
    ("target", None, "TRIPLE", "Build for this target"),
    ("manifest-path", None, "PATH", "The Cargo.toml"),
    ("locked", None, "", "Cargo.lock must not change"),
    ("offline", None, "", "Do not access the network"),
];

impl Args for Selection {
    fn augment_args(command: Command) -> Command {
        command.args(OPTIONS.map(|(name, short, value, help)| {
            let arg = Arg::new(name).long(name).short(short).help(help).help_heading("Cargo's own options");
            match value {
                "" => arg.action(ArgAction::SetTrue),
                _ => arg.action(ArgAction::Append).value_name(value).value_parser(value_parser!(OsString)),
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Selection {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut arguments = Vec::new();
        for (name, _, value, _) in OPTIONS {
            let option = OsString::from(format!("--{name}"));
            if value.is_empty() {
                arguments.extend(matches.get_flag(name).then_some(option));
            } else {
                let values = matches.get_many::<OsString>(name).into_iter().flatten();
                arguments.extend(values.flat_map(|value| [option.clone(), value.clone()]));
            }
        }
        Ok(Self(arguments))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
