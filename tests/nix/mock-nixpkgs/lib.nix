# nixpkgs' `lib`: only functions that it has, taking what they take there.
let
  startsWith = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
in
rec {
  importTOML = path: builtins.fromTOML (builtins.readFile path);
  findFirst =
    wanted: default: list:
    builtins.head (builtins.filter wanted list ++ [ default ]);
  genAttrs =
    names: value: builtins.listToAttrs (map (name: nameValuePair name (value name)) names);
  mapAttrs' =
    pair: set:
    builtins.listToAttrs (builtins.attrValues (builtins.mapAttrs (name: value: pair name value) set));
  nameValuePair = name: value: { inherit name value; };
  optionalAttrs = condition: set: if condition then set else { };
  optionals = condition: list: if condition then list else [ ];
  strings.sanitizeDerivationName = builtins.replaceStrings [ "~" ] [ "-" ];

  getDev = package: package.dev or package.out;
  getLib = package: package.lib or package.out;
  makeBinPath = packages: builtins.concatStringsSep ":" (map (package: "${package}/bin") packages);
  licenses.gpl2Only.spdxId = "GPL-2.0-only";

  # A file set is a path, which like with nixpkgs must exist, or a function that says of a path whether it is in.
  fileset =
    let
      has =
        set:
        if builtins.isFunction set then
          set
        else if builtins.pathExists set then
          path: startsWith "${toString set}/" "${path}/"
        else
          throw "lib.fileset: ${toString set} does not exist";
    in
    {
      unions = sets: path: builtins.any (set: has set path) sets;
      difference =
        set: without: path:
        has set path && !has without path;
      toSource =
        { root, fileset }:
        builtins.path {
          name = "source";
          path = root;
          filter = path: type: type == "directory" || has fileset path;
        };
    };
}
