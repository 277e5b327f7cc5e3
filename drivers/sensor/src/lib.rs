//! What a firmware author links to send readings to a gateway over a serial line.
//!
//! The wire is written down in `drivers/PROTOCOL.md`; this crate is one implementation of it, of
//! both sides' common part and of the sensor's side:
//!
//! ```text
//! reading ─> node::Node ─keys::SessionKeys::seal─> frame ─COBS─> UART ─> gateway
//!            (step)     <─────────── acknowledgement <─── frame::Framer <─
//! ```
//!
//! No allocation, no clock, no randomness, no I/O: time and nonces are arguments, bytes to send
//! are results. Every buffer has a fixed size; [`node::Node`] is below 1 KiB.
#![no_std]

pub mod frame;
pub mod keys;
pub mod node;
