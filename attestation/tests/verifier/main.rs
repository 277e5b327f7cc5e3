//! The verifier on stored vectors and on certificates made here: no TPM, no TPM library.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../vectors.rs"]
mod vectors;

use std::path::Path;

use vectors::{SETS, Vectors};

fn testdata() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata"))
}

#[test]
fn stored_vectors_are_accepted() {
    for (set, kind) in SETS {
        Vectors::read(testdata(), set).check(kind);
    }
}
