//! The guests' consoles, beside the reports that refer to them.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use vm_kernels::whole_file;

use super::RunReport;

/// The longest file name made of a kernel's name; the rest of a path is cut from its beginning.
const NAME_LENGTH: usize = 80;

/// Copies every kernel's console log, of which the host keeps 16 MiB at the most, and notes where it is.
pub fn keep(run: &mut RunReport, dir: &Path) -> Result<()> {
    let mut taken = HashSet::new();
    for kernel in &mut run.kernels {
        let Some(log) = &kernel.console_log else { continue };
        let path = unique(&file_name(&kernel.name), &mut taken);
        let text = fs::read(log)
            .with_context(|| format!("cannot keep the console log of {}, {}", kernel.name, log.display()))?;
        whole_file::write(&dir.join(&path), &text)?;
        kernel.kept_log = Some(path);
    }
    Ok(())
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
    use super::*;

    #[test]
    fn a_path_becomes_a_file_name_and_two_kernels_never_share_a_log() {
        assert_eq!(file_name("6.12"), "6.12");
        assert_eq!(file_name("../größe/bz Image"), "gr--e-bz-Image");
        assert_eq!(file_name("/"), "kernel");
        assert_eq!(file_name(&"x".repeat(300)).len(), NAME_LENGTH);

        let mut taken = HashSet::new();
        let names: Vec<_> = ["a/b", "a-b", "a b"].iter().map(|name| unique(&file_name(name), &mut taken)).collect();
        assert_eq!(names, ["console/a-b.log", "console/a-b-2.log", "console/a-b-3.log"]);
    }
}
