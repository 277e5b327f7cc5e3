//! The gateways whose votes count, with the operator's key: what `validators_hash` covers.

use alloc::vec::Vec;

use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder, canonical, check_ascending},
    crypto::{PublicKey, sha256},
    ids::{Hash, NodeId},
};

/// A voter: a member with the software key that it votes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Validator {
    /// The gateway.
    pub node: NodeId,
    /// Its current vote key.
    pub vote_key: PublicKey,
}

canonical!(Validator, "validator", 64, [node, vote_key]);

/// The voters in order of their node IDs, and the operator's key.
///
/// Never empty, no node and no key twice: only [`ValidatorSet::new`] and decoding make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatorSet {
    operator: PublicKey,
    voters: Vec<Validator>,
}

/// Most voters of a site.
pub const MAX_VOTERS: usize = 128;

/// More than two thirds.
pub fn quorum_of(voters: usize) -> usize {
    voters * 2 / 3 + 1
}

impl ValidatorSet {
    /// Makes a set; sorts the voters.
    ///
    /// # Errors
    /// No voter, more than [`MAX_VOTERS`], or a node or vote key that occurs twice.
    pub fn new(operator: PublicKey, mut voters: Vec<Validator>) -> Result<Self, DecodeError> {
        voters.sort_unstable();
        let set = Self { operator, voters };
        set.check()?;
        Ok(set)
    }

    /// The operator's key.
    pub fn operator(&self) -> &PublicKey {
        &self.operator
    }

    /// The voters, in order of node ID.
    pub fn voters(&self) -> &[Validator] {
        &self.voters
    }

    /// Number of voters, at least one.
    pub fn count(&self) -> usize {
        self.voters.len()
    }

    /// Fewest votes that decide: more than two thirds of the voters.
    pub fn quorum(&self) -> usize {
        quorum_of(self.voters.len())
    }

    /// Position and key of a voter.
    pub fn position(&self, node: &NodeId) -> Option<usize> {
        self.voters.binary_search_by(|voter| voter.node.cmp(node)).ok()
    }

    /// The vote key of a voter; `None` for everyone else.
    pub fn vote_key(&self, node: &NodeId) -> Option<&PublicKey> {
        self.position(node).map(|index| &self.voters[index].vote_key)
    }

    /// Whether the voter at this position is in another set with the same key.
    pub fn is_same_voter(&self, position: usize, other: &Self) -> bool {
        let voter = self.voters.get(position);
        voter.is_some_and(|voter| other.vote_key(&voter.node) == Some(&voter.vote_key))
    }

    /// Hash of the set, as in `validators_hash` and `next_validators_hash`.
    pub fn hash(&self) -> Hash {
        sha256(&[b"gatewayd/validators/1", &self.to_bytes()])
    }

    fn check(&self) -> Result<(), DecodeError> {
        if self.voters.is_empty() {
            return Err(DecodeError::Invalid("validator set without voters"));
        }
        crate::codec::check_size("voters", self.voters.len(), MAX_VOTERS)?;
        let mut nodes: Vec<_> = self.voters.iter().map(|voter| voter.node).collect();
        nodes.dedup();
        check_ascending("voters", &nodes)?;
        if nodes.len() != self.voters.len() {
            return Err(DecodeError::Unsorted("voters"));
        }
        let mut keys: Vec<_> = self.voters.iter().map(|voter| voter.vote_key).collect();
        keys.sort_unstable();
        check_ascending("vote keys", &keys)
    }
}

impl Encode for ValidatorSet {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(2).value(&self.operator).list(&self.voters);
    }
}

impl Decode for ValidatorSet {
    const MAX_BYTES: usize = 64 + MAX_VOTERS * Validator::MAX_BYTES;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("validator set", 2)?;
        let set = Self {
            operator: PublicKey::decode(decoder)?,
            voters: decoder.list("voters", MAX_VOTERS)?,
        };
        set.check()?;
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SigningKey;

    fn voter(node: u8, key: u8) -> Validator {
        let vote_key = SigningKey::from_bytes(&[key; 32]).unwrap().public_key();
        Validator { node: NodeId([node; 20]), vote_key }
    }

    #[test]
    fn quorum_is_more_than_two_thirds() {
        let operator = voter(0, 9).vote_key;
        for (voters, quorum) in [(1u8, 1), (2, 2), (3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (10, 7)]
        {
            let list = (1..=voters).map(|i| voter(i, i)).collect();
            let set = ValidatorSet::new(operator, list).unwrap();
            assert_eq!(set.quorum(), quorum, "{voters} voters");
        }
    }

    #[test]
    fn empty_doubled_and_unsorted_sets_are_refused() {
        let operator = voter(0, 9).vote_key;
        assert!(ValidatorSet::new(operator, alloc::vec![]).is_err());
        assert!(ValidatorSet::new(operator, alloc::vec![voter(1, 1), voter(1, 2)]).is_err());
        assert!(ValidatorSet::new(operator, alloc::vec![voter(1, 1), voter(2, 1)]).is_err());
        let set = ValidatorSet::new(operator, alloc::vec![voter(2, 2), voter(1, 1)]).unwrap();
        assert_eq!(ValidatorSet::from_bytes(&set.to_bytes()), Ok(set));
        let mut encoder = Encoder::new();
        encoder.array(2).value(&operator).list(&[voter(2, 2), voter(1, 1)]);
        let unsorted = ValidatorSet::from_bytes(&encoder.into_bytes());
        assert_eq!(unsorted, Err(DecodeError::Unsorted("voters")));
    }
}
