//! Who is connected, who may be, and which connection of two stays. No socket here: each decision
//! is a function of what is known.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ledger::crypto::PublicKey;
use ledger::ids::NodeId;

use super::peer::Peer;
use super::wire::{Goodbye, Role};
use super::{Direction, Member, PeerStatus, Session, WaitingBridge};
use crate::clock;

/// Guests at the same time.
pub(super) const MAX_GUESTS: usize = 8;
/// Of these from one address: one guest must not keep all others out.
const MAX_GUESTS_OF_ADDRESS: usize = 4;
/// Connections for requests of one member at the same time.
const MAX_ASKING: usize = 4;
/// Bridges that were not let in and are remembered; beyond it the one that was silent for longest
/// is forgotten.
const MAX_WAITING: usize = 16;
/// Two gateways that dial each other at once do so within this time, ms.
const CROSSING_MS: u64 = 10_000;

/// Who is connected, and who may be.
#[derive(Debug)]
pub(super) struct Registry {
    own: NodeId,
    members: BTreeMap<NodeId, PublicKey>,
    links: BTreeMap<NodeId, Arc<Peer>>,
    askers: Vec<Arc<Peer>>,
    /// Bridges that were let in, each with the address that it was at last.
    let_in: BTreeMap<NodeId, (PublicKey, Option<IpAddr>)>,
    bridges: BTreeMap<NodeId, Arc<Peer>>,
    waiting: Vec<WaitingBridge>,
    duplicates: BTreeMap<NodeId, u64>,
}

/// What becomes of a new connection.
#[derive(Debug)]
pub(super) enum Claim {
    /// It is the connection to that member; the other one, if any, is to be closed.
    Taken(Option<Arc<Peer>>),
    /// It is to be closed.
    Refused(Goodbye),
    /// There is another one: whether it still lives decides.
    Contested(Arc<Peer>),
}

impl Registry {
    /// Nobody is a member.
    pub(super) fn new(own: NodeId) -> Self {
        Self {
            own,
            members: BTreeMap::new(),
            links: BTreeMap::new(),
            askers: Vec::new(),
            let_in: BTreeMap::new(),
            bridges: BTreeMap::new(),
            waiting: Vec::new(),
            duplicates: BTreeMap::new(),
        }
    }

    /// Who is a member from now on; gives the connections that end with that.
    pub(super) fn set_members(&mut self, members: &[Member]) -> Vec<Arc<Peer>> {
        self.members = members
            .iter()
            .filter(|member| member.node != self.own)
            .map(|member| (member.node, member.identity))
            .collect();
        let (members, mut gone) = (&self.members, Vec::new());
        self.links.retain(|node, peer| {
            let stays = members.contains_key(node);
            if !stays {
                gone.push(Arc::clone(peer));
            }
            stays
        });
        self.askers.retain(|peer| {
            // A guest is not let in as a member, and so loses nothing.
            let stays = !peer.session.member || members.contains_key(&peer.session.node);
            if !stays {
                gone.push(Arc::clone(peer));
            }
            stays
        });
        gone
    }

    /// Which bridges are let in from now on; gives the connections that end with that.
    pub(super) fn set_bridges(&mut self, bridges: &[Member]) -> Vec<Arc<Peer>> {
        let was = std::mem::take(&mut self.let_in);
        let at = |node: &NodeId| was.get(node).and_then(|(_, at)| *at);
        let known = |one: &Member| (one.node, (one.identity, at(&one.node)));
        self.let_in = bridges.iter().map(known).collect();
        let (let_in, mut gone) = (&self.let_in, Vec::new());
        self.waiting.retain(|one| !let_in.contains_key(&one.node));
        self.bridges.retain(|node, peer| {
            let stays = let_in.contains_key(node);
            if !stays {
                gone.push(Arc::clone(peer));
            }
            stays
        });
        gone
    }

    /// Bridges that asked and were not let in.
    pub(super) fn waiting(&self) -> &[WaitingBridge] {
        &self.waiting
    }

    /// Whether a bridge that was let in was at this address last.
    pub(super) fn knows_bridge_at(&self, ip: IpAddr) -> bool {
        self.let_in.values().any(|(_, at)| *at == Some(ip.to_canonical()))
    }

    /// Whether this key is a member's.
    pub(super) fn is_member(&self, node: &NodeId, identity: &PublicKey) -> bool {
        self.members.get(node) == Some(identity)
    }

