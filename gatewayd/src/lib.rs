//! The gateway service: composition, roles, D-Bus and the command line tool.
//!
//! `run.rs` is the map of the running program. Leaves (`ledger`, `drivers`, `attestation`) do not
//! know each other; this crate is the only one that knows two of them.

pub mod control;
