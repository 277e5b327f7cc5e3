//! What this gateway signs as one of the quorum. Each signature is made on the ledger's thread,
//! against the state of that instant: what was right a moment ago is not signed any more when the
//! ledger has moved on.

use ledger::ids::{Hash, Height, NodeId};
use ledger::transaction::{Purpose, QuorumSignature, Statement, activate_digest, offline_digest};

use super::verifier::{Denial, Seat, check_seat, is_stale, seat};
use crate::coordination::liveness::Signed;
use crate::ledger_task::Here;

/// Blocks that a tip which newcomers have signed may be old (design §4 "Voters").
pub const MAX_READY_AGE: u64 = 20;

/// Blocks for which an endorsement holds.
pub const ENDORSEMENT_BLOCKS: u64 = 1_000;

/// Signs a statement.
///
/// # Errors
/// [`Denial`]: of another chain, era or policy, too old, or this gateway may not sign it.
pub fn sign_statement(here: &Here<'_>, statement: &Statement) -> Result<QuorumSignature, Denial> {
    let state = here.state;
    if statement.chain_id != here.chain_id || statement.era != here.era {
        return Err(Denial::OldBase);
    }
    if statement.policy_hash != state.policy().attestation_hash() {
        return Err(Denial::PolicyChanged);
    }
    let (base, tip) = (statement.base_height.0, here.tip.height.0);
    let changed = state.gateway(&statement.node()).map_or(0, |found| found.standing.since.0);
    if base > tip || tip - base > ENDORSEMENT_BLOCKS || base < changed {
        return Err(Denial::OldBase);
    }
    let own = seat(state, &here.gateway, here.time_ms);
    check_seat(own, &statement.node(), statement.purpose)?;
    Ok(QuorumSignature::sign(here.gateway, &statement.digest(), here.key))
}

/// Whether another voter's statement about a failed renewal says what this gateway found itself:
/// all but the base, which is the collector's.
pub fn agrees(own: &Statement, asked: &Statement) -> bool {
    let base_height = asked.base_height;
    let own = Statement { base_height, ..own.clone() };
    asked.purpose == Purpose::Fail && own == *asked
}

/// What a voter is asked to sign about gateways that would vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    /// Height of the tip that they have signed.
    pub height: Height,
    /// Its header's hash.
    pub hash: Hash,
    /// The gateways, ascending.
    pub nodes: Vec<NodeId>,
}

/// Signs that these gateways may vote. That the block is of this chain and that all of them were
/// heard for long enough, the caller knows.
///
/// # Errors
/// [`Denial`].
pub fn sign_activation(here: &Here<'_>, asked: &Activation) -> Result<QuorumSignature, Denial> {
    let tip = here.tip.height.0;
    if asked.height.0 > tip || tip - asked.height.0 > MAX_READY_AGE {
        return Err(Denial::OldBase);
    }
    if matches!(seat(here.state, &here.gateway, here.time_ms), Seat::None | Seat::Second(_)) {
        return Err(Denial::NoVote);
    }
    if !asked.nodes.iter().all(|node| may_vote(here, node)) {
        return Err(Denial::NotAMember);
    }
    let (chain_id, era) = (&here.chain_id, here.era);
    let digest = activate_digest(chain_id, era, asked.height, &asked.hash, &asked.nodes);
    Ok(QuorumSignature::sign(here.gateway, &digest, here.key))
}

/// Signs that a gateway is silent. That it is, and that this is kept, the caller knows. A voter
/// whose own attestation is stale says so too: that endorses nobody's TPM.
///
/// # Errors
/// [`Denial`].
pub fn sign_offline(here: &Here<'_>, asked: &Signed) -> Result<QuorumSignature, Denial> {
    let state = here.state;
    if !state.voters().contains(&here.gateway) {
        return Err(Denial::NoVote);
    }
    let known = state.gateway(&asked.node).filter(|known| {
        known.online && known.liveness_epoch == asked.epoch && known.standing.standing.may_record()
    });
    if known.is_none() || here.era != asked.era {
        return Err(Denial::NotThereYet);
    }
    let digest = offline_digest(&here.chain_id, asked.era, &asked.node, asked.epoch);
    Ok(QuorumSignature::sign(here.gateway, &digest, here.key))
}

fn may_vote(here: &Here<'_>, node: &NodeId) -> bool {
    super::membership::is_candidate(here.state, node) && !is_stale(here.state, node, here.time_ms)
}
