# nixpkgs' `lib`: only functions that it has, doing what they do there.
rec {
  importTOML = path: builtins.fromTOML (builtins.readFile path);
  findFirst =
    wanted: default: list:
    builtins.head (builtins.filter wanted list ++ [ default ]);
  genAttrs = names: value: builtins.listToAttrs (map (name: nameValuePair name (value name)) names);
  mapAttrsToList = value: set: builtins.attrValues (builtins.mapAttrs value set);
  mapAttrs' = pair: set: builtins.listToAttrs (mapAttrsToList pair set);
  nameValuePair = name: value: { inherit name value; };
  optionalAttrs = condition: set: if condition then set else { };
  optionals = condition: list: if condition then list else [ ];
  strings.sanitizeDerivationName = builtins.replaceStrings [ "~" ] [ "-" ];
  getDev = package: package.dev or package.out;
  getLib = package: package.lib or package.out;
  makeBinPath = packages: builtins.concatStringsSep ":" (map (package: "${package}/bin") packages);
}
