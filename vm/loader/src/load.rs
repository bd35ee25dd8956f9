//! One program through libbpf.

use std::ffi::{CStr, c_char};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use libbpf_rs::btf::types::{DataSec, Var};
use libbpf_rs::{AsRawLibbpf, Btf, MapType, ObjectBuilder, OpenObject, PrintLevel, ProgramType, set_print};
use libbpf_sys as sys;

use crate::legacy_maps;
use vmtest_loader::{Job, Line, Listed, Record, Stats};

/// The largest log buffer that every kernel accepts.
const LOG_BYTES: usize = (16 << 20) - 1;
/// How much of a log's end goes to the host.
const LOG_KEPT: usize = 256 << 10;
/// Only the numbers at the end, and the reason of a refusal: `BPF_LOG_STATS`, since 5.2.
const STATS_ONLY: u32 = 4;

static SAID: Mutex<String> = Mutex::new(String::new());

fn said() -> String {
    std::mem::take(&mut *SAID.lock().unwrap_or_else(PoisonError::into_inner))
}

fn open(job: &Job, object: usize) -> Result<OpenObject> {
    set_print(Some((PrintLevel::Info, |_, text| {
        SAID.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
    })));
    let path = job.objects.get(object).context("there is no such object")?;
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {path}"))?;
    let bytes = legacy_maps::converted(&bytes)?.unwrap_or(bytes);
    ObjectBuilder::default().open_memory(&bytes).with_context(|| format!("cannot open {path}"))
}

/// What an object holds.
pub fn list(job: &Job, object: usize) -> Result<Line> {
    job.objects.get(object).context("there is no such object")?;
    let mut opened = match open(job, object) {
        Ok(opened) => opened,
        Err(error) => return Ok(Line::NotOpened { object, said: format!("{}{error:#}", said()) }),
    };
    let programs = opened.progs().map(|program| {
        let name = program.name().to_string_lossy().into_owned();
        Listed { name, autoload: program.autoload() }
    });
    Ok(Line::Object { object, programs: programs.collect(), variables: set_variables(&mut opened, &job.set)? })
}

/// Loads one program: first for the verdict and the numbers; then again, if it is refused, for the log.
pub fn program(job: &Job, object: usize, name: &str) -> Result<Line> {
    let mut record = attempt(job, object, name, STATS_ONLY)?;
    // What libbpf refuses by itself has no log, and that of a million instructions helps nobody.
    let tells_more = !record.log.is_empty() && record.errno != nix::errno::Errno::E2BIG as i32;
    if job.log > 0 || (!record.loaded && tells_more) {
        let again = attempt(job, object, name, STATS_ONLY | job.log.clamp(1, 2))?;
        // Where a log does not fit, kernels before 6.4 give up, and the short one is all there is.
        if again.loaded == record.loaded && again.errno == record.errno {
            record.log = again.log;
        }
    }
    Ok(Line::Program(Box::new(record)))
}

fn attempt(job: &Job, object: usize, name: &str, log_level: u32) -> Result<Record> {
    said();
    let mut opened = open(job, object)?;
    set_variables(&mut opened, &job.set)?;
    let mut log = vec![0u8; LOG_BYTES];
    let btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    let mut record = Record { object, program: name.to_owned(), btf, ..Record::default() };
    let mut wanted = None;
    for mut program in opened.progs_mut() {
        let this = program.name() == name;
        program.set_autoload(this);
        if this {
            program.set_log_level(log_level);
            wanted = Some((program.as_libbpf_object().as_ptr(), program.prog_type()));
            record.section = program.section().to_string_lossy().into_owned();
            record.size = program.insn_cnt() as u64;
        }
    }
    let (wanted, kind) = wanted.with_context(|| format!("there is no program {name}"))?;
    prepare_maps(&mut opened, kind == ProgramType::StructOps)?;
    // SAFETY: the program and its object live in `opened`, the buffer until the end of this function.
    let result = unsafe {
        sys::bpf_program__set_log_buf(wanted, log.as_mut_ptr().cast::<c_char>(), LOG_BYTES as u64);
        // Making a map of struct_ops loads its programs.
        sys::bpf_program__set_autoload(wanted, true);
        sys::bpf_object__load(opened.as_libbpf_object().as_ptr())
    };
    record.said = said();
    let text = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_bytes();
    record.stats = Stats::read(&String::from_utf8_lossy(end(text, 64 << 10)));
    record.log = String::from_utf8_lossy(end(text, LOG_KEPT).trim_ascii_end()).into_owned();
    // The program is loaded, and then the others are missed that an array of programs names.
    record.loaded = result == 0 || record.said.contains("failed to initialize slot");
    record.errno = if record.loaded { 0 } else { -result };
    // SAFETY: libbpf has a name for any number, or none; the program is alive.
    record.kind = words(unsafe { sys::libbpf_bpf_prog_type_str(kind as u32) });
    record.jited = if result == 0 { jited(unsafe { sys::bpf_program__fd(wanted) }) } else { 0 };
    if !record.loaded {
        record.unsupported = unsupported(&opened, kind, &record.kind);
    }
    Ok(record)
}

