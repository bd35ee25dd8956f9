# What `nix flake check` builds. Each is a derivation of its own, so that a farm of builders shares them out.
{
  cargo,
  cargo-job,
  deadnix,
  kernels,
  lib,
  nixfmt-rfc-style,
  pins,
  runCommand,
  rustfmt,
  vm-host,
  ...
}:
let
  manifest = builtins.fromTOML (builtins.readFile ../Cargo.toml);
  # What the guest and the program need of a kernel, and what booting through virtme-ng needs.
  kconfig = manifest.workspace.metadata.vmtest.kconfig ++ [ "vm/kconfig.cold" ];

  perPin = check: lib.listToAttrs (map (pin: lib.nameValuePair pin.output (check pin)) pins);

  # The harness and what it puts into guests, compiled once for all pins.
  built = cargo-job {
    name = "vmtest-built";
    inherit (vm-host) tools;
    command = ''
      cargo xtask vmtest --list
      cp --archive target $out/
    '';
  };
in
{
  workspace = {
    formatting =
      runCommand "formatting"
        {
          nativeBuildInputs = [
            cargo
            deadnix
            nixfmt-rfc-style
            rustfmt
          ];
        }
        ''
          cd ${../.}
          cargo fmt --all --check
          find . -name '*.nix' -exec nixfmt --check {} +
          deadnix --fail .
          touch $out
        '';

    clippy = cargo-job {
      name = "clippy";
      command = "cargo clippy --workspace --all-targets -- --deny warnings";
    };

    unit-tests = cargo-job {
      name = "unit-tests";
      command = "cargo test --workspace --lib --bins";
    };
  };

  # A kernel's configuration against what is needed of it. A bare image may have none beside it: then the boot decides.
  kconfig = perPin (
    pin:
    let
      config = "${kernels.each.${pin.output}}/config";
      lists = lib.escapeShellArgs (map (file: ../. + "/${file}") kconfig);
    in
    runCommand "kconfig-${pin.name}" { } ''
      if [ -e ${config} ]; then
        awk -f ${./kconfig.awk} ${config} ${lists} > report || (cat report && false)
      else
        echo "the configuration of ${pin.name} is not known" > report
      fi
      mv report $out
    ''
  );

  # The same agent and tests as everywhere, on one kernel. What comes out is the report. It asks for no machine with
  # KVM: where a builder offers it to sandboxes the harness finds out by trying, and elsewhere emulates.
  vm = perPin (
    pin:
    cargo-job {
      name = "vm-${pin.name}";
      inherit (vm-host) tools;
      variables = vm-host.variables [ pin ];
      command = ''
        cp --archive ${built}/target .
        chmod --recursive u+w target
        cargo xtask vmtest --kernel ${pin.name} --report $out
      '';
    }
  );
}
