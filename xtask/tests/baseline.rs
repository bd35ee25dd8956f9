//! What the kernels' verifiers say of the tracer, against what they said when bpf/baseline.json was made:
//! `cargo xtask load $(cargo xtask build) -k 5.10,6.1,6.12,6.18,7.3 --save bpf/baseline.json`.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

#[test]
#[ignore = "restores VMs: `cargo xtask test` runs it"]
fn the_tracer_loads_as_it_did() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let xtask = |args: &[&str]| {
        let mut xtask = Command::new(env!("CARGO_BIN_EXE_xtask"));
        xtask.current_dir(workspace).args(args).output().unwrap()
    };
    let built = xtask(&["build"]);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let program = String::from_utf8(built.stdout).unwrap();
    let kernels = ["-k", "5.10,6.1,6.12,6.18,7.3", "--baseline", "bpf/baseline.json"];
    let output = xtask(&[&["load", program.trim()][..], &kernels].concat());
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}
