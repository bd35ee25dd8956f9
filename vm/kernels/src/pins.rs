//! Lists of pins such as `kernels.toml`, read and checked.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use url::Url;

use super::Expected;
use super::digest::{Pinned, Sha1Hex, Sha256Hex};

/// One pinned kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// What it is called on the command line, such as `5.4`.
    pub name: String,
    /// The release it must boot as.
    pub expected: Expected,
    /// Why it is pinned, in one line.
    pub why: String,
    /// Where it comes from, in the order in which it is tried.
    pub sources: Vec<Source>,
}

/// One place that a kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where.
    pub place: Place,
    /// The exact release of this source's kernel, where it is known.
    pub release: Option<String>,
    /// The machine it runs on, as `uname -m` says it; `None` for Nix, which builds for the machine at hand.
    pub arch: Option<String>,
}

/// Where a source's files are, and what they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A kernel of nixpkgs, put into the directory `$VMTEST_NIX_KERNELS` by `nix develop`.
    Nix,
    /// Files of Debian's pool, all of which are needed.
    Debian(Vec<PoolFile>),
    /// One file at an https address.
    Url(Url, Pinned),
    /// One file on this machine, relative to the workspace.
    File(PathBuf, Pinned),
}

/// A file of Debian's pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolFile {
    /// Its path below a mirror's root: `pool/…`.
    pub path: String,
    /// What it is.
    pub pinned: Pinned,
}

impl Source {
    /// The source's kind, as it is written in the file.
    pub fn kind(&self) -> &'static str {
        match self.place {
            Place::Nix => "nix",
            Place::Debian(_) => "debian",
            Place::Url(..) => "url",
            Place::File(..) => "file",
        }
    }

    /// The hashes of what this source fetches; none for Nix, which has its own.
    pub fn pinned(&self) -> Vec<&Pinned> {
        match &self.place {
            Place::Nix => Vec::new(),
            Place::Debian(files) => files.iter().map(|file| &file.pinned).collect(),
            Place::Url(_, pinned) | Place::File(_, pinned) => vec![pinned],
        }
    }

    /// Whether a file of it is pinned by SHA-1 alone.
    pub fn is_weak(&self) -> bool {
        self.pinned().into_iter().any(Pinned::is_weak)
    }
}

