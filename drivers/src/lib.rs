//! Sensors on serial, BLE and LoRa: bytes to verified readings.
//!
//! Each driver has the same stops, in the order of the data: `link` (the only I/O), `frame` (bytes
//! to a typed frame), `session` (keys, counters, verification: `step(now, input) -> effects`) and
//! `pairing`. Out come [`reading::VerifiedReading`]s whose payload is a SenML pack.
//!
//! This crate must not know the ledger, attestation or the daemon.

pub mod codec;
pub mod device;
mod json;
pub mod lora;
pub mod reading;
pub mod senml;
pub mod serial;
