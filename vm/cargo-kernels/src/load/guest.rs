//! The loader in one kernel's guest: what it is given, and the lines that it answers.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use vm_guest::agent::LOADER;
use vm_guest::payload::Files;
use vm_guest::supervise::Observed;
use vm_kernels::whole_file;
use vmtest_agent::{Ended, Event, Program, Task};
use vmtest_loader::{Job, Line};

use super::object::Object;
use crate::dirs::Dirs;
use crate::kernels::{Arch, Kernel, Target};
use crate::launch::{Guests, Launch};
use crate::outcome::{Case, Outcome};
use crate::report::words::signal_name;
use crate::static_build::StaticBuild;
use crate::verdict::Verdict;
use crate::{cross, kernels, text, ui};

/// Where it finds what it is given.
const IN_GUEST: &str = "load";
/// The most that is read of its answer, in bytes.
const LONGEST_ANSWER: usize = 256 << 20;
/// How long all the programs may take where the user says nothing.
const LIMIT: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub struct Answer {
    pub release: String,
    pub lines: Vec<Line>,
    /// Why there are no more of them.
    pub incomplete: Option<String>,
}

/// The loader, the job and the objects in files, to be brought along.
pub struct Brought {
    directory: TempDir,
    files: Files,
}

impl Brought {
    pub fn new(dirs: &Dirs, arch: &'static Arch, objects: &[Object], mut job: Job) -> Result<Self> {
        ensure!(
            !LOADER.is_empty(),
            "this program was built where libelf.a or libz.a was missing, so it has no loader: \
             install them (Debian: libelf-dev, zlib1g-dev) and install it again",
        );
        let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        let mut brought = Self { directory, files: Files::default() };
        job.objects.clear();
        for (index, object) in objects.iter().enumerate() {
            job.objects.push(brought.add(&format!("{index}.bpf.o"), &object.bytes)?);
        }
        brought.add("job.json", &serde_json::to_vec(&job)?)?;
        brought.add("loader", &loader(dirs, arch)?)?;
        Ok(brought)
    }

    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<String> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.directory.path().join(name);
        std::fs::write(&path, bytes)
            .and_then(|()| std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", path.display()))?;
        self.files.insert(format!("{IN_GUEST}/{name}"), path);
        Ok(format!("/{IN_GUEST}/{name}"))
    }

    pub fn ask(&self, guests: Guests<'_>, target: &Target) -> Result<Answer> {
        let name = target.name();
        let kernel = target.obtain(&Notes(name)).map_err(|why| anyhow::anyhow!("unavailable: {why}"))?;
        let note = |note: String| ui::note(name, &note);
        let log = guests.host.log(&[name]);
        let files = self.with_config(&kernel)?;
        let argv = ["loader", "job.json"].map(|file| format!("/{IN_GUEST}/{file}")).to_vec();
        let program = Program { argv, cwd: "/".into(), ..Program::default() };
        let launch = Launch {
            limit: LIMIT,
            files: &|| Ok(files.clone()),
            ..guests.launch(&kernel, &log, Task::Command(program), &note)?
        };
        let (mut out, mut err, mut too_long) = (Vec::new(), Vec::new(), false);
        let seen = launch.run(|event| {
            let (to, piece) = match event {
                Event::Stdout(piece) => (&mut out, piece),
                Event::Stderr(piece) => (&mut err, piece),
                _ => return ControlFlow::Continue(()),
            };
            to.extend_from_slice(&piece.0);
            too_long = to.len() > LONGEST_ANSWER;
            if too_long { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        ensure!(!too_long, "the loader's answer is longer than {} MiB", LONGEST_ANSWER >> 20);
        let case = Case::of_command(&kernel, guests.metadata);
        answer(&case, &seen, &out, &String::from_utf8_lossy(&err), &log)
    }

    /// All files, and the kernel's configuration where libbpf looks for it, for `extern … __kconfig`.
    fn with_config(&self, kernel: &Kernel) -> Result<Files> {
        let mut files = self.files.clone();
        if let (Some(config), Some(release)) = (&kernel.config, &kernel.release) {
            let lines = config.iter().map(|(option, value)| format!("{option}={value}\n"));
            let path = self.directory.path().join(format!("config-{release}"));
            whole_file::write(&path, lines.collect::<String>().as_bytes())?;
            files.insert(format!("boot/config-{release}"), path);
        }
        Ok(files)
    }
}

/// How the getting of a kernel goes, a line for each thing: several may be on their way at once.
struct Notes<'a>(&'a str);

impl kernels::Progress for Notes<'_> {
    fn note(&self, text: &str) {
        ui::note(self.0, text);
    }
}

fn loader(dirs: &Dirs, arch: &'static Arch) -> Result<Cow<'static, [u8]>> {
    if arch.is_host() {
        return Ok(Cow::Borrowed(LOADER));
    }
    let build = StaticBuild::detect(dirs, arch)?;
    let loader = cross::program(dirs, arch, "loader", LOADER, |cargo| {
        build.link(cargo, None).args(["--features", "guest"]);
    });
    Ok(Cow::Owned(loader?))
}

fn answer(case: &Case<'_>, seen: &Observed, out: &[u8], err: &str, log: &Path) -> Result<Answer> {
    let lines = out.split(|byte| *byte == b'\n');
    let mut lines: Vec<Line> = lines.map_while(|line| serde_json::from_slice(line).ok()).collect();
    let done = lines.last() == Some(&Line::Done) && lines.pop().is_some();
    let broken_off = match case.broken_off(seen) {
        Some(Outcome { verdict: Verdict::WrongKernel, reason, .. }) => bail!("{reason}"),
        broken_off => broken_off.map(|outcome| outcome.reason),
    };
    let splat = || case.first_splat(seen).map(|splat| format!("the kernel reported: {}", text::line(&splat)));
    let incomplete = broken_off.or_else(splat).or_else(|| {
        let how = match &seen.ended {
            Some(Ended::Exited { code: 0 }) if done => return None,
            Some(Ended::Exited { code }) => format!("ended with exit status {code}"),
            Some(Ended::Killed { signal }) => format!("was killed by {}", signal_name(*signal)),
            Some(Ended::NotStarted { reason }) => format!("was not started: {reason}"),
            None => "did not end".to_owned(),
        };
        Some(format!("the loader {how}"))
    });
    let said = text::line(err);
    let said = if said.is_empty() { said } else { format!("; the loader said: {said}") };
    let incomplete = incomplete.map(|why| format!("{why}{said} (console: {})", log.display()));
    match (&seen.ready, incomplete) {
        (None, Some(why)) => bail!("{why}"),
        (ready, incomplete) => {
            let release = ready.as_ref().map(|ready| ready.release.clone()).unwrap_or_default();
            Ok(Answer { release, lines, incomplete })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Metadata;
    use vm_guest::supervise::End;

    #[test]
    fn answer_of_a_kernel_that_is_tainted_is_none() {
        let done = serde_json::to_vec(&Line::Done).unwrap();
        let answered = |tainted| {
            let (ended, end) = (Some(Ended::Exited { code: 0 }), End::Finished);
            let (kernel, metadata) = (vm_kernels::fake::kernel(), Metadata::default());
            let case = Case::of_command(&kernel, &metadata);
            answer(&case, &Observed { ended, end, tainted, ..Observed::default() }, &done, "", Path::new("log"))
        };
        assert_eq!(answered(0).unwrap().incomplete, None);
        assert!(answered(1 << 9).unwrap_err().to_string().contains("(taint flag W)"));
    }
}
