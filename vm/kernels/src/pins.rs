//! Lists of pins such as `kernels.toml`, read and checked.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use serde::de::{Deserialize, Deserializer, Error};
use toml::Spanned;
use url::Url;

use super::digest::{Sha1Hex, Sha256Hex};
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
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
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
        #[serde(deserialize_with = "https")]
        url: Url,
        /// The file's hash.
        sha256: Sha256Hex,
    },
    /// A release's source at an https address, which is built on this machine with the configuration of this crate.
    Source {
        /// The address of the tarball.
        #[serde(deserialize_with = "https")]
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
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
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

    /// The hashes of what it fetches, a file each.
    pub fn hashes(&self) -> Vec<&Sha256Hex> {
        match self {
            Self::Debian { files } => files.iter().map(|file| &file.sha256).collect(),
            Self::Url { sha256, .. } | Self::Source { sha256, .. } | Self::File { sha256, .. } => vec![sha256],
        }
    }
}

const BUILT_IN: &str = include_str!("../kernels.toml");

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

/// Reads pins from `text`, which is the content of `path`. What is wrong is told with file, line, and what was expected.
pub fn parse(text: &str, path: &Path) -> Result<Vec<Pin>> {
    let wrong = |span: Option<Range<usize>>, message: &str| {
        let before = &text[..span.map_or(0, |span| span.start)];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let (line, column) = (before.matches('\n').count() + 1, before[start..].chars().count() + 1);
        let shown = text[start..].lines().next().unwrap_or_default();
        anyhow!("{}:{line}:{column}: {}\n  {shown}", path.display(), message.trim_end())
    };
    let list: List = toml::from_str(text).map_err(|error| wrong(error.span(), error.message()))?;
    let mut pins: Vec<Pin> = Vec::new();
    for listed in list.kernel {
        let (span, listed) = (Some(listed.span()), listed.into_inner());
        let name = listed.name.get_ref();
        check_name(name).map_err(|why| wrong(Some(listed.name.span()), &why))?;
        if pins.iter().any(|pin| pin.name == *name) {
            return Err(wrong(span, &format!("the name {name:?} is taken by a pin above")));
        }
        pins.extend(listed.pins().map_err(|message| wrong(span, message))?);
    }
    Ok(pins)
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    kernel: Vec<Spanned<Listed>>,
}

/// An entry as it is written.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    name: Spanned<String>,
    release: Option<String>,
    #[serde(default, deserialize_with = "series")]
    series: Option<String>,
    why: String,
    #[serde(default)]
    extra: bool,
    #[serde(default)]
    source: Vec<ListedSource>,
}

/// A source as it is written: with the architecture that it is for, and the release where that differs for it.
#[derive(serde::Deserialize)]
struct ListedSource {
    arch: Option<&'static Arch>,
    release: Option<String>,
    #[serde(flatten)]
    source: Source,
}

impl Listed {
    /// A pin for every architecture that there are sources for.
    fn pins(self) -> Result<Vec<Pin>, &'static str> {
        let expected = match (self.release, self.series) {
            (Some(release), None) => Expected::Exact(release),
            (None, Some(series)) => Expected::Series(series),
            _ => return Err("expected either `release` (exactly that) or `series` (that prefix)"),
        };
        if self.source.is_empty() {
            return Err("expected at least one [[kernel.source]]");
        }
        let pin = |arch: &'static Arch| {
            let is_for = |listed: &&ListedSource| match listed.arch {
                Some(own) => own == arch,
                None => matches!(listed.source, Source::Source { .. }) || *arch == ARCHES[0],
            };
            let sources: Vec<_> = self.source.iter().filter(is_for).collect();
            let release = sources.first()?.release.clone();
            Some(Pin {
                name: self.name.get_ref().clone(),
                arch,
                expected: release.map_or_else(|| expected.clone(), Expected::Exact),
                why: self.why.clone(),
                extra: self.extra,
                sources: sources.into_iter().map(|listed| listed.source.clone()).collect(),
            })
        };
        Ok(ARCHES.iter().filter_map(pin).collect())
    }
}

/// Whether a pin may have this name: it is also a directory's, a CI job's, and an item of a comma-separated list.
pub fn check_name(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(good) {
        return Ok(());
    }
    Err(format!("expected a name of letters, digits, `.`, `_`, `+` and `-`, found {name:?}"))
}

/// Without the dot at its end `5.1` would be 5.15, too.
fn series<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let series = String::deserialize(deserializer)?;
    let is_number = |part: &str| part.parse::<u32>().is_ok();
    match series.strip_suffix('.') {
        Some(numbers) if numbers.contains('.') && numbers.split('.').all(is_number) => Ok(Some(series)),
        _ => Err(D::Error::custom("expected a series that ends in a dot, such as \"5.15.\"")),
    }
}

