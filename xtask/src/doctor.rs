//! `cargo xtask doctor`: each thing the host needs, whether it works, and what to do.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use comfy_table::{Cell, Color};
use indicatif::ProgressBar;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, geteuid};
use serde::Serialize;

use crate::exit;
use crate::flags;
use crate::kernels::{self, Silent};
use crate::paths;
use crate::tools::{self, Need, Problem, Spec, TOOLS, Tool};
use crate::ui::grid;
use crate::vm::accel::{self, Kvm};

/// Runs the command.
///
/// # Errors
/// None that is about the host: what is wrong with it is what this command shows.
pub fn run(flags: &flags::Doctor) -> Result<u8> {
    let diagnosis = Diagnosis::make();
    let text = match flags.json {
        true => serde_json::to_string_pretty(&diagnosis)? + "\n",
        false => diagnosis.for_people(),
    };
    // Without a reader (`| head`) there is nothing to complain of.
    let _ = write!(std::io::stdout(), "{text}");
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
    name: String,
    /// Completes "needed to …".
    purpose: String,
    /// Whether kernels cannot be tested without it.
    needed: bool,
    ok: bool,
    version: Option<String>,
    path: Option<PathBuf>,
    /// What is wrong.
    problem: Option<String>,
    /// What to do about it.
    remedy: Option<String>,
    /// A tool that is nowhere; getting it is the remedy.
    #[serde(skip)]
    not_found: Option<Tool>,
}

impl Diagnosis {
    fn make() -> Self {
        let vng_works = tools::check(Tool::Vng).is_ok();
        let mut checks: Vec<Check> = TOOLS
            .iter()
            .filter(|spec| match spec.need {
                // Only of interest as long as there is something left to install.
                Need::Install => !vng_works,
                Need::Local => !geteuid().is_root(),
                Need::Boot | Need::Build | Need::Fetch | Need::Inspect => true,
                Need::Test => false,
            })
            .map(tool)
            .collect();
        checks.extend([cache(), kvm(), bpf_here()]);
        let ok = checks.iter().all(|check| check.ok || !check.needed);
        Self { version: 1, ok, checks }
    }

    fn for_people(&self) -> String {
        let rows = self.checks.iter().map(|check| {
            let version = check.version.as_deref().unwrap_or_default();
            vec![
                check.word(),
                Cell::new(&check.name),
                Cell::new(version),
                Cell::new(check.detail()),
            ]
        });
        let troubles = self.checks.iter().filter(|check| check.not_found.is_none());
        let troubles = troubles.filter_map(|check| {
            let problem = check.problem.as_ref()?;
            let remedy = check.remedy.as_ref().map(|remedy| format!(": {remedy}"));
            Some(vec![
                Cell::new(&check.name),
                Cell::new(format!("{problem}{}", remedy.unwrap_or_default())),
            ])
        });
        let not_found: Vec<Tool> = self.checks.iter().filter_map(|check| check.not_found).collect();
        let to_get = (!not_found.is_empty())
            .then(|| vec![Cell::new("not found"), Cell::new(tools::how_to_get(&not_found))]);
        let mut text = table(rows) + "\n";
        let troubles: Vec<_> = troubles.chain(to_get).collect();
        if !troubles.is_empty() {
            text += &(table(troubles.into_iter()) + "\n");
        }
        let missing = self.checks.iter().filter(|check| check.needed && !check.ok).count();
        text + &match missing {
            0 => "Everything that is needed is here.\n".to_owned(),
            1 => "1 thing that is needed is missing or does not work.\n".to_owned(),
            _ => format!("{missing} things that are needed are missing or do not work.\n"),
        }
    }
}

/// Without lines, and not wider than the terminal.
fn table(rows: impl Iterator<Item = Vec<Cell>>) -> String {
    let size = console::Term::stdout().size_checked();
    let mut table = grid::grid(&[], size.map(|(_, columns)| columns));
    if console::colors_enabled() {
        table.enforce_styling();
    }
    table.add_rows(rows);
    grid::text(table)
}

impl Check {
    fn new(name: &str, purpose: &str, needed: bool) -> Self {
        Self {
            name: name.into(),
            purpose: purpose.into(),
            needed,
            ok: true,
            version: None,
            path: None,
            problem: None,
            remedy: None,
            not_found: None,
        }
    }

    fn failed(self, problem: impl Into<String>) -> Self {
        Self { ok: false, problem: Some(problem.into()), ..self }
    }

    fn word(&self) -> Cell {
        match (self.ok, self.needed) {
            (true, _) => Cell::new("ok").fg(Color::Green),
            (false, true) => Cell::new("NEEDED").fg(Color::Red),
            (false, false) => Cell::new("without").fg(Color::Yellow),
        }
    }

    fn detail(&self) -> String {
        match (&self.problem, &self.path) {
            (Some(_), _) if self.not_found.is_some() => "not found".into(),
            (Some(_), _) => "see below".into(),
            (None, Some(path)) => short(path),
            (None, None) => String::new(),
        }
    }
}