fn end(bytes: &[u8], length: usize) -> &[u8] {
    &bytes[bytes.len().saturating_sub(length)..]
}

/// A name of libbpf's, which is static; it has none for what is newer than itself.
fn words(name: *const c_char) -> String {
    // SAFETY: libbpf's names end with NUL.
    let name = (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) });
    name.map_or("unknown".into(), |name| name.to_string_lossy().into_owned())
}

/// The bytes of a stack trace of the usual depth: `PERF_MAX_STACK_DEPTH` addresses (include/uapi/linux/perf_event.h).
const STACK_TRACE_BYTES: u32 = 127 * 8;

/// As veristat: maps whose size is set at run time get one, and only the `struct_ops` that the program belongs to are
/// made. So do stack traces, whose depth tools take from their arguments.
fn prepare_maps(object: &mut OpenObject, is_struct_ops: bool) -> Result<()> {
    for mut map in object.maps_mut() {
        let kind = map.map_type();
        if kind == MapType::StackTrace && map.value_size() == 0 {
            map.set_value_size(STACK_TRACE_BYTES)?;
        }
        match kind {
            MapType::SkStorage
            | MapType::TaskStorage
            | MapType::InodeStorage
            | MapType::CGrpStorage
            | MapType::CgroupStorage
            | MapType::PercpuCgroupStorage => {}
            MapType::StructOps => map.set_autocreate(is_struct_ops)?,
            _ if map.max_entries() == 0 => map.set_max_entries(1)?,
            _ => {}
        }
    }
    Ok(())
}

/// Asks the kernel for the types that the program needs; what cannot be asked is not said to be missing.
fn unsupported(object: &OpenObject, kind: ProgramType, name: &str) -> Vec<String> {
    let mut missing = Vec::new();
    if matches!(kind.is_supported(), Ok(false)) {
        missing.push(format!("program type {name}"));
    }
    // The probe of struct_ops fails on kernels that have some; libbpf itself says which is missing.
    for map in object.maps().filter(|map| map.autocreate() && map.map_type() != MapType::StructOps) {
        // SAFETY: the map is alive, and libbpf has a name for any number, or none. (libbpf-rs knows fewer types.)
        unsafe {
            let kind = sys::bpf_map__type(map.as_libbpf_object().as_ptr());
            if sys::libbpf_probe_bpf_map_type(kind, std::ptr::null()) == 0 {
                missing.push(format!("map type {}", words(sys::libbpf_bpf_map_type_str(kind))));
            }
        }
    }
    missing.dedup();
    missing
}

fn jited(fd: i32) -> u64 {
    let mut info = sys::bpf_prog_info::default();
    let mut length = size_of::<sys::bpf_prog_info>() as u32;
    // SAFETY: the kernel writes no more than `length` bytes.
    let asked = unsafe { sys::bpf_prog_get_info_by_fd(fd, &mut info, &mut length) };
    if asked == 0 { u64::from(info.jited_prog_len) } else { 0 }
}

/// Sets global variables where the object keeps their first values, and says which of them it has.
fn set_variables(object: &mut OpenObject, set: &[(String, i64)]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (name, value) in set {
        if set_variable(object, name, *value)? {
            found.push(name.clone());
        }
    }
    Ok(found)
}

fn set_variable(object: &mut OpenObject, name: &str, value: i64) -> Result<bool> {
    // SAFETY: the object is alive as long as its BTF is used here.
    let raw = unsafe { object.as_libbpf_object().as_ref() };
    // Without BTF, variables have no names.
    let Some(btf) = Btf::from_bpf_object(raw)? else { return Ok(false) };
    let is_it =
        |ty| btf.type_by_id::<Var<'_>>(ty).and_then(|variable| variable.name()).is_some_and(|this| this == name);
    for section in btf.type_by_kind::<DataSec<'_>>() {
        let Some(member) = section.iter().find(|member| is_it(member.ty)) else { continue };
        // libbpf calls the map of `.data` by the object's name and the section's.
        let Some(section) = section.name().map(|name| name.as_encoded_bytes()) else { continue };
        let mut map = object.maps_mut().find(|map| map.name().as_encoded_bytes().ends_with(section));
        let values = map.as_mut().and_then(|map| map.initial_value_mut());
        let values = values.with_context(|| format!("{name} is in no section whose values can be set"))?;
        let start = member.offset as usize;
        let place = values.get_mut(start..start.saturating_add(member.size));
        let place = place.context("the object's BTF is not that of its data")?;
        let bytes = value.to_le_bytes();
        ensure!(place.len() <= bytes.len(), "{name} is no number");
        place.copy_from_slice(&bytes[..place.len()]);
        return Ok(true);
    }
    Ok(false)
}
