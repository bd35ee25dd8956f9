//! Cargo's own arguments for choosing what is built and tested.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

/// The arguments of `cargo test` that choose packages, targets, features and a profile; they mean what they mean there.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Cargo's own options")]
pub struct Selection {
    /// Packages to test
    #[arg(short, long = "package", value_name = "SPEC")]
    packages: Vec<String>,
    /// All packages of the workspace
    #[arg(long)]
    workspace: bool,
    /// Packages to leave out
    #[arg(long, value_name = "SPEC")]
    exclude: Vec<String>,
    /// The library's unit tests
    #[arg(long)]
    lib: bool,
    /// All binaries' unit tests
    #[arg(long)]
    bins: bool,
    /// One binary's unit tests
    #[arg(long = "bin", value_name = "NAME")]
    bin: Vec<String>,
    /// One test target
    #[arg(long = "test", value_name = "NAME")]
    test: Vec<String>,
    /// All test targets
    #[arg(long)]
    tests: bool,
    /// One example
    #[arg(long = "example", value_name = "NAME")]
    example: Vec<String>,
    /// All examples
    #[arg(long)]
    examples: bool,
    /// Features to turn on
    #[arg(short = 'F', long, value_name = "FEATURES")]
    features: Vec<String>,
    /// Turn all features on
    #[arg(long)]
    all_features: bool,
    /// Turn the default features off
    #[arg(long)]
    no_default_features: bool,
    /// Build with optimizations
    #[arg(short, long)]
    release: bool,
    /// Build with this profile
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Build for this target
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// The Cargo.toml
    #[arg(long, value_name = "PATH")]
    manifest_path: Option<PathBuf>,
    /// Cargo.lock must not change
    #[arg(long)]
    locked: bool,
    /// Do not access the network
    #[arg(long)]
    offline: bool,
}

impl Selection {
    /// As arguments of cargo.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        let mut with_values = |name: &str, values: &[String]| {
            for value in values {
                arguments.extend([OsString::from(name), value.into()]);
            }
        };
        with_values("--package", &self.packages);
        with_values("--exclude", &self.exclude);
        with_values("--bin", &self.bin);
        with_values("--test", &self.test);
        with_values("--example", &self.example);
        with_values("--features", &self.features);
        with_values("--profile", self.profile.as_slice());
        with_values("--target", self.target.as_slice());
        if let Some(path) = &self.manifest_path {
            arguments.extend(["--manifest-path".into(), path.into()]);
        }
        let switches = [
            ("--workspace", self.workspace),
            ("--lib", self.lib),
            ("--bins", self.bins),
            ("--tests", self.tests),
            ("--examples", self.examples),
            ("--all-features", self.all_features),
            ("--no-default-features", self.no_default_features),
            ("--release", self.release),
            ("--locked", self.locked),
            ("--offline", self.offline),
        ];
        arguments.extend(switches.into_iter().filter(|(_, on)| *on).map(|(name, _)| name.into()));
        arguments
    }
}
