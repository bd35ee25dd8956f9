//! One program through libbpf.

use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::size_of;
use std::path::Path;
use std::ptr;
use std::sync::Mutex;

use crate::legacy_maps;
use anyhow::{Context, Result, ensure};
use libbpf_rs::btf::types::{DataSec, Var};
use libbpf_rs::{AsRawLibbpf, Btf, MapType, ObjectBuilder, OpenObject, PrintLevel, set_print};
use libbpf_sys as sys;
use vmtest_loader::{Job, Line, Listed, Record, Stats};

/// The largest log buffer that every kernel accepts.
const LOG_BYTES: usize = (16 << 20) - 1;
/// How much of a log's end goes to the host.
const LOG_KEPT: usize = 256 << 10;
/// Only the numbers at the end, and the reason of a refusal: `BPF_LOG_STATS`, since 5.2.
const STATS_ONLY: u32 = 4;

/// What libbpf has said.
static SAID: Mutex<String> = Mutex::new(String::new());

fn said() -> String {
    std::mem::take(&mut *SAID.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

fn open(path: &str) -> Result<OpenObject> {
    set_print(Some((PrintLevel::Info, |_, text| {
        SAID.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push_str(&text);
    })));
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {path}"))?;
    let bytes = legacy_maps::converted(&bytes)?.unwrap_or(bytes);
    ObjectBuilder::default().open_memory(&bytes).with_context(|| format!("cannot open {path}"))
}

fn path(job: &Job, object: usize) -> Result<&str> {
    job.objects.get(object).map(String::as_str).context("there is no such object")
}

/// What an object holds.
pub fn list(job: &Job, object: usize) -> Result<Line> {
    let opened = match open(path(job, object)?) {
        Ok(opened) => opened,
        Err(error) => {
            return Ok(Line::NotOpened { object, said: format!("{}{error:#}", said()) });
        }
    };
    let programs = opened
        .progs()
        .map(|program| Listed { name: program.name().to_string_lossy().into_owned(), autoload: program.autoload() });
    let programs = programs.collect();
    Ok(Line::Object { object, programs, variables: set_variables(&opened, &job.set)? })
}

/// Loads one program: first for the verdict and the numbers; then again, if it is refused, for the log.
pub fn program(job: &Job, object: usize, name: &str) -> Result<Line> {
    let path = path(job, object)?;
    let mut record = attempt(job, path, name, STATS_ONLY)?;
    // What libbpf refuses by itself has no log, and that of a million instructions helps nobody.
    let tells_more = !record.log.is_empty() && record.errno != nix::errno::Errno::E2BIG as i32;
    if job.log > 0 || (!record.loaded && tells_more) {
        let again = attempt(job, path, name, STATS_ONLY | job.log.clamp(1, 2))?;
        // Where a log does not fit, kernels before 6.4 give up, and the short one is all there is.
        if again.loaded == record.loaded && again.errno == record.errno {
            record.log = again.log;
        }
    }
    record.object = object;
    Ok(Line::Program(Box::new(record)))
}

fn attempt(job: &Job, path: &str, name: &str, log_level: u32) -> Result<Record> {
    said();
    let mut opened = open(path)?;
    set_variables(&opened, &job.set)?;
    let mut log = vec![0u8; LOG_BYTES];
    let mut record = Record::default();
    let mut wanted = ptr::null_mut();
    for mut program in opened.progs_mut() {
        let this = program.name() == name;
        program.set_autoload(this);
        if this {
            program.set_log_level(log_level);
            wanted = program.as_libbpf_object().as_ptr();
            record = Record {
                program: name.to_owned(),
                section: program.section().to_string_lossy().into_owned(),
                size: program.insn_cnt() as u64,
                btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
                ..Record::default()
            };
        }
    }
    ensure!(!wanted.is_null(), "there is no program {name}");
    // SAFETY: the program and its object live in `opened`, the buffer until the end of this function.
    let (result, kind) = unsafe {
        sys::bpf_program__set_log_buf(wanted, log.as_mut_ptr().cast::<c_char>(), LOG_BYTES as u64);
        let kind = sys::bpf_program__type(wanted);
        prepare_maps(&mut opened, kind == sys::BPF_PROG_TYPE_STRUCT_OPS)?;
        // Making a map of struct_ops loads its programs.
        sys::bpf_program__set_autoload(wanted, true);
        (sys::bpf_object__load(opened.as_libbpf_object().as_ptr()), kind)
    };
    record.said = said();
    let text = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_bytes();
    record.stats = Stats::read(&String::from_utf8_lossy(end(text, 64 << 10)));
    record.log = String::from_utf8_lossy(end(text, LOG_KEPT).trim_ascii_end()).into_owned();
    // The program is loaded, and then the others are missed that an array of programs names.
    record.loaded = result == 0 || record.said.contains("failed to initialize slot");
    record.errno = if record.loaded { 0 } else { -result };
    // SAFETY: as above; libbpf's names of types are static.
    unsafe {
        record.kind = words(sys::libbpf_bpf_prog_type_str(kind));
        record.jited = if result == 0 { jited(sys::bpf_program__fd(wanted)) } else { 0 };
        if !record.loaded {
            record.unsupported = unsupported(&opened, kind, &record.kind);
        }
    }
    Ok(record)
}

fn end(bytes: &[u8], length: usize) -> &[u8] {
    &bytes[bytes.len().saturating_sub(length)..]
}

/// A name of libbpf's; it has none for what is newer than itself.
unsafe fn words(name: *const c_char) -> String {
    if name.is_null() {
        return "unknown".into();
    }
    // SAFETY: libbpf's names end with NUL.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
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
unsafe fn unsupported(object: &OpenObject, kind: u32, name: &str) -> Vec<String> {
    // SAFETY: the object and its maps are alive, and libbpf's names of types are static.
    unsafe {
        let mut missing = Vec::new();
        if sys::libbpf_probe_bpf_prog_type(kind, ptr::null()) == 0 {
            missing.push(format!("program type {name}"));
        }
        // The probe of struct_ops fails on kernels that have some; libbpf itself says which is missing.
        for map in object.maps().filter(|map| map.autocreate() && map.map_type() != MapType::StructOps) {
            let kind = sys::bpf_map__type(map.as_libbpf_object().as_ptr());
            if sys::libbpf_probe_bpf_map_type(kind, ptr::null()) == 0 {
                missing.push(format!("map type {}", words(sys::libbpf_bpf_map_type_str(kind))));
            }
        }
        missing.dedup();
        missing
    }
}

unsafe fn jited(fd: i32) -> u64 {
    let mut info = sys::bpf_prog_info::default();
    let mut length = size_of::<sys::bpf_prog_info>() as u32;
    // SAFETY: the kernel writes no more than `length` bytes.
    match unsafe { sys::bpf_prog_get_info_by_fd(fd, &mut info, &mut length) } {
        0 => u64::from(info.jited_prog_len),
        _ => 0,
    }
}

/// Sets global variables where the object keeps their first values, and says which of them it has.
fn set_variables(object: &OpenObject, set: &[(String, i64)]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    if set.is_empty() {
        return Ok(found);
    }
    // SAFETY: the object is alive as long as its BTF is used here.
    let raw = unsafe { object.as_libbpf_object().as_ref() };
    // Without BTF, variables have no names.
    let Some(btf) = Btf::from_bpf_object(raw)? else { return Ok(found) };
    for (name, value) in set {
        if set_variable(object, &btf, name, *value)? {
            found.push(name.clone());
        }
    }
    Ok(found)
}

fn set_variable(object: &OpenObject, btf: &Btf<'_>, name: &str, value: i64) -> Result<bool> {
    for section in btf.type_by_kind::<DataSec<'_>>() {
        for member in section.iter() {
            let variable = btf.type_by_id::<Var<'_>>(member.ty);
            if variable.is_none_or(|variable| variable.name().is_none_or(|this| this != name)) {
                continue;
            }
            let section = section.name().unwrap_or_default().to_string_lossy().into_owned();
            let section = CString::new(section)?;
            let mut length = 0;
            // SAFETY: libbpf says how long the values are, and they stay where they are until loading.
            let values = unsafe {
                let raw = object.as_libbpf_object().as_ptr();
                let map = sys::bpf_object__find_map_by_name(raw, section.as_ptr());
                ensure!(!map.is_null(), "{name} is in no section whose values can be set");
                let first: *mut c_void = sys::bpf_map__initial_value(map, &mut length);
                ensure!(!first.is_null(), "{name} is in a section without values");
                std::slice::from_raw_parts_mut(first.cast::<u8>(), length as usize)
            };
            let start = member.offset as usize;
            let place = values.get_mut(start..start.saturating_add(member.size));
            let place = place.context("the object's BTF is not that of its data")?;
            let bytes = value.to_le_bytes();
            ensure!(place.len() <= bytes.len(), "{name} is no number");
            place.copy_from_slice(&bytes[..place.len()]);
            return Ok(true);
        }
    }
    Ok(false)
}