    /// The members.
    pub(super) fn members(&self) -> impl Iterator<Item = &NodeId> {
        self.members.keys()
    }

    /// The connection to a member.
    pub(super) fn link(&self, node: &NodeId) -> Option<&Arc<Peer>> {
        self.links.get(node)
    }

    /// All connections to members.
    pub(super) fn links(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.links.values()
    }

    /// Everybody who is connected.
    pub(super) fn everybody(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.links.values().chain(&self.askers).chain(self.bridges.values())
    }

    /// Guests now.
    pub(super) fn guests(&self) -> usize {
        self.askers.iter().filter(|peer| !peer.session.member).count()
    }

    /// A new connection wants its place. `contested` is an earlier connection that was found dead.
    pub(super) fn claim(&mut self, peer: &Arc<Peer>, dead: Option<&Arc<Peer>>) -> Claim {
        match peer.role {
            Role::Member => self.claim_link(peer, dead),
            Role::Asker => self.claim_asker(peer),
            Role::Bridge => self.claim_bridge(peer, dead),
            // Whoever was dialed to be asked takes no place.
            Role::Asked | Role::Server | Role::Unknown => Claim::Taken(None),
        }
    }

    fn claim_link(&mut self, peer: &Arc<Peer>, dead: Option<&Arc<Peer>>) -> Claim {
        let session = &peer.session;
        if !self.is_member(&session.node, &session.identity) {
            return Claim::Refused(Goodbye::NoMember);
        }
        let other = self.links.get(&session.node);
        let other = other.filter(|other| !dead.is_some_and(|dead| Arc::ptr_eq(dead, other)));
        let Some(other) = other.filter(|other| !other.outbox.is_closed()) else {
            return Claim::Taken(self.links.insert(session.node, Arc::clone(peer)));
        };
        if !crossing(peer, other) {
            return Claim::Contested(Arc::clone(other));
        }
        // Both ends know both node IDs, and so keep the same one of the two.
        if peer.dialer(self.own) < other.dialer(self.own) {
            Claim::Taken(self.links.insert(session.node, Arc::clone(peer)))
        } else {
            Claim::Refused(Goodbye::Second)
        }
    }

    fn claim_asker(&mut self, peer: &Arc<Peer>) -> Claim {
        let others = self.askers.iter().filter(|other| other.session.member == peer.session.member);
        let full = if peer.session.member {
            others.filter(|other| other.session.node == peer.session.node).count() >= MAX_ASKING
        } else {
            let at = |other: &Peer| other.session.remote.ip() == peer.session.remote.ip();
            let of_address = others.clone().filter(|other| at(other)).count();
            others.count() >= MAX_GUESTS || of_address >= MAX_GUESTS_OF_ADDRESS
        };
        if full {
            return Claim::Refused(Goodbye::Busy);
        }
        self.askers.push(Arc::clone(peer));
        Claim::Taken(None)
    }

    /// A bridge has one connection; of two the living one stays.
    fn claim_bridge(&mut self, peer: &Arc<Peer>, dead: Option<&Arc<Peer>>) -> Claim {
        let session = &peer.session;
        let at = Some(session.remote.ip().to_canonical());
        match self.let_in.get_mut(&session.node) {
            Some((identity, last)) if *identity == session.identity => *last = at,
            _ => {
                self.note_waiting(peer);
                return Claim::Refused(Goodbye::NotLetIn);
            }
        }
        let other = self.bridges.get(&session.node);
        let other = other.filter(|other| !dead.is_some_and(|dead| Arc::ptr_eq(dead, other)));
        match other.filter(|other| !other.outbox.is_closed()) {
            Some(other) => Claim::Contested(Arc::clone(other)),
            None => Claim::Taken(self.bridges.insert(session.node, Arc::clone(peer))),
        }
    }

    fn note_waiting(&mut self, peer: &Peer) {
        let (session, now) = (&peer.session, clock::boot_ms());
        if let Some(known) = self.waiting.iter_mut().find(|one| one.node == session.node) {
            (known.remote, known.seen_ms) = (session.remote, now);
            return;
        }
        if self.waiting.len() >= MAX_WAITING {
            let oldest = self.waiting.iter().enumerate().min_by_key(|(_, one)| one.seen_ms);
            let Some((oldest, _)) = oldest else { return };
            self.waiting.remove(oldest);
        }
        let Session { node, identity, remote, .. } = *session;
        self.waiting.push(WaitingBridge { node, identity, remote, since_ms: now, seen_ms: now });
    }

