//! What kernels print when something is wrong with them, on every architecture: one table of shapes, not of titles.

use std::sync::LazyLock;

use regex_lite::Regex;

/// The shape of each kind of line, once [`segments`] has taken it out of the console.
const SHAPES: &[&str] = &[
    // `divide error`, `invalid opcode`, `int3`, `stack segment`: the CPU's error code and the oops' number
    // (arch/x86/kernel/dumpstack.c; arch/*/kernel/traps.c, `die`).
    r": [0-9a-f]{1,16} (?:ilc:\d )?\[#\d+\]",
    r"^Oops\b",
    // arch/riscv/kernel/traps.c, arch/mips/kernel/traps.c
    r"^Kernel (?:BUG|bug detected) ?\[#\d+\]",
    // arch/x86/kernel/doublefault_32.c
    r"^PANIC: ",
    // arch/sparc/kernel/traps_64.c, `die_if_kernel`
    r"^\S+\(\d+\): .*\[#\d+\]",
    r"^[Kk]ernel BUG at ",
    // A program's own is followed by ` ip:` (arch/x86/kernel/traps.c).
    r"^general protection fault[:,]",
    // arch/arm64/mm/fault.c, arch/riscv/mm/fault.c; arch/arm64/kernel/traps.c
    r"^(?:CPU \d+ )?Unable to handle kernel ",
    r"^Internal error: ",
    r"^(?:Bad mode in .* handler detected|Insufficient stack space to handle exception)",
    // lib/bug.c and kernel/panic.c, `__warn`; from 6.19 on the place comes first, whatever it is written in.
    r"^WARNING: CPU: \d+ PID: ",
    r"^WARNING: at \S",
    r"^WARNING: (?:\[.*\] )?\S+\.\w+:\d+ at ",
    r"^WARNING: .*\bat [\w.]+\+0x[0-9a-f]+/0x",
    // arch/x86/kernel/unwind_frame.c
    r"^WARNING: kernel stack ",
    // kernel/locking/lockdep.c
    r"^(?:\[ )?(?:WARNING|BUG|INFO): (?:possible (?:circular|recursive) locking|possible irq lock inversion|inconsistent lock state|.*-unsafe lock order detected|bad unlock balance|bad contention|held lock freed|lock held when returning|Nested lock was not taken|[Ii]nvalid wait context|.* still has locks held|suspicious RCU usage)",
    r"^INFO: trying to register non-static key",
    r"^(?:(?:NMI )?watchdog: )?BUG: ",
    // mm/slub.c, `slab_bug`
    r"^BUG \S+ \(.*\): ",
    r"^UBSAN: ",
    // kernel/cfi.c
    r"^CFI failure at ",
    // fs/open.c, fs/super.c
    r"^VFS: (?:Close: file count is 0|Busy inodes after unmount)",
    // kernel/rcu/tree_stall.h, kernel/hung_task.c, kernel/watchdog_hld.c, net/core/dev.c
    r"^(?:rcu: )?INFO: rcu_",
    r"^INFO: task ",
    r"[Ww]atchdog detected hard LOCKUP",
    // arch/powerpc/kernel/watchdog.c
    r"^watchdog: CPU \d+ Hard LOCKUP",
    r"^unregister_netdevice: waiting for ",
];

/// How a panic begins, and how it ends (kernel/panic.c).
const PANIC: &str = "Kernel panic - not syncing";
const PANIC_END: &str = "---[ end Kernel panic";
/// What stands before the lines of a splat (lib/bug.c; arch/arm/kernel/traps.c).
const CUT_HERE: [&str; 2] = ["------------[ cut here ]", "8<--- cut here"];

/// What one segment of a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Panic,
    PanicEnd,
    /// A splat is about to come.
    CutHere,
    Splat,
    Ordinary,
}

