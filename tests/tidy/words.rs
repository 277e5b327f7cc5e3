//! Words that have no place in the tree: unfinished work, tests that do not run, and the machine on
//! which somebody wrote it.

use crate::report;
use crate::source::{code, files, rust_files};

#[test]
fn nothing_is_left_unfinished() {
    // Split, so that this file does not find itself.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
    let mut findings = Vec::new();
    for (path, text) in texts() {
        for (number, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| crate::source::has_word(line, word).is_some()) {
                findings.push(format!("{path}:{} says {word}", number + 1));
            }
        }
    }
    report("unfinished work", &findings);
}

#[test]
fn every_test_runs_and_can_fail() {
    let mut findings = Vec::new();
    for (path, text) in rust_files() {
        let code = code(&text);
        for (number, line) in code.lines().enumerate() {
            for sign in [concat!("#[ig", "nore"), concat!("should_", "panic"), "assert!(true)"] {
                if line.contains(sign) {
                    findings.push(format!("{path}:{} has {sign}", number + 1));
                }
            }
        }
    }
    report("tests that do not run or cannot fail", &findings);
}

#[test]
fn the_tree_names_no_machine_of_ours() {
    // Split, so that this file does not find itself.
    let places = [
        concat!("/wo", "rk/main"),
        concat!("/wo", "rk/shared"),
        concat!("/wo", "rk/notes"),
        concat!("/ro", "ot/.cargo"),
        concat!("/ho", "me/"),
        concat!("../sh", "ared"),
        concat!("registry.", "npmjs"),
        concat!("static.", "crates"),
        concat!("index.", "crates"),
        concat!("deb.", "debian.org"),
        concat!("pypi.", "org"),
        concat!("cdn-fast", "ly"),
    ];
    let mut findings = Vec::new();
    for (path, text) in texts() {
        for place in places.iter().filter(|place| text.contains(**place)) {
            findings.push(format!("{path} names {place}"));
        }
    }
    report("names of machines", &findings);
}

#[test]
fn lines_of_text_end_cleanly() {
    let mut findings = Vec::new();
    for (path, text) in texts() {
        let markdown = path.ends_with(".md");
        for (number, line) in text.lines().enumerate() {
            if (line.ends_with([' ', '\t']) && !markdown) || line.ends_with('\r') {
                findings.push(format!("{path}:{} ends in white space", number + 1));
            }
            if path.ends_with(".rs") && line.chars().count() > 100 && !line.contains("://") {
                findings.push(format!("{path}:{} is longer than 100 columns", number + 1));
            }
        }
        if !text.is_empty() && !text.ends_with('\n') {
            findings.push(format!("{path} does not end its last line"));
        }
    }
    report("lines", &findings);
}

/// Text files that people write: no lock files, no captured data.
fn texts() -> Vec<(String, String)> {
    files()
        .into_iter()
        .filter(|path| {
            let name = path.rsplit('/').next().unwrap_or(path);
            !["Cargo.lock", "package-lock.json", "LICENSE"].contains(&name)
                && !path.contains("/testdata/")
                && !path.contains("/golden/")
        })
        .filter_map(|path| {
            let text = std::fs::read_to_string(crate::root().join(&path)).ok()?;
            Some((path, text))
        })
        .collect()
}
