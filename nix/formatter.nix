# `nix fmt`: formats Rust and Nix alike.
{
  cargo,
  nixfmt-rfc-style,
  rustfmt,
  writeShellApplication,
  ...
}:
writeShellApplication {
  name = "fmt";
  runtimeInputs = [
    cargo
    nixfmt-rfc-style
    rustfmt
  ];
  text = ''
    cargo fmt --all
    find . -name '*.nix' -not -path './target/*' -exec nixfmt {} +
  '';
}
