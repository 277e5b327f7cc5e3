//! What the compiler does not check: who may know whom, what must be absent, how long things may
//! grow, and that papers and tree agree. Reads the work tree; builds and runs nothing but
//! `cargo metadata`.

mod absences;
mod directions;
mod layout;
mod lengths;
mod packaging;
mod source;
mod words;

use std::path::{Path, PathBuf};

/// The top of the work tree.
fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the package `tests` lies below the top").to_path_buf()
}

/// Text of a file given by its path from the top.
fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

/// Fails with all findings at once, one a line, so that one run shows the whole work.
fn report(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}
