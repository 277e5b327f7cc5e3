//! What the tasks of the transport share. Locks are held for lookups alone, never across a wait.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ledger::crypto::PublicKey;
use ledger::ids::NodeId;
use rustls::ConnectionCommon;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::{Notify, mpsc, watch};

use super::address_book::AddressBook;
use super::inbox::InboxSender;
use super::peer::{Closed, Limits, Peer, greet, turn_away};
use super::registry::{self, Claim, Registry};
use super::tls::{MemberKeys, Tls, proven};
use super::wire::{Assembler, Goodbye, Hello, Kind, MAX_PAYLOAD, Purpose, Role, write_addresses};
use super::{
    Beat, BridgeLink, Counters, Direction, Incoming, Member, PeerEvent, PeerStatus, Session,
};

/// What the tasks share.
pub(super) struct Shared {
    /// This gateway.
    pub(super) own: NodeId,
    /// Random of this start.
    pub(super) instance: [u8; 16],
    /// Where it listens; 0: nowhere.
    pub(super) port: AtomicU16,
    /// Bounds of connections.
    pub(super) limits: Limits,
    /// Handshakes.
    pub(super) tls: Tls,
    /// Frames and changes for the ledger.
    pub(super) events: InboxSender,
    /// Requests for admission.
    pub(super) incoming: mpsc::Sender<Incoming>,
    /// Signs of life.
    pub(super) beats: mpsc::Sender<Beat>,
    /// Where bridges go that were let in; none: there are none.
    pub(super) bridges: Option<mpsc::Sender<BridgeLink>>,
    /// What happened.
    pub(super) tally: Tally,
    /// Told when there may be somebody to dial.
    pub(super) dial: Notify,
    /// True when the transport ends.
    pub(super) stop: watch::Sender<bool>,
    /// For `status`.
    pub(super) peers: watch::Sender<Vec<PeerStatus>>,
    /// Found by mDNS.
    pub(super) discovered: watch::Sender<Vec<String>>,
    /// Why it does not listen, if it should.
    pub(super) not_listening: Mutex<Option<String>>,
    pub(super) member_keys: MemberKeys,
    pub(super) registry: Mutex<Registry>,
    pub(super) book: Mutex<AddressBook>,
}

/// A connection that has its place.
pub(super) struct Settled<S> {
    pub(super) peer: Arc<Peer>,
    pub(super) stream: S,
    pub(super) assembler: Assembler,
}

impl Shared {
    /// Connections and members.
    pub(super) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Addresses.
    pub(super) fn book(&self) -> MutexGuard<'_, AddressBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what a handshake has proven.
    pub(super) fn session<D>(
        &self,
        connection: &ConnectionCommon<D>,
        remote: SocketAddr,
    ) -> Result<Session, rustls::Error> {
        let (identity, exporter) = proven(connection)?;
        let node = NodeId::of_key(&identity);
        let member = self.registry().is_member(&node, &identity);
        Ok(Session { node, identity, exporter, member, remote })
    }

    /// A session as the members are now.
    pub(super) fn session_now(&self, session: &Session) -> Session {
        let member = self.registry().is_member(&session.node, &session.identity);
        Session { member, ..session.clone() }
    }

