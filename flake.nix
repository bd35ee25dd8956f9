{
  description = "A hello-world eBPF tracer, proven on pinned kernels";

  # The last release of nixpkgs that has a 5.4 kernel. Its Rust is 1.86; the project needs 1.85.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.05";

  outputs =
    { nixpkgs, ... }:
    let
      inherit (nixpkgs) lib;

      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forAll =
        outputs:
        lib.genAttrs systems (system: outputs (import ./nix { pkgs = nixpkgs.legacyPackages.${system}; }));

      prefixed = prefix: lib.mapAttrs' (name: lib.nameValuePair "${prefix}${name}");
    in
    {
      packages = forAll (
        project:
        {
          default = project.program;
        }
        // lib.optionalAttrs project.bootsKernels (
          {
            inherit (project) virtme-ng;
            kernels = project.kernels.directory project.pins;
          }
          // prefixed "kernel-" project.kernels.each
        )
      );

      checks = forAll (
        project:
        project.checks.workspace
        // lib.optionalAttrs project.bootsKernels (
          prefixed "kconfig-" project.checks.kconfig // prefixed "vm-" project.checks.vm
        )
      );

      devShells = forAll (project: {
        default = project.shell;
      });

      apps = forAll (
        project:
        lib.optionalAttrs project.bootsKernels {
          vmtest = {
            type = "app";
            program = lib.getExe project.vmtest;
          };
        }
      );

      formatter = forAll (project: project.formatter);
    };
}
