# What boots kernels: the programs that xtask runs, and where it finds the pins.
{
  busybox-static,
  file,
  kernels,
  kmod,
  qemu_kvm,
  virtme-ng,
  ...
}:
{
  tools = [
    busybox-static
    file
    kmod
    qemu_kvm
    virtme-ng
  ];

  variables = pins: { VMTEST_NIX_KERNELS = kernels.directory pins; };
}
