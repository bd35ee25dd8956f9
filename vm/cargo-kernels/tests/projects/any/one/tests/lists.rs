//! A harness that lists its tests, and prints no summary.

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |arg: &str| args.iter().any(|it| it == arg);
    if has("--list") {
        if !has("--ignored") {
            println!("good: test\nbad: test");
        }
        return;
    }
    assert!(has("--exact") && (has("good") || has("bad")), "{args:?}");
    std::process::exit(i32::from(has("bad")));
}