impl Pin {
    /// The release that the kernel must boot as when it came from `source`.
    pub fn expected_from(&self, source: &Source) -> Expected {
        match &source.release {
            Some(release) => Expected::Exact(release.clone()),
            None => self.expected.clone(),
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

/// `base` with the pins of `own` added; of two with one name, `own`'s counts.
pub fn merged(mut base: Vec<Pin>, own: Vec<Pin>) -> Vec<Pin> {
    for pin in own {
        match base.iter_mut().find(|known| known.name == pin.name) {
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
    let raw: RawFile = toml::from_str(text).map_err(|error| {
        Problem { span: error.span().unwrap_or(0..0), message: error.message().to_owned() }
            .at(text, path)
    })?;
    check(raw).map_err(|problem| problem.at(text, path))
}

/// Something in the file that is not as it must be.
struct Problem {
    span: Range<usize>,
    message: String,
}

impl Problem {
    fn new<T>(at: &Spanned<T>, message: impl Into<String>) -> Self {
        Self { span: at.span(), message: message.into() }
    }

    fn at(&self, text: &str, path: &Path) -> PinsError {
        let before = &text[..self.span.start.min(text.len())];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        PinsError {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[start..].chars().count() + 1,
            message: self.message.trim_end().to_owned(),
            text: text[start..].lines().next().unwrap_or_default().to_owned(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
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
    source: Vec<Spanned<RawSource>>,
}

/// Every key that any kind of source has; [`KEYS`] says which kind takes which.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSource {
    kind: Kind,
    attribute: Option<Spanned<String>>,
    release: Option<Spanned<String>>,
    arch: Option<Spanned<String>>,
    files: Option<Spanned<Vec<Spanned<RawPoolFile>>>>,
    url: Option<Spanned<String>>,
    path: Option<Spanned<String>>,
    sha256: Option<Spanned<Sha256Hex>>,
    sha1: Option<Spanned<Sha1Hex>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPoolFile {
    path: Spanned<String>,
    sha256: Option<Sha256Hex>,
    sha1: Option<Sha1Hex>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Nix,
    Debian,
    Url,
    File,
}

/// What a source is for that does not say.
pub const DEFAULT_ARCH: &str = "x86_64";
/// What the guest's agent and QEMU's command line are made for.
const ARCHES: [&str; 2] = [DEFAULT_ARCH, "aarch64"];

/// Which keys each kind takes beside `kind`.
const KEYS: [(Kind, &str, &[&str]); 4] = [
    (Kind::Nix, "nix", &["attribute"]),
    (Kind::Debian, "debian", &["release", "arch", "files"]),
    (Kind::Url, "url", &["release", "arch", "url", "sha256", "sha1"]),
    (Kind::File, "file", &["release", "arch", "path", "sha256", "sha1"]),
];

impl RawSource {
    /// The keys that were given, each with where it stands.
    fn given(&self) -> Vec<(&'static str, Range<usize>)> {
        let keys = [
            ("attribute", self.attribute.as_ref().map(Spanned::span)),
            ("release", self.release.as_ref().map(Spanned::span)),
            ("arch", self.arch.as_ref().map(Spanned::span)),
            ("files", self.files.as_ref().map(Spanned::span)),
            ("url", self.url.as_ref().map(Spanned::span)),
            ("path", self.path.as_ref().map(Spanned::span)),
            ("sha256", self.sha256.as_ref().map(Spanned::span)),
            ("sha1", self.sha1.as_ref().map(Spanned::span)),
        ];
        keys.into_iter().filter_map(|(key, span)| Some((key, span?))).collect()
    }
}

fn check(raw: RawFile) -> Result<Vec<Pin>, Problem> {
    let mut seen = HashSet::new();
    let mut pins = Vec::with_capacity(raw.kernel.len());
    for pin in raw.kernel {
        let name = &pin.get_ref().name;
        if !seen.insert(name.get_ref().clone()) {
            let message = format!("the name {:?} is taken by a pin above", name.get_ref());
            return Err(Problem::new(name, message));
        }
        pins.push(check_pin(pin)?);
    }
    Ok(pins)
}

fn check_pin(raw: Spanned<RawPin>) -> Result<Pin, Problem> {
    let span = raw.span();
    let at = |message: &str| Problem { span: span.clone(), message: message.to_owned() };
    let raw = raw.into_inner();
    check_name(&raw.name)?;
    if raw.why.get_ref().trim().is_empty() || raw.why.get_ref().contains('\n') {
        return Err(Problem::new(&raw.why, "expected one line on why this kernel is pinned"));
    }
    let expected = match (raw.release, raw.series) {
        (Some(release), None) => Expected::Exact(check_release(release)?),
        (None, Some(series)) => Expected::Series(check_series(series)?),
        _ => return Err(at("expected either `release` (exactly that) or `series` (that prefix)")),
    };
    if raw.source.is_empty() {
        return Err(at("expected at least one [[kernel.source]]"));
    }
    let sources = raw
        .source
        .into_iter()
        .map(|source| check_source(source, &expected))
        .collect::<Result<_, _>>()?;
    Ok(Pin {
        name: raw.name.into_inner(),
        expected,
        why: raw.why.into_inner().trim().to_owned(),
        sources,
    })
}

/// A name is also a directory's name, a CI job's name, and one item of a comma-separated list.
fn check_name(name: &Spanned<String>) -> Result<(), Problem> {
    name_problem(name.get_ref()).map_or(Ok(()), |message| Err(Problem::new(name, message)))
}

/// Checks a name that a pin is to get.
pub fn check_new_name(name: &str) -> Result<(), String> {
    name_problem(name).map_or(Ok(()), Err)
}

fn name_problem(name: &str) -> Option<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    let good = name.chars().all(good) && name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let expected = "expected a name of letters, digits, `.`, `_`, `+` and `-`";
    (!good).then(|| format!("{expected}, found {name:?}"))
}

fn check_release(release: Spanned<String>) -> Result<String, Problem> {
    let text = release.get_ref();
    let good = text.starts_with(|c: char| c.is_ascii_digit())
        && text.contains('.')
        && !text.contains(|c: char| c.is_whitespace() || c == '/');
    if good {
        return Ok(release.into_inner());
    }
    let message = format!("expected a release such as \"6.1.0-47-amd64\", found {text:?}");
    Err(Problem::new(&release, message))
}

fn check_series(series: Spanned<String>) -> Result<String, Problem> {
    let text = series.get_ref();
    let numbers = text.strip_suffix('.').map(|numbers| numbers.split('.').collect::<Vec<_>>());
    let digits = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if numbers.is_some_and(|parts| parts.len() >= 2 && parts.iter().all(digits)) {
        return Ok(series.into_inner());
    }
    let message =
        format!("expected a series that ends in a dot, such as \"5.15.\", found {text:?}");
    Err(Problem::new(&series, message))
}

fn check_source(raw: Spanned<RawSource>, expected: &Expected) -> Result<Source, Problem> {
    let span = raw.span();
    let raw = raw.into_inner();
    check_keys(&raw, &span)?;
    let missing = |key: &str| Problem {
        span: span.clone(),
        message: format!("expected the key `{key}` in this source"),
    };
    let release = raw.release.map(|release| check_source_release(release, expected)).transpose()?;
    let pinned = Pinned {
        sha256: raw.sha256.map(Spanned::into_inner),
        sha1: raw.sha1.map(Spanned::into_inner),
    };
    let hashed = || match pinned.is_stated() {
        true => Ok(pinned.clone()),
        false => Err(missing("sha256")),
    };
    let place = match raw.kind {
        Kind::Nix => {
            check_attribute(&raw.attribute.ok_or_else(|| missing("attribute"))?)?;
            Place::Nix
        }
        Kind::Debian => Place::Debian(check_files(raw.files.ok_or_else(|| missing("files"))?)?),
        Kind::Url => Place::Url(check_url(&raw.url.ok_or_else(|| missing("url"))?)?, hashed()?),
        Kind::File => Place::File(check_path(raw.path.ok_or_else(|| missing("path"))?)?, hashed()?),
    };
    let arch = match raw.kind {
        Kind::Nix => None,
        _ => Some(raw.arch.map_or_else(|| Ok(DEFAULT_ARCH.to_owned()), check_arch)?),
    };
    Ok(Source { place, release, arch })
}

fn check_keys(raw: &RawSource, span: &Range<usize>) -> Result<(), Problem> {
    let (_, kind, allowed) = KEYS
        .into_iter()
        .find(|(kind, ..)| *kind == raw.kind)
        .ok_or_else(|| Problem { span: span.clone(), message: "unknown kind".to_owned() })?;
    match raw.given().into_iter().find(|(key, _)| !allowed.contains(key)) {
        None => Ok(()),
        Some((key, span)) => {
            let allowed = allowed.join("`, `");
            let message =
                format!("a `{kind}` source has no key `{key}`; it takes `kind`, `{allowed}`");
            Err(Problem { span, message })
        }
    }
}

fn check_source_release(release: Spanned<String>, expected: &Expected) -> Result<String, Problem> {
    if !expected.accepts(release.get_ref()) {
        let message =
            format!("expected a release that fits the pin's, found {:?}", release.get_ref());
        return Err(Problem::new(&release, message));
    }
    check_release(release)
}

/// The flake reads it; here it is only checked.
fn check_attribute(attribute: &Spanned<String>) -> Result<(), Problem> {
    let text = attribute.get_ref();
    let good = |c: char| c.is_ascii_alphanumeric() || "_-'".contains(c);
    if !text.is_empty() && text.chars().all(good) {
        return Ok(());
    }
    let message = format!("expected a Nix attribute such as \"linux_5_4\", found {text:?}");
    Err(Problem::new(attribute, message))
}

fn check_arch(arch: Spanned<String>) -> Result<String, Problem> {
    if ARCHES.contains(&arch.get_ref().as_str()) {
        return Ok(arch.into_inner());
    }
    let message = format!("expected one of {}, found {:?}", ARCHES.join(", "), arch.get_ref());
    Err(Problem::new(&arch, message))
}

fn check_path(path: Spanned<String>) -> Result<PathBuf, Problem> {
    if path.get_ref().is_empty() {
        return Err(Problem::new(&path, "expected a path, relative to the workspace"));
    }
    Ok(path.into_inner().into())
}

fn check_files(files: Spanned<Vec<Spanned<RawPoolFile>>>) -> Result<Vec<PoolFile>, Problem> {
    if files.get_ref().is_empty() {
        return Err(Problem::new(&files, "expected at least one file"));
    }
    files.into_inner().into_iter().map(check_file).collect()
}

fn check_file(raw: Spanned<RawPoolFile>) -> Result<PoolFile, Problem> {
    let span = raw.span();
    let RawPoolFile { path, sha256, sha1 } = raw.into_inner();
    let pinned = Pinned { sha256, sha1 };
    if !pinned.is_stated() {
        return Err(Problem { span, message: "expected `sha256` (or, weaker, `sha1`)".to_owned() });
    }
    let text = path.get_ref();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._+~-".contains(c);
    let good = text.starts_with("pool/")
        && text.ends_with(".deb")
        && text.chars().all(plain)
        && !text.split('/').any(|part| part.is_empty() || part == "." || part == "..");
    if !good {
        let message = format!("expected a pool path, `pool/….deb`, found {text:?}");
        return Err(Problem::new(&path, message));
    }
    Ok(PoolFile { path: path.into_inner(), pinned })
}

fn check_url(url: &Spanned<String>) -> Result<Url, Problem> {
    let problem = |why: String| {
        Problem::new(url, format!("expected an https address, found {:?}{why}", url.get_ref()))
    };
    let parsed = Url::parse(url.get_ref()).map_err(|error| problem(format!(": {error}")))?;
    if parsed.scheme() != "https" || parsed.host_str().is_none() {
        return Err(problem(String::new()));
    }
    Ok(parsed)
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
series = "6.1."
why = "a test"

[[kernel.source]]
kind = "nix"
attribute = "linux_6_1"

[[kernel.source]]
kind = "debian"
release = "6.1.0-47-amd64"
files = [ {{ path = "pool/main/l/linux/a_1_amd64.deb", sha256 = "{SHA256}" }} ]

[[kernel.source]]
kind = "url"
url = "https://example.org/bzImage"
sha256 = "{SHA256}"
"#
        );
        assert!(good.contains(from), "nothing to replace: {from}");
        parse(&good.replacen(from, to, 1), Path::new("kernels.toml"))
    }

    #[test]
    fn a_good_list_is_read() {
        let pins = with("a test", "a test").unwrap();
        let [pin] = pins.as_slice() else { panic!("one pin") };
        assert_eq!((pin.name.as_str(), pin.why.as_str()), ("6.1", "a test"));
        assert_eq!(pin.expected, Expected::Series("6.1.".into()));
        let kinds: Vec<_> = pin.sources.iter().map(Source::kind).collect();
        assert_eq!(kinds, ["nix", "debian", "url"]);
        assert_eq!(
            pin.expected_from(&pin.sources[1]),
            Expected::Exact("6.1.0-47-amd64".into()),
            "the source knows better than the pin"
        );
        assert_eq!(pin.expected_from(&pin.sources[2]), pin.expected);
        assert_eq!(pin.sources[2].arch.as_deref(), Some("x86_64"));
    }

    #[test]
    fn every_mistake_is_refused_with_its_line_and_what_was_expected() {
        let long = SHA256.to_uppercase();
        let wrong: [(&str, &str, usize, &str); 25] = [
            ("why =", "y =", 4, "unknown field `y`"),
            ("kind = \"url\"", "kind = \"ftp\"", 16, "unknown variant `ftp`"),
            ("name = \"6.1\"\n", "", 1, "missing field `name`"),
            ("name = \"6.1\"", "name = \"a/b\"", 2, "expected a name of letters"),
            ("name = \"6.1\"", "name = 6.1", 2, "expected a string"),
            ("series = \"6.1.\"", "series = \"6.1\"", 3, "expected a series that ends in a dot"),
            ("series = \"6.1.\"", "series = \"6..\"", 3, "expected a series"),
            ("series = \"6.1.\"", "release = \"six\"", 3, "expected a release"),
            ("series = \"6.1.\"\n", "", 1, "expected either `release`"),
            ("series = ", "release = \"6.1.9\"\nseries = ", 1, "expected either `release`"),
            ("why = \"a test\"", "why = \" \"", 4, "expected one line on why"),
            ("attribute = \"linux_6_1\"\n", "", 6, "expected the key `attribute`"),
            ("linux_6_1", "linux 6", 8, "expected a Nix attribute"),
            ("attribute = ", "url = \"https://x/\"\nattribute = ", 8, "has no key `url`"),
            ("release = \"6.1.0-47-amd64\"", "release = \"6.2.0\"", 12, "fits the pin's"),
            ("files = [", "files = []\nx = [", 14, "unknown field `x`"),
            ("pool/main", "../main", 13, "expected a pool path"),
            ("pool/main/l", "pool/../l", 13, "expected a pool path"),
            ("a_1_amd64.deb", "a_1_amd64.exe", 13, "expected a pool path"),
            (SHA256, "abc", 13, "expected 64 lower-case hexadecimal digits, found \"abc\""),
            (SHA256, &long, 13, "expected 64 lower-case hexadecimal digits"),
            ("https://example.org/bzImage", "http://example.org/", 17, "expected an https address"),
            ("https://example.org/bzImage", "https://", 17, "expected an https address"),
            ("url = \"https://example.org/bzImage\"\n", "", 15, "expected the key `url`"),
            ("[[kernel]]", "[[kernel]", 1, "unclosed"),
        ];
        for (from, to, line, finding) in wrong {
            let error = with(from, to).expect_err(to);
            let text = error.to_string();
            assert!(text.contains(finding), "{from} -> {to}: {text}");
            assert!(text.starts_with(&format!("kernels.toml:{line}:")), "{from} -> {to}: {text}");
        }
    }

    #[test]
    fn a_source_needs_a_hash_and_a_pin_a_source() {
        let sha256 = format!("sha256 = \"{SHA256}\"\n");
        let error = with(&format!("bzImage\"\n{sha256}"), "bzImage\"\n").unwrap_err();
        assert!(error.to_string().contains("expected the key `sha256`"), "{error}");
        let in_file = format!(", sha256 = \"{SHA256}\" }}");
        let error = with(&in_file, " }").unwrap_err();
        assert!(error.to_string().contains("expected `sha256` (or, weaker, `sha1`)"), "{error}");
        let text = "[[kernel]]\nname = \"a\"\nseries = \"6.1.\"\nwhy = \"b\"\n";
        let error = parse(text, Path::new("kernels.toml")).unwrap_err();
        assert!(error.to_string().contains("expected at least one [[kernel.source]]"), "{error}");
    }

    #[test]
    fn a_name_can_be_had_once() {
        let twice = format!(
            "{0}{0}",
            "[[kernel]]\nname = \"a\"\nseries = \"6.1.\"\nwhy = \"b\"\n\
            [[kernel.source]]\nkind = \"nix\"\nattribute = \"linux\"\n"
        );
        let error = parse(&twice, Path::new("kernels.toml")).unwrap_err().to_string();
        assert!(error.starts_with("kernels.toml:9:8: the name \"a\" is taken"), "{error}");
    }

    #[test]
    fn a_sha1_alone_is_weak() {
        let sha1 = format!("sha1 = \"{}\"", &SHA256[..40]);
        let pins =
            with(&format!("bzImage\"\nsha256 = \"{SHA256}\""), &format!("bzImage\"\n{sha1}"));
        let weak: Vec<_> = pins.unwrap()[0].sources.iter().map(Source::is_weak).collect();
        assert_eq!(weak, [false, false, true]);
    }

    #[test]
    fn the_projects_own_pins_are_good() {
        let pins = parse(BUILT_IN, Path::new("kernels.toml")).unwrap();
        let names: Vec<_> = pins.iter().map(|pin| pin.name.as_str()).collect();
        assert_eq!(names, ["5.4", "5.10", "5.15", "6.1", "6.6", "6.12", "6.18", "7.3"]);
    }
}
