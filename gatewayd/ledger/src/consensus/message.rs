//! What voters say to each other and what the write-ahead log records: our own forms, so that
//! the engine can be replaced without touching wire or disk.
//!
//! Nothing here verifies a signature; the driver does, with the voters of the height.

use crate::codec::{Decode, DecodeError, Decoder, Encode, Encoder};
use crate::crypto::{Domain, Signature};
use crate::ids::{ChainId, Era, Hash, Height, NodeId};
use crate::validator_set::MAX_VOTERS;
use crate::vote::decode_round;

use super::record::Record;
use crate::sync::wire::{Answer, Request};
pub use crate::vote::Vote;

/// A signed proposal of a block, by its header hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The height proposed for.
    pub height: Height,
    /// The round of that height.
    pub round: u32,
    /// Header hash of the block.
    pub block: Hash,
    /// The earlier round in which a quorum held the block valid.
    pub valid_round: Option<u32>,
    /// Who proposes.
    pub proposer: NodeId,
    /// By the proposer's vote key over [`proposal_digest`].
    pub signature: Signature,
}

/// A group of votes of one height and round that proves something together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Justification {
    /// What the votes prove.
    pub reason: Reason,
    /// The height of all votes.
    pub height: Height,
    /// The round of all votes.
    pub round: u32,
    /// At most [`MAX_VOTERS`] votes.
    pub votes: Vec<Vote>,
}

/// What a [`Justification`] proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A quorum prevoted one block.
    Polka,
    /// A quorum precommitted, not all for one block: the round is over.
    RoundOver,
    /// More than a third voted in a later round: go there.
    Skip,
}

/// Largest block body on the wire, in bytes.
pub const MAX_BODY: usize = 4 * 1024 * 1024;
/// Blocks in one message.
pub const MAX_RANGE: usize = 1_024;
/// Transactions in one gossip message.
pub const MAX_GOSSIP: usize = 256;
/// Votes in one answer to [`Message::AskVotes`].
pub const MAX_KNOWN_VOTES: usize = 8;

/// A message between gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A vote.
    Vote(Vote),
    /// A proposal.
    Proposal(Proposal),
    /// Votes that justify a round or a proposal.
    Justification(Justification),
    /// The body of a proposed block.
    Body {
        /// Height it is proposed for.
        height: Height,
        /// Round in which it was sent.
        round: u32,
        /// The encoded block.
        block: Vec<u8>,
    },
    /// Transactions for the mempool, as signed.
    Transactions(Vec<Vec<u8>>),
    /// "Send me decided blocks."
    Fetch {
        /// The first of them.
        from: Height,
        /// How many at most.
        count: u32,
    },
    /// Decided blocks in a row, certified by one set of voters; none: they are not here.
    Decided {
        /// The encoded blocks, ascending by height.
        blocks: Vec<Vec<u8>>,
        /// The encoded finality certificate of the last.
        certificate: Vec<u8>,
    },
    /// How far the sender is: when a connection begins, and when somebody seems to be behind.
    Tip(PeerTip),
    /// "Send me the block that began the era after this one."
    FetchEra(Era),
    /// A gateway without blocks asks for a snapshot.
    SnapshotRequest(Request),
    /// A part of a snapshot.
    Snapshot(Answer),
    /// "Which of my votes do you know?" The sender's log may be an older copy.
    AskVotes,
    /// The newest votes of the receiver that the sender knows.
    KnownVotes {
        /// How far the sender is.
        tip: PeerTip,
        /// At most [`MAX_KNOWN_VOTES`].
        votes: Vec<Vote>,
    },
}

/// How far a gateway is; a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerTip {
    /// Its newest block.
    pub height: Height,
    /// The era of that block.
    pub era: Era,
    /// The oldest block that it can send.
    pub first: Height,
}

impl PeerTip {
    /// As fields of a message.
    fn encode_behind<'a>(&self, encoder: &'a mut Encoder) -> &'a mut Encoder {
        let Self { height, era, first } = self;
        encoder.value(height).value(era).value(first)
    }

    fn decode_behind(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let (height, era) = (Height::decode(decoder)?, Era::decode(decoder)?);
        Ok(Self { height, era, first: Height::decode(decoder)? })
    }
}

