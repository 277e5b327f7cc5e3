//! Between our forms and the engine's: one function for each type and direction.
//!
//! Total in both directions, so that what was logged is fed back as it was.

use arc_malachitebft_core_consensus as bft;
use arc_malachitebft_core_types as engine;
use bft::Input;
use engine::{NilOrVal, Round, SignedMessage, Timeout, TimeoutKind};

use super::context::{self, Address, Context};
use super::message::{Justification, Proposal, Reason, Vote};
use super::record::Record;
use crate::certificate::VoteType;
use crate::ids::{Hash, Height, NodeId};

const PROPOSE: u8 = 0;
const PREVOTE: u8 = 1;
const PRECOMMIT: u8 = 2;
pub(super) const REBROADCAST: u8 = 3;

pub(super) fn timer_key(timeout: &Timeout) -> Option<(u8, u32)> {
    let step = match timeout.kind {
        TimeoutKind::Propose => PROPOSE,
        TimeoutKind::Prevote => PREVOTE,
        TimeoutKind::Precommit => PRECOMMIT,
        TimeoutKind::Rebroadcast => REBROADCAST,
        TimeoutKind::FinalizeHeight(_) => return None,
    };
    timeout.round.as_u32().map(|round| (step, round))
}

pub(super) fn timer_kind(step: u8) -> Option<TimeoutKind> {
    match step {
        PROPOSE => Some(TimeoutKind::Propose),
        PREVOTE => Some(TimeoutKind::Prevote),
        PRECOMMIT => Some(TimeoutKind::Precommit),
        REBROADCAST => Some(TimeoutKind::Rebroadcast),
        _ => None,
    }
}

pub(super) fn record_of_input(running: Option<Height>, input: &Input<Context>) -> Option<Record> {
    match input {
        Input::Vote(vote) => Some(Record::Vote(wire_vote(vote))),
        Input::Proposal(proposal) => Some(Record::Proposal(wire_proposal(proposal))),
        Input::PolkaCertificate(polka) => Some(Record::Polka(wire_polka(polka))),
        Input::TimeoutElapsed(timeout) => {
            let (step, round) = timer_key(timeout)?;
            Some(Record::Timeout { height: running?, round, step })
        }
        Input::ProposedValue(value, _) => Some(Record::Verdict {
            height: value.height,
            round: value.round.as_u32()?,
            proposer: value.proposer.0,
            block: value.value,
            valid: value.validity.is_valid(),
        }),
        _ => None,
    }
}

pub(super) fn input_of_record(record: &Record) -> Option<Input<Context>> {
    match record {
        Record::Vote(vote) => Some(Input::Vote(engine_vote(vote))),
        Record::Proposal(proposal) => Some(Input::Proposal(engine_proposal(proposal))),
        Record::Polka(votes) => engine_polka(votes).map(Input::PolkaCertificate),
        Record::Timeout { round, step, .. } => {
            let timeout = Timeout::new(Round::new(*round), timer_kind(*step)?);
            Some(Input::TimeoutElapsed(timeout))
        }
        Record::Verdict { height, round, proposer, block, valid } => {
            let value = proposed_value(*height, *round, *proposer, *block, *valid);
            Some(Input::ProposedValue(value, engine::ValueOrigin::Consensus))
        }
        Record::Body { .. } | Record::Silent { .. } | Record::Afresh { .. } => None,
    }
}

pub(super) fn proposed_value(
    height: Height,
    round: u32,
    proposer: NodeId,
    block: Hash,
    valid: bool,
) -> bft::ProposedValue<Context> {
    bft::ProposedValue {
        height,
        round: Round::new(round),
        valid_round: Round::Nil,
        proposer: Address(proposer),
        value: block,
        validity: engine::Validity::from_bool(valid),
    }
}

pub(super) fn our_kind(kind: engine::VoteType) -> VoteType {
    match kind {
        engine::VoteType::Prevote => VoteType::Prevote,
        engine::VoteType::Precommit => VoteType::Precommit,
    }
}

