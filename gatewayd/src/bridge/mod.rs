//! The bridge: a machine without a hardware TPM that lends its serial ports and its packet
//! forwarders to one member of the site. It keeps no record, has no vote and vouches for nothing.
//!
//! ```text
//! on the bridge                                       on the member
//! forwarders ─UDP─> lender ══ Radio ═══════════════> bridges ──> LoRaWAN task
//! ports ─────link─> lender ══ FromBridge ══════════> bridges ──> Link::remote ──> port task
//!                          <═ FromMember ═══════════
//! ```
//!
//! The member verifies every frame, holds the sessions and records: what comes over a bridge is
//! treated as what comes over a cable. [`frame`], [`lending`], [`serving`] and [`forwarders`] are
//! pure; [`lender`] (with `serve` and `radio`) and
//! [`bridges`] do the work.

pub mod bridges;
pub mod forwarders;
pub mod frame;
pub mod lender;
pub mod lending;
pub mod list;
pub mod order;
mod radio;
mod serve;
pub mod serving;

pub use bridges::{Asks, Downlink, Handle, Uplink, channel, start};
pub use frame::fuzz;
pub use list::{Bridge, List, MAX_BRIDGES};
pub use order::{Found, Order};
