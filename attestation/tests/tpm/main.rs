//! The attester half and the whole chain, against a real software TPM (`swtpm`).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod golden;
mod keys;
#[path = "../logs.rs"]
mod logs;
mod measured;
mod robustness;
mod swtpm;
#[path = "../vectors.rs"]
mod vectors;

/// SHA-256, for the logs.
fn digest(bytes: &[u8]) -> [u8; 32] {
    use aws_lc_rs::digest::{SHA256, digest};
    digest(&SHA256, bytes).as_ref().try_into().expect("32 bytes")
}
