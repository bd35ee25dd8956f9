# A derivation that runs `command` in the Cargo workspace, with every dependency at hand. What is to be kept of it
# the command puts into $out.
{
  lib,
  rustPlatform,
  stdenv,
  toolchain,
  ...
}:
{
  name,
  command,
  tools ? [ ],
  variables ? { },
  meta ? { },
}:
stdenv.mkDerivation {
  inherit name meta;

  # Only what cargo and the harness read: a change in the documentation rebuilds nothing.
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../.cargo
      ../Cargo.lock
      ../Cargo.toml
      ../bpf
      ../build.rs
      ../src
      ../tests
      ../vm
      ../xtask
    ];
  };
  cargoDeps = rustPlatform.importCargoLock { lockFile = ../Cargo.lock; };

  nativeBuildInputs = [ rustPlatform.cargoSetupHook ] ++ toolchain.tools ++ tools;
  env = toolchain.variables // variables;

  buildPhase = ''
    runHook preBuild
    export HOME=$TMPDIR
    mkdir -p $out
    ${command}
    runHook postBuild
  '';
  dontInstall = true;
  # Neither reports nor cargo's own files want to be stripped or patched.
  dontFixup = true;
}
