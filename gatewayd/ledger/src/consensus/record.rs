//! What the write-ahead log records: our own form, so that the engine can be replaced without
//! touching the disk.

use super::message::{Justification, MAX_BODY, Proposal, check_fields};
use crate::codec::{Decode, DecodeError, Decoder, Encode, Encoder};
use crate::ids::{Hash, Height, NodeId};
use crate::vote::{Vote, decode_round};

/// One entry of the write-ahead log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A vote, own or received.
    Vote(Vote),
    /// A proposal, own or received.
    Proposal(Proposal),
    /// A quorum of prevotes received together.
    Polka(Justification),
    /// A consensus timer ran out.
    Timeout {
        /// The height it belongs to.
        height: Height,
        /// The round it belongs to.
        round: u32,
        /// 0 propose, 1 prevote, 2 precommit.
        step: u8,
    },
    /// The verdict on a body.
    Verdict {
        /// The height proposed for.
        height: Height,
        /// The round in which the body came.
        round: u32,
        /// Who built the block.
        proposer: NodeId,
        /// Its header hash.
        block: Hash,
        /// Whether this node held it valid.
        valid: bool,
    },
    /// A body that this node voted for or may vote for.
    Body {
        /// The height proposed for.
        height: Height,
        /// The encoded block.
        block: Vec<u8>,
    },
    /// Earlier records were lost: this node signs nothing up to this height.
    Silent {
        /// The last height without a vote.
        height: Height,
    },
    /// The height begins anew: this node has signed nothing in it, and earlier records of it
    /// are void.
    Afresh {
        /// The height.
        height: Height,
    },
}

impl Record {
    /// The height the record belongs to; records at or below the store's tip are void.
    pub fn height(&self) -> Height {
        match self {
            Self::Vote(vote) => vote.height,
            Self::Proposal(proposal) => proposal.height,
            Self::Polka(votes) => votes.height,
            Self::Timeout { height, .. }
            | Self::Verdict { height, .. }
            | Self::Body { height, .. }
            | Self::Silent { height }
            | Self::Afresh { height } => *height,
        }
    }
}

impl Encode for Record {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Vote(vote) => encoder.array(2).uint(1).value(vote),
            Self::Proposal(proposal) => encoder.array(2).uint(2).value(proposal),
            Self::Polka(votes) => encoder.array(2).uint(3).value(votes),
            Self::Timeout { height, round, step } => {
                encoder.array(4).uint(4).value(height).uint(u64::from(*round)).uint((*step).into())
            }
            Self::Verdict { height, round, proposer, block, valid } => {
                encoder.array(6).uint(5).value(height).uint(u64::from(*round));
                encoder.value(proposer).value(block).bool(*valid)
            }
            Self::Body { height, block } => encoder.array(3).uint(6).value(height).bytes(block),
            Self::Silent { height } => encoder.array(2).uint(7).value(height),
            Self::Afresh { height } => encoder.array(2).uint(8).value(height),
        };
    }
}

impl Decode for Record {
    const MAX_BYTES: usize = MAX_BODY + 64;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let fields = decoder.array("log record", 6)?;
        let (record, expected) = match decoder.uint("log record kind")? {
            1 => (Self::Vote(Vote::decode(decoder)?), 2),
            2 => (Self::Proposal(Proposal::decode(decoder)?), 2),
            3 => (Self::Polka(Justification::decode(decoder)?), 2),
            4 => {
                let height = Height::decode(decoder)?;
                let round = decode_round(decoder)?;
                (Self::Timeout { height, round, step: decoder.uint8("step")? }, 4)
            }
            5 => {
                let height = Height::decode(decoder)?;
                let round = decode_round(decoder)?;
                let proposer = NodeId::decode(decoder)?;
                let block = Hash::decode(decoder)?;
                let valid = decoder.bool("valid")?;
                (Self::Verdict { height, round, proposer, block, valid }, 6)
            }
            6 => {
                let height = Height::decode(decoder)?;
                let block = decoder.bytes("block", MAX_BODY)?.to_vec();
                (Self::Body { height, block }, 3)
            }
            7 => (Self::Silent { height: Height::decode(decoder)? }, 2),
            8 => (Self::Afresh { height: Height::decode(decoder)? }, 2),
            _ => return Err(DecodeError::Invalid("log record kind")),
        };
        check_fields("log record", fields, expected)?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Reason;
    use super::*;
    use crate::certificate::VoteType;
    use crate::crypto::Signature;

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
    fn records_round_trip() {
        let proposal = Proposal {
            height: Height(7),
            round: 2,
            block: Hash([1; 32]),
            valid_round: None,
            proposer: NodeId([3; 20]),
            signature: Signature::from_bytes([4; 64]),
        };
        let polka = Justification {
            reason: Reason::Polka,
            height: Height(7),
            round: 2,
            votes: vec![vote(Some(Hash([1; 32]))), vote(None)],
        };
        for record in [
            Record::Vote(vote(Some(Hash([1; 32])))),
            Record::Proposal(proposal),
            Record::Polka(polka.clone()),
            Record::Timeout { height: Height(7), round: 0, step: 2 },
            Record::Verdict {
                height: Height(7),
                round: 0,
                proposer: NodeId([3; 20]),
                block: Hash([1; 32]),
                valid: true,
            },
            Record::Body { height: Height(7), block: vec![0; 300] },
            Record::Silent { height: Height(7) },
            Record::Afresh { height: Height(7) },
        ] {
            assert_eq!(Record::from_bytes(&record.to_bytes()), Ok(record.clone()));
            assert_eq!(record.height(), Height(7));
        }
    }
}
