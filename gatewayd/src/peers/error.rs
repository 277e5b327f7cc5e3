//! What callers of the transport are told.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why the transport cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The list of addresses cannot be read.
    #[error("{path}: {error}")]
    Addresses {
        /// File.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The TLS library refuses its settings.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// An address of the configuration is none.
    #[error("peers.addresses: {0}")]
    Address(#[from] AddressError),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Randomness,
    /// The identity key is no point of the curve.
    #[error("the identity key is not a P-256 public key")]
    Identity,
}

/// Why a frame is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no connection to that member now.
    #[error("not connected")]
    NotConnected,
    /// Its queue is full: later.
    #[error("the queue to that gateway is full")]
    Full,
    /// Longer than the lane takes.
    #[error("the frame is too long")]
    TooLong,
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is no connection to that gateway now.
    #[error("not connected")]
    NotConnected,
    /// Too many requests wait for an answer on this connection.
    #[error("too many requests are open")]
    TooMany,
    /// Longer than [`super::MAX_REQUEST`].
    #[error("the request is too long")]
    TooLong,
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The other end has too much to do: later.
    #[error("the other gateway is busy")]
    Busy,
    /// The other end does not answer this.
    #[error("the other gateway gives no answer")]
    Unanswered,
    /// The connection ended first.
    #[error("the connection ended: {0}")]
    Closed(&'static str),
}

/// Why there is no connection to an address.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Not `HOST:PORT`, `[ADDRESS]:PORT` or a host alone.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The name or the address does not answer.
    #[error("{address}: {error}")]
    Unreachable {
        /// As given.
        address: String,
        /// Of the last address tried.
        error: io::Error,
    },
    /// No connection in time.
    #[error("{address}: no connection within {} s", .after.as_secs())]
    Timeout {
        /// As given.
        address: String,
        /// The limit.
        after: Duration,
    },
    /// Something answers that is no gateway, or refuses this one; or the TPM does not sign.
    #[error("{address}: {error}")]
    Handshake {
        /// As given.
        address: String,
        /// What the TLS library says.
        error: io::Error,
    },
    /// It is this very gateway.
    #[error("{0} is this gateway itself")]
    Itself(String),
    /// The transport is being stopped.
    #[error("the daemon is stopping")]
    Stopped,
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not HOST:PORT, [ADDRESS]:PORT or HOST")]
pub struct AddressError(pub String);
