//! What the documentation says of this program is what the program says of itself.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use assert_cmd::Command;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn help_after(arguments: &str) -> String {
    let mut command = Command::cargo_bin("helloworld").unwrap();
    let output = command.args(arguments.split_whitespace()).arg("--help").output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_walkthrough_shows_the_source_as_it_is() {
    let source = format!("\n```c\n{}```\n", read("bpf/helloworld.bpf.c"));
    assert!(read("docs/walkthrough.md").contains(&source));
}

#[test]
fn the_table_of_exit_codes_is_that_of_the_help() {
    let page = read("docs/troubleshooting.md");
    let (_, section) = page.split_once("\n## The tracer itself\n").unwrap();
    let table = section.lines().skip_while(|line| !line.starts_with("| exit code |")).skip(2);
    let documented: Vec<String> = table
        .take_while(|line| line.starts_with('|'))
        .map(|row| row.split('|').map(str::trim).collect::<Vec<_>>())
        .map(|cells| format!("{:>4}  {}", cells[1], cells[2]))
        .collect();
    assert!(documented.len() > 10, "{documented:?}");
    assert!(help_after("").trim_end().ends_with(&documented.join("\n")));
}

/// An option in front of `--help` is checked, too.
#[test]
fn every_command_line_is_accepted() {
    let mut found = 0;
    for name in ["README.md", "docs/walkthrough.md", "docs/troubleshooting.md"] {
        let page = read(name);
        for line in page.lines() {
            for start in ["cargo xtask run -- ", "`helloworld "] {
                for rest in line.split(start).skip(1) {
                    help_after(rest.split(['`', '#']).next().unwrap());
                    found += 1;
                }
            }
        }
    }
    assert!(found > 3, "only {found} command lines were found");
}
