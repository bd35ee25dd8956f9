//! Architectures that kernels are built for: one table, and nothing else in the harness asks which one it is.
//!
//! Another one is another row of [`ARCHES`], its pins, and the files that the row includes.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error};

/// What has to be known of an architecture, from a kernel's source to a guest's serial port.
#[derive(Debug, PartialEq, Eq)]
pub struct Arch {
    /// As Linux's own build calls it (`ARCH=`), and `--arch`.
    pub name: &'static str,
    /// As `uname -m` and Rust call it.
    pub machine: &'static str,
    /// As Debian calls it.
    pub debian: &'static str,
    /// The target that programs for its guests are compiled for.
    pub target: &'static str,
    /// The GNU triplet: what Debian's cross compiler is called, and its directory of libraries.
    pub gnu: &'static str,
    /// `e_machine` of its ELF files (include/uapi/linux/elf-em.h).
    pub elf_machine: u16,
    /// What tells its images from others, and at which offset.
    pub image_magic: (usize, &'static [u8]),
    /// Of a kernel's source: the file that is there if it can be built for it, what make(1) is asked for, and where that is.
    pub source: [&'static str; 3],
    /// What a kernel that is built from source is made of: the options on top of allnoconfig.
    pub config: &'static str,
    /// The kernel options that only its guests need: the list's name, and its text in the format of [`crate::kconfig`].
    pub kconfig: (&'static str, &'static str),
    /// The QEMU program.
    pub qemu: &'static str,
    /// The package of Debian's that has it.
    pub qemu_package: &'static str,
    /// QEMU's machine.
    pub board: &'static str,
    /// The processor that is quick to emulate, and the one that has everything, for programs compiled for more.
    pub emulated_cpu: [&'static str; 2],
    /// The modules by which its kernels find virtio devices: ours are on the PCI bus, virtme-ng's where it puts them.
    pub virtio_modules: &'static [&'static str],
    /// The console, the board's first serial port.
    pub console: &'static str,
    /// QEMU's option for a second serial port, up to where the name of its character device follows.
    pub channel_option: &'static str,
    /// That port in the guest.
    pub channel_device: &'static str,
    /// Kernel parameters for every guest, and why.
    pub parameters: &'static [(&'static str, &'static str)],
    /// Kernel parameters for guests on an emulated processor, and why.
    pub emulated_parameters: &'static [(&'static str, &'static str)],
    /// The packages of Debian's with a compiler for it, on machines of other architectures.
    pub cross_packages: &'static [&'static str],
    /// What guests on machines of other architectures are made of: a pin's source, as TOML, or nothing.
    pub sysroot: &'static str,
}

/// All of them; the first is what a pin's source is for that does not say.
pub static ARCHES: [Arch; 2] = [
    Arch {
        name: "x86_64",
        machine: "x86_64",
        debian: "amd64",
        target: "x86_64-unknown-linux-gnu",
        gnu: "x86_64-linux-gnu",
        elf_machine: 62,
        // Documentation/arch/x86/boot.rst
        image_magic: (0x202, b"HdrS"),
        source: ["arch/x86/Kconfig", "bzImage", "arch/x86/boot/bzImage"],
        config: concat!(include_str!("../config/common.config"), include_str!("../config/x86_64.config")),
        kconfig: ("vm/kconfig.x86_64", include_str!("../../kconfig.x86_64")),
        qemu: "qemu-system-x86_64",
        qemu_package: "qemu-system-x86",
        // `microvm` is smaller, but under TCG it hangs at boot now and then.
        board: "q35",
        // Kernels pick faster code for newer processors, and TCG is slower at it than at the plain one: 10 to 15 %
        // between this model and `max`. Up to 7.2 QEMU may leave arbitrary flags behind cmpxchg16b, which kernels use
        // where it is (target/i386/tcg/translate.c: its helper reads `cc_op`, which is not up to date): one in
        // thousands of runs, an interrupt in the wrong place makes them real, and the kernel reports a single step.
        emulated_cpu: ["qemu64,-cx16", "max,-cx16"],
        virtio_modules: &["virtio_pci"],
        console: "ttyS0",
        channel_option: "-serial chardev:",
        channel_device: "/dev/ttyS1",
        parameters: &[("no_timer_check", "a busy host's emulated CPU may be too late for the check")],
        // arch/x86/kernel/apic/apic.c
        emulated_parameters: &[("nolapic_timer", "calibrating it takes 0.1 s and goes wrong on a busy host")],
        cross_packages: &["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
        sysroot: "",
    },
    Arch {
        name: "arm64",
        machine: "aarch64",
        debian: "arm64",
        target: "aarch64-unknown-linux-gnu",
        gnu: "aarch64-linux-gnu",
        elf_machine: 183,
        // Documentation/arch/arm64/booting.rst
        image_magic: (56, b"ARM\x64"),
        source: ["arch/arm64/Kconfig", "Image", "arch/arm64/boot/Image"],
        config: concat!(include_str!("../config/common.config"), include_str!("../config/aarch64.config")),
        kconfig: ("vm/kconfig.aarch64", include_str!("../../kconfig.aarch64")),
        qemu: "qemu-system-aarch64",
        qemu_package: "qemu-system-arm",
        board: "virt,gic-version=3",
        // Pointer authentication is what makes a model slow, 3 to 8 times; QEMU's own way of it is quick.
        emulated_cpu: ["cortex-a57", "max,pauth-impdef=on"],
        virtio_modules: &["virtio_pci", "virtio_mmio"],
        console: "ttyAMA0",
        // The board has one serial port, and drivers for this one are built in everywhere.
        channel_option: "-device pci-serial,chardev=",
        channel_device: "/dev/ttyS0",
        parameters: &[],
        emulated_parameters: &[],
        cross_packages: &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
        sysroot: include_str!("../config/aarch64-sysroot.toml"),
    },
];

impl Arch {
    /// The one of this machine; the first where it is none of them.
    pub fn host() -> &'static Self {
        ARCHES.iter().find(|arch| arch.machine == std::env::consts::ARCH).unwrap_or(&ARCHES[0])
    }

    /// Whether it is this machine's: then KVM may run it, and programs of it run here.
    pub fn is_host(&self) -> bool {
        self == Self::host()
    }

    /// The one of any of these names: Linux's, `uname -m`'s, Debian's.
    pub fn named(name: &str) -> Option<&'static Self> {
        ARCHES.iter().find(|arch| [arch.name, arch.machine, arch.debian].contains(&name))
    }

    /// The one whose images begin so.
    pub fn of_image(start: &[u8]) -> Option<&'static Self> {
        ARCHES.iter().find(|arch| {
            let (offset, magic) = arch.image_magic;
            start.get(offset..offset + magic.len()) == Some(magic)
        })
    }

    /// What the names of programs begin with that compile for it: nothing on a machine of its own.
    pub fn tool_prefix(&self) -> String {
        if self.is_host() { String::new() } else { format!("{}-", self.gnu) }
    }

    /// The C compiler for it.
    pub fn compiler(&self) -> String {
        self.tool_prefix() + "gcc"
    }

    /// How all of them are called, for a person.
    pub fn names() -> String {
        ARCHES.each_ref().map(|arch| arch.name).join(", ")
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl<'de> Deserialize<'de> for &'static Arch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let wrong = || D::Error::custom(format!("expected an architecture ({}), found {name:?}", Arch::names()));
        Arch::named(&name).ok_or_else(wrong)
    }
}