impl Message {
    /// The height at which the sender takes part in consensus, if the message tells.
    pub fn height(&self) -> Option<Height> {
        match self {
            Self::Vote(vote) => Some(vote.height),
            Self::Proposal(proposal) => Some(proposal.height),
            Self::Justification(votes) => Some(votes.height),
            Self::Body { height, .. } => Some(*height),
            Self::Transactions(_)
            | Self::Fetch { .. }
            | Self::Decided { .. }
            | Self::Tip(_)
            | Self::FetchEra(_)
            | Self::SnapshotRequest(_)
            | Self::Snapshot(_)
            | Self::AskVotes
            | Self::KnownVotes { .. } => None,
        }
    }
}

/// Reads a message of a peer.
///
/// # Errors
/// Anything but the canonical form within the limits.
pub fn parse(bytes: &[u8]) -> Result<Message, DecodeError> {
    Message::from_bytes(bytes)
}

/// Longest body that goes with the votes, bytes.
const SHORT_BODY: usize = 64 * 1024;

/// Whether an encoded message should not wait behind blocks on their way to others: all but long
/// bodies, decided blocks, pieces of snapshots and gossip.
pub fn is_urgent(bytes: &[u8]) -> bool {
    let mut decoder = Decoder::new(bytes);
    let kind = decoder.array("message", 5).and_then(|_| decoder.uint("message kind"));
    match kind {
        Ok(4) => bytes.len() <= SHORT_BODY,
        Ok(kind) => !matches!(kind, 5 | 7 | 11),
        Err(_) => false,
    }
}

/// Feeds arbitrary bytes to both parsers of this module: for the fuzzer. What is accepted must
/// encode to the same bytes again.
///
/// # Panics
/// When it does not.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(message) = Message::from_bytes(bytes) {
        assert_eq!(message.to_bytes(), bytes);
    }
    if let Ok(record) = Record::from_bytes(bytes) {
        assert_eq!(record.to_bytes(), bytes);
    }
}

impl Encode for Message {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Vote(vote) => encoder.array(2).uint(1).value(vote),
            Self::Proposal(proposal) => encoder.array(2).uint(2).value(proposal),
            Self::Justification(votes) => encoder.array(2).uint(3).value(votes),
            Self::Body { height, round, block } => {
                encoder.array(4).uint(4).value(height).uint(u64::from(*round)).bytes(block)
            }
            Self::Transactions(list) => {
                encoder.array(2).uint(5).array(list.len());
                list.iter().fold(encoder, |encoder, bytes| encoder.bytes(bytes))
            }
            Self::Fetch { from, count } => encoder.array(3).uint(6).value(from).value(count),
            Self::Decided { blocks, certificate } => {
                encoder.array(3).uint(7).array(blocks.len());
                blocks
                    .iter()
                    .fold(encoder, |encoder, bytes| encoder.bytes(bytes))
                    .bytes(certificate)
            }
            Self::Tip(tip) => tip.encode_behind(encoder.array(4).uint(8)),
            Self::FetchEra(era) => encoder.array(2).uint(9).value(era),
            Self::SnapshotRequest(request) => encoder.array(2).uint(10).value(request),
            Self::Snapshot(answer) => encoder.array(2).uint(11).value(answer),
            Self::AskVotes => encoder.array(1).uint(12),
            Self::KnownVotes { tip, votes } => {
                tip.encode_behind(encoder.array(5).uint(13)).list(votes)
            }
        };
    }
}

