//! The measurement logs of this machine, which only root may read: how the daemon asks the root
//! helper `gatewayd-logs` for them.
//!
//! ```text
//!   gatewayd ── Request (9 bytes) ──> /run/gatewayd-logs.socket ──> gatewayd-logs (root)
//!            <── status ‖ length ‖ bytes ──                          reads one of two files
//! ```
//!
//! One connection, one request, one answer. The helper can do nothing else, and answers nobody but
//! root and the user of the daemon.

pub mod helper;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use attestation::logs::{MAX_EVENT_LOG_LEN, MAX_IMA_LEN};

/// Where the helper listens.
pub const SOCKET: &str = "/run/gatewayd-logs.socket";

/// How long either side waits for the other. Kernels list a long IMA log in about a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// What may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// The firmware's event log.
    EventLog,
    /// The kernel's IMA log from a byte on; empty when it is not that long.
    Ima {
        /// The first byte.
        from: u64,
    },
}

impl Request {
    /// Length on the wire, bytes.
    const LEN: usize = 9;

    fn to_bytes(self) -> [u8; Self::LEN] {
        let (kind, from) = match self {
            Self::EventLog => (1, 0),
            Self::Ima { from } => (2, from),
        };
        let mut bytes = [kind; Self::LEN];
        bytes[1..].copy_from_slice(&from.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; Self::LEN]) -> Option<Self> {
        let [kind, from @ ..] = bytes;
        match (kind, u64::from_be_bytes(from)) {
            (1, 0) => Some(Self::EventLog),
            (2, from) => Some(Self::Ima { from }),
            _ => None,
        }
    }

    /// Which log it is, in words.
    pub fn what(self) -> &'static str {
        match self {
            Self::EventLog => "event log",
            Self::Ima { .. } => "IMA log",
        }
    }

    /// Longest answer, bytes.
    pub fn max_len(self) -> usize {
        match self {
            Self::EventLog => MAX_EVENT_LOG_LEN,
            Self::Ima { .. } => MAX_IMA_LEN,
        }
    }
}

/// First byte of an answer; the sentence of a failure follows in place of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Outcome {
    Log = 0,
    Missing = 1,
    Failed = 2,
}

/// Longest sentence of a failure, bytes.
const MAX_SENTENCE: usize = 1024;

/// Why the helper gave no log.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// Operator: nobody listens.
    #[error("the log helper does not answer ({error}); is gatewayd-logs.socket enabled?")]
    Unreachable {
        /// What the system says.
        error: io::Error,
    },
    /// The helper ended, or answers something else than this program understands.
    #[error("the log helper broke off ({error}); see journalctl -u gatewayd-logs")]
    Broken {
        /// What the system says.
        error: io::Error,
    },
    /// The machine has no such log.
    #[error("{0}")]
    Missing(String),
    /// The helper refused, or cannot read the log.
    #[error("{0}")]
    Failed(String),
}

/// Asks the helper at `socket` for a log. Blocks for some seconds at most.
///
/// # Errors
/// [`HelperError`].
pub fn fetch(socket: &Path, request: Request) -> Result<Vec<u8>, HelperError> {
    let stream = UnixStream::connect(socket)
        .and_then(|stream| limit(&stream).map(|()| stream))
        .map_err(|error| HelperError::Unreachable { error })?;
    exchange(stream, request).map_err(|error| HelperError::Broken { error })?
}

fn limit(stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

fn exchange(mut stream: UnixStream, request: Request) -> io::Result<Result<Vec<u8>, HelperError>> {
    stream.write_all(&request.to_bytes())?;
    let mut head = [0; 5];
    stream.read_exact(&mut head)?;
    let [outcome, len @ ..] = head;
    let len = u32::from_be_bytes(len) as usize;
    let max = if outcome == Outcome::Log as u8 { request.max_len() } else { MAX_SENTENCE };
    if len > max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
    }
    let mut bytes = Vec::new();
    stream.take(len as u64).read_to_end(&mut bytes)?;
    if bytes.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let sentence = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        text.chars().filter(|character| !character.is_control()).collect::<String>()
    };
    Ok(match outcome {
        0 => Ok(bytes),
        1 => Err(HelperError::Missing(sentence(&bytes))),
        _ => Err(HelperError::Failed(sentence(&bytes))),
    })
}

/// Fuzz target: a request as the helper reads it.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(bytes) = <[u8; Request::LEN]>::try_from(bytes)
        && let Some(request) = Request::from_bytes(bytes)
    {
        assert_eq!(request.to_bytes(), bytes, "a request has one form");
    }
}

#[cfg(test)]
mod tests;
