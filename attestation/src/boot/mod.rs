//! Judging a boot: the event log must explain the quoted registers, and the events must be those
//! of the reference values.

mod reason;

pub use reason::{BootReason, EventSummary};