fn https<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    let url = Url::deserialize(deserializer)?;
    let is_https = url.scheme() == "https";
    if is_https { Ok(url) } else { Err(D::Error::custom(format!("expected an https address, found {url}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kconfig;

    const SHA256: &str = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";

    /// A list with one pin, in which `from` is replaced by `to`.
    fn with(from: &str, to: &str) -> Result<Vec<Pin>> {
        let good = format!(
            r#"[[kernel]]
name = "6.1"
release = "6.1.0-47-amd64"
why = "a test"

[[kernel.source]]
kind = "debian"
files = [{{ path = "pool/main/l/linux/a_1_amd64.deb", sha256 = "{SHA256}" }}]

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
        let kinds = |pin: &Pin| pin.sources.iter().map(Source::kind).collect::<Vec<_>>().join(" ");
        let read: Vec<_> = pins.iter().map(|pin| (pin.full_name(), pin.why.as_str(), kinds(pin))).collect();
        // A kernel's source is for every architecture.
        let expected = [("6.1-x86_64", "debian url source"), ("6.1-arm64", "source")];
        assert_eq!(read, expected.map(|(name, kinds)| (name.to_owned(), "a test", kinds.to_owned())));
        assert_eq!(pins[0].expected, Expected::Exact("6.1.0-47-amd64".into()));
        assert!(!pins[0].expected.accepts("6.1.0-47-amd64-rt"));
        let series = with("release = \"6.1.0-47-amd64\"", "series = \"6.1.\"").unwrap();
        assert_eq!(series[0].expected, Expected::Series("6.1.".into()));
    }

    #[test]
    fn every_mistake_is_refused_with_its_line_and_what_was_expected() {
        let (long, release) = (SHA256.to_uppercase(), "release = \"6.1.0-47-amd64\"");
        let image = "https://example.org/bzImage";
        // Of most mistakes inside a source the line is that of the source.
        let (no_sha256, sha1) = (format!(", sha256 = \"{SHA256}\""), format!(", sha1 = \"{}\"", &SHA256[..40]));
        let no_source = "[[kernel]]\nname = \"a\"\nseries = \"6.1.\"\nwhy = \"b\"\n";
        let one = format!("{no_source}source = [{{ kind = \"file\", path = \"x\", sha256 = \"{SHA256}\" }}]\n");
        let twice = format!("{one}{one}[[kernel]]");
        let short_sha1 = format!("{no_sha256}, sha1 = \"{}\"", &SHA256[..39]);
        let wrong: [(&str, &str, usize, &str); 18] = [
            (&no_sha256, &sha1, 6, "missing field `sha256`"),
            (&no_sha256, &short_sha1, 6, "expected 40 lower-case hexadecimal digits"),
            ("why =", "y =", 4, "unknown field `y`"),
            ("kind = \"url\"", "kind = \"ftp\"", 10, "unknown variant `ftp`"),
            ("name = \"6.1\"\n", "", 1, "missing field `name`"),
            ("name = \"6.1\"", "name = \"a/b\"", 2, "expected a name of letters"),
            (release, "series = \"6.1\"", 3, "expected a series that ends in a dot"),
            (release, "", 1, "expected either `release`"),
            (release, "release = \"6.1.9\"\nseries = \"6.1.\"", 1, "expected either `release`"),
            (SHA256, "abc", 6, "expected 64 lower-case hexadecimal digits, found \"abc\""),
            (SHA256, &long, 6, "expected 64 lower-case hexadecimal digits"),
            ("kind = \"debian\"", "kind = \"url\"", 6, "unknown field `files`, expected"),
            (image, "http://example.org/", 10, "expected an https address"),
            (image, "https://", 10, "empty host"),
            ("kind = \"url\"", "kind = \"url\"\narch = \"m68k\"", 12, "expected an architecture (x86_64, arm64)"),
            ("[[kernel]]", "[[kernel]", 1, "unclosed"),
            ("[[kernel]]", &format!("{no_source}[[kernel]]"), 1, "expected at least one [[kernel.source]]"),
            ("[[kernel]]", &twice, 6, "the name \"a\" is taken by a pin above"),
        ];
        for (from, to, line, finding) in wrong {
            let text = with(from, to).expect_err(to).to_string();
            assert!(text.starts_with(&format!("kernels.toml:{line}:")), "{from} -> {to}: {text}");
            assert!(text.contains(finding), "{from} -> {to}: {text}");
        }
    }

    #[test]
    fn merged_lists_prefer_the_projects_own() {
        let (base, usual) = (built_in(), built_in().remove(0));
        let own = |name: &str| Pin { name: name.to_owned(), why: "own".to_owned(), ..usual.clone() };
        let all = merged(base.clone(), vec![own("mine"), own("6.1")]);
        assert_eq!(all.len(), base.len() + 1);
        let names: Vec<_> = all.iter().filter(|pin| pin.why == "own").map(Pin::full_name).collect();
        assert_eq!(names, ["6.1-x86_64", "mine-x86_64"]);
    }

    #[test]
    fn the_built_in_lists_are_good() {
        let pins = parse(BUILT_IN, Path::new("kernels.toml")).unwrap();
        for arch in &ARCHES {
            let usual: Vec<_> = pins.iter().filter(|pin| pin.arch == arch && !pin.extra).collect();
            let names: Vec<_> = usual.iter().map(|pin| pin.name.as_str()).collect();
            assert_eq!(names, ["5.4", "5.10", "5.15", "6.1", "6.6", "6.12", "6.18", "7.3"], "{arch}");
            assert!(usual.iter().all(|pin| matches!(pin.expected, Expected::Exact(_))), "one may be several");
            let options = arch.config.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
            assert_eq!(options.count(), kconfig::parse(arch.config).len(), "{arch}: a line is no option");
            if !arch.sysroot.is_empty() {
                let Source::Debian { files } = toml::from_str(arch.sysroot).unwrap() else { panic!("{arch}") };
                assert!(files.iter().all(|file| file.sha1.is_some()), "{arch}: not in the permanent archive");
            }
        }
    }
}
