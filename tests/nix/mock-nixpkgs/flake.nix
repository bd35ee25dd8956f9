{
  description = "As much of nixpkgs 26.05 as the project's flake uses, to check that flake without a network";

  outputs = _: rec {
    lib = import ./lib.nix;
    legacyPackages = lib.genAttrs [
      "x86_64-linux"
      "aarch64-linux"
    ] (system: import ./packages.nix { inherit lib system; });
  };
}
