//! Lists nothing: the binary is one test.

fn main() {
    println!("a harness of its own");
}