pub fn classify(segment: &str) -> Kind {
    static ALL: LazyLock<Vec<Regex>> = LazyLock::new(|| SHAPES.iter().map(|shape| regex(shape)).collect());
    match segment {
        _ if segment.starts_with(PANIC) => Kind::Panic,
        _ if segment.starts_with(PANIC_END) => Kind::PanicEnd,
        _ if CUT_HERE.iter().any(|mark| segment.starts_with(mark)) => Kind::CutHere,
        _ if ALL.iter().any(|shape| shape.is_match(segment)) => Kind::Splat,
        _ => Kind::Ordinary,
    }
}

fn regex(shape: &str) -> Regex {
    Regex::new(shape).expect("it is a regular expression")
}

/// Takes a console's line apart: colours and levels go, each timestamp begins a message of its own (two CPUs may write
/// into one line), and what user space wrote through `/dev/kmsg` (`name[pid]: `) is nothing that the kernel says.
pub fn segments(line: &str) -> Vec<String> {
    const COLOUR: &str = r"\x1b\[[0-9;?]*[A-Za-z]";
    // With CONFIG_PRINTK_CALLER the thread or the CPU follows: `[   12.345678][   T77] `.
    const STAMP: &str = r"(?:<\d+>)?\[\s*\d+\.\d+\](?:\[\s*[TC]\d+\])?|^\[\s*[TC]\d+\]|^<\d+>";
    const PROGRAM: &str = r"^[^\s\[\]]+\[\d+\]: ";
    static PARTS: LazyLock<[Regex; 3]> = LazyLock::new(|| [COLOUR, STAMP, PROGRAM].map(regex));
    let [colour, stamp, program] = &*PARTS;
    let line = colour.replace_all(line, "");
    let pieces = stamp.split(&line).map(|piece| piece.trim_matches(|c: char| c.is_control() || c.is_whitespace()));
    pieces.filter(|piece| !piece.is_empty() && !program.is_match(piece)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the first segment of a line that says anything is.
    fn kind(line: &str) -> Kind {
        let mut kinds = segments(line).into_iter().map(|segment| classify(&segment));
        kinds.find(|kind| *kind != Kind::Ordinary).unwrap_or(Kind::Ordinary)
    }

    #[test]
    fn splats_of_every_shape_are_known() {
        for line in [
            "divide error: 0000 [#1] PREEMPT SMP KASAN",
            "invalid opcode: 0000 [#1] SMP",
            "general protection fault: 0000 [#1] SMP NOPTI",
            "general protection fault, probably for non-canonical address 0x1: 0000 [#1]",
            "Oops: general protection fault, probably for non-canonical address 0x1: 0000 [#1] SMP",
            "Oops: 0002 [#1] SMP",
            "Oops [#1]",
            "specification exception: 0006 ilc:2 [#1] SMP",
            "Kernel BUG [#1]",
            "Kernel bug detected[#1]:",
            "CPU 0 Unable to handle kernel paging request at virtual address 0",
            "Bad mode in Error handler detected on CPU0, code 0xbf000002 -- SError",
            "Insufficient stack space to handle exception!",
            "NMI watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [sh:77]",
            "watchdog: CPU 0 Hard LOCKUP",
            "kernel BUG at mm/slub.c:1!",
            "Kernel BUG at 000000000012 [verbose debug info unavailable]",
            "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000010",
            "Internal error: Oops: 0000000096000004 [#1] SMP",
            "WARNING: CPU: 0 PID: 77 at kernel/trace/trace.c:1 foo+0x1/0x2",
            "WARNING: at kernel/bpf/core.c:12 f()",
            "WARNING: kernel/trace/trace.c:1 at foo+0x1/0x2, CPU#0: sh/77",
            "WARNING: include/linux/x.h:12 at foo+0x1/0x2, CPU#0: sh/77",
            "WARNING: [a > b] kernel/x.c:12 at foo+0x1/0x2, CPU#0: sh/77",
            "WARNING: at foo+0x1/0x2, CPU#0: sh/77",
            "WARNING: 12 at foo+0x1/0x2, CPU#0: sh/77",
            "WARNING: possible circular locking dependency detected",
            "WARNING: possible recursive locking detected",
            "WARNING: possible irq lock inversion dependency detected",
            "WARNING: inconsistent lock state",
            "WARNING: SOFTIRQ-safe -> SOFTIRQ-unsafe lock order detected",
            "WARNING: bad unlock balance detected!",
            "WARNING: bad contention detected!",
            "WARNING: held lock freed!",
            "WARNING: lock held when returning to user space!",
            "WARNING: Nested lock was not taken",
            "[ BUG: Invalid wait context ]",
            "WARNING: suspicious RCU usage",
            "WARNING: syz/12 still has locks held!",
            "[ INFO: possible circular locking dependency detected ]",
            "INFO: trying to register non-static key.",
            "BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "BUG: KASAN: use-after-free in f+0x1/0x2",
            "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [sh:77]",
            "BUG kmalloc-64 (Not tainted): Right Redzone overwritten",
            "UBSAN: array-index-out-of-bounds in kernel/x.c:1:2",
            "WARNING: kernel stack regs at 000000 in sh:7 has bad 'bp' value 0000",
            "WARNING: CPU: 0 PID: -1 at kernel/x.c:1 f+0x1/0x2",
            "PANIC: double fault, error_code: 0x0",
            "swapper(1): Kernel bad sw trap 5 [#1]",
            "VFS: Close: file count is 0",
            "VFS: Busy inodes after unmount of sda",
            "CFI failure at f+0x1/0x2 (target: g+0x0/0x1; expected type: 0x1)",
            "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "INFO: rcu_sched self-detected stall on CPU",
            "INFO: task sh:77 blocked for more than 120 seconds.",
            "NMI watchdog: Watchdog detected hard LOCKUP on cpu 0",
            "watchdog: Watchdog detected hard LOCKUP on cpu 1",
            "unregister_netdevice: waiting for lo to become free. Usage count = 2",
        ] {
            for prefix in ["", "[   T77] ", "[    3.123456] ", "<4>[    3.123456][   T77] ", "\x1b[31m[    3.1] "] {
                assert_eq!(kind(&format!("{prefix}{line}")), Kind::Splat, "{prefix}{line}");
            }
        }
    }

    #[test]
    fn user_space_that_quotes_a_splat_and_look_alikes_are_nothing() {
        for line in [
            "watchdogd[12]: last reset was \"Kernel panic - not syncing: Fatal exception\"",
            "[    9.123456] watchdogd[12]: BUG: something",
            "init[1]: Internal error: cannot open /dev/x",
            "said: Kernel panic - not syncing: quoted",
            "EFI stub: ERROR: FIRMWARE BUG: kernel image not aligned on 128k boundary",
            "CacheFiles: Internal error: -5",
            "DEBUG: something",
            "[Firmware Bug]: TSC not synchronous to P0",
            "Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on",
            "WARNING: unprotected private key file",
            "traps: trace[77] general protection fault ip:401000 sp:7ffe0 error:0 in trace[401000+1000]",
            "trace[77]: segfault at 0 ip 000000 sp 00000 error 4",
            "ACPI: PM-Timer IO Port: 0x608",
            "INFO: lo is up",
        ] {
            assert_eq!(kind(line), Kind::Ordinary, "{line}");
        }
    }

    #[test]
    fn two_messages_in_one_line_are_told_apart() {
        let line = "[    1.000000] eth0: link up[    1.000001] Kernel panic - not syncing: x";
        assert_eq!(segments(line), ["eth0: link up", "Kernel panic - not syncing: x"]);
        assert_eq!(kind(line), Kind::Panic);
        assert_eq!(kind("[    1.1] ---[ end Kernel panic - not syncing: x ]---"), Kind::PanicEnd);
        assert_eq!(kind("[    1.1] ------------[ cut here ]------------"), Kind::CutHere);
    }
}
