{
  description = "A hello-world eBPF tracer, proven on pinned kernels";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

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
          default = project.programs.tracer;
        }
        // lib.optionalAttrs project.bootsKernels (
          {
            inherit (project) virtme-ng;
            inherit (project.programs) cargo-kernels;
            kernels = project.kernels.directory project.kernels.pins;
          }
          // prefixed "kernel-" project.kernels.each
          // prefixed "report-" project.checks.reports
        )
      );

      checks = forAll (
        project:
        project.checks.workspace
        // lib.optionalAttrs project.bootsKernels (prefixed "vm-" project.checks.vm)
      );

      devShells = forAll (project: {
        default = project.shell;
      });

      formatter = lib.genAttrs systems (system: nixpkgs.legacyPackages.${system}.nixfmt-tree);
    };
}
