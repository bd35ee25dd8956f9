# The pinned kernels: each a directory in which the harness finds image, modules and configuration by itself. Of a
# pin's sources the first for x86_64 is the one that counts here.
{
  bison,
  dpkg,
  fetchurl,
  flex,
  gcc14Stdenv,
  lib,
  linkFarm,
  linuxManualConfig,
  pahole,
  perl,
  runCommand,
  zstd,
  ...
}:
let
  from = {
    # What the harness builds elsewhere, of the same bytes. Release 26.05's own compiler, GCC 15, takes C23 for granted,
    # of which 5.4 knows nothing; so the programs that the build runs get the older one, too.
    source =
      pin: source:
      let
        src = fetch source [ source.url ];
        configfile = configure pin src;
        kernel = linuxManualConfig {
          inherit src configfile;
          version = pin.release;
          modDirVersion = pin.release;
          stdenv = gcc14Stdenv;
          extraMakeFlags = [
            "HOSTCC=${gcc14Stdenv.cc}/bin/cc"
            "HOSTCXX=${gcc14Stdenv.cc}/bin/c++"
          ];
          # No option is a module, so none are built or installed.
          config = { };
          allowImportFromDerivation = false;
        };
      in
      linkFarm "kernel-${pin.name}" {
        bzImage = "${kernel}/bzImage";
        config = configfile;
      };

    debian = pin: source: unpack pin (map (file: fetch file (debianAddresses file)) source.files);

    url = pin: source: unpack pin [ (fetch source [ source.url ]) ];

    # The interpolation makes the file an input of the build; its path alone does not.
    file = pin: source: unpack pin [ "${../. + "/${source.path}"}" ];
  };

  # nixpkgs knows mirrors by the distribution's name. What they no longer have, the archive does, by its hash.
  debianAddresses =
    file:
    [ "mirror://debian/${file.path}" ]
    ++ lib.optionals (file ? sha1) [ "https://snapshot.debian.org/file/${file.sha1}" ];

  fetch =
    file: urls:
    fetchurl {
      name = lib.strings.sanitizeDerivationName (baseNameOf (builtins.head urls));
      inherit urls;
      inherit (file) sha256;
    };

  # linuxManualConfig answers what a configuration leaves open with the kernel's defaults; here all that is to be off.
  configure =
    pin: src:
    let
      config = name: builtins.readFile (../vm/kernels/config + "/${name}.config");
      wanted = builtins.toFile "wanted.config" (config "common" + config "x86_64");
    in
    gcc14Stdenv.mkDerivation {
      name = "config-${pin.release}";
      inherit src;
      hardeningDisable = [ "all" ];
      nativeBuildInputs = [
        bison
        flex
        pahole
        perl
      ];
      dontConfigure = true;
      buildPhase = ''
        patchShebangs scripts
        make ARCH=x86_64 KCONFIG_ALLCONFIG=${wanted} allnoconfig
        # An option whose dependencies are not met is dropped without a word.
        comm -13 <(sort .config) <(grep ^CONFIG_ ${wanted} | sort) > dropped
        if [ -s dropped ]; then
          echo "${pin.release} has not: $(cat dropped)" >&2
          exit 1
        fi
      '';
      installPhase = "cp .config $out";
      dontFixup = true;
    };

  unpack =
    pin: files:
    runCommand "kernel-${pin.name}"
      {
        nativeBuildInputs = [
          dpkg
          zstd
        ];
      }
      ''
        mkdir $out
        for file in ${toString files}; do
          case $file in
            *.deb) dpkg-deb --extract $file $out ;;
            *.tar.zst) tar --extract --zstd --file $file --directory $out ;;
            *) cp $file $out/bzImage ;;
          esac
        done
      '';

  kernel =
    pin:
    let
      source = lib.findFirst (
        source: source.arch or "x86_64" == "x86_64"
      ) (throw "kernel ${pin.name} has no source for x86_64") pin.source;
    in
    from.${source.kind} pin source;

  # A dot separates attributes on Nix's command line: `5.4` is `5_4` among the flake's outputs.
  all = map (
    pin: pin // { output = builtins.replaceStrings [ "." ] [ "_" ] pin.name; }
  ) (lib.importTOML ../vm/kernels/kernels.toml).kernel;
in
{
  # Those that are used without being asked for by name.
  pins = builtins.filter (pin: !pin.extra or false) all;

  # All of them, by the names of outputs.
  each = builtins.listToAttrs (map (pin: lib.nameValuePair pin.output (kernel pin)) all);

  # The kernels of `pins` in one directory, under their names: what the harness finds through $VMTEST_NIX_KERNELS.
  directory =
    pins:
    linkFarm "vmtest-kernels" (
      builtins.listToAttrs (map (pin: lib.nameValuePair pin.name (kernel pin)) pins)
    );
}
