//! docs/your-own-program.md, done exactly as it says.

use std::path::Path;
use std::process::Command;

/// What the page says is to be done, as a shell's script that is run in `root`, and how many steps it has. Fenced blocks of
/// `sh` are commands; a block of anything else is a file if the line before it, but for an empty one, is that file's name
/// in backticks and a colon.
fn script(page: &str, root: &Path) -> (String, usize) {
    let (mut script, mut steps) = (String::new(), 0);
    let mut lines = page.lines();
    let mut before = "";
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            let text = block.join("\n") + "\n";
            let name = before.strip_prefix('`').and_then(|name| name.strip_suffix("`:"));
            match (language, name) {
                ("sh", _) => script += &text,
                (_, Some(name)) => script += &format!("cat > {}/{name} << 'END'\n{text}END\n", root.display()),
                _ => continue,
            }
            steps += 1;
        } else if !line.is_empty() {
            before = line;
        }
    }
    (script, steps)
}

#[test]
#[ignore = "boots a VM: cargo xtask test runs it"]
fn the_page_leads_to_a_pass() {
    let dir = tempfile::tempdir().unwrap();
    let (script, steps) = script(include_str!("../../../../docs/your-own-program.md"), dir.path());
    assert_eq!(steps, 4, "{script}");
    let tool = Path::new(crate::TOOL).parent().unwrap();
    let path = format!("{}:{}", tool.display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &script]).current_dir(&dir).env("PATH", path).env_remove("CARGO_TARGET_DIR");
    let output = bash.output().unwrap();
    let said = crate::said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1/1") && said.contains("1 passed, 0 failed"), "{said}");
}
