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

#[cfg(test)]
mod tests {
    use super::*;
    use vm_kernels::ARCHES;

    #[test]
    fn guests_differ_in_nothing_but_what_virtme_ng_gives_itself() {
        for (arch, accel) in ARCHES.iter().flat_map(|arch| [(arch, Accel::Tcg), (arch, Accel::Kvm)]) {
            let own = own(arch, accel, &["quiet".to_owned()]).join(" ");
            let shared = through_virtme_ng(arch, accel).join(" ");
            let expected = format!("console={} panic=-1 {shared} quiet -- {}", arch.console, arch.channel_device);
            assert_eq!(own, expected);
        }
    }
}
