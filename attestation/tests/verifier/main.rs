//! The verifier on stored vectors, on forged evidence and on certificates made here: no TPM and
//! no TPM library.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod activation;
mod authority;
mod distrust;
mod forge;
mod ima;
#[path = "../logs.rs"]
mod logs;
mod malformed;
mod measured;
mod path;
#[path = "../vectors.rs"]
mod vectors;
mod vendors;

use std::path::Path;

use vectors::{SETS, Vectors};

pub(crate) fn stored(set: &str) -> Vectors {
    Vectors::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata")), set)
}

#[test]
fn stored_vectors_are_accepted() {
    for (set, kind) in SETS {
        stored(set).check(kind);
    }
}

/// SHA-256, for the logs.
fn digest(bytes: &[u8]) -> [u8; 32] {
    use aws_lc_rs::digest::{SHA256, digest};
    digest(&SHA256, bytes).as_ref().try_into().expect("32 bytes")
}
