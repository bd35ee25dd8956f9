//! Kernel modules, for kernels that do not have everything built in.

use std::fs::{self, File};
use std::path::Path;

use nix::kmod::{ModuleInitFlags, finit_module};

/// The file, among the modules, that names them in the order in which they are loaded.
const ORDER: &str = "order";

/// Loads the modules in `directory`, where there are any. Returns what went wrong: a module that
/// will not load need not be one that matters to the job.
pub fn load(directory: &Path) -> Vec<String> {
    let list = match fs::read_to_string(directory.join(ORDER)) {
        Ok(list) => list,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => return vec![format!("cannot read the list of modules: {error}")],
    };
    list.lines().filter_map(|name| load_one(&directory.join(name)).err()).collect()
}

fn load_one(path: &Path) -> Result<(), String> {
    let trouble = |error: &dyn std::fmt::Display| format!("module {}: {error}", path.display());
    let file = File::open(path).map_err(|error| trouble(&error))?;
    match finit_module(&file, c"", ModuleInitFlags::empty()) {
        // EEXIST: it is loaded, or built in.
        Ok(()) | Err(nix::Error::EEXIST) => Ok(()),
        Err(error) => Err(trouble(&error)),
    }
}
