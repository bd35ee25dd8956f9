//! The kernel's command line: one list for every guest, what its architecture adds, and what has to differ.

use vm_kernels::Arch;

use crate::accel::Accel;

/// Parameters for every guest, and why (Documentation/admin-guide/kernel-parameters.txt).
const EVERY: &[(&str, &str)] = &[
    ("loglevel=5", "every line costs time on a serial port: warnings and worse"),
    ("cryptomgr.notests", "tests of ciphers ask for modules and take time"),
];

/// The parameters of a guest that is started without virtme-ng, with these further ones: the console, an exit after a
/// panic, and after `--` what its process 1 is told, which is the agent's end of the channel.
pub fn own(arch: &Arch, accel: Accel, further: &[String]) -> Vec<String> {
    let given = [format!("console={}", arch.console), "panic=-1".to_owned()];
    let last = ["--".to_owned(), arch.channel_device.to_owned()];
    [&given[..], &through_virtme_ng(arch, accel), further, &last].concat()
}

/// The parameters of a guest that is started through virtme-ng, which gives the others itself.
pub fn through_virtme_ng(arch: &Arch, accel: Accel) -> Vec<String> {
    let emulated = if accel == Accel::Tcg { arch.emulated_parameters } else { &[] };
    let all = EVERY.iter().chain(arch.parameters).chain(emulated);
    all.map(|(parameter, _)| (*parameter).to_owned()).collect()
}
