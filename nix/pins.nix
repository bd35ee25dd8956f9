# The pins that are run unasked, of vm/kernels/kernels.toml, each with the name that it has among the flake's outputs:
# `5.4` is `5_4` there, since a dot separates attributes on Nix's command line.
map (pin: pin // { output = builtins.replaceStrings [ "." ] [ "_" ] pin.name; }) (
  builtins.filter (pin: !(pin.extra or false))
    (builtins.fromTOML (builtins.readFile ../vm/kernels/kernels.toml)).kernel
)
