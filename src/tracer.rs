//! The BPF program's life, through its skeleton: opened, loaded, attached, and detached again.

use std::mem::MaybeUninit;

use libbpf_rs::skel::{OpenSkel as _, Skel as _, SkelBuilder as _};
use libbpf_rs::{OpenObject, ProgramType};

use crate::circumstances::Circumstances;
use crate::failure::{Failure, Kind};
use crate::libbpf_log;
use crate::tracefs::Tracefs;

#[allow(clippy::unwrap_used, reason = "generated")]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/helloworld.skel.rs"));
}

/// The loaded program. It is detached, and unloaded, when this is dropped.
pub struct Tracer<'object> {
    skeleton: skeleton::HelloworldSkel<'object>,
}

impl<'object> Tracer<'object> {
    /// Opens and loads the program. libbpf keeps its state in `object`.
    ///
    /// # Errors
    ///
    /// When the kernel cannot or may not trace, with the reason.
    pub fn load(
        object: &'object mut MaybeUninit<OpenObject>,
        tracefs: &Tracefs,
    ) -> Result<Self, Failure> {
        let opened = skeleton::HelloworldSkelBuilder::default()
            .open(object)
            .map_err(|error| refused("open the BPF object", &error))?;
        let section = opened.progs.bpf_prog.section().to_string_lossy();
        if let Some(tracepoint) = section.strip_prefix("tracepoint/") {
            require_tracepoint(tracefs, tracepoint)?;
        }
        let skeleton = opened.load().map_err(|error| refused("load the BPF program", &error))?;
        Ok(Self { skeleton })
    }

    /// Attaches the program to its tracepoint; from now on every execve makes it run.
    ///
    /// # Errors
    ///
    /// When the kernel cannot or may not trace, with the reason.
    pub fn attach(&mut self) -> Result<(), Failure> {
        self.skeleton.attach().map_err(|error| refused("attach the BPF program", &error))
    }

    /// Detaches the program; when this returns, no further execve makes it run.
    pub fn detach(&mut self) {
        self.skeleton.links = skeleton::HelloworldLinks::default();
    }
}

fn require_tracepoint(tracefs: &Tracefs, name: &str) -> Result<(), Failure> {
    match tracefs.has_tracepoint(name) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::new(
            Kind::NoTracepoint,
            format!(
                "Linux {} has no tracepoint {name}; use a kernel built with CONFIG_FTRACE_SYSCALLS=y",
                Circumstances::observe().release
            ),
        )),
        Err(error) => {
            let what = format!("look for the tracepoint {name}");
            Err(Circumstances::observe().explain_tracefs(&what, &error))
        }
    }
}

fn refused(what: &str, error: &libbpf_rs::Error) -> Failure {
    let log = libbpf_log::take();
    let takes_tracepoints = ProgramType::Tracepoint.is_supported().unwrap_or(true);
    Circumstances::observe().explain_libbpf(what, error, takes_tracepoints, &log)
}
