# What the flake's outputs are made of, for one system. Each file takes what it needs, of nixpkgs and of the others
# here, by name.
{ pkgs }:
let
  load = file: import file (pkgs // project);

  project = {
    pins = import ./pins.nix;
    toolchain = load ./toolchain.nix;
    cargo-job = load ./cargo-job.nix;
    program = load ./program.nix;
    virtme-ng = load ./virtme-ng.nix;
    busybox-static = load ./busybox-static.nix;
    kernels = load ./kernels.nix;
    vm-host = load ./vm-host.nix;
    checks = load ./checks.nix;
    shell = load ./shell.nix;
    vmtest = load ./vmtest.nix;
    formatter = load ./formatter.nix;

    # The pinned kernels are built for x86_64, and only there is anything to boot them with.
    bootsKernels = pkgs.stdenv.hostPlatform.system == "x86_64-linux";
  };
in
project
