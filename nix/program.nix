# The program as one static executable: the one that the harness puts into guests, built by the harness.
{ cargo-job, ... }:
let
  manifest = builtins.fromTOML (builtins.readFile ../Cargo.toml);
  inherit (manifest.workspace.metadata.vmtest) package;
in
cargo-job {
  name = "${package}-${manifest.workspace.package.version}";
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
}
