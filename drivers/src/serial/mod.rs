//! Sensors on serial lines: shared-key nodes (level 1) and line sources (level 0).
//!
//! ```text
//! link ──bytes──> port ──Frame──> session ──┬─> VerifiedReading     (shared-key nodes)
//!   <──── acknowledgement after durable ────┘
//! link ──bytes──> line ────────────────────────> VerifiedReading     (line sources)
//! ```
//!
//! Only [`link`] does I/O. The wire of shared-key nodes is in `drivers/PROTOCOL.md`; its frames
//! and keys are the crate `sensor`, which sensors use as well.

pub mod bench;
pub mod effect;
pub mod line;
pub mod link;
pub mod pairing;
pub mod port;
pub mod session;

/// The frames of shared-key nodes.
pub use sensor::frame;
