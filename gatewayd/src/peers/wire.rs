//! Frames inside the TLS connection: read without trust, bounded before anything is allocated.
//!
//! ```text
//! kind u8 │ last u8 │ length u16 │ payload        a frame, at most one TLS record long
//! ```
//!
//! A long message is several frames of its kind, so that a vote passes a block that is being
//! sent. No socket and no clock here.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ledger::codec::Decode;
use ledger::consensus::message::Message as Consensus;
use ledger::ids::NodeId;

use super::bridge::{MAX_RADIO, MAX_SERIAL};
use super::{MAX_BEAT, MAX_CONSENSUS, MAX_REQUEST};

/// Bytes before a payload.
pub(super) const HEAD: usize = 4;
/// Longest payload of one frame: with its head it fills a TLS record.
pub(super) const MAX_PAYLOAD: usize = 16 * 1024 - HEAD;
/// Longest message of the bulk lane: what the ledger's own reader takes.
pub(super) const MAX_BULK: usize = Consensus::MAX_BYTES;
/// Addresses in one frame.
pub(super) const MAX_ADDRESSES: usize = 256;
/// Version of this protocol, in the first frame.
const VERSION: u8 = 1;

/// Why bytes are no frame that may come here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    /// Unknown kind, or a flag that is neither 0 nor 1.
    #[error("bytes that are no frame")]
    Garbage,
    /// A kind that this peer has no right to send.
    #[error("a frame that this peer may not send")]
    Forbidden,
    /// Longer than the kind may be.
    #[error("a message longer than its kind may be")]
    TooLong,
    /// A right kind with a wrong content.
    #[error("a malformed message")]
    Malformed,
}

/// What a frame is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Kind {
    /// First frame of either end.
    Hello = 1,
    /// "Are you there?"
    Ping = 2,
    /// "Yes."
    Pong = 3,
    /// So many more bytes of bulk may be sent.
    Credit = 4,
    /// Where other members are.
    Addresses = 5,
    /// Why the connection ends.
    Goodbye = 6,
    /// Of [`super::Lane::Consensus`].
    Consensus = 7,
    /// Of [`super::Lane::Bulk`].
    Bulk = 8,
    /// A request.
    Request = 9,
    /// Its answer.
    Answer = 10,
    /// Of [`super::Lane::Radio`].
    Radio = 11,
    /// Of [`super::Lane::Serial`].
    Serial = 12,
    /// A sign of life or its acknowledgement.
    Beat = 13,
}

/// What the other end is to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Nobody yet: the first frame is waited for.
    Unknown,
    /// A member, in a connection that stays.
    Member,
    /// Somebody who dialed to ask.
    Asker,
    /// Somebody who was dialed to be asked.
    Asked,
    /// A bridge that this member serves.
    Bridge,
    /// The member that serves this bridge.
    Server,
}

/// The first bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) last: bool,
    pub(super) length: u16,
}

impl Head {
    /// Reads one.
    pub(super) fn read(bytes: [u8; HEAD]) -> Result<Self, WireError> {
        let [kind, last, high, low] = bytes;
        let length = u16::from_be_bytes([high, low]);
        let head = Self {
            kind: Kind::read(kind).ok_or(WireError::Garbage)?,
            last: match last {
                0 => false,
                1 => true,
                _ => return Err(WireError::Garbage),
            },
            length,
        };
        // An unfinished message without end would cost nothing but never end.
        let advances = head.last || length > 0;
        if advances && usize::from(length) <= MAX_PAYLOAD {
            Ok(head)
        } else {
            Err(WireError::Garbage)
        }
    }

