//! What the rest of the daemon holds of the transport.

use std::sync::atomic::AtomicU16;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ledger::ids::NodeId;
use tokio::sync::{Notify, watch};

use super::address_book::{Address, AddressBook};
use super::peer::{Limits, Peer};
use super::registry::Registry;
use super::shared::{Shared, Tally};
use super::tls::{MemberKeys, Tls};
use super::wire::{Goodbye, Kind, Purpose};
use super::{
    AddressError, Answer, BridgeLink, Bytes, Counters, DialError, Lane, MAX_BEAT, Member, Parts,
    PeerStatus, RequestError, SendError, Session, StartError, WaitingBridge, dial, discovery,
    listen,
};
use crate::vault;

/// How often what is shown of connections is brought up to date when nothing happens.
const SHOW_EVERY: Duration = Duration::from_secs(5);

/// The transport. Cheap to clone; it ends with its last handle.
#[derive(Clone)]
pub struct Handle {
    running: Arc<Running>,
}

struct Running {
    shared: Arc<Shared>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.end();
    }
}

/// Starts the transport. Nobody is a member until [`Handle::set_members`]: everybody is a guest.
///
/// # Errors
/// [`StartError`].
pub fn start(parts: Parts) -> Result<Handle, StartError> {
    start_with(parts, Limits::default())
}

/// [`start`] with other bounds: tests do not wait for half a minute.
pub(super) fn start_with(parts: Parts, limits: Limits) -> Result<Handle, StartError> {
    let Parts { signer, identity, listen, addresses, discovery, interface, .. } = parts;
    let listener = listen.map(|address| (address, listen::bind(address)));
    let port = match &listener {
        Some((_, Ok(listener))) => listener.local_addr().map_or(0, |address| address.port()),
        // It will be, once the address can be listened at.
        Some((address, Err(_))) => address.port(),
        None => 0,
    };
    let member_keys = MemberKeys::default();
    let tls = Tls::new(&identity, signer, Arc::clone(&member_keys))?;
    let mut book = AddressBook::open(parts.data_dir.as_deref())
        .map_err(|(path, error)| StartError::Addresses { path, error })?;
    for address in &addresses {
        book.configure(Address::parse(address)?);
    }
    let own = NodeId::of_key(&identity);
    let shared = Arc::new(Shared {
        own,
        instance: vault::random().map_err(|_| StartError::Randomness)?,
        port: AtomicU16::new(port),
        limits,
        tls,
        events: parts.events,
        incoming: parts.incoming,
        beats: parts.beats,
        bridges: parts.bridges,
        tally: Tally::default(),
        dial: Notify::new(),
        stop: watch::Sender::new(false),
        peers: watch::Sender::new(vec![]),
        discovered: watch::Sender::new(vec![]),
        not_listening: Mutex::new(None),
        member_keys,
        registry: Mutex::new(Registry::new(own)),
        book: Mutex::new(book),
    });
    if let Some((address, bound)) = listener {
        tokio::spawn(listen::listen(Arc::clone(&shared), address, bound));
    }
    if discovery {
        tokio::spawn(discovery::discover(Arc::clone(&shared), interface));
    }
    tokio::spawn(dial::keep_connected(Arc::clone(&shared)));
    tokio::spawn(keep_shown(Arc::clone(&shared)));
    Ok(Handle { running: Arc::new(Running { shared }) })
}

async fn keep_shown(shared: Arc<Shared>) {
    let mut stop = shared.stop.subscribe();
    let mut often = tokio::time::interval(SHOW_EVERY);
    loop {
        tokio::select! {
            // A closed channel means the same.
            _ = stop.wait_for(|stop| *stop) => return,
            _ = often.tick() => shared.show(),
        }
    }
}

impl Handle {
    fn shared(&self) -> &Arc<Shared> {
        &self.running.shared
    }

    /// Sends a frame to all connected members. Never blocks: what a full queue does is said at
    /// [`Lane`].
    pub fn publish(&self, lane: Lane, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        for peer in self.shared().registry().links() {
            // A queue that is full counts what it drops.
            let _ = peer.outbox.push(lane, Arc::clone(&bytes));
        }
    }

