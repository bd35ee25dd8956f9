# `nix run .#vmtest -- -k 5.4`: `cargo xtask vmtest` without a shell around it.
{
  gnumake,
  pins,
  stdenv,
  toolchain,
  vm-host,
  writeShellApplication,
  ...
}:
writeShellApplication {
  name = "vmtest";
  runtimeInputs = [
    gnumake
    stdenv.cc
  ]
  ++ toolchain.tools
  ++ vm-host.tools;
  runtimeEnv = toolchain.variables // vm-host.variables pins;
  text = ''
    if ! [ -f xtask/Cargo.toml ]; then
      echo "vmtest: run this in the root of a checkout" >&2
      exit 2
    fi
    exec cargo xtask vmtest "$@"
  '';
}
