//! Every link to a file leads to one, and every link to a heading leads to one.

use crate::markdown::{Page, pages, workspace};

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let mut followed = 0;
    let mut broken = Vec::new();
    for page in &pages {
        for (line, text) in page.prose() {
            for target in targets(&text).filter(|target| !target.contains("://")) {
                followed += 1;
                if let Err(why) = follow(page, target) {
                    broken.push(format!("{}:{line}: {target}: {why}", page.name));
                }
            }
        }
    }
    assert!(followed > 20, "only {followed} links were found");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// `[text](target)`, and `[name]: target` at the beginning of a line.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    let definition = text.strip_prefix('[').and_then(|text| text.split_once("]: "));
    let inline = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    inline.chain(definition.map(|(_, target)| target.trim()))
}

fn follow(page: &Page, target: &str) -> Result<(), String> {
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    if file.is_empty() {
        return find_heading(page, anchor);
    }
    let path = page.dir.join(file).canonicalize().map_err(|error| error.to_string())?;
    let name = path.strip_prefix(workspace().canonicalize().unwrap());
    let name = name.map_err(|_| "outside of the repository".to_owned())?;
    match anchor {
        "" => Ok(()),
        _ => find_heading(&Page::read(name.to_str().unwrap()), anchor),
    }
}

fn find_heading(page: &Page, anchor: &str) -> Result<(), String> {
    let anchors = page.anchors();
    if anchors.iter().any(|known| known == anchor) {
        return Ok(());
    }
    Err(format!("{} has only the headings {}", page.name, anchors.join(", ")))
}

#[test]
fn links_are_found_and_a_broken_one_is_told() {
    let found: Vec<&str> = targets("See [a](b.md) and [](#c).").collect();
    assert_eq!(found, ["b.md", "#c"]);
    assert_eq!(targets("[x]: https://e.org").collect::<Vec<_>>(), ["https://e.org"]);
    let readme = Page::read("README.md");
    assert!(follow(&readme, "docs/nothing.md").is_err());
    assert!(follow(&readme, "docs/architecture.md#nothing").is_err());
    assert!(follow(&readme, "../").is_err());
}
