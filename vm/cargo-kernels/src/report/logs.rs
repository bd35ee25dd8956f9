//! The guests' consoles, beside the reports that refer to them.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result};

use super::RunReport;
use super::files::Staged;

/// The longest file name made of a kernel's name; the rest of a path is cut from its beginning.
const NAME_LENGTH: usize = 80;

/// Where a kernel's console is, relative to the report's directory: `console/6.12.log`; `None` without a log.
pub type LogPath = Option<String>;

/// Copies every kernel's console log, and says where each will be.
pub fn stage(run: &RunReport, staged: &mut Staged<'_>) -> Result<Vec<LogPath>> {
    let mut taken = HashSet::new();
    let mut paths = Vec::new();
    for kernel in &run.kernels {
        let Some(log) = &kernel.console_log else {
            paths.push(None);
            continue;
        };
        let path = unique(&file_name(&kernel.name), &mut taken);
        staged
            .copy(log, &path)
            .with_context(|| format!("cannot keep the console log of {}", kernel.name))?;
        paths.push(Some(path));
    }
    Ok(paths)
}

/// The beginning and the end of a file, at most `limit` bytes of each, and how many bytes are between them.
/// What is not UTF-8 is replaced.
pub fn ends(path: &Path, limit: u64) -> Result<(String, u64, String)> {
    let read = || -> std::io::Result<_> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        file.by_ref().take(limit).read_to_end(&mut head)?;
        let tail_start = length.saturating_sub(limit).max(head.len() as u64);
        file.seek(SeekFrom::Start(tail_start))?;
        file.take(limit).read_to_end(&mut tail)?;
        Ok((head, tail_start, tail))
    };
    let (head, tail_start, tail) =
        read().with_context(|| format!("cannot read {}", path.display()))?;
    let between = tail_start - head.len() as u64;
    Ok((String::from_utf8_lossy(&head).into(), between, String::from_utf8_lossy(&tail).into()))
}

/// A kernel's name, which may be a path, as a file name.
fn file_name(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._+-".contains(c) { c } else { '-' };
    let name: String = name.chars().map(safe).collect();
    let name = &name[name.len().saturating_sub(NAME_LENGTH)..];
    match name.trim_start_matches(['.', '-']) {
        "" => "kernel".into(),
        name => name.into(),
    }
}

fn unique(name: &str, taken: &mut HashSet<String>) -> String {
    let numbered = (2..).map(|number| format!("console/{name}-{number}.log"));
    let mut candidates = std::iter::once(format!("console/{name}.log")).chain(numbered);
    candidates.find(|path| taken.insert(path.clone())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_path_becomes_a_file_name() {
        assert_eq!(file_name("6.12"), "6.12");
        assert_eq!(file_name("../größe/bz Image"), "gr--e-bz-Image");
        assert_eq!(file_name("/"), "kernel");
        assert_eq!(file_name(&"x".repeat(300)).len(), NAME_LENGTH);
    }

    #[test]
    fn two_kernels_never_share_a_log() {
        let mut taken = HashSet::new();
        let names: Vec<_> =
            ["a/b", "a-b", "a b"].iter().map(|name| unique(&file_name(name), &mut taken)).collect();
        assert_eq!(names, ["console/a-b.log", "console/a-b-2.log", "console/a-b-3.log"]);
    }

    #[test]
    fn of_a_long_log_both_ends_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for (content, expected) in [
            (&b"0123456789"[..], ("0123", 2, "6789")),
            (b"012345", ("0123", 0, "45")),
            (b"01", ("01", 0, "")),
            (b"\xff1\xfe3", ("\u{fffd}1\u{fffd}3", 0, "")),
        ] {
            std::fs::write(&path, content).unwrap();
            let (head, between, tail) = ends(&path, 4).unwrap();
            assert_eq!((head.as_str(), between, tail.as_str()), expected);
        }
    }
}