    /// Its bytes.
    pub(super) fn write(self) -> [u8; HEAD] {
        let [high, low] = self.length.to_be_bytes();
        [self.kind as u8, u8::from(self.last), high, low]
    }
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::Hello,
        Self::Ping,
        Self::Pong,
        Self::Credit,
        Self::Addresses,
        Self::Goodbye,
        Self::Consensus,
        Self::Bulk,
        Self::Request,
        Self::Answer,
        Self::Radio,
        Self::Serial,
        Self::Beat,
    ];

    fn read(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Longest message of this kind from a peer in this role; none: it may not send any.
    fn limit(self, role: Role) -> Option<usize> {
        let member = role == Role::Member;
        let bridged = matches!(role, Role::Bridge | Role::Server);
        match self {
            Self::Hello => (role == Role::Unknown).then_some(Hello::BYTES),
            Self::Goodbye => Some(1),
            _ if role == Role::Unknown => None,
            Self::Ping | Self::Pong => Some(8),
            Self::Credit => member.then_some(4),
            Self::Addresses => member.then_some(MAX_ADDRESSES * ADDRESS_BYTES),
            Self::Consensus => member.then_some(MAX_CONSENSUS),
            Self::Bulk => member.then_some(MAX_BULK),
            Self::Radio => bridged.then_some(MAX_RADIO),
            Self::Serial => bridged.then_some(MAX_SERIAL),
            Self::Request | Self::Answer if bridged => None,
            Self::Request => (role != Role::Asked).then_some(MAX_REQUEST + 4),
            Self::Answer => (role != Role::Asker).then_some(MAX_REQUEST + 5),
            Self::Beat => member.then_some(MAX_BEAT),
        }
    }
}

/// Why a connection is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Between members, to stay.
    Link,
    /// To ask.
    Requests,
    /// From a bridge to the member that serves it, to stay.
    Bridge,
}

/// Says which process speaks, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    /// What the connection is for.
    pub(super) purpose: Purpose,
    /// Random, made at each start: tells a process from its copy on another machine.
    pub(super) instance: [u8; 16],
    /// Where it listens; 0: nowhere.
    pub(super) port: u16,
}

impl Hello {
    const BYTES: usize = 20;

    /// Its bytes.
    pub(super) fn write(&self) -> Vec<u8> {
        let purpose = match self.purpose {
            Purpose::Link => 1,
            Purpose::Requests => 2,
            Purpose::Bridge => 3,
        };
        [&[VERSION, purpose], &self.instance[..], &self.port.to_be_bytes()].concat()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (&[version, purpose], rest) = bytes.split_first_chunk()?;
        let (instance, port) = rest.split_first_chunk()?;
        let purpose = match purpose {
            1 => Purpose::Link,
            2 => Purpose::Requests,
            3 => Purpose::Bridge,
            _ => return None,
        };
        let port = u16::from_be_bytes(port.try_into().ok()?);
        (version == VERSION).then_some(Self { purpose, instance: *instance, port })
    }
}

/// Why an end closes the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Goodbye {
    /// It stops.
    Stopping = 1,
    /// The other end is no member here (yet, or any more).
    NoMember = 2,
    /// There is another connection between the two.
    Second = 3,
    /// The other end's identity is in use on another machine.
    Duplicate = 4,
    /// The other end has broken the rules of this protocol.
    Misbehaved = 5,
    /// A guest's bytes or time are used up.
    Quota = 6,
    /// Too many guests now.
    Busy = 7,
    /// This bridge is not let in (yet, or any more).
    NotLetIn = 8,
}

impl Goodbye {
    const ALL: [Self; 8] = [
        Self::Stopping,
        Self::NoMember,
        Self::Second,
        Self::Duplicate,
        Self::Misbehaved,
        Self::Quota,
        Self::Busy,
        Self::NotLetIn,
    ];

    /// In words, of the other end.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Stopping => "the other gateway stops",
            Self::NoMember => "the other gateway does not know this one as a member",
            Self::Second => "there is another connection between the two",
            Self::Duplicate => "this identity is in use on another machine",
            Self::Misbehaved => "the other gateway does not understand what was sent",
            Self::Quota => "what a guest may use is used up",
            Self::Busy => "the other gateway has too many guests now",
            Self::NotLetIn => "the other gateway has not let this bridge in",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Outcome {
    /// The answer follows.
    Answered = 0,
    /// Later.
    Busy = 1,
    /// There is no answer.
    Unanswered = 2,
}

/// A whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    Hello(Hello),
    Ping(u64),
    Pong(u64),
    Credit(u32),
    Addresses(Vec<(NodeId, SocketAddr)>),
    Goodbye(Goodbye),
    Consensus(Vec<u8>),
    Bulk(Vec<u8>),
    Request { id: u32, bytes: Vec<u8> },
    Answer { id: u32, outcome: Outcome, bytes: Vec<u8> },
    Beat(Vec<u8>),
    Radio(Vec<u8>),
    Serial(Vec<u8>),
}

