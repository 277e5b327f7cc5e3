//! The gateway service: composition, roles, D-Bus and the command line tool.
//!
//! `run.rs` is the map of the running program. Leaves (`ledger`, `drivers`, `attestation`) do not
//! know each other; this crate is the only one that knows two of them.

pub mod admission;
mod boot_seal;
pub mod bridge;
pub mod clock;
pub mod config;
pub mod control;
pub mod coordination;
pub mod ctl;
pub mod dbus;
pub mod identity;
pub mod ingest;
pub mod ledger_task;
pub mod logging;
pub mod measurement_logs;
pub mod operator_key;
mod os;
pub mod pairing;
pub mod peers;
pub mod presence;
pub mod run;
pub mod sensors;
pub mod site;
pub mod status;
pub mod store;
pub mod systemd;
mod upgrade;
pub mod vault;
pub mod vendors;
mod vote_keys;
