//! `cargo xtask inspect`: what the compiler made of a BPF program, as LLVM's tools show it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use cargo_kernels::dirs::Dirs;
use cargo_kernels::tools;
use cargo_kernels::{build, exit};

pub fn run(dirs: &Dirs, object: Option<PathBuf>) -> Result<u8> {
    for object in object.map_or_else(|| build::bpf_objects(dirs), |object| Ok(vec![object]))? {
        let text = describe(dirs, &object).with_context(|| format!("cannot inspect {}", object.display()))?;
        cargo_kernels::print(&text)?;
    }
    Ok(exit::OK)
}

/// Sections, symbols, and the instructions with numbers in hexadecimal, as in the verifier's log.
fn describe(dirs: &Dirs, object: &Path) -> Result<String> {
    let (readelf, objdump) = (tools::find(dirs, "llvm-readelf")?, tools::find(dirs, "llvm-objdump")?);
    let shell = Shell::new()?;
    // First, since readelf only warns of a file that is none of its kind.
    let code = cmd!(shell, "{objdump} --disassemble --reloc --print-imm-hex {object}").quiet().read()?;
    let tables = cmd!(shell, "{readelf} --sections --symbols {object}").quiet().read()?;
    Ok(format!("{tables}\n{code}\n"))
}
