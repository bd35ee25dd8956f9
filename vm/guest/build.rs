//! Builds the agent, a static program for the guest, which this library carries inside itself.

#[path = "../guest_program.rs"]
mod guest_program;

fn main() {
    let agent = guest_program::build("agent", |cargo| {
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    });
    println!("cargo::rustc-env=AGENT={}", agent.display());
}
