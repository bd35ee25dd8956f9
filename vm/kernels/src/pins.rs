//! Lists of pins such as `kernels.toml`, read and checked.

use std::ops::Range;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde::Deserialize;
use toml::Spanned;
use url::Url;

use super::digest::{Pinned, Sha1Hex, Sha256Hex};
use super::{ARCHES, Arch, Expected};

/// One pinned kernel: one release for one architecture, whichever source it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// What it is called on the command line, such as `5.4`; one of each architecture may have the name.
    pub name: String,
    /// What it runs on.
    pub arch: &'static Arch,
    /// The release it must boot as.
    pub expected: Expected,
    /// Why it is pinned, in one line.
    pub why: String,
    /// Whether it is used only when it is asked for by its name.
    pub extra: bool,
    /// Where it comes from, in the order in which it is tried.
    pub sources: Vec<Source>,
}

/// One place that a kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// Files of Debian's pool, all of which are needed.
    Debian {
        /// The files.
        files: Vec<PoolFile>,
    },
    /// One file at an https address.
    Url {
        /// The address.
        url: Url,
        /// The file's hash.
        sha256: Sha256Hex,
    },
    /// A release's source at an https address, which is built on this machine with the configuration of this crate.
    Source {
        /// The address of the tarball.
        url: Url,
        /// The tarball's hash.
        sha256: Sha256Hex,
    },
    /// One file on this machine.
    File {
        /// Relative to the project.
        path: PathBuf,
        /// The file's hash.
        sha256: Sha256Hex,
    },
}

/// A file of Debian's pool.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolFile {
    /// Its path below a mirror's root: `pool/…`.
    pub path: String,
    /// Its hash.
    pub sha256: Sha256Hex,
    /// Its name in the permanent archive.
    pub sha1: Option<Sha1Hex>,
}

impl Pin {
    /// The name that it has among those of all architectures, such as `5.4-arm64`.
    pub fn full_name(&self) -> String {
        format!("{}-{}", self.name, self.arch)
    }

    /// The name that it has on this machine, where a pin of another architecture has its full one.
    pub fn label(&self) -> String {
        if self.arch.is_host() { self.name.clone() } else { self.full_name() }
    }
}

impl Source {
    /// The source's kind, as it is written in the file.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Debian { .. } => "debian",
            Self::Url { .. } => "url",
            Self::Source { .. } => "source",
            Self::File { .. } => "file",
        }
    }

    /// What a type does not say.
    fn check(&self) -> Result<(), String> {
        match self {
            Self::Debian { files } if files.is_empty() => Err("expected at least one file".into()),
            Self::Debian { files } => files.iter().try_for_each(|file| check(&file.path, POOL_PATH)),
            Self::Url { url, .. } | Self::Source { url, .. } if url.scheme() != "https" => {
                Err(format!("expected an https address, found {url}"))
            }
            _ => Ok(()),
        }
    }

    /// The hashes of what it fetches, a file each.
    pub fn pinned(&self) -> Vec<Pinned> {
        let one = |sha256: &Sha256Hex, sha1: Option<&Sha1Hex>| Pinned { sha256: sha256.clone(), sha1: sha1.cloned() };
        match self {
            Self::Debian { files, .. } => files.iter().map(|file| one(&file.sha256, file.sha1.as_ref())).collect(),
            Self::Url { sha256, .. } | Self::Source { sha256, .. } | Self::File { sha256, .. } => {
                vec![one(sha256, None)]
            }
        }
    }
}

/// A list of pins that is not as it must be.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}:{column}: {message}\n  {text}", .path.display())]
pub struct PinsError {
    /// The file.
    pub path: PathBuf,
    /// Where it is wrong, from 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong, and what was expected.
    pub message: String,
    /// The line itself.
    pub text: String,
}

/// The list that is built into this crate.
pub const BUILT_IN: &str = include_str!("../kernels.toml");

/// The pins that are built into this crate; a test sees to it that the list is good.
pub fn built_in() -> Vec<Pin> {
    parse(BUILT_IN, Path::new("vm/kernels/kernels.toml")).unwrap_or_default()
}

/// `base` with the pins of `own` added; of two with one name and architecture, `own`'s counts.
pub fn merged(mut base: Vec<Pin>, own: Vec<Pin>) -> Vec<Pin> {
    for pin in own {
        match base.iter_mut().find(|known| known.full_name() == pin.full_name()) {
            Some(known) => *known = pin,
            None => base.push(pin),
        }
    }
    base
}

