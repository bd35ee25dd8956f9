# `nix develop`: everything to build, test and prove the program, kernels included.
{
  bootsKernels,
  bpftools,
  deadnix,
  lib,
  mkShell,
  nixfmt-rfc-style,
  pins,
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
      nixfmt-rfc-style
      rust-analyzer
    ]
    ++ lib.optionals bootsKernels vm-host.tools;

  env = toolchain.variables // lib.optionalAttrs bootsKernels (vm-host.variables pins);
}