    /// A connection has ended; true when a member is no longer connected by it.
    pub(super) fn ended(&mut self, peer: &Arc<Peer>) -> bool {
        self.askers.retain(|other| !Arc::ptr_eq(other, peer));
        let node = &peer.session.node;
        if self.bridges.get(node).is_some_and(|bridge| Arc::ptr_eq(bridge, peer)) {
            self.bridges.remove(node);
        }
        let was = self.links.get(node).is_some_and(|link| Arc::ptr_eq(link, peer));
        if was {
            self.links.remove(node);
        }
        was
    }

    /// A second machine has proven the identity of a live connection.
    pub(super) fn duplicate(&mut self, node: NodeId) {
        *self.duplicates.entry(node).or_default() += 1;
    }

    /// For `status`.
    pub(super) fn status(&self) -> Vec<PeerStatus> {
        let shown = |peer: &Arc<Peer>| PeerStatus {
            node: peer.session.node,
            address: peer.session.remote,
            direction: peer.direction,
            since_ms: peer.since_ms,
            last_heard_ms: peer.last_heard_ms(),
            duplicates: self.duplicates.get(&peer.session.node).copied().unwrap_or(0),
            dropped: peer.outbox.dropped(),
        };
        self.links.values().map(shown).collect()
    }
}

/// Whether two gateways have dialed each other at the same time: one process at the other end, two
/// directions, both new.
fn crossing(a: &Peer, b: &Peer) -> bool {
    a.hello.instance == b.hello.instance
        && a.direction != b.direction
        && a.since_ms.abs_diff(b.since_ms) < CROSSING_MS
}

/// Whether a second connection is of another machine than the first, which lives.
pub(super) fn is_duplicate(new: &Peer, living: &Peer) -> Option<[SocketAddr; 2]> {
    let another = new.hello.instance != living.hello.instance;
    another.then_some([living.session.remote, new.session.remote])
}

