//! The kernel's command line: one list for every guest, and what has to differ.

use crate::accel::Accel;

/// Where a parameter is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum In {
    /// Every guest.
    Every,
    /// Every guest on an emulated processor.
    Tcg,
    /// Guests that are started without virtme-ng, which gives others it itself.
    Own,
}

/// Parameter, where, why (Documentation/admin-guide/kernel-parameters.txt).
const PARAMETERS: &[(&str, In, &str)] = &[
    ("console=ttyS0", In::Own, "the first serial port is the console; virtme-ng gives it"),
    ("panic=-1", In::Own, "reboots at once after a panic, which is an exit; virtme-ng gives it"),
    ("loglevel=5", In::Every, "every line costs time on a serial port: warnings and worse"),
    ("no_timer_check", In::Every, "a busy host's emulated CPU may be too late for the check"),
    ("cryptomgr.notests", In::Every, "tests of ciphers ask for modules and take time"),
    // arch/x86/kernel/apic/apic.c
    ("nolapic_timer", In::Tcg, "calibrating it takes 0.1 s and goes wrong on a busy host"),
];

/// The parameters of a guest that is started without virtme-ng.
pub fn own(accel: Accel) -> Vec<&'static str> {
    pick(accel, &[In::Every, In::Own])
}

/// The parameters of a guest that is started through virtme-ng.
pub fn through_virtme_ng(accel: Accel) -> Vec<&'static str> {
    pick(accel, &[In::Every])
}

fn pick(accel: Accel, places: &[In]) -> Vec<&'static str> {
    let emulated = accel == Accel::Tcg;
    let fits = |place: &In| places.contains(place) || (emulated && *place == In::Tcg);
    PARAMETERS.iter().filter(|(_, place, _)| fits(place)).map(|(text, ..)| *text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_differ_in_nothing_but_what_virtme_ng_gives_itself() {
        for accel in [Accel::Tcg, Accel::Kvm] {
            let mut own = own(accel);
            own.retain(|parameter| !["console=ttyS0", "panic=-1"].contains(parameter));
            assert_eq!(own, through_virtme_ng(accel));
        }
    }
}