/// Relative to the workspace where it is inside.
fn short(path: &Path) -> String {
    path.strip_prefix(paths::workspace()).unwrap_or(path).display().to_string()
}

fn tool(spec: &Spec) -> Check {
    let check =
        Check::new(spec.name, spec.purpose, !matches!(spec.need, Need::Local | Need::Inspect));
    match tools::check(spec.tool()) {
        Ok(found) => Check { version: found.version, path: Some(found.path), ..check },
        Err(unusable) => {
            let not_found = (unusable.problem == Problem::Missing).then_some(unusable.tool);
            let remedy = Some(unusable.remedy());
            Check { remedy, not_found, ..check.failed(unusable.what()) }
        }
    }
}

fn cache() -> Check {
    let check = Check::new("cache", "keep kernels", true);
    let set_another = Some("set VMTEST_CACHE_DIR to a directory that you can write to".to_owned());
    let dir = match paths::cache() {
        Ok(dir) => dir,
        Err(error) => return Check { remedy: set_another, ..check.failed(format!("{error:#}")) },
    };
    // It is made when it is needed, so what counts is the nearest directory that exists.
    let existing = dir.ancestors().find(|ancestor| ancestor.exists());
    match existing.map(|existing| access(existing, AccessFlags::W_OK | AccessFlags::X_OK)) {
        Some(Ok(())) => Check { path: Some(dir), ..check },
        Some(Err(error)) => {
            let problem = format!("{} cannot be written to: {}", dir.display(), error.desc());
            Check { remedy: set_another, path: Some(dir), ..check.failed(problem) }
        }
        None => Check { remedy: set_another, ..check.failed("no directory above it exists") },
    }
}

fn kvm() -> Check {
    let check = Check::new("KVM", "run kernels at full speed", false);
    match try_kvm() {
        Ok(Kvm::Works) => Check { path: Some("/dev/kvm".into()), ..check },
        Ok(kvm) => check.failed(kvm.trouble().unwrap_or_default()),
        Err(error) => check.failed(format!("it could not be tried: {error:#}")),
    }
}

/// With the first kernel at hand.
fn try_kvm() -> Result<Kvm> {
    let qemu = match tools::find(Tool::Qemu) {
        Ok(qemu) => qemu,
        Err(_) => return Ok(Kvm::Untried("it takes QEMU".into())),
    };
    let target = kernels::select(&[])?.into_iter().find(kernels::Target::at_hand);
    let kernel = target.and_then(|target| target.obtain(&Silent).ok());
    let spinner = ProgressBar::new_spinner().with_message("trying KVM");
    spinner.enable_steady_tick(std::time::Duration::from_millis(120));
    let kvm = accel::diagnose(&qemu, kernel.as_ref().map(|kernel| kernel.image.as_path()));
    spinner.finish_and_clear();
    kvm
}

/// What `cargo xtask run` and `cargo xtask test --local` need of the kernel that runs here.
fn bpf_here() -> Check {
    let check = Check::new("BPF, tracefs", "run the program on this machine", false);
    if !has_bpf() {
        return check.failed("the kernel that runs here was built without BPF");
    }
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    match tracefs(&mounts) {
        Some(path) => Check { path: Some(path), ..check },
        None => Check {
            remedy: Some("run `mount -t tracefs tracefs /sys/kernel/tracing` as root".into()),
            ..check.failed("tracefs is not mounted here")
        },
    }
}

/// bpf(2): a kernel that has it answers a command that it does not know with another error.
fn has_bpf() -> bool {
    const NO_SUCH_COMMAND: libc::c_long = -1;
    // SAFETY: no memory is passed.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, NO_SUCH_COMMAND, std::ptr::null::<u8>(), 0) };
    Errno::result(result) != Err(Errno::ENOSYS)
}

/// Where tracefs is mounted, of the lines of `/proc/mounts` (proc_pid_mounts(5)).
fn tracefs(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (directory, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "tracefs").then(|| directory.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracefs_is_found_among_the_mounts() {
        let mounts = "proc /proc proc rw 0 0\ntracefs /sys/kernel/tracing tracefs rw 0 0\n";
        assert_eq!(tracefs(mounts), Some("/sys/kernel/tracing".into()));
        assert_eq!(tracefs("tracefs /mnt ext4 rw 0 0\n\ngarbage\n"), None);
    }

    #[test]
    fn only_what_is_needed_counts_and_every_trouble_is_shown_with_its_remedy() {
        let missing = Check {
            remedy: Some("get it".into()),
            ..Check::new("thing", "do things", true).failed("it is not here")
        };
        let without = Check::new("nicety", "be nice", false).failed("it is nowhere");
        let diagnosis = Diagnosis { version: 1, ok: false, checks: vec![missing, without] };
        let text = diagnosis.for_people();
        for part in ["NEEDED", "it is not here: get it", "without", "it is nowhere", "1 thing that"]
        {
            assert!(text.contains(part), "{text}");
        }
    }
}