    /// Greets after the handshake and finds a place for the connection, or says why there is none.
    pub(super) async fn settle<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: S,
        session: Session,
        direction: Direction,
        purpose: Purpose,
    ) -> Result<Settled<S>, Closed> {
        let port = self.port.load(Ordering::Relaxed);
        let own = Hello { purpose, instance: self.instance, port };
        let (hello, assembler) = greet(&mut stream, direction, own).await?;
        let peer = Arc::new(Peer::new(session, hello, direction));
        if let Err(goodbye) = self.claim(&peer).await {
            turn_away(&mut stream, goodbye).await;
            return Err(Closed::Here(Some(goodbye)));
        }
        Ok(Settled { peer, stream, assembler })
    }

    async fn claim(&self, peer: &Arc<Peer>) -> Result<(), Goodbye> {
        if peer.session.node == self.own {
            return Err(self.own_identity(peer));
        }
        let mut dead = None;
        loop {
            let claim = self.try_claim(peer, dead.as_ref());
            let other = match claim {
                Claim::Taken(other) => {
                    self.taken(peer, other.as_ref());
                    return Ok(());
                }
                Claim::Refused(goodbye) => return Err(goodbye),
                Claim::Contested(other) => other,
            };
            if other.is_alive().await {
                return Err(self.second(peer, &other));
            }
            dead = Some(other);
        }
    }

    /// The ledger is told while nobody else can change who is connected: so it hears in order.
    fn try_claim(&self, peer: &Arc<Peer>, dead: Option<&Arc<Peer>>) -> Claim {
        let mut registry = self.registry();
        if *self.stop.borrow() {
            return Claim::Refused(Goodbye::Stopping);
        }
        let claim = registry.claim(peer, dead);
        if let (Claim::Taken(other), Role::Member) = (&claim, peer.role) {
            if other.is_some() {
                self.events.changed(peer.session.node, false);
            }
            self.events.changed(peer.session.node, true);
        }
        claim
    }

    fn taken(&self, peer: &Arc<Peer>, other: Option<&Arc<Peer>>) {
        if let Some(other) = other {
            other.outbox.close(Some(Goodbye::Second));
        }
        match peer.role {
            Role::Member => {
                self.show();
                self.learn(peer);
            }
            Role::Bridge => {
                // Dropped where nobody takes it: then the connection ends at once.
                let link = BridgeLink::new(Arc::clone(peer));
                let _ = self.bridges.as_ref().map(|bridges| bridges.try_send(link));
            }
            _ => {}
        }
    }

    /// Notes where a member is, and tells the members.
    fn learn(&self, peer: &Arc<Peer>) {
        let node = peer.session.node;
        let listens = SocketAddr::new(peer.session.remote.ip().to_canonical(), peer.hello.port);
        let known = {
            let mut book = self.book();
            if peer.direction == Direction::Incoming && peer.hello.port != 0 {
                book.told(node, listens);
            }
            book.known()
        };
        let one = [(node, listens)];
        let news: &[_] = if peer.hello.port == 0 { &[] } else { &one };
        peer.outbox.control(Kind::Addresses, &write_addresses(&known));
        for other in self.registry().links().filter(|other| other.session.node != node) {
            other.outbox.control(Kind::Addresses, &write_addresses(news));
        }
    }

    /// A second connection of an identity whose first one lives.
    fn second(&self, peer: &Peer, living: &Peer) -> Goodbye {
        let Some(addresses) = registry::is_duplicate(peer, living) else {
            return Goodbye::Second;
        };
        let node = peer.session.node;
        self.report_duplicate(node, addresses);
        Goodbye::Duplicate
    }

    /// Somebody proves this gateway's own identity.
    fn own_identity(&self, peer: &Peer) -> Goodbye {
        if peer.hello.instance != self.instance {
            let own = SocketAddr::from(([0, 0, 0, 0], self.port.load(Ordering::Relaxed)));
            self.report_duplicate(self.own, [own, peer.session.remote]);
            return Goodbye::Duplicate;
        }
        Goodbye::Second
    }

    fn report_duplicate(&self, node: NodeId, addresses: [SocketAddr; 2]) {
        let [first, second] = addresses;
        let gateway = node.to_gateway_string();
        tracing::error!(gateway, %first, %second, "one identity on two live machines");
        self.registry().duplicate(node);
        Tally::count(&self.tally.duplicates);
        self.show();
        // Of a bridge the record knows nothing.
        if node == self.own || self.registry().members().any(|member| *member == node) {
            self.events.report(PeerEvent::DuplicateIdentity { node, addresses });
        }
    }

    /// Carries the frames of a connection until it ends.
    pub(super) async fn carry<S: AsyncRead + AsyncWrite>(self: &Arc<Self>, settled: Settled<S>) {
        let Settled { peer, stream, assembler } = settled;
        tracing::info!(peer = registry::name(&peer), "connected");
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = BufReader::with_capacity(2 * MAX_PAYLOAD, reader);
        let closed = peer.run(&mut reader, &mut writer, assembler, self).await;
        self.tally.closed(&closed);
        Tally::add(&self.tally.dropped, peer.outbox.dropped());
        tracing::info!(peer = registry::name(&peer), reason = %closed, "connection ended");
        self.ended(&peer);
        peer.part(&mut reader, &mut writer).await;
    }

    fn ended(&self, peer: &Arc<Peer>) {
        let mut registry = self.registry();
        if registry.ended(peer) {
            self.events.changed(peer.session.node, false);
            self.dial.notify_one();
        }
        drop(registry);
        self.show();
    }

    /// Who is a member from now on.
    pub(super) fn set_members(&self, members: &[Member]) {
        let keys: BTreeSet<PublicKey> = members.iter().map(|member| member.identity).collect();
        *self.member_keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        let mut registry = self.registry();
        for peer in registry.set_members(members) {
            let node = peer.session.node;
            peer.outbox.close(Some(Goodbye::NoMember));
            Tally::count(&self.tally.expelled);
            self.events.forget(node);
            if peer.role == Role::Member {
                self.events.changed(node, false);
            }
            tracing::info!(peer = registry::name(&peer), "no member any more");
        }
        drop(registry);
        if !members.is_empty() {
            self.book().keep(&members.iter().map(|member| member.node).collect());
        }
        self.dial.notify_one();
        self.show();
    }

    /// Which bridges are let in from now on.
    pub(super) fn set_bridges(&self, bridges: &[Member]) {
        for peer in self.registry().set_bridges(bridges) {
            peer.outbox.close(Some(Goodbye::NotLetIn));
            Tally::count(&self.tally.expelled);
            tracing::info!(peer = registry::name(&peer), "let in no more");
        }
    }

    /// A member says where others are.
    pub(super) fn told(&self, addresses: &[(NodeId, SocketAddr)]) {
        let mut learned = false;
        for (node, address) in addresses {
            let wanted = *node != self.own && self.registry().members().any(|each| each == node);
            learned |= wanted && self.book().told(*node, *address);
        }
        if learned {
            self.dial.notify_one();
        }
    }

    /// Frames that the ledger was too slow for.
    pub(super) fn overrun(&self, frames: u64) {
        Tally::add(&self.tally.overrun, frames);
    }

    /// Says, and remembers for `status`, why this gateway does not listen; or that it does.
    pub(super) fn say_listening(&self, why_not: Option<String>) {
        let mut said = self.not_listening.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != why_not {
            match &why_not {
                Some(why) => tracing::error!(why, "other gateways cannot dial this one"),
                None => tracing::info!("other gateways can dial this one again"),
            }
            *said = why_not;
        }
    }

    /// Brings what is shown up to date.
    pub(super) fn show(&self) {
        let status = self.registry().status();
        self.peers.send_replace(status);
    }

    /// Ends everything.
    pub(super) fn end(&self) {
        self.stop.send_replace(true);
        for peer in self.registry().everybody() {
            peer.outbox.close(Some(Goodbye::Stopping));
        }
    }

    /// Counters with those that only the registry knows.
    pub(super) fn counters(&self) -> Counters {
        let (guests, waiting) = {
            let registry = self.registry();
            (registry.guests(), registry.links().map(|peer| peer.outbox.dropped()).sum::<u64>())
        };
        let mut counters = self.tally.counters();
        counters.guests = u64::try_from(guests).unwrap_or(u64::MAX);
        counters.dropped += waiting;
        counters
    }
}

