//! `cargo xtask doctor`: each thing the host needs, whether it works, and what to do.

use std::path::{Path, PathBuf};

use anyhow::Result;
use comfy_table::{Cell, Color};
use indicatif::ProgressBar;
use nix::unistd::{AccessFlags, access, geteuid};
use serde::Serialize;

use crate::dirs::Dirs;
use crate::exit;
use crate::kernels::{self, Silent};
use crate::tools::{self, Found, Need, Spec, TOOLS, Tool};
use crate::ui::grid;
use vm_guest::accel;

/// Runs the command.
///
/// # Errors
/// None that is about the host: what is wrong with it is what this command shows.
pub fn run(dirs: &Dirs, json: bool) -> Result<u8> {
    let diagnosis = Diagnosis::make(dirs);
    let text = match json {
        true => serde_json::to_string_pretty(&diagnosis)? + "\n",
        false => diagnosis.for_people(&dirs.project),
    };
    kernels::command::show::print(&text);
    Ok(if diagnosis.ok { exit::OK } else { exit::NOT_RUN })
}

/// Everything that was found; the JSON is this.
#[derive(Debug, Serialize)]
struct Diagnosis {
    /// Counts incompatible changes of this format.
    version: u32,
    /// Whether everything that is needed is here.
    ok: bool,
    checks: Vec<Check>,
}

/// One thing.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    /// Completes "needed to …".
    purpose: &'static str,
    /// Whether kernels cannot be tested without it.
    needed: bool,
    ok: bool,
    version: Option<String>,
    path: Option<PathBuf>,
    /// What is wrong.
    problem: Option<String>,
    /// What to do about it.
    remedy: Option<String>,
}

impl Diagnosis {
    fn make(dirs: &Dirs) -> Self {
        let vng_works = tools::check(dirs, Tool::Vng).is_ok();
        let shown = TOOLS.iter().filter(|spec| match spec.need {
            // Only of interest as long as there is something left to install.
            Need::Install => !vng_works,
            Need::Local => !geteuid().is_root(),
            Need::Boot | Need::Build | Need::Inspect | Need::Source => true,
            Need::Test => false,
        });
        let mut checks: Vec<Check> = shown.map(|spec| tool(dirs, spec)).collect();
        checks.push(Check::new("cache", "keep kernels", true, cache(dirs)));
        checks.push(Check::new("KVM", "run kernels at full speed", false, kvm(dirs)));
        checks.push(Check::new("tracefs", "run the program on this machine", false, tracefs()));
        let ok = checks.iter().all(|check| check.ok || !check.needed);
        Self { version: 1, ok, checks }
    }

    /// A row for each thing, with its place or what is wrong and what to do, and the sum.
    fn for_people(&self, project: &Path) -> String {
        let columns = console::Term::stdout().size_checked().map(|(_, columns)| columns);
        let mut table = grid::grid(&[], columns);
        if console::colors_enabled() {
            table.enforce_styling();
        }
        table.add_rows(self.checks.iter().map(|check| {
            let version = check.version.as_deref().unwrap_or_default();
            [check.word(), Cell::new(check.name), Cell::new(version), Cell::new(check.detail(project))]
        }));
        let missing = self.checks.iter().filter(|check| check.needed && !check.ok).count();
        let sum = match missing {
            0 => "Everything that is needed is here.",
            1 => "1 thing that is needed is missing or does not work.",
            _ => &format!("{missing} things that are needed are missing or do not work."),
        };
        format!("{}\n{sum}\n", grid::text(table))
    }
}

impl Check {
    fn new(name: &'static str, purpose: &'static str, needed: bool, answer: Answer) -> Self {
        let ok = answer.is_ok();
        let (found, problem, remedy) = match answer {
            Ok(found) => (Some(found), None, None),
            Err((problem, remedy)) => (None, Some(problem), remedy),
        };
        let (version, path) = found.map_or((None, None), |found| (found.version, Some(found.path)));
        Self { name, purpose, needed, ok, version, path, problem, remedy }
    }

    fn word(&self) -> Cell {
        match (self.ok, self.needed) {
            (true, _) => Cell::new("ok").fg(Color::Green),
            (false, true) => Cell::new("NEEDED").fg(Color::Red),
            (false, false) => Cell::new("without").fg(Color::Yellow),
        }
    }

    fn detail(&self, project: &Path) -> String {
        match (&self.problem, &self.path) {
            (Some(problem), _) => match &self.remedy {
                Some(remedy) => format!("{problem}: {remedy}"),
                None => problem.clone(),
            },
            (None, Some(path)) => path.strip_prefix(project).unwrap_or(path).display().to_string(),
            (None, None) => String::new(),
        }
    }
}

/// Where something is, or what is wrong with it and what to do about that.
type Answer = Result<Found, (String, Option<String>)>;

fn at(path: impl Into<PathBuf>) -> Answer {
    Ok(Found { path: path.into(), version: None })
}

fn tool(dirs: &Dirs, spec: &Spec) -> Check {
    let needed = !matches!(spec.need, Need::Local | Need::Inspect | Need::Source);
    let answer = tools::check(dirs, spec.tool).map_err(|unusable| (unusable.what.clone(), Some(unusable.remedy())));
    Check::new(spec.name, spec.purpose, needed, answer)
}

fn cache(dirs: &Dirs) -> Answer {
    let dir = &dirs.cache;
    // It is made when it is needed, so what counts is the nearest directory that exists.
    let existing = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(dir);
    if let Err(error) = access(existing, AccessFlags::W_OK | AccessFlags::X_OK) {
        let problem = format!("{} cannot be written to: {}", dir.display(), error.desc());
        return Err((problem, Some("set VMTEST_CACHE_DIR to a directory that you can write to".into())));
    }
    at(dir)
}

fn kvm(dirs: &Dirs) -> Answer {
    match try_kvm(dirs) {
        Ok(None) => at("/dev/kvm"),
        Ok(Some(error)) => Err((error, None)),
        Err(error) => Err((format!("it could not be tried: {error:#}"), None)),
    }
}

/// What is wrong with it, tried with the first kernel at hand.
fn try_kvm(dirs: &Dirs) -> Result<Option<String>> {
    let qemu = tools::find(dirs, Tool::Qemu).map_err(|_| anyhow::anyhow!("it takes QEMU"))?;
    let target = kernels::select(dirs, &[], &[])?.into_iter().find(kernels::Target::at_hand);
    let kernel = target.and_then(|target| target.obtain(&Silent).ok());
    let spinner = ProgressBar::new_spinner().with_message("trying KVM");
    spinner.enable_steady_tick(std::time::Duration::from_millis(120));
    let error = accel::diagnose(&qemu, kernel.as_ref().map(|kernel| kernel.image.as_path()), &dirs.cache);
    spinner.finish_and_clear();
    error
}

/// What `cargo xtask run` and `cargo xtask test --local` need of the kernel that runs here (proc_pid_mounts(5)).
fn tracefs() -> Answer {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    match mounts.find(|fields| fields.get(2) == Some(&"tracefs")) {
        Some(fields) => at(fields[1]),
        None => {
            let remedy = "run `mount -t tracefs tracefs /sys/kernel/tracing` as root";
            Err(("tracefs is not mounted here".into(), Some(remedy.into())))
        }
    }
}
