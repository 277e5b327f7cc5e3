//! Coordination among gateways: who is there. A pure half decides ([`liveness`]), a task carries
//! its effects out ([`watching`]).
//!
//! ```text
//! a member ── heartbeat ──> voter ── acknowledgement (its tip) ──> the member
//!                             │ silent for `offline_after`
//!                             v
//!   the voter in turn asks the others: each keeps what it signs, then signs ──> `Offline`
//!   the member hears *signed*, or sees it on the record ──> `Online`, the next liveness epoch
//! ```
//!
//! A heartbeat never makes a block.

mod beat;
pub mod liveness;
mod watching;

pub use beat::{Beat, fuzz};
pub use watching::{Gone, Handle, Parts, Seen, start};
