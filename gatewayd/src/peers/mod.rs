//! Connections between gateways: TLS 1.3 with raw public keys (RFC 7250) on both sides, the key
//! being the identity key in the TPM.
//!
//! ```text
//! ledger thread ── publish, send ──> outbox of each link ──> TLS ──> the other gateway
//!       ^                                                             │
//!       └── Inbox <── frames of members ── link <── TLS <─────────────┤
//! admission <── Incoming <── requests of members and guests <─────────┘
//! ```
//!
//! It proves who is at the other end and nothing else: it reads no frame that it carries, knows no
//! ledger, and takes its list of members from whoever does. Addresses are hints; a wrong one costs
//! a dial. A peer that is no member is a *guest*: few of them, for a short time, few bytes. A
//! *bridge* that was let in carries frames of radio and of serial ports, and nothing else.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use attestation::tpm::{Tpm, TpmError};
use ledger::crypto::PublicKey;
use ledger::ids::NodeId;
use tokio::sync::{mpsc, oneshot};

mod address_book;
mod allowance;
mod bridge;
mod calls;
mod dial;
mod discovery;
mod error;
mod handle;
mod inbox;
mod listen;
mod outbox;
mod peer;
mod registry;
mod shared;
mod status;
#[cfg(test)]
mod tests;
mod tls;
mod wire;

pub use address_book::remember;
pub use allowance::Allowance;
pub use bridge::{
    BridgeEnd, BridgeFrame, BridgeLink, BridgeSender, MAX_RADIO, MAX_SERIAL, WaitingBridge,
};
pub use discovery::{SERVICE, browse};
pub use error::{AddressError, DialError, RequestError, SendError, StartError};
pub use handle::{Connection, Handle, start};
pub use inbox::{Inbox, InboxSender, inbox};
pub use status::{Counters, Direction, PeerStatus};
pub use wire::fuzz;

/// Application protocol of the connections (RFC 7301).
pub const ALPN: &[u8] = b"gatewayd/1";

/// Port that gateways listen at when nothing else is said.
pub const DEFAULT_PORT: u16 = 7447;

/// Whether a text is an address that can be dialed: `HOST:PORT`, `[ADDRESS]:PORT` or `HOST`.
///
/// # Errors
/// [`AddressError`].
pub fn check_address(text: &str) -> Result<(), AddressError> {
    address_book::Address::parse(text).map(drop)
}

/// Bytes that go to several peers without being copied.
pub type Bytes = Arc<[u8]>;

/// Order in which frames leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Votes, proposals: at most [`MAX_CONSENSUS`] bytes, before everything else. A full queue
    /// loses its oldest frame: consensus repeats itself.
    Consensus,
    /// Everything else between members. A full queue takes no more.
    Bulk,
    /// Radio of a bridge, at most [`MAX_RADIO`] bytes a message. A full queue loses its oldest
    /// message: radio repeats itself, or is too late.
    Radio,
    /// Serial ports of a bridge, at most [`MAX_SERIAL`] bytes a message. A full queue takes no
    /// more.
    Serial,
}

/// Longest frame of [`Lane::Consensus`], bytes: a justification of a hundred votes has 26 KiB.
pub const MAX_CONSENSUS: usize = 128 * 1024;

/// Longest request and longest answer, bytes.
pub const MAX_REQUEST: usize = 1024 * 1024;

/// Longest sign of life, bytes.
pub const MAX_BEAT: usize = 64;

/// A sign of life of a member, or its acknowledgement; unread. One that finds no place is lost:
/// another comes soon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Who.
    pub from: NodeId,
    /// What it says, at most [`MAX_BEAT`] bytes.
    pub bytes: Vec<u8>,
}

/// Who is at the other end of a connection, and of which connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Node ID of `identity`.
    pub node: NodeId,
    /// The key that the other end has proven to hold in this connection's handshake.
    pub identity: PublicKey,
    /// TLS exporter (RFC 8446 §7.5) of label `EXPORTER-gatewayd-attest` and empty context: equal
    /// at both ends of this connection and nowhere else.
    pub exporter: [u8; 32],
    /// Whether it is a member, as far as this gateway knew when it asked.
    pub member: bool,
    /// Where it is.
    pub remote: SocketAddr,
}

/// An answer to [`Handle::request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What was answered.
    pub bytes: Vec<u8>,
    /// Who answered, over which connection.
    pub session: Session,
}

/// A gateway that is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its node ID.
    pub node: NodeId,
    /// Its identity key.
    pub identity: PublicKey,
}

/// What the ledger's thread learns from the transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerEvent {
    /// A member is connected.
    Up(NodeId),
    /// It is not any more.
    Down(NodeId),
    /// What it says.
    Frame {
        /// Who.
        from: NodeId,
        /// Unread.
        bytes: Vec<u8>,
    },
    /// Two machines prove the same identity at the same time.
    DuplicateIdentity {
        /// Whose.
        node: NodeId,
        /// Where they are.
        addresses: [SocketAddr; 2],
    },
}

/// A request of a member or a guest. Whoever serves it answers once; dropping `reply` says that
/// there is no answer.
#[derive(Debug)]
pub struct Incoming {
    /// Who asks.
    pub session: Session,
    /// What.
    pub bytes: Vec<u8>,
    /// The answer, at most [`MAX_REQUEST`] bytes.
    pub reply: oneshot::Sender<Vec<u8>>,
    /// Lets a guest send more and stay for longer than others.
    pub allowance: Allowance,
}

/// Signs handshakes with the identity key.
pub trait Signer: Send + Sync + std::fmt::Debug {
    /// ES256 over a SHA-256 digest: r ‖ s. May block for as long as a slow TPM needs.
    ///
    /// # Errors
    /// The TPM does not sign.
    fn sign(&self, digest: [u8; 32]) -> Result<[u8; 64], TpmError>;
}

impl Signer for Tpm {
    fn sign(&self, digest: [u8; 32]) -> Result<[u8; 64], TpmError> {
        self.sign_identity(digest)
    }
}

/// What the transport is started with.
pub struct Parts {
    /// Holds the identity key; the [`Tpm`] but in tests.
    pub signer: Arc<dyn Signer>,
    /// This gateway's identity key.
    pub identity: PublicKey,
    /// Where to listen; none: it only dials out, as a newcomer does.
    pub listen: Option<SocketAddr>,
    /// Addresses of the configuration: `HOST:PORT`, `[ADDRESS]:PORT` or `HOST`.
    pub addresses: Vec<String>,
    /// Whether to look for gateways by mDNS and to be found by it.
    pub discovery: bool,
    /// The only network interface for mDNS; none: all.
    pub interface: Option<String>,
    /// Where frames and changes go.
    pub events: InboxSender,
    /// Where requests go; when it is full the asker is told *busy*.
    pub incoming: mpsc::Sender<Incoming>,
    /// Where signs of life go.
    pub beats: mpsc::Sender<Beat>,
    /// Where bridges go that were let in and have connected; none: there are no bridges here.
    pub bridges: Option<mpsc::Sender<BridgeLink>>,
    /// Where the addresses that were learned are kept; none: nowhere.
    pub data_dir: Option<PathBuf>,
}
