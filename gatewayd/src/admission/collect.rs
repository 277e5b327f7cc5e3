//! The endorsements of a quorum over one common statement. Pure.

use std::collections::BTreeMap;

use ledger::codec::{Decode, DecodeError};
use ledger::crypto::{PublicKey, Signature, verify_digest};
use ledger::genesis::TpmName;
use ledger::ids::{ChainId, Era, Hash, Height, NodeId};
use ledger::transaction::{Label, Purpose, QuorumSignature, Statement};
use ledger::validator_set::ValidatorSet;

use super::messages::Appraised;

/// What a statement must say to be about this gateway and this attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The ledger.
    pub chain_id: ChainId,
    /// Its era.
    pub era: Era,
    /// What it is for.
    pub purpose: Purpose,
    /// The attester's identity key.
    pub identity: PublicKey,
    /// Its vote key.
    pub vote_key: PublicKey,
    /// SHA-256 of its EK.
    pub ek_digest: Hash,
    /// Name of its AK.
    pub ak_name: TpmName,
    /// The label that it asked for.
    pub label: Label,
    /// The base that it proposed.
    pub base_height: Height,
}

/// Why an endorsement is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndorsementError {
    /// Not a statement.
    #[error("its statement is malformed: {0}")]
    Malformed(DecodeError),
    /// Signed for another gateway than the one that was asked.
    #[error("it endorses in another gateway's name")]
    OtherVoter,
    /// It does not vote.
    #[error("it is no voter")]
    NotAVoter,
    /// The statement is about something else.
    #[error("its statement says something else about {0}")]
    Says(&'static str),
    /// It endorses what it finds contraindicated.
    #[error("it endorses a claim that it finds contraindicated")]
    Contraindicated,
    /// The signature is wrong.
    #[error("its signature is not that of its vote key")]
    Signature,
    /// Its statement differs from that of the others.
    #[error("its statement differs from that of the others: a voter is behind, try again")]
    Differs,
}

/// Endorsements, by what they say: a voter that signs something else than the others counts for
/// itself alone, whenever it is asked.
#[derive(Debug)]
pub struct Endorsements {
    expected: Expected,
    groups: Vec<(Statement, BTreeMap<NodeId, Signature>)>,
}

impl Endorsements {
    /// None yet.
    pub fn new(expected: Expected) -> Self {
        Self { expected, groups: Vec::new() }
    }

    /// Takes what a voter answered.
    ///
    /// # Errors
    /// [`EndorsementError`]; then nothing is taken, but of one that differs from what most have
    /// signed so far: it counts for itself.
    pub fn add(
        &mut self,
        voters: &ValidatorSet,
        from: NodeId,
        appraised: &Appraised,
    ) -> Result<(), EndorsementError> {
        if appraised.voter != from {
            return Err(EndorsementError::OtherVoter);
        }
        let key = voters.vote_key(&from).ok_or(EndorsementError::NotAVoter)?;
        let statement =
            Statement::from_bytes(&appraised.statement).map_err(EndorsementError::Malformed)?;
        self.expected.matches(&statement)?;
        if statement.is_contraindicated() {
            return Err(EndorsementError::Contraindicated);
        }
        verify_digest(key, &statement.digest(), &appraised.signature)
            .map_err(|_| EndorsementError::Signature)?;
        // One voter, one word: the last one.
        for (_, signed) in &mut self.groups {
            signed.remove(&from);
        }
        self.groups.retain(|(_, signed)| !signed.is_empty());
        let most = self.count();
        let index = match self.groups.iter().position(|(known, _)| *known == statement) {
            Some(index) => index,
            None => {
                self.groups.push((statement, BTreeMap::new()));
                self.groups.len() - 1
            }
        };
        let group = &mut self.groups[index].1;
        group.insert(from, appraised.signature);
        if group.len() < most || (most > 0 && group.len() == 1) {
            return Err(EndorsementError::Differs);
        }
        Ok(())
    }

    /// How many say the same.
    pub fn count(&self) -> usize {
        self.groups.iter().map(|(_, signed)| signed.len()).max().unwrap_or(0)
    }

    /// The statement with its signatures, ascending by voter, when more than two thirds signed.
    pub fn complete(self, voters: &ValidatorSet) -> Option<(Statement, Vec<QuorumSignature>)> {
        let enough = |(_, signed): &(_, BTreeMap<_, _>)| signed.len() >= voters.quorum();
        let (statement, signed) = self.groups.into_iter().find(enough)?;
        let sign = |(voter, signature)| QuorumSignature { voter, signature };
        Some((statement, signed.into_iter().map(sign).collect()))
    }
}

impl Expected {
    fn matches(&self, statement: &Statement) -> Result<(), EndorsementError> {
        let Self {
            chain_id,
            era,
            purpose,
            identity,
            vote_key,
            ek_digest,
            ak_name,
            label,
            base_height,
        } = self;
        let same = [
            (*chain_id == statement.chain_id, "the site"),
            (*era == statement.era, "the era"),
            (*purpose == statement.purpose, "its purpose"),
            (*identity == statement.identity, "the identity key"),
            (*vote_key == statement.vote_key, "the vote key"),
            (*ek_digest == statement.ek_digest, "the endorsement key"),
            (*ak_name == statement.ak_name, "the attestation key"),
            (*label == statement.label, "the label"),
            (*base_height == statement.base_height, "the base height"),
        ];
        match same.iter().find(|(same, _)| !same) {
            Some((_, what)) => Err(EndorsementError::Says(what)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;