const ADDRESS_BYTES: usize = 20 + 16 + 2;

/// The payload of [`Kind::Addresses`]; what is beyond [`MAX_ADDRESSES`] is left out.
pub(super) fn write_addresses(addresses: &[(NodeId, SocketAddr)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (node, address) in addresses.iter().take(MAX_ADDRESSES) {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        bytes.extend_from_slice(&node.0);
        bytes.extend_from_slice(&ip.octets());
        bytes.extend_from_slice(&address.port().to_be_bytes());
    }
    bytes
}

fn read_addresses(bytes: &[u8]) -> Option<Vec<(NodeId, SocketAddr)>> {
    let (entries, rest) = bytes.as_chunks::<ADDRESS_BYTES>();
    let read = |entry: &[u8; ADDRESS_BYTES]| {
        let (node, rest) = entry.split_first_chunk()?;
        let (ip, port) = rest.split_first_chunk::<16>()?;
        let port = u16::from_be_bytes(port.try_into().ok()?);
        let ip = Ipv6Addr::from(*ip).to_canonical();
        Some((NodeId(*node), SocketAddr::new(ip, port)))
    };
    rest.is_empty().then(|| entries.iter().filter_map(read).collect())
}

/// Kinds whose messages may have several frames.
const LONG: usize = 6;

/// Joins the frames of one connection to messages.
#[derive(Debug)]
pub(super) struct Assembler {
    role: Role,
    /// Unfinished messages of the kinds from [`Kind::Consensus`] to [`Kind::Serial`].
    partial: [Vec<u8>; LONG],
}

impl Assembler {
    /// Nothing has come; only the first frame is taken.
    pub(super) fn new() -> Self {
        Self { role: Role::Unknown, partial: Default::default() }
    }

    /// What the other end may send from now on.
    pub(super) fn become_role(&mut self, role: Role) {
        self.role = role;
    }

    /// Whether a frame of this head may come now: to be asked before its payload is read.
    pub(super) fn check(&self, head: &Head) -> Result<(), WireError> {
        let limit = head.kind.limit(self.role).ok_or(WireError::Forbidden)?;
        let before = match slot(head.kind) {
            Some(slot) => self.partial[slot].len(),
            None if head.last => 0,
            None => return Err(WireError::Malformed),
        };
        if before + usize::from(head.length) <= limit { Ok(()) } else { Err(WireError::TooLong) }
    }

    /// Takes a frame; gives the message that it ends.
    pub(super) fn take(
        &mut self,
        head: &Head,
        payload: &[u8],
    ) -> Result<Option<Message>, WireError> {
        self.check(head)?;
        let Some(slot) = slot(head.kind) else {
            return read_short(head.kind, payload).map(Some).ok_or(WireError::Malformed);
        };
        self.partial[slot].extend_from_slice(payload);
        if !head.last {
            return Ok(None);
        }
        let whole = std::mem::take(&mut self.partial[slot]);
        read_long(head.kind, whole).map(Some).ok_or(WireError::Malformed)
    }
}

fn slot(kind: Kind) -> Option<usize> {
    (kind as usize).checked_sub(Kind::Consensus as usize).filter(|slot| *slot < LONG)
}

fn read_short(kind: Kind, bytes: &[u8]) -> Option<Message> {
    Some(match kind {
        Kind::Hello => Message::Hello(Hello::read(bytes)?),
        Kind::Ping => Message::Ping(u64::from_be_bytes(bytes.try_into().ok()?)),
        Kind::Pong => Message::Pong(u64::from_be_bytes(bytes.try_into().ok()?)),
        Kind::Credit => Message::Credit(u32::from_be_bytes(bytes.try_into().ok()?)),
        Kind::Addresses => Message::Addresses(read_addresses(bytes)?),
        Kind::Goodbye => {
            let &[code] = bytes else { return None };
            Message::Goodbye(Goodbye::ALL.into_iter().find(|each| *each as u8 == code)?)
        }
        Kind::Beat => Message::Beat(bytes.to_vec()),
        Kind::Consensus
        | Kind::Bulk
        | Kind::Request
        | Kind::Answer
        | Kind::Radio
        | Kind::Serial => return None,
    })
}

fn read_long(kind: Kind, mut bytes: Vec<u8>) -> Option<Message> {
    match kind {
        Kind::Consensus => return Some(Message::Consensus(bytes)),
        Kind::Bulk => return Some(Message::Bulk(bytes)),
        Kind::Radio => return Some(Message::Radio(bytes)),
        Kind::Serial => return Some(Message::Serial(bytes)),
        _ => {}
    }
    let id = u32::from_be_bytes(*bytes.first_chunk()?);
    if kind == Kind::Request {
        bytes.drain(..4);
        return Some(Message::Request { id, bytes });
    }
    let outcome = match bytes.get(4)? {
        0 => Outcome::Answered,
        1 => Outcome::Busy,
        2 => Outcome::Unanswered,
        _ => return None,
    };
    bytes.drain(..5);
    Some(Message::Answer { id, outcome, bytes })
}

/// The payload of a request.
pub(super) fn write_request(id: u32, bytes: &[u8]) -> Vec<u8> {
    [&id.to_be_bytes(), bytes].concat()
}

/// The payload of an answer.
pub(super) fn write_answer(id: u32, outcome: Outcome, bytes: &[u8]) -> Vec<u8> {
    [&id.to_be_bytes()[..], &[outcome as u8], bytes].concat()
}

/// Feeds arbitrary bytes to the reader of frames, in every role: for the fuzzer.
pub fn fuzz(bytes: &[u8]) {
    let bridged = [Role::Bridge, Role::Server];
    for role in [Role::Unknown, Role::Member, Role::Asker, Role::Asked].into_iter().chain(bridged) {
        let mut assembler = Assembler::new();
        assembler.become_role(role);
        let mut rest = bytes;
        while let Some((head, after)) = rest.split_first_chunk() {
            let Ok(head) = Head::read(*head) else { break };
            assert_eq!(Head::read(head.write()), Ok(head));
            let Some((payload, after)) = after.split_at_checked(usize::from(head.length)) else {
                break;
            };
            match assembler.take(&head, payload) {
                Ok(Some(Message::Hello(hello))) => assert_eq!(hello.write(), payload),
                Ok(_) => {}
                Err(_) => break,
            }
            rest = after;
        }
        let held: usize = assembler.partial.iter().map(Vec::len).sum();
        assert!(held <= bytes.len(), "no more is kept than came");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(kind: Kind, last: bool, length: usize) -> Head {
        Head { kind, last, length: length.try_into().unwrap() }
    }

    fn joined(role: Role, kind: Kind, total: usize) -> Result<Option<Message>, WireError> {
        let mut assembler = Assembler::new();
        assembler.become_role(role);
        let (payload, mut left) = ([7; MAX_PAYLOAD], total);
        loop {
            let length = left.min(MAX_PAYLOAD);
            left -= length;
            let done = assembler.take(&head(kind, left == 0, length), &payload[..length])?;
            if left == 0 {
                return Ok(done);
            }
        }
    }

    #[test]
    fn every_kind_ends_at_its_limit() {
        for (role, kind, limit) in [
            (Role::Member, Kind::Consensus, MAX_CONSENSUS),
            (Role::Member, Kind::Bulk, MAX_BULK),
            (Role::Bridge, Kind::Radio, MAX_RADIO),
            (Role::Server, Kind::Serial, MAX_SERIAL),
        ] {
            assert!(matches!(joined(role, kind, limit), Ok(Some(_))));
            assert_eq!(joined(role, kind, limit + 1), Err(WireError::TooLong));
        }
        let request = joined(Role::Asker, Kind::Request, MAX_REQUEST + 4).unwrap().unwrap();
        let Message::Request { id: 0x0707_0707, bytes } = request else {
            panic!("{request:?}");
        };
        assert_eq!(bytes.len(), MAX_REQUEST);
        assert_eq!(joined(Role::Asker, Kind::Request, MAX_REQUEST + 5), Err(WireError::TooLong));
        assert_eq!(joined(Role::Asker, Kind::Request, 3), Err(WireError::Malformed));
    }

    #[test]
    fn a_role_has_its_kinds_and_no_others() {
        let bridged = [Kind::Ping, Kind::Pong, Kind::Goodbye, Kind::Radio, Kind::Serial];
        let table = [
            (Role::Unknown, vec![Kind::Hello, Kind::Goodbye]),
            (Role::Asker, vec![Kind::Ping, Kind::Pong, Kind::Goodbye, Kind::Request]),
            (Role::Asked, vec![Kind::Ping, Kind::Pong, Kind::Goodbye, Kind::Answer]),
            (
                Role::Member,
                Kind::ALL[1..]
                    .iter()
                    .copied()
                    .filter(|kind| !bridged[3..].contains(kind))
                    .collect(),
            ),
            (Role::Bridge, bridged.to_vec()),
            (Role::Server, bridged.to_vec()),
        ];
        for (role, allowed) in table {
            let mut assembler = Assembler::new();
            assembler.become_role(role);
            for kind in Kind::ALL {
                let checked = assembler.check(&head(kind, true, 0));
                let expected =
                    if allowed.contains(&kind) { Ok(()) } else { Err(WireError::Forbidden) };
                assert_eq!(checked, expected, "{role:?} {kind:?}");
            }
        }
    }

    #[test]
    fn heads_that_are_none_are_refused() {
        let table: [(&str, [u8; 4]); 5] = [
            ("kind 0", [0, 1, 0, 0]),
            ("kind 14", [14, 1, 0, 0]),
            ("flag 2", [7, 2, 0, 1]),
            ("too long", [7, 1, 0xff, 0xff]),
            ("endless nothing", [7, 0, 0, 0]),
        ];
        for (what, bytes) in table {
            assert_eq!(Head::read(bytes), Err(WireError::Garbage), "{what}");
        }
        // The beginning of an HTTP request, of an SSH banner, of a TLS record.
        for bytes in [*b"GET ", *b"SSH-", [22, 3, 1, 2]] {
            assert_eq!(Head::read(bytes), Err(WireError::Garbage));
        }
    }

    #[test]
    fn a_beat_is_one_short_frame_of_a_member() {
        let mut assembler = Assembler::new();
        assembler.become_role(Role::Member);
        let whole = assembler.take(&head(Kind::Beat, true, 3), b"abc");
        assert_eq!(whole, Ok(Some(Message::Beat(b"abc".to_vec()))));
        let long = assembler.check(&head(Kind::Beat, true, MAX_BEAT + 1));
        assert_eq!(long, Err(WireError::TooLong));
        let cut = assembler.check(&head(Kind::Beat, false, 3));
        assert_eq!(cut, Err(WireError::Malformed));
    }

    #[test]
    fn lanes_are_joined_apart() {
        let mut assembler = Assembler::new();
        assembler.become_role(Role::Member);
        assert_eq!(assembler.take(&head(Kind::Bulk, false, 1), b"a"), Ok(None));
        let vote = assembler.take(&head(Kind::Consensus, true, 1), b"v");
        assert_eq!(vote, Ok(Some(Message::Consensus(b"v".to_vec()))));
        let block = assembler.take(&head(Kind::Bulk, true, 1), b"b");
        assert_eq!(block, Ok(Some(Message::Bulk(b"ab".to_vec()))));
    }

    #[test]
    fn addresses_round_trip_and_torn_ones_are_refused() {
        let list: Vec<(NodeId, SocketAddr)> = vec![
            (NodeId([1; 20]), "192.0.2.1:7447".parse().unwrap()),
            (NodeId([2; 20]), "[2001:db8::1]:1".parse().unwrap()),
        ];
        let bytes = write_addresses(&list);
        assert_eq!(read_addresses(&bytes), Some(list));
        assert_eq!(read_addresses(&bytes[1..]), None);
        let hello = Hello { purpose: Purpose::Link, instance: [3; 16], port: 7447 };
        assert_eq!(Hello::read(&hello.write()), Some(hello));
        assert_eq!(Hello::read(&hello.write()[1..]), None);
    }
}
