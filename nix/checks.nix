# What `nix flake check` builds. Each is a derivation of its own, so that a farm of builders shares them out.
{
  bashInteractive,
  cargo,
  cargo-job,
  deadnix,
  kernels,
  lib,
  nixfmt,
  runCommand,
  rustfmt,
  util-linux,
  vm-host,
  ...
}:
let
  perPin =
    check: builtins.listToAttrs (map (pin: lib.nameValuePair pin.output (check pin)) kernels.pins);

  # The harness and what it puts into guests, compiled once for all pins.
  built = cargo-job {
    name = "vmtest-built";
    inherit (vm-host) tools;
    command = ''
      cargo xtask vmtest --list
      cp --archive target $out/
    '';
  };

  # The same agent and tests as everywhere, on one kernel. A failed build would leave nothing, so this one never fails:
  # it gives the report and, in `status`, the harness's exit code. It asks for no machine with KVM: where a builder
  # offers it to sandboxes the harness finds out by trying, and elsewhere emulates.
  reports = perPin (
    pin:
    cargo-job {
      name = "report-${pin.name}";
      inherit (vm-host) tools;
      variables = vm-host.variables [ pin ];
      command = ''
        cp --archive ${built}/target .
        chmod --recursive u+w target
        status=0
        cargo xtask vmtest --kernel ${pin.name} --report $out || status=$?
        echo $status > $out/status
      '';
    }
  );
in
{
  inherit reports;

  vm = perPin (
    pin:
    let
      report = reports.${pin.output};
    in
    runCommand "vm-${pin.name}" { } ''
      if [ "$(cat ${report}/status)" != 0 ]; then
        cat ${report}/summary.md >&2 || true
        echo "kernel ${pin.name}: exit code $(cat ${report}/status), the report is in ${report}" >&2
        exit 1
      fi
      ln -s ${report} $out
    ''
  );

  workspace = {
    formatting =
      runCommand "formatting"
        {
          nativeBuildInputs = [
            cargo
            deadnix
            nixfmt
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
      # For `complete` and `setsid`.
      tools = [
        bashInteractive
        util-linux
      ];
      command = "cargo test --workspace --lib --bins";
    };
  };
}
