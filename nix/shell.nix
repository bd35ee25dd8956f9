# `nix develop`: everything to build, test and prove the program, kernels included.
{
  bootsKernels,
  bpftools,
  deadnix,
  kernels,
  lib,
  mkShell,
  nixfmt,
  rust-analyzer,
  toolchain,
  vm-host,
  ...
}:
mkShell {
  packages =
    toolchain.tools
    ++ [
      bpftools
      deadnix
      nixfmt
      rust-analyzer
    ]
    ++ lib.optionals bootsKernels vm-host.tools;

  env = toolchain.variables // lib.optionalAttrs bootsKernels (vm-host.variables kernels.pins);
}
