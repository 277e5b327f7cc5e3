//! The kernel's log of the files that it opened (Integrity Measurement Architecture).

mod reason;

pub use reason::ImaReason;
