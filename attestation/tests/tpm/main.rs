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
