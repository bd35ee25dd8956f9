# The pinned kernels: each a directory with `bzImage`, `lib/modules/<release>` where it has modules, and `config`
# where it is known. Of a pin's sources the first for x86_64 is the one that counts here.
{
  bison,
  dpkg,
  fetchurl,
  flex,
  kmod,
  lib,
  linkFarm,
  linuxManualConfig,
  pins,
  runCommand,
  runCommandCC,
  zstd,
  ...
}:
let
  from = {
    # The tarball and the options that vm-kernels builds, with nixpkgs' way of building a kernel.
    source =
      pin: source:
      let
        src = fetch source [ source.url ];
        configfile =
          runCommandCC "config-${pin.name}"
            {
              nativeBuildInputs = [
                bison
                flex
              ];
            }
            ''
              tar --extract --file ${src}
              options=${../vm/kernels/config/x86_64.config}
              make --directory linux* ARCH=x86_64 KCONFIG_ALLCONFIG=$options allnoconfig
              cp linux*/.config $out
            '';
        kernel = linuxManualConfig {
          inherit src configfile;
          version = pin.release;
          modDirVersion = pin.release;
          # Nothing in it is a module.
          config = { };
          allowImportFromDerivation = false;
        };
      in
      runCommand "kernel-${pin.name}" { } ''
        mkdir -p $out
        ln -s ${kernel}/bzImage $out/
        ln -s ${configfile} $out/config
      '';

    debian = pin: source: unpack pin (map (file: fetch file (debianAddresses file)) source.files);

    url = pin: source: unpack pin [ (fetch source [ source.url ]) ];

    file = pin: source: unpack pin [ (../. + "/${source.path}") ];
  };

  # nixpkgs knows mirrors by the distribution's name. What they no longer have, the archive does, by its hash.
  debianAddresses = file: [
    "mirror://debian/${file.path}"
    "https://snapshot.debian.org/file/${file.sha1 or file.sha256}"
  ];

  fetch =
    file: urls:
    fetchurl (
      {
        name = lib.strings.sanitizeDerivationName (baseNameOf (lib.head urls));
        inherit urls;
      }
      // (if file ? sha256 then { inherit (file) sha256; } else { inherit (file) sha1; })
    );

  unpack =
    pin: files:
    runCommand "kernel-${pin.name}" {
      nativeBuildInputs = [
        dpkg
        kmod
        zstd
      ];
    } "bash ${./unpack-kernel.sh} $out ${lib.escapeShellArgs files}";

  kernel =
    pin:
    let
      source = lib.findFirst (
        source: source.arch or "x86_64" == "x86_64"
      ) (throw "kernel ${pin.name} has no source for x86_64") pin.source;
    in
    from.${source.kind} pin source;
in
{
  # By the names of outputs.
  each = lib.listToAttrs (map (pin: lib.nameValuePair pin.output (kernel pin)) pins);

  # The kernels of `pins` in one directory, under their names: what xtask finds through $VMTEST_NIX_KERNELS.
  directory =
    pins:
    linkFarm "vmtest-kernels" (
      map (pin: {
        inherit (pin) name;
        path = kernel pin;
      }) pins
    );
}
