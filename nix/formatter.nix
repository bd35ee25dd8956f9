# `nix fmt`: formats Rust and Nix alike.
{
  cargo,
  nixfmt,
  rustfmt,
  writeShellApplication,
  ...
}:
writeShellApplication {
  name = "fmt";
  runtimeInputs = [
    cargo
    nixfmt
    rustfmt
  ];
  text = ''
    cargo fmt --all
    find . -name '*.nix' -not -path './target/*' -exec nixfmt {} +
  '';
}
