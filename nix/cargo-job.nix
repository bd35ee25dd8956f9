# A derivation that runs `command` in the Cargo workspace, with every dependency at hand. What is to be kept of it
# the command puts into $out.
{
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

  # Without the flake's own files, so that a change in one check does not repeat the others.
  src = builtins.path {
    name = "source";
    path = ../.;
    filter =
      path: _:
      !builtins.elem path (
        map toString [
          ../.github
          ../flake.lock
          ../flake.nix
          ../nix
          ../tests/nix
        ]
      );
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
