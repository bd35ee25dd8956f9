# nixpkgs' `lib`: only functions that it has, taking what they take there.
let
  startsWith = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
in
rec {
  inherit (builtins) head listToAttrs;
  findFirst =
    wanted: default: list:
    let
      found = builtins.filter wanted list;
    in
    if found == [ ] then default else head found;
  genAttrs = names: value: listToAttrs (map (name: nameValuePair name (value name)) names);
  mapAttrs' =
    pair: set: listToAttrs (builtins.attrValues (builtins.mapAttrs (name: value: pair name value) set));
  nameValuePair = name: value: { inherit name value; };
  optionalAttrs = condition: set: if condition then set else { };
  optionals = condition: list: if condition then list else [ ];

  escapeShellArgs = list: builtins.concatStringsSep " " (map (word: "'${word}'") list);
  strings.sanitizeDerivationName = builtins.replaceStrings [ "~" ] [ "-" ];

  getDev = package: package.dev or package.out;
  getLib = package: package.lib or package.out;
  getExe = package: "${package}/bin/${package.meta.mainProgram}";
  makeBinPath = packages: builtins.concatStringsSep ":" (map (package: "${package}/bin") packages);

  licenses.gpl2Only.spdxId = "GPL-2.0-only";

  # A file set is a list of paths here. Like nixpkgs', it refuses a path that does not exist.
  fileset = {
    unions = map (
      path: if builtins.pathExists path then path else throw "lib.fileset.unions: no ${toString path}"
    );
    toSource =
      { root, fileset }:
      builtins.path {
        name = "source";
        path = root;
        filter =
          path: _:
          builtins.any (
            member: startsWith "${toString member}/" "${path}/" || startsWith "${path}/" "${toString member}/"
          ) fileset;
      };
  };
}
