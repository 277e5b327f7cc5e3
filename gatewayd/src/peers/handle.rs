//! What the rest of the daemon holds of the transport.

use std::sync::Arc;
use std::time::Duration;

use ledger::ids::NodeId;
use tokio::sync::watch;

use super::{
    AddressError, Answer, Bytes, Counters, DialError, Lane, Member, Parts, PeerStatus,
    RequestError, SendError, Session, StartError,
};

/// The transport. Cheap to clone; it ends with its last handle.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    peers: watch::Sender<Vec<PeerStatus>>,
}

/// Starts the transport.
///
/// # Errors
/// [`StartError`].
pub fn start(parts: Parts) -> Result<Handle, StartError> {
    let _ = parts;
    Ok(Handle { shared: Arc::new(Shared { peers: watch::Sender::new(vec![]) }) })
}

impl Handle {
    /// Sends a frame to all connected members. Never blocks: what a full queue does is said at
    /// [`Lane`].
    pub fn publish(&self, lane: Lane, bytes: impl Into<Bytes>) {
        let _ = (lane, bytes.into());
    }

    /// Sends a frame to one member. Never blocks.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&self, to: NodeId, lane: Lane, bytes: Vec<u8>) -> Result<(), SendError> {
        let _ = (to, lane, bytes);
        Err(SendError::NotConnected)
    }

    /// Asks a connected member.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request(
        &self,
        to: NodeId,
        request: Vec<u8>,
        limit: Duration,
    ) -> Result<Answer, RequestError> {
        let _ = (to, request, limit);
        Err(RequestError::NotConnected)
    }

    /// Opens a connection of its own to an address, for requests alone. Whoever answers there is
    /// let in: `session()` says who has proven what, and the caller judges it. To the other end
    /// this gateway is a guest, unless it is a member there.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial(&self, address: &str) -> Result<Connection, DialError> {
        Err(DialError::Address(AddressError(address.into())))
    }

    /// Who is let in from now on: connections of everybody else who was a member end at once.
    pub fn set_members(&self, members: Vec<Member>) {
        let _ = members;
    }

    /// The connected members.
    pub fn peers(&self) -> watch::Receiver<Vec<PeerStatus>> {
        self.shared.peers.subscribe()
    }

    /// What happened since the start.
    pub fn counters(&self) -> Counters {
        Counters::default()
    }

    /// Tries this address, too, and keeps it.
    ///
    /// # Errors
    /// It is none.
    pub fn add_address(&self, address: &str) -> Result<(), AddressError> {
        Err(AddressError(address.into()))
    }

    /// Addresses at which members were reached, the best of each first: for the answer to a
    /// newcomer that must find all voters.
    pub fn addresses(&self) -> Vec<(NodeId, String)> {
        vec![]
    }

    /// Addresses that were found by mDNS: hints that nobody vouches for.
    pub fn discovered(&self) -> watch::Receiver<Vec<String>> {
        watch::Sender::new(vec![]).subscribe()
    }
}

/// A connection for requests, made by [`Handle::dial`]; it ends when dropped.
#[derive(Debug)]
pub struct Connection {
    session: Session,
}

impl Connection {
    /// Who is at the other end; `member` is what this gateway's own ledger says.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Asks.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request(
        &self,
        request: Vec<u8>,
        limit: Duration,
    ) -> Result<Vec<u8>, RequestError> {
        let _ = (request, limit);
        Err(RequestError::Closed("not connected"))
    }
}
