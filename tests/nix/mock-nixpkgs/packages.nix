# nixpkgs' packages: only those that it has, with the outputs and the arguments that they have there. What the flake
# merely names is an empty directory; what it builds kernels, reports and the shell with really runs, on the host's
# bash and tools. The test that uses this puts two files here: `dropped`, options that no kernel has, and `status`, the
# exit code of the harness.
{ lib, system }:
let
  run =
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

  # A package with these outputs, the first of which stands for it, and empty files in them.
  package =
    name: outputs: files:
    run name { inherit outputs; } (
      toString (
        map (output: "mkdir -p \$${output}/lib;") outputs ++ map (file: "touch \$${file};") files
      )
    );
  simple = name: package name [ "out" ] [ ];

  # A package with one program, a bash script.
  program =
    name: text:
    run name { inherit text; } ''
      mkdir -p $out/bin
      printf '#!/bin/bash\nset -eu\n%s\n' "$text" > $out/bin/${name}
      chmod +x $out/bin/${name}
    ''
    // {
      meta.mainProgram = name;
    };

  stdenv = {
    cc = simple "gcc-wrapper";
    hostPlatform = { inherit system; };
    mkDerivation =
      {
        name,
        env ? { },
        meta ? { },
        ...
      }@arguments:
      run name
        (
          removeAttrs arguments [
            "env"
            "meta"
          ]
          // builtins.mapAttrs (_: value: "${value}") env
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
        ''
      // {
        inherit meta;
      };
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
  "bison"
  "bpftools"
  "clippy"
  "deadnix"
  "file"
  "flex"
  "kmod"
  "makeWrapper"
  "nixfmt"
  "pahole"
  "perl"
  "pkg-config"
  "rust-analyzer"
  "rustc"
  "rustfmt"
  "zstd"
] simple
// rec {
  inherit lib stdenv;
  gcc14Stdenv = stdenv;

  # `nix develop` runs its commands with this one.
  bashInteractive = run "bash" { } "mkdir -p $out/bin; ln -s /bin/bash $out/bin/";
  # The harness: `cargo xtask vmtest --list`, `cargo xtask vmtest --kernel K --report DIR`.
  cargo = program "cargo" ''
    mkdir -p target
    [ $3 = --list ] && exit
    echo "$4 on $(ls $VMTEST_NIX_KERNELS)" | tee $6/report.html > $6/summary.md
    exit $(cat ${./status})
  '';
  dpkg = program "dpkg-deb" "tar --extract --file $2 --directory $3";
  qemu_kvm = program "qemu-system-x86_64" "echo the mock";
  pkgsStatic.busybox = program "busybox" "echo the mock";

  elfutils =
    package "elfutils" [ "bin" "dev" "out" "man" ] [ "out/lib/libelf.a" "out/lib/libelf.so" ]
    // {
      overrideAttrs =
        change: builtins.deepSeq (change { configureFlags = [ "--program-prefix=eu-" ]; }) elfutils;
    };
  glibc = package "glibc" [ "out" "bin" "dev" "static" ] [ "out/lib/libc.so" "static/lib/libc.a" ];
  zlib = package "zlib" [ "out" "dev" "static" ] [ "out/lib/libz.so" "static/lib/libz.a" ];
  llvmPackages = {
    clang = simple "clang-wrapper";
    clang-unwrapped = package "clang" [ "out" "lib" "dev" "python" ] [ ];
  };

  rustPlatform = {
    cargoSetupHook = simple "cargo-setup-hook";
    importCargoLock = { lockFile }: run "cargo-vendor-dir" { inherit lockFile; } "mkdir $out";
  };
  fetchPypi =
    {
      pname,
      version,
      hash,
    }:
    run "${pname}-${version}.tar.gz" { inherit hash; } "touch $out";
  python3Packages =
    lib.genAttrs [ "argcomplete" "argparse-manpage" "requests" "setuptools" ] simple
    // {
      python.sitePackages = "lib/python3.13/site-packages";
      buildPythonApplication =
        { meta, ... }@arguments: builtins.deepSeq arguments (program meta.mainProgram "echo the mock");
    };

  # Makes what a file of that name has in it: a kernel's source, a package of Debian's, a bare image.
  fetchurl =
    {
      name,
      urls,
      sha256,
    }:
    run name { inherit urls sha256; } ''
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
  linuxManualConfig =
    {
      version,
      modDirVersion,
      src,
      configfile,
      stdenv,
      extraMakeFlags,
      config,
      allowImportFromDerivation,
    }:
    assert config == { } && !allowImportFromDerivation;
    run "linux-${version}" {
      inherit src configfile extraMakeFlags;
      inherit (stdenv) cc;
    } "${image} image ${modDirVersion} $out/bzImage";

  runCommand = run;
  linkFarm =
    name: entries:
    let
      pairs =
        if builtins.isList entries then
          entries
        else
          builtins.attrValues (builtins.mapAttrs (name: path: { inherit name path; }) entries);
    in
    run name { } (
      "mkdir $out;" + toString (map ({ name, path }: "ln -s ${path} $out/${name};") pairs)
    );
  writeShellScriptBin = program;
  writeShellApplication =
    {
      name,
      text,
      runtimeInputs,
    }:
    builtins.deepSeq runtimeInputs (program name text);
  mkShell =
    {
      packages,
      env,
    }:
    run "nix-shell" (
      builtins.mapAttrs (_: value: "${value}") env
      // {
        outputs = [ "out" ];
        nativeBuildInputs = packages;
        # What `nix develop` runs to find out about the environment.
        stdenv = run "stdenv" { } ''
          mkdir $out
          echo 'for input in $nativeBuildInputs; do PATH=$input/bin:$PATH; done' > $out/setup
        '';
      }
    ) "touch $out";
}