/// Reads pins from `text`, which is the content of `path`.
///
/// # Errors
///
/// Names file, line and what was expected, when anything is not as it must be.
pub fn parse(text: &str, path: &Path) -> Result<Vec<Pin>, PinsError> {
    let wrong = |span: Range<usize>, message: &str| {
        let before = &text[..span.start.min(text.len())];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        PinsError {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[start..].chars().count() + 1,
            message: message.trim_end().to_owned(),
            text: text[start..].lines().next().unwrap_or_default().to_owned(),
        }
    };
    let list: RawList = toml::from_str(text).map_err(|error| wrong(error.span().unwrap_or(0..0), error.message()))?;
    let mut pins: Vec<Pin> = Vec::with_capacity(list.kernel.len());
    for raw in list.kernel {
        let span = raw.span();
        let of_one_name = of_one_name(raw).map_err(|(span, message)| wrong(span, &message))?;
        for pin in &of_one_name {
            if pins.iter().any(|known| known.name == pin.name) {
                return Err(wrong(span, &format!("the name {:?} is taken by a pin above", pin.name)));
            }
        }
        pins.extend(of_one_name);
    }
    Ok(pins)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawList {
    #[serde(default)]
    kernel: Vec<Spanned<RawPin>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPin {
    name: Spanned<String>,
    release: Option<Spanned<String>>,
    series: Option<Spanned<String>>,
    why: Spanned<String>,
    #[serde(default)]
    extra: bool,
    #[serde(default)]
    source: Vec<Spanned<toml::Table>>,
}

/// What a source says beside where it is: which architecture it is for, and the release where that differs for it.
#[derive(Deserialize)]
struct RawSource {
    arch: Option<&'static Arch>,
    release: Option<String>,
    #[serde(flatten)]
    rest: toml::Table,
}

/// What is wrong, and where.
type Wrong = (Range<usize>, String);

/// Makes of what was read a pin for each architecture that it has sources for.
fn of_one_name(raw: Spanned<RawPin>) -> Result<Vec<Pin>, Wrong> {
    let span = raw.span();
    let wrong = |message: &str| (span.clone(), message.to_owned());
    let RawPin { name, release, series, why, extra, source } = raw.into_inner();
    let expected = match (release, series) {
        (Some(release), None) => Expected::Exact(checked(release, RELEASE)?),
        (None, Some(series)) => Expected::Series(checked(series, SERIES)?),
        _ => return Err(wrong("expected either `release` (exactly that) or `series` (that prefix)")),
    };
    if source.is_empty() {
        return Err(wrong("expected at least one [[kernel.source]]"));
    }
    let (name, why) = (checked(name, NAME)?, checked(why, WHY)?);
    let mut pins: Vec<Pin> = Vec::new();
    for source in source {
        let span = source.span();
        let (arch, release, source) = read_source(source.into_inner()).map_err(|message| (span, message))?;
        let expected = release.map_or_else(|| expected.clone(), Expected::Exact);
        for arch in architectures(&source, arch) {
            match pins.iter_mut().find(|pin| pin.arch == arch) {
                Some(pin) => pin.sources.push(source.clone()),
                None => pins.push(Pin {
                    name: name.clone(),
                    arch,
                    expected: expected.clone(),
                    why: why.clone(),
                    extra,
                    sources: vec![source.clone()],
                }),
            }
        }
    }
    Ok(pins)
}

/// In two steps, since serde forgets where it is when it looks for the kind first.
fn read_source(table: toml::Table) -> Result<(Option<&'static Arch>, Option<String>, Source), String> {
    let wrong = |error: toml::de::Error| error.message().to_owned();
    let RawSource { arch, release, rest } = RawSource::deserialize(table).map_err(wrong)?;
    release.as_deref().map_or(Ok(()), |release| check(release, RELEASE))?;
    let source = Source::deserialize(rest).map_err(wrong)?;
    source.check()?;
    Ok((arch, release, source))
}

/// What a source is for: the one that it says, the first if it says none, and a kernel's source is for all of them.
fn architectures(source: &Source, said: Option<&'static Arch>) -> Vec<&'static Arch> {
    match (source, said) {
        (_, Some(arch)) => vec![arch],
        (Source::Source { .. }, None) => ARCHES.iter().collect(),
        (_, None) => vec![&ARCHES[0]],
    }
}

/// What a string must match, and how a person is told.
type Form = (&'static str, &'static str);

/// It is also a directory's name, a CI job's, and an item of a comma-separated list.
const NAME: Form = ("[[:alnum:]][[:alnum:]._+-]*", "a name of letters, digits, `.`, `_`, `+` and `-`");
const RELEASE: Form = (r"[0-9][^\s/]*\.[^\s/]*", "a release such as \"6.1.0-47-amd64\"");
const SERIES: Form = (r"[0-9]+(\.[0-9]+)+\.", "a series that ends in a dot, such as \"5.15.\"");
const WHY: Form = (r".*\S.*", "one line on why this kernel is pinned");
const POOL_PATH: Form = (r"pool(/[[:alnum:]][[:alnum:]._+~-]*)+\.deb", "a pool path, `pool/….deb`");

/// Whether a pin may have this name.
///
/// # Errors
/// What was expected instead.
pub fn check_name(name: &str) -> Result<(), String> {
    check(name, NAME)
}

fn check(text: &str, (pattern, expected): Form) -> Result<(), String> {
    let matches = Regex::new(&format!(r"\A(?:{pattern})\z")).is_ok_and(|pattern| pattern.is_match(text));
    if matches { Ok(()) } else { Err(format!("expected {expected}, found {text:?}")) }
}

fn checked(text: Spanned<String>, form: Form) -> Result<String, Wrong> {
    check(text.get_ref(), form).map_err(|message| (text.span(), message))?;
    Ok(text.into_inner())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SHA256: &str = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";

    /// A list with one pin, in which `from` is replaced by `to`.
    fn with(from: &str, to: &str) -> Result<Vec<Pin>, PinsError> {
        let good = format!(
            r#"[[kernel]]
name = "6.1"
release = "6.1.0-47-amd64"
why = "a test"

[[kernel.source]]
kind = "debian"
files = [
  {{ path = "pool/main/l/linux/a_1_amd64.deb", sha256 = "{SHA256}" }},
]

[[kernel.source]]
kind = "url"
url = "https://example.org/bzImage"
sha256 = "{SHA256}"

[[kernel.source]]
kind = "source"
url = "https://example.org/linux.tar.xz"
sha256 = "{SHA256}"
"#
        );
        assert!(good.contains(from), "nothing to replace: {from}");
        parse(&good.replacen(from, to, 1), Path::new("kernels.toml"))
    }

    #[test]
    fn a_good_list_is_read() {
        let pins = with("a test", "a test").unwrap();
        let [pin, arm64] = pins.as_slice() else { panic!("a kernel's source is for every architecture") };
        assert_eq!((pin.arch.name, arm64.arch.name), ("x86_64", "arm64"));
        assert_eq!(
            (arm64.sources.len(), arm64.sources[0].kind(), arm64.full_name()),
            (1, "source", "6.1-arm64".into())
        );
        assert_eq!((pin.name.as_str(), pin.why.as_str()), ("6.1", "a test"));
        assert_eq!(pin.expected, Expected::Exact("6.1.0-47-amd64".into()));
        let kinds: Vec<_> = pin.sources.iter().map(Source::kind).collect();
        assert_eq!(kinds, ["debian", "url", "source"]);
        let series = with("release = \"6.1.0-47-amd64\"", "series = \"6.1.\"").unwrap();
        assert_eq!(series[0].expected, Expected::Series("6.1.".into()));
    }

    #[test]
    fn every_mistake_is_refused_with_its_line_and_what_was_expected() {
        let (long, release) = (SHA256.to_uppercase(), "release = \"6.1.0-47-amd64\"");
        // Of a mistake inside a source the line is that of the source.
        let (no_sha256, sha1) = (format!(", sha256 = \"{SHA256}\""), format!(", sha1 = \"{}\"", &SHA256[..40]));
        let file = format!("path = \"pool/main/l/linux/a_1_amd64.deb\", sha256 = \"{SHA256}\"");
        let files = format!("files = [\n  {{ {file} }},\n]");
        let of_url = format!("bzImage\"\nsha256 = \"{SHA256}\"");
        let wrong: [(&str, &str, usize, &str); 27] = [
            (&of_url, "bzImage\"", 12, "missing field `sha256`"),
            (&no_sha256, &sha1, 6, "missing field `sha256`"),
            ("why =", "y =", 4, "unknown field `y`"),
            ("kind = \"url\"", "kind = \"ftp\"", 12, "unknown variant `ftp`"),
            ("name = \"6.1\"\n", "", 1, "missing field `name`"),
            ("name = \"6.1\"", "name = \"a/b\"", 2, "expected a name of letters"),
            ("name = \"6.1\"", "name = 6.1", 2, "expected a string"),
            (release, "series = \"6.1\"", 3, "expected a series that ends in a dot"),
            (release, "series = \"6..\"", 3, "expected a series"),
            (release, "release = \"six\"", 3, "expected a release"),
            (release, "", 1, "expected either `release`"),
            (release, "release = \"6.1.9\"\nseries = \"6.1.\"", 1, "expected either `release`"),
            ("why = \"a test\"", "why = \" \"", 4, "expected one line on why"),
            (&files, "files = []", 6, "expected at least one file"),
            ("pool/main", "../main", 6, "expected a pool path"),
            ("pool/main/l", "pool/../l", 6, "expected a pool path"),
            ("a_1_amd64.deb", "a_1_amd64.exe", 6, "expected a pool path"),
            (SHA256, "abc", 6, "expected 64 lower-case hexadecimal digits, found \"abc\""),
            (SHA256, &long, 6, "expected 64 lower-case hexadecimal digits"),
            (", sha256", ", sha1", 6, "expected 40 lower-case hexadecimal digits"),
            ("kind = \"debian\"", "kind = \"url\"", 6, "unknown field `files`, expected"),
            ("https://example.org/bzImage", "http://example.org/", 12, "expected an https address"),
            ("https://example.org/bzImage", "https://", 12, "empty host"),
            ("url = \"https://example.org/bzImage\"\n", "", 12, "missing field `url`"),
            ("kind = \"url\"", "kind = \"url\"\narch = \"m68k\"", 12, "expected an architecture (x86_64, arm64)"),
            ("kind = \"source\"", "kind = \"source\"\nrelease = \"six\"", 17, "expected a release"),
            ("[[kernel]]", "[[kernel]", 1, "unclosed"),
        ];
        for (from, to, line, finding) in wrong {
            let error = with(from, to).expect_err(to);
            let text = error.to_string();
            assert!(text.contains(finding), "{from} -> {to}: {text}");
            assert!(text.starts_with(&format!("kernels.toml:{line}:")), "{from} -> {to}: {text}");
        }
        let text = "[[kernel]]\nname = \"a\"\nseries = \"6.1.\"\nwhy = \"b\"\n";
        let error = parse(text, Path::new("kernels.toml")).unwrap_err();
        assert!(error.to_string().contains("expected at least one [[kernel.source]]"), "{error}");
    }

    #[test]
    fn duplicate_name_is_refused() {
        let pin = format!(
            "[[kernel]]\nname = \"a\"\nseries = \"6.1.\"\nwhy = \"b\"\n\
            [[kernel.source]]\nkind = \"file\"\npath = \"x\"\nsha256 = \"{SHA256}\"\n"
        );
        let error = parse(&format!("{pin}{pin}"), Path::new("kernels.toml")).unwrap_err();
        let expected = "kernels.toml:9:1: the name \"a\" is taken";
        assert!(error.to_string().starts_with(expected), "{error}");
    }

    #[test]
    fn merged_lists_prefer_the_projects_own() {
        let list = |name: &str, why: &str| {
            let text = with("name = \"6.1\"\n", &format!("name = \"{name}\"\n")).unwrap();
            text.into_iter()
                .filter(|pin| pin.arch == &ARCHES[0])
                .map(|pin| Pin { why: why.to_owned(), ..pin })
                .collect::<Vec<_>>()
        };
        let base = [list("a", "base"), list("b", "base")].concat();
        let all = merged(base, [list("b", "own"), list("c", "own")].concat());
        let all: Vec<_> = all.iter().map(|pin| (pin.name.as_str(), pin.why.as_str())).collect();
        assert_eq!(all, [("a", "base"), ("b", "own"), ("c", "own")]);
    }

    #[test]
    fn the_built_in_pins_are_good() {
        let pins = parse(BUILT_IN, Path::new("kernels.toml")).unwrap();
        for arch in &ARCHES {
            let usual = pins.iter().filter(|pin| pin.arch == arch && !pin.extra).map(|pin| pin.name.as_str());
            assert_eq!(
                usual.collect::<Vec<_>>(),
                ["5.4", "5.10", "5.15", "6.1", "6.6", "6.12", "6.18", "7.3"],
                "{arch}"
            );
        }
        for pin in pins.iter().filter(|pin| !pin.extra) {
            assert!(matches!(pin.expected, Expected::Exact(_)), "{} may be several", pin.name);
        }
    }
}
