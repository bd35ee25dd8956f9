# nixpkgs' packages, only those that it has. What the flake merely names is a stand-in; what it makes kernels and reports
# with really runs, on the host's bash and tools. The test that uses this puts two files here: `dropped`,
# options that no kernel has, and `status`, the exit code of the harness.
{ lib, system }:
let
  runCommand =
    name: variables: script:
    derivation (
      {
        inherit name system;
        builder = "/bin/bash";
        PATH = "/usr/bin:/bin:/usr/sbin:/sbin";
        args = [
          "-euo"
          "pipefail"
          "-c"
          ''
            for input in ''${nativeBuildInputs-}; do PATH=$input/bin:$PATH; done
            ${script}
            # Else bash becomes the last program, and when that closes its output Nix kills it.
            exit
          ''
        ];
      }
      // variables
    );

  # A package with one program, a bash script.
  program =
    name: text:
    runCommand name { inherit text; } ''
      mkdir -p $out/bin
      printf '#!/bin/bash\nset -eu\n%s\n' "$text" > $out/bin/${name}
      chmod +x $out/bin/${name}
    '';

  # Every output, every library.
  package =
    name:
    let
      outputs = [
        "out"
        "dev"
        "static"
      ];
      made = runCommand name { inherit outputs; } ''
        for output in $out $dev $static; do
          mkdir -p $output/lib
          touch $output/lib/lib{c,elf,z}.{a,so}
        done
      '';
    in
    made // { overrideAttrs = change: builtins.seq (change { configureFlags = [ ]; }) made; };

  stdenv = {
    cc = package "gcc-wrapper";
    hostPlatform = { inherit system; };
    mkDerivation =
      arguments:
      runCommand arguments.name
        (
          removeAttrs arguments [
            "env"
            "meta"
          ]
          // arguments.env or { }
        )
        ''
          runHook() { :; }
          patchShebangs() { :; }
          make() { # ARCH=… KCONFIG_ALLCONFIG=FILE allnoconfig
            grep --invert-match --line-regexp --file ${./dropped} "''${2#*=}" > .config
          }
          if [ -d $src ]; then cp --recursive $src source; else tar --extract --file $src; fi
          chmod --recursive u+w *
          cd *
          eval "$buildPhase"
          [ "''${dontInstall-}" ] || eval "$installPhase"
        '';
  };

  # A bzImage that says its release where the boot protocol has it.
  image = ''
    image() { # RELEASE FILE
      mkdir -p "$(dirname "$2")"
      truncate --size 4096 "$2"
      put() { printf "$3" | dd of="$1" bs=1 seek=$(($2)) conv=notrunc status=none; }
      put "$2" 0x1f1 '\x07'     # setup sectors
      put "$2" 0x1fe '\x55\xaa' # boot sector
      put "$2" 0x202 'HdrS\x0f\x02'
      put "$2" 0x20e '\x00\x01' # where the release is, less 0x200
      put "$2" 0x300 "$1 (mock)"
    }
  '';
in
lib.genAttrs [
  "bashInteractive"
  "bison"
  "bpftools"
  "clippy"
  "deadnix"
  "elfutils"
  "file"
  "flex"
  "glibc"
  "kmod"
  "makeWrapper"
  "nixfmt"
  "nixfmt-tree"
  "pahole"
  "perl"
  "pkg-config"
  "qemu_kvm"
  "rust-analyzer"
  "rustc"
  "rustfmt"
  "util-linux"
  "zlib"
  "zstd"
] package
// {
  inherit lib runCommand stdenv;
  gcc14Stdenv = stdenv;
  llvmPackages = lib.genAttrs [ "clang" "clang-unwrapped" ] package;
  pkgsStatic.busybox = package "busybox";
  writeShellScriptBin = program;

  # The harness: `cargo xtask vmtest --list`, `cargo xtask vmtest --kernel K --report DIR`.
  cargo = program "cargo" ''
    mkdir -p target
    [ $3 = --list ] && exit
    echo "$4 on $(ls $VMTEST_NIX_KERNELS)" | tee $6/report.html > $6/summary.md
    exit $(cat ${./status})
  '';
  rustPlatform = {
    cargoSetupHook = package "cargo-setup-hook";
    importCargoLock = { lockFile }: runCommand "cargo-vendor-dir" { inherit lockFile; } "mkdir $out";
  };

  fetchPypi = { pname, ... }: package pname;
  python3Packages =
    lib.genAttrs [ "argcomplete" "argparse-manpage" "requests" "setuptools" ] package
    // {
      python.sitePackages = "lib/python3.13/site-packages";
      buildPythonApplication = arguments: builtins.deepSeq arguments (package arguments.pname);
    };

  # Makes what a file of that name has in it: a kernel's source, a package of Debian's, a bare image.
  fetchurl =
    { name, ... }@file:
    runCommand name { inherit (file) urls sha256; } ''
      ${image}
      release=''${name#linux-*-} release=''${release%%_*} release=''${release%-unsigned}
      mkdir tree
      case $name in
        *.tar.xz) mkdir tree/scripts ;;
        linux-image-*) image $release tree/boot/vmlinuz-$release ;;
        linux-binary-*) image $release tree/usr/lib/modules/$release/vmlinuz ;;
        *.deb) ;;
        *) image 0.0.0 $out; exit ;;
      esac
      tar --create --file $out tree --transform 's,^tree,.,'
    '';
  dpkg = program "dpkg-deb" "tar --extract --file $2 --directory $3";
  linuxManualConfig =
    arguments:
    assert arguments.config == { };
    runCommand "linux-${arguments.version}" {
      inherit (arguments) src configfile extraMakeFlags;
    } "${image} image ${arguments.modDirVersion} $out/bzImage";

  linkFarm =
    name: entries:
    runCommand name { } (
      toString (
        [ "mkdir $out" ] ++ lib.mapAttrsToList (name: path: "; ln -s ${path} $out/${name}") entries
      )
    );
  mkShell = { packages, env }: runCommand "nix-shell" (env // { nativeBuildInputs = packages; }) "";
}
