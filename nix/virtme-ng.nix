# virtme-ng, which boots the kernels. That of nixpkgs comes without its init for guests.
{
  fetchPypi,
  guest-tools,
  lib,
  python3Packages,
  ...
}:
python3Packages.buildPythonApplication rec {
  pname = "virtme-ng";
  version = "1.42";
  pyproject = true;

  # It brings its init for guests with it, as a static executable for x86_64.
  src = fetchPypi {
    pname = "virtme_ng";
    inherit version;
    hash = "sha256-QMTLmuNBvd9a7I+/O/Lq9o9pp8XSKMCUvhPew8NBM2U=";
  };

  # Shell completions, to be installed into /usr.
  postPatch = ''
    substituteInPlace setup.py --replace-fail 'data_files=data_files,' ""
  '';

  build-system = with python3Packages; [
    argparse-manpage
    setuptools
  ];
  dependencies = with python3Packages; [
    argcomplete
    requests
  ];

  makeWrapperArgs = [
    "--suffix"
    "PATH"
    ":"
    (lib.makeBinPath guest-tools)
  ];

  # Guests run these as they are.
  dontPatchShebangs = true;
  pythonImportsCheck = [ "virtme_ng" ];
  postInstallCheck = ''
    test -x $out/${python3Packages.python.sitePackages}/virtme/guest/bin/virtme-ng-init
    $out/bin/vng --version
  '';

  meta.mainProgram = "vng";
}
