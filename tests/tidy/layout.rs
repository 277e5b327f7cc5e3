//! The top of the tree is as drawn, and the README speaks of files that exist.

use std::collections::BTreeSet;
use std::fs;

use crate::{read, report, root};

/// The top level; dotfiles are tool settings.
const TOP: [&str; 16] = [
    ".ci",
    ".clippy.toml",
    ".deny.toml",
    ".git",
    ".gitignore",
    ".rustfmt.toml",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "attestation",
    "drivers",
    "gatewayd",
    "packaging",
    "target",
    "tests",
];

#[test]
fn the_top_level_is_as_drawn() {
    let there: BTreeSet<String> = fs::read_dir(root())
        .expect("the tree can be read")
        .map(|entry| entry.expect("the tree can be read").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let mut findings: Vec<String> = there
        .iter()
        .filter(|name| !TOP.contains(&name.as_str()))
        .map(|name| format!("{name} is not in the drawing"))
        .collect();
    let optional = [".git", "target"];
    findings.extend(
        TOP.iter()
            .filter(|name| !there.contains(**name) && !optional.contains(*name))
            .map(|name| format!("{name} is missing")),
    );
    report("top level", &findings);
}

#[test]
fn the_readme_names_files_that_exist() {
    let readme = read("README.md");
    let mut findings = Vec::new();
    let mut named = 0;
    for quoted in readme.split('`').skip(1).step_by(2) {
        let Some(path) = quoted.split_whitespace().next() else { continue };
        let top = path.split('/').next().unwrap_or_default();
        if !path.contains('/') || top == "target" || !TOP.contains(&top) || path.contains('*') {
            continue;
        }
        named += 1;
        if !root().join(path).exists() {
            findings.push(format!("README.md names {path}, which does not exist"));
        }
    }
    assert!(named >= 10, "the README's map of the tree names only {named} files");
    report("README", &findings);
}

#[test]
fn the_readme_has_its_sections() {
    let readme = read("README.md");
    let sections = [
        "## Two commands",
        "## Install",
        "## Pair a sensor",
        "## Operate",
        "## Verify a reading",
        "## Architecture",
        "## Security",
        "## Measured",
    ];
    let findings: Vec<String> = sections
        .iter()
        .filter(|section| !readme.lines().any(|line| line.starts_with(*section)))
        .map(|section| format!("no section {section:?}"))
        .collect();
    report("README", &findings);
}
