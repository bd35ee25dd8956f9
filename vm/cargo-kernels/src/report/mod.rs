//! Reports in files: JSON, JUnit, Markdown and HTML, all from the same [`KernelReport`]s.

pub mod facts;
mod html;
mod json;
mod junit;
mod summary;
pub mod words;

#[cfg(test)]
mod browser;
#[cfg(test)]
pub mod sample;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
pub use html::page;
pub use summary::prose;
use vm_kernels::whole_file;

use crate::verdict::RunReport;

/// Makes a report's text.
type Render = fn(&RunReport) -> Result<String>;

/// The reports' names in their directory; the console logs are in `console/` beside them.
const FORMATS: [(&str, Render); 4] = [
    ("report.json", json::render),
    ("junit.xml", junit::render),
    ("summary.md", |run| Ok(summary::render(run))),
    ("report.html", html::render),
];

/// Makes the directory, shows that files can be written there, and removes an older run's reports, so that none
/// is taken for this run's should it not come to its end. Best called before anything slow is done.
pub fn prepare(dir: &Path) -> Result<()> {
    let try_it = || -> io::Result<()> {
        fs::create_dir_all(dir)?;
        tempfile::tempfile_in(dir)?.write_all(b"x")?;
        for (name, _) in FORMATS {
            match fs::remove_file(dir.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    };
    try_it().with_context(|| {
        format!("no reports can be written to {}: give --report a directory that you may write to", dir.display())
    })
}

/// Writes every report and the console logs, each whole or not at all, and appends the summary to the
/// file that `GITHUB_STEP_SUMMARY` names, if any.
pub fn write(dir: &Path, run: &mut RunReport) -> Result<()> {
    let step_summary = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty());
    write_to(dir, run, step_summary.as_deref().map(Path::new))
}

fn write_to(dir: &Path, run: &mut RunReport, step_summary: Option<&Path>) -> Result<()> {
    keep_logs(dir, run)?;
    let texts = FORMATS.iter().map(|(name, render)| Ok((*name, render(run)?))).collect::<Result<BTreeMap<_, _>>>()?;
    for (name, text) in &texts {
        whole_file::write(&dir.join(name), text.as_bytes())?;
    }
    let Some(path) = step_summary else { return Ok(()) };
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(texts["summary.md"].as_bytes()))
        .with_context(|| format!("cannot append to {}, which GITHUB_STEP_SUMMARY names", path.display()))
}

/// Copies every kernel's console log, of which the host keeps 16 MiB at the most, and notes where it is.
fn keep_logs(dir: &Path, run: &mut RunReport) -> Result<()> {
    for kernel in &mut run.kernels {
        let Some(log) = &kernel.console_log else { continue };
        let name = log.file_name().unwrap_or_default().to_string_lossy();
        // A path such as `../bzImage` begins with dots, and CI systems leave out what is hidden.
        let kept = format!("console/{}{name}", if name.starts_with('.') { "kernel" } else { "" });
        let text = fs::read(log)
            .with_context(|| format!("cannot keep the console log of {}, {}", kernel.name, log.display()))?;
        whole_file::write(&dir.join(&kept), &text)?;
        kernel.kept_log = Some(kept);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names_in(dir: &Path) -> BTreeSet<String> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn write_creates_reports_and_logs_prepare_removes_old_ones() {
        let (dir, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (reports, step_summary) = (dir.path().join("a/b"), dir.path().join("step"));
        fs::write(&step_summary, "what an earlier step wrote\n").unwrap();
        prepare(&reports).unwrap();
        let mut run = sample::run(logs.path());
        let hidden = logs.path().join(".._bzImage.log");
        fs::rename(run.kernels[2].console_log.replace(hidden.clone()).unwrap(), hidden).unwrap();
        write_to(&reports, &mut run, Some(&step_summary)).unwrap();

        let expected = FORMATS.map(|(name, _)| name).into_iter().chain(["console"]).map(str::to_owned);
        assert_eq!(names_in(&reports), expected.collect());
        let kept = ["5.10.log", "6.12.log", "6.18.log", "7.3.log", "kernel.._bzImage.log"].map(str::to_owned);
        assert_eq!(names_in(&reports.join("console")), kept.into());
        assert_eq!(fs::read(reports.join("console/7.3.log")).unwrap(), fs::read(logs.path().join("7.3.log")).unwrap());
        let summary = fs::read_to_string(reports.join("summary.md")).unwrap();
        assert_eq!(fs::read_to_string(&step_summary).unwrap(), format!("what an earlier step wrote\n{summary}"));

        prepare(&reports).unwrap();
        assert_eq!(names_in(&reports), ["console".to_owned()].into());
    }

    /// Root may write anywhere but in /proc, and these tests may be run by root.
    #[test]
    fn unwritable_directory_is_one_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [Path::new("/proc/self"), Path::new("/proc/self/reports"), &file, &file.join("below")] {
            let error = format!("{:#}", prepare(path).unwrap_err());
            let expected = format!("no reports can be written to {}: give --report a directory", path.display());
            assert!(error.starts_with(&expected), "{error}");
        }
    }

    #[test]
    fn missing_log_is_error_and_leaves_no_report() {
        let (dir, logs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut run = sample::run(logs.path());
        fs::remove_file(logs.path().join("7.3.log")).unwrap();
        let error = format!("{:#}", write_to(dir.path(), &mut run, None).unwrap_err());
        assert!(error.starts_with("cannot keep the console log of 7.3, "), "{error}");
        assert!(FORMATS.iter().all(|(name, _)| !dir.path().join(name).exists()));
    }
}
