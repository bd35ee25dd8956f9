# nixpkgs' packages, only those that the flake uses. None can be built: a derivation is made of all that it is given, so
# that evaluating one evaluates that, too.
{ lib, system }:
let
  make =
    name: arguments:
    derivation (
      {
        inherit name system;
        builder = "/bin/false";
      }
      // removeAttrs arguments [
        "config"
        "env"
        "meta"
        "stdenv"
      ]
      // arguments.env or { }
    );

  # Every output, every library.
  package =
    name:
    let
      made = make name {
        outputs = [
          "out"
          "dev"
          "static"
        ];
      };
    in
    made // { overrideAttrs = change: builtins.deepSeq (change { configureFlags = [ ]; }) made; };

  runCommand =
    name: variables: script:
    make name (variables // { inherit script; });

  stdenv = {
    cc = package "gcc-wrapper";
    hostPlatform = { inherit system; };
    mkDerivation = arguments: make arguments.name arguments;
  };

  names = ''
    bashInteractive bison bpftools cargo clippy deadnix dpkg elfutils file flex glibc kmod makeWrapper nixfmt
    nixfmt-tree pahole perl pkg-config qemu_kvm rust-analyzer rustc rustfmt util-linux zlib zstd
  '';
  words = builtins.filter builtins.isList (builtins.split "([^[:space:]]+)" names);
in
lib.genAttrs (builtins.concatLists words) package
// {
  inherit lib runCommand stdenv;
  gcc14Stdenv = stdenv;
  llvmPackages = lib.genAttrs [ "clang" "clang-unwrapped" ] package;
  pkgsStatic.busybox = package "busybox";
  writeShellScriptBin = name: runCommand name { };
  rustPlatform = {
    cargoSetupHook = package "cargo-setup-hook";
    importCargoLock = make "cargo-vendor-dir";
  };
  fetchurl = { name, ... }@file: make name file;
  fetchPypi = { pname, ... }@file: make pname file;
  python3Packages =
    lib.genAttrs [ "argcomplete" "argparse-manpage" "requests" "setuptools" ] package
    // {
      python.sitePackages = "lib/python3.13/site-packages";
      buildPythonApplication = arguments: make arguments.pname arguments;
    };
  linuxManualConfig = arguments: make "linux-${arguments.version}" arguments;
  linkFarm =
    name: entries:
    make name {
      names = builtins.attrNames entries;
      paths = builtins.attrValues entries;
    };
  mkShell = { packages, env }: make "nix-shell" (env // { nativeBuildInputs = packages; });
}