    /// Sends a frame to one member. Never blocks.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&self, to: NodeId, lane: Lane, bytes: Vec<u8>) -> Result<(), SendError> {
        let registry = self.shared().registry();
        registry.link(&to).ok_or(SendError::NotConnected)?.outbox.push(lane, bytes.into())
    }

    /// Sends a sign of life to one member, before everything else. It is lost when the member is
    /// not connected, or takes nothing.
    pub fn beat(&self, to: NodeId, bytes: &[u8]) {
        debug_assert!(bytes.len() <= MAX_BEAT, "a beat is short");
        if let Some(peer) = self.shared().registry().link(&to) {
            peer.outbox.control(Kind::Beat, bytes);
        }
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
        let link = self.shared().registry().link(&to).cloned();
        let peer = link.ok_or(RequestError::NotConnected)?;
        let bytes = peer.request(&request, limit).await?;
        Ok(Answer { bytes, session: peer.session.clone() })
    }

    /// Opens a connection of its own to an address, for requests alone. Whoever answers there is
    /// let in: `session()` says who has proven what, and the caller judges it. To the other end
    /// this gateway is a guest, unless it is a member there.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn dial(&self, address: &str) -> Result<Connection, DialError> {
        let peer = dial::dial(self.shared(), address, Purpose::Requests).await?;
        Ok(Connection { peer })
    }

    /// Offers this machine as a bridge to whoever answers at an address: `session()` says who has
    /// proven what, and the caller judges it before it sends anything.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn offer_bridge(&self, address: &str) -> Result<BridgeLink, DialError> {
        let peer = dial::dial(self.shared(), address, Purpose::Bridge).await?;
        Ok(BridgeLink::new(peer))
    }

    /// Which bridges are let in from now on: connections of all others end at once.
    pub fn set_bridges(&self, bridges: &[Member]) {
        self.shared().set_bridges(bridges);
    }

    /// Bridges that asked here and were not let in.
    pub fn waiting_bridges(&self) -> Vec<WaitingBridge> {
        self.shared().registry().waiting().to_vec()
    }

    /// Who is let in from now on: connections of everybody else who was a member end at once.
    pub fn set_members(&self, members: &[Member]) {
        self.shared().set_members(members);
    }

    /// The connected members.
    pub fn peers(&self) -> watch::Receiver<Vec<PeerStatus>> {
        self.shared().peers.subscribe()
    }

    /// What happened since the start.
    pub fn counters(&self) -> Counters {
        self.shared().counters()
    }

    /// Why it does not listen though it should; it tries again by itself.
    pub fn not_listening(&self) -> Option<String> {
        self.shared().not_listening.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Port that it listens at; 0: none.
    pub fn port(&self) -> u16 {
        self.shared().port.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Tries this address, too; it is kept once a member has answered there.
    ///
    /// # Errors
    /// It is none.
    pub fn add_address(&self, address: &str) -> Result<(), AddressError> {
        self.shared().book().configure(Address::parse(address)?);
        self.shared().dial.notify_one();
        Ok(())
    }

    /// Addresses of members, as they were reached or as members say: for the answer to a newcomer
    /// that must find all voters.
    pub fn addresses(&self) -> Vec<(NodeId, String)> {
        let book = self.shared().book();
        book.proven().map(|(node, address)| (node, address.as_str().to_owned())).collect()
    }

    /// Addresses that were found by mDNS: hints that nobody vouches for.
    pub fn discovered(&self) -> watch::Receiver<Vec<String>> {
        self.shared().discovered.subscribe()
    }
}

/// A connection for requests, made by [`Handle::dial`]; it ends when dropped.
#[derive(Debug)]
pub struct Connection {
    peer: Arc<Peer>,
}

impl Connection {
    /// Who is at the other end; `member` is what this gateway's own ledger says.
    pub fn session(&self) -> &Session {
        &self.peer.session
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
        self.peer.request(&request, limit).await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.peer.outbox.close(Some(Goodbye::Stopping));
    }
}
