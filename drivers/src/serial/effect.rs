//! What the serial sessions ask of their shell, and what they refuse.

use std::fmt;

use sensor::frame::{DeviceId, FrameError};

use super::line::LineError;
use crate::device::Identity;
use crate::reading::VerifiedReading;

/// One thing to do. The shell does them in order; [`Effect::Deliver`], [`Effect::Persist`] and
/// [`Effect::SessionOpened`] of a step become durable in one synced transaction before any
/// [`Effect::Write`] of that step that says `after_durable`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The first authenticated frame of a new session came (level 0: the first line of a new
    /// epoch): the ledger should open this epoch.
    SessionOpened {
        /// Whose session.
        identity: Identity,
        /// The new epoch.
        epoch: u32,
        /// SHA-256 of the session's public parameters.
        digest: [u8; 32],
    },
    /// A verified reading.
    Deliver(VerifiedReading),
    /// The session's state, to be sealed and stored in place of the last one.
    Persist {
        /// Whose record.
        identity: Identity,
        /// Opaque and secret; given back at the next start.
        record: Vec<u8>,
    },
    /// Bytes for the serial line, delimiters included.
    Write {
        /// What to write.
        bytes: Vec<u8>,
        /// Only after this step's readings and records are on the disk.
        after_durable: bool,
    },
    /// Something was not taken. Already counted; for the journal and for `monitor`.
    Refused(Refusal),
}

/// Why something from the wire was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not a frame at all.
    Frame(FrameError),
    /// A frame of a node that is not known on this port.
    UnknownDevice(DeviceId),
    /// A HELLO that was not made with the node's key.
    WrongKey(DeviceId),
    /// A frame of a session that is not the node's present one.
    UnknownSession(DeviceId),
    /// A sealed frame whose tag is wrong.
    BadTag(DeviceId),
    /// An authentic reading of a node that may not be recorded yet; the node sends it again.
    Held(DeviceId),
    /// A frame from the gateway's direction: a loop on the line, or our own echo.
    Echo(DeviceId),
    /// A counter that was used before.
    Replay {
        /// Whose frame.
        device: DeviceId,
        /// Its counter.
        counter: u64,
        /// Highest counter taken.
        highest: u64,
    },
    /// The last counter again, authentic, with another payload.
    Conflict {
        /// Whose frame.
        device: DeviceId,
        /// Its counter.
        counter: u64,
    },
    /// A counter further ahead than [`super::session::MAX_JUMP`].
    Jump {
        /// Whose frame.
        device: DeviceId,
        /// Its counter.
        counter: u64,
        /// Highest counter taken.
        highest: u64,
    },
    /// A line of a line source.
    Line(LineError),
}

impl Refusal {
    /// Stable name for counters and logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Frame(FrameError::Oversize) => "oversize",
            Self::Frame(FrameError::Cobs) => "not-cobs",
            Self::Frame(FrameError::Truncated) => "truncated",
            Self::Frame(FrameError::TooLong) => "too-long",
            Self::Frame(FrameError::Version) => "unknown-version",
            Self::Frame(FrameError::UnknownType) => "unknown-type",
            Self::UnknownDevice(_) => "unknown-device",
            Self::WrongKey(_) => "wrong-key",
            Self::UnknownSession(_) => "unknown-session",
            Self::BadTag(_) => "bad-tag",
            Self::Held(_) => "held",
            Self::Echo(_) => "echo",
            Self::Replay { .. } => "replay",
            Self::Conflict { .. } => "conflict",
            Self::Jump { .. } => "jump",
            Self::Line(error) => error.name(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => write!(f, "{error}"),
            Self::UnknownDevice(device) => write!(f, "device {device} is not known on this port"),
            Self::WrongKey(device) => write!(f, "device {device} called with another key"),
            Self::UnknownSession(device) => {
                write!(f, "device {device} sent in a session that is not open")
            }
            Self::BadTag(device) => write!(f, "frame of device {device} is not authentic"),
            Self::Held(device) => write!(f, "device {device} is not registered yet"),
            Self::Echo(device) => {
                write!(f, "a gateway's own frame for device {device} came back from the line")
            }
            Self::Replay { device, counter, highest } => {
                write!(f, "device {device} repeated counter {counter}; {highest} is taken")
            }
            Self::Conflict { device, counter } => {
                write!(f, "device {device} sent another payload under counter {counter}")
            }
            Self::Jump { device, counter, highest } => {
                write!(f, "device {device} jumped from counter {highest} to {counter}")
            }
            Self::Line(error) => write!(f, "{error}"),
        }
    }
}

/// Counts since start, for `status` and metrics; each saturates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Readings delivered.
    pub readings: u64,
    /// Readings among them whose payload was to be SenML and was not; kept as bytes.
    pub not_senml: u64,
    /// Frames that were acknowledged again.
    pub repeated: u64,
    /// Handshakes that led to a session.
    pub sessions: u64,
    refusals: Vec<(&'static str, u64)>,
}

impl Counts {
    /// Refusals by [`Refusal::name`], in the order of first occurrence.
    #[must_use]
    pub fn refusals(&self) -> &[(&'static str, u64)] {
        &self.refusals
    }

    /// How often this refusal was counted.
    #[must_use]
    pub fn refused(&self, name: &str) -> u64 {
        self.refusals.iter().find(|(known, _)| *known == name).map_or(0, |(_, count)| *count)
    }

    /// The names are a fixed set, so the list stays short.
    pub(crate) fn refuse(&mut self, name: &'static str) {
        match self.refusals.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => self.refusals.push((name, 1)),
        }
    }
}
