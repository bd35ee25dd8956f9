//! A program that is as good as any for collecting facts: it says that it is ready, and waits to be ended.

fn main() {
    println!("ready to misbehave");
    loop {
        std::thread::park();
    }
}
