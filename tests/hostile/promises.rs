//! The page of promises (docs/security.md) names tests that exist.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every file of Rust below a folder of the workspace.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// What stands in backticks in a text.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_that_the_security_page_names_exists() {
    let root = root();
    let page = std::fs::read_to_string(root.join("docs/security.md")).unwrap();
    let mut files = Vec::new();
    ["crates", "tests", "fuzz"].iter().for_each(|folder| sources(&root.join(folder), &mut files));
    let all: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let promises = page.split("## Promises").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut named = 0;
    for row in promises.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"))
    {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        if cells[0].trim() == "promise" {
            continue;
        }
        let held_by = cells.last().unwrap();
        let mut holds = 0;
        for name in quoted(held_by) {
            holds += 1;
            let is_there = if name.contains('/') {
                root.join(name).is_file() || root.join("crates").join(name).is_file()
            } else {
                all.contains(&format!("fn {name}("))
            };
            assert!(
                is_there,
                "docs/security.md names {name}, which is not there, for:{}",
                cells[0]
            );
        }
        let by_another_row = held_by.contains("the same");
        assert!(holds > 0 || by_another_row, "docs/security.md names no test for:{}", cells[0]);
        named += holds;
    }
    assert!(named > 60, "only {named} tests are named: the page is read wrongly");
}
