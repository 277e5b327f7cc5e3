//! Why a height begins: a voter's signature on it, or a transaction that applies.
//!
//! Nothing that is unverified begins one: else a member that lies could keep a site that has
//! nothing to record from its rest.

use super::{Effect, Node, Refusal};
use crate::consensus::message::{Message, Proposal, proposal_digest};
use crate::crypto::{PublicKey, verify_digest};
use crate::ids::{Era, Hash};
use crate::state::ApplyError;
use crate::validator_set::ValidatorSet;
use crate::vote::Vote;

impl Node {
    /// Whether a voter of the height above the newest decided block has signed this message about
    /// it. Of several votes the first one is looked at: the engine looks at all of them.
    pub(super) fn is_signed_by_a_voter(&mut self, message: &Message) -> bool {
        let (voters, era) = self.next_voters();
        let signed = match message {
            Message::Vote(vote) => self.vote_signature(vote, voters, era),
            Message::Justification(votes) => {
                votes.votes.first().and_then(|vote| self.vote_signature(vote, voters, era))
            }
            Message::Proposal(proposal) => self.proposal_signature(proposal, voters, era),
            // A body names its proposer, who has not signed it.
            _ => None,
        };
        let Some((key, digest, signature)) = signed else {
            return false;
        };
        if verify_digest(&key, &digest, &signature).is_err() {
            return false;
        }
        self.driver.remember(key, digest, signature);
        true
    }

    /// Who votes on the height above the newest decided block, and in which era.
    fn next_voters(&self) -> (&ValidatorSet, Era) {
        match &self.storing {
            Some(storing) => (&storing.validators, storing.tip.header.era),
            None => (&self.validators, self.state.era()),
        }
    }

    fn vote_signature(&self, vote: &Vote, voters: &ValidatorSet, era: Era) -> Option<Signed> {
        let key = voters.vote_key(&vote.voter)?;
        Some((*key, vote.digest(&self.chain, era), vote.signature))
    }

    fn proposal_signature(
        &self,
        proposal: &Proposal,
        voters: &ValidatorSet,
        era: Era,
    ) -> Option<Signed> {
        let Proposal { height, round, block, valid_round, proposer, signature } = proposal;
        let key = voters.vote_key(proposer)?;
        let digest = proposal_digest(&self.chain, era, *height, *round, block, *valid_round);
        Some((*key, digest, *signature))
    }

    /// Whether something that is due now can be recorded on top of the newest block. What cannot
    /// is refused when it is from here; of others it waits for another block, for what it builds
    /// on may be on its way.
    pub(super) fn has_work(&mut self) -> bool {
        let (now_ms, on) = (self.now.mono_ms, self.tip.header.height);
        let interval_ms = u64::from(self.state.policy().block_interval_ms);
        let mut trial = self.begin_block(self.block_time_ms());
        let (mut found, mut failed) = (false, Vec::new());
        for waiting in self.mempool.iter().filter(|waiting| waiting.may_apply_on(on)) {
            match trial.apply(&waiting.transaction) {
                // Too many are in this block for one more of its author: so there is work.
                Ok(_) | Err(ApplyError::TooMany(_)) => {
                    found = waiting.due_ms(interval_ms) <= now_ms;
                    if found {
                        break;
                    }
                }
                Err(error) => {
                    let tx_hash = waiting.transaction.transaction().hash();
                    failed.push((tx_hash, waiting.local, error));
                }
            }
        }
        for (tx_hash, local, error) in failed {
            match local {
                true => self.refuse_waiting(tx_hash, error),
                false => self.mempool.put_off(&tx_hash, on),
            }
        }
        found
    }

    /// What was submitted here does not apply: it leaves the mempool, and its author is told.
    pub(super) fn refuse_waiting(&mut self, tx_hash: Hash, error: ApplyError) {
        if self.mempool.remove(&tx_hash).is_some_and(|waiting| waiting.local) {
            let error = Refusal::Apply(error);
            self.effects.push(Effect::Refused { tx_hash, error });
        }
    }
}

/// Whose signature, over what.
type Signed = (PublicKey, Hash, crate::crypto::Signature);
