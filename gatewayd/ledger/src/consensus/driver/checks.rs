//! What the engine has signed and checked: votes, proposals and certificates under the keys of the
//! height's voters. A signature is checked once, however often it comes.

use std::collections::BTreeSet;

use arc_malachitebft_core_types as engine;
use engine::CertificateError;

use super::super::context::{self, Context, Voters};
use super::super::convert::{our_kind, value_option};
use super::super::message::proposal_digest;
use super::{DriverError, Shell};
use crate::certificate::vote_digest;
use crate::crypto::{PublicKey, Signature, verify_digest};
use crate::ids::Hash;

/// Good signatures remembered a height: two votes of 128 voters in eight rounds.
const MAX_REMEMBERED: usize = 2_048;

impl Shell {
    pub(super) fn sign(&mut self, digest: &Hash) -> Signature {
        match &self.key {
            Some(key) => {
                let signature = key.sign_digest(digest);
                self.good.insert((key.public_key(), *digest, signature));
                signature
            }
            None => {
                self.fault = Some(DriverError::NoKey);
                Signature::from_bytes([0; 64])
            }
        }
    }

    pub(super) fn is_good(
        &mut self,
        key: &PublicKey,
        digest: &Hash,
        signature: &Signature,
    ) -> bool {
        let checked = (*key, *digest, *signature);
        if self.good.contains(&checked) {
            return true;
        }
        let good = verify_digest(key, digest, signature).is_ok();
        if good {
            self.remember(checked);
        }
        good
    }

    pub(super) fn remember(&mut self, checked: (PublicKey, Hash, Signature)) {
        if self.good.len() < MAX_REMEMBERED {
            self.good.insert(checked);
        }
    }

    pub(super) fn vote_digest(&self, vote: &context::Vote) -> Hash {
        let round = vote.round.as_u32().unwrap_or(u32::MAX);
        let block = value_option(&vote.value);
        vote_digest(&self.chain, self.era, our_kind(vote.kind), vote.height, round, block.as_ref())
    }

    pub(super) fn proposal_digest(&self, proposal: &context::Proposal) -> Hash {
        let round = proposal.round.as_u32().unwrap_or(u32::MAX);
        let valid = proposal.valid_round.as_u32();
        proposal_digest(&self.chain, self.era, proposal.height, round, &proposal.value, valid)
    }

    pub(super) fn verify_votes(
        &mut self,
        votes: &[(context::Vote, Signature)],
        voters: &Voters,
        needed: engine::ThresholdParam,
    ) -> Result<(), CertificateError<Context>> {
        let mut seen = BTreeSet::new();
        for (vote, signature) in votes {
            if !seen.insert(vote.voter.0) {
                return Err(CertificateError::DuplicateVote(vote.voter));
            }
            let key: &PublicKey =
                voters.key(&vote.voter).ok_or(CertificateError::UnknownValidator(vote.voter))?;
            if !self.is_good(key, &self.vote_digest(vote), signature) {
                let bad = engine::CommitSignature::new(vote.voter, *signature);
                return Err(CertificateError::InvalidCommitSignature(bad));
            }
        }
        let (signed, total) = (votes.len() as u64, voters.len() as u64);
        if needed.is_met(signed, total) {
            return Ok(());
        }
        let expected = needed.min_expected(total);
        Err(CertificateError::NotEnoughVotingPower { signed, total, expected })
    }
}
