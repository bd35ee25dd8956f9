# nixpkgs' packages: only those that it has, with the outputs and the arguments that they have there. What the flake
# merely names is an empty file or a stub; what makes the kernels' directory and the shell really runs.
{ lib, system }:
let
  # Runs `script` with the host's bash and tools.
  run =
    name: variables: script:
    derivation (
      {
        inherit name system;
        builder = "/bin/bash";
        PATH = "/usr/bin:/bin:/usr/sbin:/sbin";
        args = [
          "-euc"
          ''
            for input in ''${nativeBuildInputs-}; do PATH=$input/bin:$PATH; done
            ${script}
            # Were a tool that closes its output before it ends the last one, bash would become that tool, and Nix
            # would take the end of the output for the end of the build and kill it.
            exit
          ''
        ];
      }
      // variables
    );
  lines = builtins.concatStringsSep "\n";

  # A package with these outputs, the first of which stands for it.
  package =
    name: outputs: script:
    run name { inherit outputs; } (lines (map (output: "mkdir -p \$${output}") outputs ++ [ script ]));
  simple = name: package name [ "out" ] "";
  # A library, which is the host's, with its shared object in one output and its archive in another.
  library =
    name: outputs: files:
    package name outputs (
      lines (
        map (file: ''
          mkdir -p $(dirname ${file})
          ln -s $(cc -print-file-name=$(basename ${file})) ${file}
        '') files
      )
    );

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

  # Makes its main program, which does nothing.
  mkDerivation =
    {
      name ? "${arguments.pname}-${arguments.version}",
      env ? { },
      meta ? { },
      ...
    }@arguments:
    run name (
      removeAttrs arguments [
        "env"
        "meta"
      ]
      // builtins.mapAttrs (_: value: "${value}") env
    ) "install -D /bin/true $out/bin/${meta.mainProgram or name}"
    // {
      inherit meta;
    };

  # Functions for the parts of a kernel: a bzImage that says its release where the boot protocol has it, a module.
  parts = ''
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
    modules() { # RELEASE ROOT
      mkdir -p "$2/lib/modules/$1/kernel"
      touch "$2/lib/modules/$1/kernel/mock.ko"
    }
    config() { # FILE
      mkdir -p "$(dirname "$1")"
      cp ${./config} "$1"
    }
  '';
in
rec {
  inherit lib;

  stdenv = {
    inherit mkDerivation;
    cc = simple "gcc-wrapper";
    hostPlatform = { inherit system; };
  };

  # `nix develop` runs its commands with this one.
  bashInteractive = run "bash" { } "mkdir -p $out/bin; ln -s /bin/bash $out/bin/";
  bison = simple "bison";
  bpftools = simple "bpftools";
  cargo = simple "cargo";
  clippy = simple "clippy";
  deadnix = simple "deadnix";
  file = program "file" "echo the mock";
  flex = simple "flex";
  gnumake = simple "gnumake";
  nixfmt-rfc-style = simple "nixfmt-rfc-style";
  pkg-config = simple "pkg-config";
  rust-analyzer = simple "rust-analyzer";
  rustc = simple "rustc";
  rustfmt = simple "rustfmt";
  zstd = simple "zstd";

  # `dpkg-deb --extract`, of what `fetchurl` makes below.
  dpkg = program "dpkg-deb" "tar --extract --file $2 --directory $3";
  # `depmod --basedir DIR RELEASE`
  kmod = program "depmod" "touch $2/lib/modules/$3/modules.dep";
  qemu_kvm = program "qemu-system-x86_64" "echo the mock";
  pkgsStatic.busybox = program "busybox" "echo the mock";

  elfutils =
    library "elfutils" [ "bin" "dev" "out" "man" ] [ "$out/lib/libelf.a" "$out/lib/libelf.so" ]
    // {
      overrideAttrs =
        change: builtins.deepSeq (change { configureFlags = [ "--program-prefix=eu-" ]; }) elfutils;
    };
  glibc = library "glibc" [ "out" "bin" "dev" "static" ] [ "$out/lib/libc.so" "$static/lib/libc.a" ];
  zlib = library "zlib" [ "out" "dev" "static" ] [ "$out/lib/libz.so" "$static/lib/libz.a" ];
  llvmPackages = {
    clang = simple "clang-wrapper";
    clang-unwrapped = package "clang" [ "out" "lib" "dev" "python" ] "";
  };

  rustPlatform = {
    cargoSetupHook = simple "cargo-setup-hook";
    importCargoLock =
      { lockFile }: run "cargo-vendor-dir" { lock = builtins.readFile lockFile; } "mkdir $out";
  };
  python3Packages = {
    buildPythonApplication = mkDerivation;
    argcomplete = simple "argcomplete";
    argparse-manpage = simple "argparse-manpage";
    python.sitePackages = "lib/python3.12/site-packages";
    requests = simple "requests";
    setuptools = simple "setuptools";
  };
  fetchPypi =
    {
      pname,
      version,
      hash,
    }:
    run "${pname}-${version}.tar.gz" { inherit hash; } "touch $out";

  linuxManualConfig =
    {
      version,
      modDirVersion,
      src,
      configfile,
      config,
      allowImportFromDerivation,
    }:
    assert config == { } && modDirVersion == version && !allowImportFromDerivation;
    run "linux-${version}" { inherit src configfile; } ''
      ${parts}
      image ${version} $out/bzImage
    '';

  # Makes what a file of that name has in it: Debian's packages of a kernel, a kernel's source, or a bare image.
  fetchurl =
    {
      name,
      urls,
      sha256 ? "",
      sha1 ? "",
    }:
    assert sha256 != "" || sha1 != "";
    run name { inherit urls sha256 sha1; } ''
      ${parts}
      release=''${name#linux-*-} release=''${release%%_*} release=''${release%-unsigned}
      mkdir tree
      case $name in
        linux-image-*)
          image $release tree/boot/vmlinuz-$release
          modules $release tree
          config tree/boot/config-$release ;;
        linux-binary-*) image $release tree/usr/lib/modules/$release/vmlinuz ;;
        linux-modules-*) modules $release tree/usr ;;
        linux-base-*) config tree/usr/lib/modules/$release/config ;;
        linux-*.tar.xz)
          mkdir tree/linux
          printf 'allnoconfig:\n\tcp ${./config} .config\n' > tree/linux/Makefile ;;
        *) image 0.0.0 $out; exit ;;
      esac
      tar --create --file $out --directory tree .
    '';

  runCommand =
    name: variables: script:
    run name variables script;
  runCommandCC = runCommand;
  linkFarm =
    name: entries:
    run name { } (
      lines ([ "mkdir $out" ] ++ map ({ name, path }: "ln -s ${path} $out/${name}") entries)
    );
  writeShellScriptBin = program;
  writeShellApplication =
    {
      name,
      text,
      runtimeInputs ? [ ],
      runtimeEnv ? { },
    }:
    program name (
      lines (
        map (input: "PATH=${input}/bin:$PATH") runtimeInputs
        ++ builtins.attrValues (builtins.mapAttrs (key: value: "export ${key}='${value}'") runtimeEnv)
        ++ [ text ]
      )
    );
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
