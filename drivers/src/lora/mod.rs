//! LoRa: an embedded LoRaWAN 1.0.4 network server (Class A, EU868) for the site's own devices.
//!
//! ```text
//! UDP ─link─> datagram ─gwmp─> rxpk ─frame─> MIC, FCnt ─session─> VerifiedReading
//!                          txpk <─downlink─ RX1/RX2, duty cycle <─ acknowledgement, JoinAccept
//! ```
//!
//! [`link`] is the only I/O. Everything else is pure: [`server::Server::step`] takes the time and
//! an input and gives effects. Not here, on purpose: Class B and C, LoRaWAN 1.1, roaming, ADR.

pub(crate) mod base64;
mod dedup;
mod downlink;
mod duty;
pub mod effect;
pub mod frame;
pub mod gwmp;
pub mod ids;
pub mod join;
pub mod link;
pub mod mac;
pub mod pairing;
pub mod record;
pub mod region;
mod registry;
pub mod server;
mod session;
#[cfg(test)]
mod testing;
