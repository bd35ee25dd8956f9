//! `cargo xtask doctor`: each thing the host needs, whether it works, and what to do.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use comfy_table::{Cell, Color};
use indicatif::ProgressBar;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, geteuid};
use serde_json::{Value, json};

use crate::dirs::Dirs;
use crate::exit;
use crate::kernels::{self, Silent};
use crate::tools::{self, Need, TOOLS};
use crate::ui::{self, grid};
use vm_guest::accel;

pub fn run(dirs: &Dirs, as_json: bool) -> Result<u8> {
    let checks = checks(dirs);
    let missing = checks.iter().filter(|check| check.needed && check.answer.is_err()).count();
    let text = match as_json {
        true => {
            let checks: Vec<Value> = checks.iter().map(json).collect();
            // The version counts incompatible changes.
            serde_json::to_string_pretty(&json!({ "version": 1, "ok": missing == 0, "checks": checks }))? + "\n"
        }
        false => for_people(&checks, missing, &dirs.project),
    };
    ui::print(&text)?;
    Ok(if missing == 0 { exit::OK } else { exit::NOT_RUN })
}

struct Check {
    name: &'static str,
    /// Completes "needed to …".
    purpose: &'static str,
    /// Whether kernels cannot be tested without it.
    needed: bool,
    answer: Answer,
}

/// Where something is, and its version; or what is wrong with it, and what to do about that.
type Answer = Result<(PathBuf, Option<String>), (String, Option<String>)>;

fn checks(dirs: &Dirs) -> Vec<Check> {
    let vng_works = tools::find(dirs, "vng").is_ok();
    let shown = TOOLS.iter().filter(|tool| match tool.need {
        // Only of interest as long as there is something left to install.
        Need::Install => !vng_works,
        Need::Local => !geteuid().is_root(),
        Need::Boot | Need::Build | Need::Extra => true,
        Need::Test => false,
    });
    let tools = shown.map(|tool| {
        let answer = tool.check(dirs).map_err(|unusable| (unusable.what.clone(), Some(unusable.remedy())));
        (tool.name, tool.purpose, !matches!(tool.need, Need::Local | Need::Extra), answer)
    });
    let others = [
        ("cache", "keep kernels", true, cache(dirs)),
        ("KVM", "run kernels at full speed", false, kvm(dirs)),
        ("tracefs", "run the program on this machine", false, tracefs()),
    ];
    let check = |(name, purpose, needed, answer)| Check { name, purpose, needed, answer };
    tools.chain(others).map(check).collect()
}

fn json(Check { name, purpose, needed, answer }: &Check) -> Value {
    let (found, wrong) = (answer.as_ref().ok(), answer.as_ref().err());
    json!({
        "name": name, "purpose": purpose, "needed": needed, "ok": answer.is_ok(),
        "version": found.map(|(_, version)| version), "path": found.map(|(path, _)| path.to_string_lossy()),
        "error": wrong.map(|(error, _)| error), "remedy": wrong.map(|(_, remedy)| remedy),
    })
}

/// A row for each thing, with its place or what is wrong and what to do, and the sum.
fn for_people(checks: &[Check], missing: usize, project: &Path) -> String {
    let mut table = grid::grid(&[], [], grid::Looks::of_stdout());
    table.add_rows(checks.iter().map(|Check { name, needed, answer, .. }| {
        let (word, colour) = match answer {
            Ok(_) => ("ok", Color::Green),
            Err(_) if *needed => ("NEEDED", Color::Red),
            Err(_) => ("without", Color::Yellow),
        };
        let (version, detail) = match answer {
            Ok((path, version)) => (version.as_deref(), path.strip_prefix(project).unwrap_or(path).to_string_lossy()),
            Err((error, Some(remedy))) => (None, format!("{error}: {remedy}").into()),
            Err((error, None)) => (None, error.into()),
        };
        [Cell::new(word).fg(colour), Cell::new(name), Cell::new(version.unwrap_or_default()), Cell::new(detail)]
    }));
    let sum = match missing {
        0 => "Everything that is needed is here.",
        1 => "1 thing that is needed is missing or does not work.",
        _ => &format!("{missing} things that are needed are missing or do not work."),
    };
    format!("{}\n{sum}\n", grid::text(table))
}

fn cache(dirs: &Dirs) -> Answer {
    let dir = &dirs.cache;
    // It is made when it is needed, so what counts is the nearest directory that exists.
    let existing = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(dir);
    let wrong = |error: Errno| {
        let remedy = "set VMTEST_CACHE_DIR to a directory that you can write to";
        (format!("{} cannot be written to: {}", dir.display(), error.desc()), Some(remedy.into()))
    };
    access(existing, AccessFlags::W_OK | AccessFlags::X_OK).map(|()| (dir.clone(), None)).map_err(wrong)
}

/// Tried with the first kernel that is cached.
fn kvm(dirs: &Dirs) -> Answer {
    let diagnose = || -> Result<Option<String>> {
        let qemu = tools::find(dirs, "qemu-system-x86_64").ok().context("it takes QEMU")?;
        let target = kernels::select(dirs, &[], &[])?.into_iter().find(kernels::Target::is_cached);
        let kernel = target.and_then(|target| target.obtain(&Silent).ok());
        let spinner = ProgressBar::new_spinner().with_message("trying KVM");
        spinner.enable_steady_tick(std::time::Duration::from_millis(120));
        let error = accel::diagnose(&qemu, kernel.as_ref().map(|kernel| kernel.image.as_path()), &dirs.cache, true);
        spinner.finish_and_clear();
        error
    };
    let error = diagnose().unwrap_or_else(|error| Some(format!("it could not be tried: {error:#}")));
    error.map_or_else(|| Ok(("/dev/kvm".into(), None)), |error| Err((error, None)))
}

/// What `cargo xtask run` and `cargo xtask test --local` need of the kernel that runs here (proc_pid_mounts(5)).
fn tracefs() -> Answer {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = mounts.find(|fields| fields.get(2) == Some(&"tracefs")).map(|fields| (fields[1].into(), None));
    let remedy = "run `mount -t tracefs tracefs /sys/kernel/tracing` as root";
    found.ok_or_else(|| ("tracefs is not mounted here".into(), Some(remedy.into())))
}