/// Counts of what happened.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) accepted: AtomicU64,
    pub(super) dialed: AtomicU64,
    pub(super) flooded: AtomicU64,
    pub(super) handshakes_failed: AtomicU64,
    pub(super) malformed: AtomicU64,
    pub(super) over_quota: AtomicU64,
    pub(super) silent: AtomicU64,
    pub(super) expelled: AtomicU64,
    pub(super) duplicates: AtomicU64,
    pub(super) overrun: AtomicU64,
    pub(super) dropped: AtomicU64,
}

impl Tally {
    /// One more.
    pub(super) fn count(counter: &AtomicU64) {
        Self::add(counter, 1);
    }

    fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts the end of a connection by its reason.
    pub(super) fn closed(&self, closed: &Closed) {
        match closed {
            Closed::Wire(_) | Closed::Credit => Self::count(&self.malformed),
            Closed::Bytes | Closed::Time => Self::count(&self.over_quota),
            Closed::Silent | Closed::Stalled => Self::count(&self.silent),
            Closed::Here(Some(Goodbye::Busy)) => Self::count(&self.flooded),
            Closed::Stream(_) | Closed::Told(_) | Closed::Here(_) => {}
        }
    }

    fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            accepted: read(&self.accepted),
            dialed: read(&self.dialed),
            guests: 0,
            flooded: read(&self.flooded),
            handshakes_failed: read(&self.handshakes_failed),
            malformed: read(&self.malformed),
            over_quota: read(&self.over_quota),
            silent: read(&self.silent),
            expelled: read(&self.expelled),
            duplicates: read(&self.duplicates),
            overrun: read(&self.overrun),
            dropped: read(&self.dropped),
        }
    }
}
