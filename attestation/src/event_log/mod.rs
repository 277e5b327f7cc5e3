//! The firmware's event log (TCG PC Client Platform Firmware Profile 1.05, section 10).

use crate::bytes::ParseError;

/// Why an event log cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventLogError {
    /// Longer than any that is looked at.
    #[error("{len} bytes are too many")]
    TooLong {
        /// Length in bytes.
        len: usize,
    },
    /// An event does not parse.
    #[error("event {index} (byte {offset}): {error}")]
    Event {
        /// Its number, from 0.
        index: usize,
        /// Where it begins.
        offset: usize,
        /// What is wrong.
        error: ParseError,
    },
}