/// What a connection is called in the journal.
pub(super) fn name(peer: &Peer) -> String {
    let who = match (peer.role, peer.session.member) {
        (Role::Bridge, _) => "bridge",
        (_, true) => "member",
        (Role::Asked | Role::Server, false) => "gateway",
        (_, false) => "guest",
    };
    let direction = match peer.direction {
        Direction::Incoming => "from",
        Direction::Outgoing => "to",
    };
    let (node, remote) = (peer.session.node.to_gateway_string(), peer.session.remote);
    format!("{who} {node} {direction} {remote}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::wire::{Hello, Purpose};
    use ledger::crypto::SigningKey;

    fn key(n: u8) -> PublicKey {
        SigningKey::from_bytes(&[n; 32]).unwrap().public_key()
    }

    fn member(n: u8) -> Member {
        Member { node: NodeId::of_key(&key(n)), identity: key(n) }
    }

    fn peer(n: u8, instance: u8, direction: Direction, purpose: Purpose, known: bool) -> Arc<Peer> {
        let session = Session {
            node: member(n).node,
            identity: key(n),
            exporter: [0; 32],
            member: known,
            remote: SocketAddr::from(([192, 0, 2, n], 7447)),
        };
        let hello = Hello { purpose, instance: [instance; 16], port: 0 };
        Arc::new(Peer::new(session, hello, direction))
    }

    /// The registries of two members, the first with the lower node ID.
    fn two() -> [(u8, Registry); 2] {
        let mut numbers = [1, 2];
        numbers.sort_by_key(|n| member(*n).node);
        numbers.map(|n| {
            let mut registry = Registry::new(member(n).node);
            registry.set_members(&[member(1), member(2)]);
            (n, registry)
        })
    }

    #[test]
    fn of_two_crossed_calls_both_ends_keep_the_same() {
        let [(low, mut at_low), (high, mut at_high)] = two();
        let (dialed, called) = (Direction::Outgoing, Direction::Incoming);
        let link = |n, direction| peer(n, n, direction, Purpose::Link, true);
        // The call of the higher one arrives first at both ends.
        let (theirs, ours) = (link(high, called), link(high, dialed));
        assert!(matches!(at_low.claim(&theirs, None), Claim::Taken(None)));
        let Claim::Taken(Some(closed)) = at_low.claim(&ours, None) else { panic!("the low call") };
        assert!(Arc::ptr_eq(&closed, &theirs));
        let (ours, theirs) = (link(low, dialed), link(low, called));
        assert!(matches!(at_high.claim(&ours, None), Claim::Taken(None)));
        assert!(matches!(at_high.claim(&theirs, None), Claim::Taken(Some(_))));
        // And in the other order.
        let [(low, _), (_, mut at_high)] = two();
        assert!(matches!(at_high.claim(&link(low, called), None), Claim::Taken(None)));
        let late = at_high.claim(&link(low, dialed), None);
        assert!(matches!(late, Claim::Refused(Goodbye::Second)));
    }

    #[test]
    fn a_second_connection_asks_whether_the_first_lives() {
        let [(_, mut registry), (other, _)] = two();
        let first = peer(other, 1, Direction::Incoming, Purpose::Link, true);
        let second = peer(other, 2, Direction::Incoming, Purpose::Link, true);
        assert!(matches!(registry.claim(&first, None), Claim::Taken(None)));
        let Claim::Contested(living) = registry.claim(&second, None) else { panic!("contested") };
        assert!(is_duplicate(&second, &living).is_some(), "another process");
        let again = peer(other, 1, Direction::Incoming, Purpose::Link, true);
        assert!(is_duplicate(&again, &living).is_none(), "the same one");
        let claimed = registry.claim(&second, Some(&living));
        assert!(matches!(claimed, Claim::Taken(Some(_))), "the first was dead");
        assert!(!registry.ended(&first));
        assert!(registry.ended(&second));
    }

    #[test]
    fn who_is_no_member_any_more_goes_at_once() {
        let [(own, mut registry), (other, _)] = two();
        let link = peer(other, 1, Direction::Incoming, Purpose::Link, true);
        let asker = peer(other, 1, Direction::Incoming, Purpose::Requests, true);
        let guest = peer(9, 1, Direction::Incoming, Purpose::Requests, false);
        for each in [&link, &asker, &guest] {
            assert!(matches!(registry.claim(each, None), Claim::Taken(None)));
        }
        assert_eq!(registry.set_members(&[member(own)]).len(), 2);
        assert_eq!((registry.links().count(), registry.guests()), (0, 1));
        assert!(matches!(registry.claim(&link, None), Claim::Refused(Goodbye::NoMember)));
    }

    #[test]
    fn guests_are_few() {
        let [(_, mut registry), _] = two();
        let guest = |n| peer(n, 1, Direction::Incoming, Purpose::Requests, false);
        for _ in 0..MAX_GUESTS_OF_ADDRESS {
            assert!(matches!(registry.claim(&guest(9), None), Claim::Taken(None)));
        }
        assert!(matches!(registry.claim(&guest(9), None), Claim::Refused(Goodbye::Busy)));
        for n in 10..10 + (MAX_GUESTS - MAX_GUESTS_OF_ADDRESS) as u8 {
            assert!(matches!(registry.claim(&guest(n), None), Claim::Taken(None)));
        }
        assert!(matches!(registry.claim(&guest(99), None), Claim::Refused(Goodbye::Busy)));
    }

    #[test]
    fn bridges_are_let_in_by_name_and_go_at_once() {
        let [(_, mut registry), _] = two();
        let bridge = |n, instance| peer(n, instance, Direction::Incoming, Purpose::Bridge, false);
        for n in 10..10 + MAX_WAITING as u8 + 3 {
            let claimed = registry.claim(&bridge(n, 1), None);
            assert!(matches!(claimed, Claim::Refused(Goodbye::NotLetIn)), "{claimed:?}");
        }
        assert_eq!(registry.waiting().len(), MAX_WAITING, "the others are forgotten");
        registry.set_bridges(&[member(20)]);
        assert!(!registry.waiting().iter().any(|one| one.node == member(20).node));
        let first = bridge(20, 1);
        assert!(matches!(registry.claim(&first, None), Claim::Taken(None)));
        assert!(registry.knows_bridge_at(IpAddr::from([192, 0, 2, 20])));
        let second = bridge(20, 2);
        let Claim::Contested(living) = registry.claim(&second, None) else { panic!("contested") };
        assert!(Arc::ptr_eq(&living, &first) && is_duplicate(&second, &living).is_some());
        let gone = registry.set_bridges(&[]);
        assert!(Arc::ptr_eq(&gone[0], &first));
        assert!(matches!(registry.claim(&second, None), Claim::Refused(Goodbye::NotLetIn)));
        assert_eq!(registry.everybody().count(), 0);
    }
}
