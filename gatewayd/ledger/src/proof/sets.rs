//! The validator sets of a proof: the first whole, each later one by what changed.
//!
//! A rotated vote key is a new set; a thousand of them must still make a file that travels.

use alloc::vec::Vec;

use super::MAX_STEPS;
use crate::{
    codec::{Decode, DecodeError, Decoder, Encoder, canonical},
    crypto::PublicKey,
    ids::NodeId,
    validator_set::{MAX_VOTERS, Validator, ValidatorSet},
};

pub(super) fn encode(encoder: &mut Encoder, sets: &[ValidatorSet]) {
    encoder.array(sets.len());
    if let Some(first) = sets.first() {
        encoder.value(first);
    }
    for pair in sets.windows(2) {
        encoder.value(&Change::between(&pair[0], &pair[1]));
    }
}

/// Among several forms of one change only the encoder's is taken: `Proof::from_bytes` compares.
pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<Vec<ValidatorSet>, DecodeError> {
    // A step brings the set that certifies it and the one that follows.
    let count = decoder.array("validator sets", 2 * MAX_STEPS + 1)?;
    let mut sets: Vec<ValidatorSet> = Vec::new();
    for _ in 0..count {
        let set = match sets.last() {
            None => ValidatorSet::decode(decoder)?,
            Some(before) => Change::decode(decoder)?.apply(before)?,
        };
        sets.push(set);
    }
    Ok(sets)
}

/// From one set to the next.
struct Change {
    /// The new operator key, when it changed.
    operator: Option<PublicKey>,
    /// Voters that are no more.
    gone: Vec<NodeId>,
    /// Voters that are new, or have a new key.
    changed: Vec<Validator>,
}

canonical!(Change, "change of voters", 64 + MAX_VOTERS * 96, [
    operator, gone: list(MAX_VOTERS), changed: list(MAX_VOTERS),
]);

impl Change {
    fn between(before: &ValidatorSet, after: &ValidatorSet) -> Self {
        let operator = Some(*after.operator()).filter(|key| key != before.operator());
        let gone = before.voters().iter().map(|voter| voter.node);
        let gone = gone.filter(|node| after.position(node).is_none()).collect();
        let same = |voter: &&Validator| before.vote_key(&voter.node) == Some(&voter.vote_key);
        let changed = after.voters().iter().filter(|voter| !same(voter)).copied().collect();
        Self { operator, gone, changed }
    }

    fn apply(&self, before: &ValidatorSet) -> Result<ValidatorSet, DecodeError> {
        let Self { operator, gone, changed } = self;
        let replaced = |node: &NodeId| changed.iter().any(|voter| voter.node == *node);
        let stays = |voter: &&Validator| !gone.contains(&voter.node) && !replaced(&voter.node);
        let mut voters: Vec<_> = before.voters().iter().filter(stays).copied().collect();
        voters.extend(changed);
        ValidatorSet::new(operator.unwrap_or(*before.operator()), voters)
    }
}
