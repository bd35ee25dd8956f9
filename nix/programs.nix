# What people run: the tracer, and the harness for projects of their own.
{
  cargo-job,
  lib,
  makeWrapper,
  vm-host,
  ...
}:
let
  inherit (lib.importTOML ../Cargo.toml) workspace;
  package = workspace.metadata.kernels.program;
in
{
  # One static executable: the one that the harness puts into guests, built by the harness.
  tracer = cargo-job {
    name = "${package}-${workspace.package.version}";
    command = ''
      program=$(cargo xtask build)
      if readelf --program-headers "$program" | grep --quiet INTERP; then
        echo "$program is not static" >&2
        exit 1
      fi
      install -D "$program" $out/bin/${package}
      $out/bin/${package} --version
    '';
    meta.mainProgram = package;
  };

  # Cargo and a compiler are the user's own; what boots kernels comes last in its path.
  cargo-kernels = cargo-job {
    name = "cargo-kernels-${workspace.package.version}";
    tools = [ makeWrapper ];
    command = ''
      cargo build --release --package cargo-kernels
      install -D --target-directory $out/bin target/release/cargo-kernels
      wrapProgram $out/bin/cargo-kernels --suffix PATH : ${lib.makeBinPath vm-host.tools}
    '';
    meta.mainProgram = "cargo-kernels";
  };
}
