# What the flake's outputs are made of, for one system. Each file takes what it needs, of nixpkgs and of the others
# here, by name.
{ pkgs }:
let
  inherit (pkgs) lib;
  load = file: import file (pkgs // project);

  project = {
    toolchain = load ./toolchain.nix;
    cargo-job = load ./cargo-job.nix;
    programs = load ./programs.nix;
    virtme-ng = load ./virtme-ng.nix;
    kernels = load ./kernels.nix;
    checks = load ./checks.nix;

    # What boots kernels: the programs that xtask runs, and where it finds the pins.
    vm-host = {
      tools = project.guest-tools ++ [ project.virtme-ng ];
      variables = pins: { VMTEST_NIX_KERNELS = project.kernels.directory pins; };
    };

    # What virtme-ng itself runs.
    guest-tools = [
      project.busybox-static
      pkgs.file
      pkgs.kmod
      pkgs.qemu_kvm
    ];

    # `nix develop`: everything to build, test and prove the program, kernels included.
    shell = pkgs.mkShell {
      packages =
        project.toolchain.tools
        ++ [
          pkgs.bpftools
          pkgs.deadnix
          pkgs.nixfmt
          pkgs.rust-analyzer
        ]
        ++ lib.optionals project.bootsKernels project.vm-host.tools;
      env =
        project.toolchain.variables
        // lib.optionalAttrs project.bootsKernels (project.vm-host.variables project.kernels.pins);
    };

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
