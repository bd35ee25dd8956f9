# What the flake's outputs are made of, for one system. Each file takes what it needs, of nixpkgs and of the others
# here, by name.
{ pkgs }:
let
  load = file: import file (pkgs // project);

  project = {
    toolchain = load ./toolchain.nix;
    cargo-job = load ./cargo-job.nix;
    programs = load ./programs.nix;
    virtme-ng = load ./virtme-ng.nix;
    kernels = load ./kernels.nix;
    vm-host = load ./vm-host.nix;
    checks = load ./checks.nix;
    shell = load ./shell.nix;

    # A busybox that needs no libraries, alone: its several hundred names would hide those of coreutils.
    busybox-static = pkgs.runCommand "busybox-static" { } ''
      mkdir -p $out/bin
      ln -s ${pkgs.pkgsStatic.busybox}/bin/busybox $out/bin/
    '';

    # The pinned kernels are built for x86_64, and only there is anything to boot them with.
    bootsKernels = pkgs.stdenv.hostPlatform.system == "x86_64-linux";
  };
in
project