impl Decode for Message {
    const MAX_BYTES: usize = MAX_BODY + MAX_CERTIFICATE + 64 + 5 * MAX_RANGE;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let fields = decoder.array("message", 5)?;
        let (message, expected) = match decoder.uint("message kind")? {
            1 => (Self::Vote(Vote::decode(decoder)?), 2),
            2 => (Self::Proposal(Proposal::decode(decoder)?), 2),
            3 => (Self::Justification(Justification::decode(decoder)?), 2),
            4 => {
                let height = Height::decode(decoder)?;
                let round = decode_round(decoder)?;
                let block = decoder.bytes("block", MAX_BODY)?.to_vec();
                (Self::Body { height, round, block }, 4)
            }
            5 => (Self::Transactions(decode_gossip(decoder)?), 2),
            6 => {
                let from = Height::decode(decoder)?;
                (Self::Fetch { from, count: decoder.uint32("count")? }, 3)
            }
            7 => {
                let blocks = decode_blocks(decoder)?;
                let certificate = decoder.bytes("certificate", MAX_CERTIFICATE)?.to_vec();
                (Self::Decided { blocks, certificate }, 3)
            }
            8 => (Self::Tip(PeerTip::decode_behind(decoder)?), 4),
            9 => (Self::FetchEra(Era::decode(decoder)?), 2),
            10 => (Self::SnapshotRequest(Request::decode(decoder)?), 2),
            11 => (Self::Snapshot(Answer::decode(decoder)?), 2),
            12 => (Self::AskVotes, 1),
            13 => {
                let tip = PeerTip::decode_behind(decoder)?;
                (Self::KnownVotes { tip, votes: decoder.list("votes", MAX_KNOWN_VOTES)? }, 5)
            }
            _ => return Err(DecodeError::Invalid("message kind")),
        };
        check_fields("message", fields, expected)?;
        Ok(message)
    }
}

const MAX_CERTIFICATE: usize = 64 * 1024;
/// Largest transaction with its attachment on the wire, in bytes.
const MAX_GOSSIPED: usize = 1024 * 1024;

fn decode_blocks(decoder: &mut Decoder<'_>) -> Result<Vec<Vec<u8>>, DecodeError> {
    let count = decoder.array("blocks", MAX_RANGE)?;
    (0..count).map(|_| decoder.bytes("block", MAX_BODY).map(<[u8]>::to_vec)).collect()
}

fn decode_gossip(decoder: &mut Decoder<'_>) -> Result<Vec<Vec<u8>>, DecodeError> {
    let count = decoder.array("transactions", MAX_GOSSIP)?;
    (0..count).map(|_| decoder.bytes("transaction", MAX_GOSSIPED).map(<[u8]>::to_vec)).collect()
}

pub(super) fn check_fields(
    what: &'static str,
    found: usize,
    expected: u64,
) -> Result<(), DecodeError> {
    let found = found as u64;
    if found == expected { Ok(()) } else { Err(DecodeError::FieldCount { what, found, expected }) }
}

impl Encode for Proposal {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { height, round, block, valid_round, proposer, signature } = self;
        encoder.array(6).value(height).uint(u64::from(*round)).value(block);
        match valid_round {
            Some(round) => encoder.uint(u64::from(*round)),
            None => encoder.null(),
        };
        encoder.value(proposer).value(signature);
    }
}

impl Decode for Proposal {
    const MAX_BYTES: usize = 256;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("proposal", 6)?;
        Ok(Self {
            height: Height::decode(decoder)?,
            round: decode_round(decoder)?,
            block: Hash::decode(decoder)?,
            valid_round: match decoder.null() {
                true => None,
                false => Some(decode_round(decoder)?),
            },
            proposer: NodeId::decode(decoder)?,
            signature: Signature::decode(decoder)?,
        })
    }
}

impl Encode for Justification {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { reason, height, round, votes } = self;
        let reason = match reason {
            Reason::Polka => 0,
            Reason::RoundOver => 1,
            Reason::Skip => 2,
        };
        encoder.array(4).uint(reason).value(height).uint(u64::from(*round)).list(votes);
    }
}

impl Decode for Justification {
    const MAX_BYTES: usize = MAX_VOTERS * Vote::MAX_BYTES;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("justification", 4)?;
        let found = Self {
            reason: match decoder.uint("reason")? {
                0 => Reason::Polka,
                1 => Reason::RoundOver,
                2 => Reason::Skip,
                _ => return Err(DecodeError::Invalid("reason")),
            },
            height: Height::decode(decoder)?,
            round: decode_round(decoder)?,
            votes: decoder.list("votes", MAX_VOTERS)?,
        };
        let one_round =
            found.votes.iter().all(|v| v.height == found.height && v.round == found.round);
        if one_round { Ok(found) } else { Err(DecodeError::Invalid("justification")) }
    }
}