pub(super) fn engine_kind(kind: VoteType) -> engine::VoteType {
    match kind {
        VoteType::Prevote => engine::VoteType::Prevote,
        VoteType::Precommit => engine::VoteType::Precommit,
    }
}

pub(super) fn value_option(value: &NilOrVal<Hash>) -> Option<Hash> {
    match value {
        NilOrVal::Nil => None,
        NilOrVal::Val(hash) => Some(*hash),
    }
}

pub(super) fn engine_value(block: Option<Hash>) -> NilOrVal<Hash> {
    block.map_or(NilOrVal::Nil, NilOrVal::Val)
}

pub(super) fn wire_vote(vote: &engine::SignedVote<Context>) -> Vote {
    let context::Vote { kind, height, round, value, voter } = vote.message;
    Vote {
        kind: our_kind(kind),
        height,
        round: round.as_u32().unwrap_or(u32::MAX),
        block: value_option(&value),
        voter: voter.0,
        signature: vote.signature,
    }
}

pub(super) fn engine_vote(vote: &Vote) -> engine::SignedVote<Context> {
    let Vote { kind, height, round, block, voter, signature } = *vote;
    let message = context::Vote {
        kind: engine_kind(kind),
        height,
        round: Round::new(round),
        value: engine_value(block),
        voter: Address(voter),
    };
    SignedMessage::new(message, signature)
}

pub(super) fn wire_proposal(proposal: &engine::SignedProposal<Context>) -> Proposal {
    let context::Proposal { height, round, value, valid_round, proposer } = proposal.message;
    Proposal {
        height,
        round: round.as_u32().unwrap_or(u32::MAX),
        block: value,
        valid_round: valid_round.as_u32(),
        proposer: proposer.0,
        signature: proposal.signature,
    }
}

pub(super) fn engine_proposal(proposal: &Proposal) -> engine::SignedProposal<Context> {
    let Proposal { height, round, block, valid_round, proposer, signature } = *proposal;
    let message = context::Proposal {
        height,
        round: Round::new(round),
        value: block,
        valid_round: Round::from(valid_round),
        proposer: Address(proposer),
    };
    SignedMessage::new(message, signature)
}

pub(super) fn wire_polka(polka: &engine::PolkaCertificate<Context>) -> Justification {
    Justification {
        reason: Reason::Polka,
        height: polka.height,
        round: polka.round.as_u32().unwrap_or(u32::MAX),
        votes: polka.votes(&Context).map(|vote| wire_vote(&vote)).collect(),
    }
}

/// A polka is prevotes for one block; anything else is not one.
pub(super) fn engine_polka(votes: &Justification) -> Option<engine::PolkaCertificate<Context>> {
    let block = votes.votes.first()?.block?;
    let of_block = |vote: &Vote| vote.kind == VoteType::Prevote && vote.block == Some(block);
    votes.votes.iter().all(of_block).then(|| {
        let signed = votes.votes.iter().map(engine_vote).collect();
        engine::PolkaCertificate::new(votes.height, Round::new(votes.round), block, signed)
    })
}

pub(super) fn wire_round_certificate(
    certificate: &engine::RoundCertificate<Context>,
) -> Justification {
    Justification {
        reason: match certificate.cert_type {
            engine::RoundCertificateType::Skip => Reason::Skip,
            engine::RoundCertificateType::Precommit => Reason::RoundOver,
        },
        height: certificate.height,
        round: certificate.round.as_u32().unwrap_or(u32::MAX),
        votes: certificate.votes(&Context).map(|vote| wire_vote(&vote)).collect(),
    }
}

pub(super) fn engine_round_certificate(votes: &Justification) -> engine::RoundCertificate<Context> {
    let kind = match votes.reason {
        Reason::Skip => engine::RoundCertificateType::Skip,
        Reason::RoundOver | Reason::Polka => engine::RoundCertificateType::Precommit,
    };
    let signed = votes.votes.iter().map(engine_vote).collect();
    let round = Round::new(votes.round);
    engine::RoundCertificate::new_from_votes(votes.height, round, kind, signed)
}