/// What a proposal's signature covers: SHA-256(domain ‖ chain ID ‖ era ‖ height ‖ round ‖
/// block hash ‖ valid round + 1, or 0 for none), numbers big-endian.
pub fn proposal_digest(
    chain: &ChainId,
    era: Era,
    height: Height,
    round: u32,
    block: &Hash,
    valid_round: Option<u32>,
) -> Hash {
    let valid_round = valid_round.map_or(0, |round| u64::from(round) + 1);
    Domain::PROPOSAL.digest(&[
        &chain.0.0,
        &era.0.to_be_bytes(),
        &height.0.to_be_bytes(),
        &round.to_be_bytes(),
        &block.0,
        &valid_round.to_be_bytes(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::VoteType;

    fn vote(block: Option<Hash>) -> Vote {
        Vote {
            kind: VoteType::Precommit,
            height: Height(7),
            round: 2,
            block,
            voter: NodeId([3; 20]),
            signature: Signature::from_bytes([4; 64]),
        }
    }

    #[test]
    fn messages_round_trip() {
        let proposal = Proposal {
            height: Height(7),
            round: 2,
            block: Hash([1; 32]),
            valid_round: Some(0),
            proposer: NodeId([3; 20]),
            signature: Signature::from_bytes([4; 64]),
        };
        let polka = Justification {
            reason: Reason::Polka,
            height: Height(7),
            round: 2,
            votes: vec![vote(Some(Hash([1; 32]))), vote(None)],
        };
        for message in [
            Message::Vote(vote(None)),
            Message::Proposal(proposal),
            Message::Justification(polka.clone()),
            Message::Body { height: Height(7), round: 1, block: vec![1, 2] },
            Message::Transactions(vec![vec![1], vec![]]),
            Message::Fetch { from: Height(u64::MAX), count: 7 },
            Message::Decided { blocks: vec![vec![5], vec![]], certificate: vec![6] },
            Message::Tip(PeerTip { height: Height(9), era: Era(1), first: Height(3) }),
            Message::FetchEra(Era(1)),
            Message::SnapshotRequest(Request::Entries { height: Height(1), after: vec![7] }),
            Message::Snapshot(Answer::Entries {
                height: Height(1),
                after: vec![7],
                entries: vec![(vec![8], vec![])],
                more: None,
            }),
            Message::Snapshot(Answer::Gone { height: Height(1) }),
            Message::AskVotes,
            Message::KnownVotes {
                tip: PeerTip { height: Height(9), era: Era(1), first: Height(3) },
                votes: vec![vote(None)],
            },
        ] {
            assert_eq!(parse(&message.to_bytes()), Ok(message));
        }
    }

    #[test]
    fn bad_messages_are_refused() {
        let good = Message::FetchEra(Era(5)).to_bytes();
        let mut trailing = good.clone();
        trailing.push(0);
        assert_eq!(parse(&trailing), Err(DecodeError::Trailing(1)));
        assert_eq!(parse(&good[..1]), Err(DecodeError::Truncated("message kind")));
        let mut kind = good.clone();
        kind[1] = 14;
        assert_eq!(parse(&kind), Err(DecodeError::Invalid("message kind")));
        let mut fields = good;
        fields[0] = 0x83;
        assert!(matches!(parse(&fields), Err(DecodeError::FieldCount { .. })));
        let other_round = Vote { round: 9, ..vote(None) };
        let mixed = Justification {
            reason: Reason::Skip,
            height: Height(7),
            round: 2,
            votes: vec![vote(None), other_round],
        };
        let bytes = Message::Justification(mixed).to_bytes();
        assert_eq!(parse(&bytes), Err(DecodeError::Invalid("justification")));
    }
}
