//! Which voters take part: when each was last seen in a certificate.
//!
//! Kept in the state, so that every gateway knows it, those too that begin from a snapshot. A
//! voter that signs costs a change of the entry only every few blocks.

use alloc::{sync::Arc, vec::Vec};

use super::{Execution, Key, Record, State};
use crate::{
    certificate::{Certificate, Signers},
    codec::{Decode, DecodeError, Decoder, Encode, Encoder, canonical, check_ascending},
    ids::{Height, NodeId},
    validator_set::{MAX_VOTERS, ValidatorSet},
};

/// When a voter was last seen, up to [`Participation::STEP`] blocks late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The voter.
    pub node: NodeId,
    /// Height of a block whose certificate it signed, or from which on it is counted.
    pub height: Height,
}

canonical!(Seen, "voter seen", 40, [node, height]);

/// When each voter was last seen; empty while one alone votes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Participation {
    /// Ascending by node.
    pub seen: Vec<Seen>,
}

impl Encode for Participation {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.list(&self.seen);
    }
}

impl Decode for Participation {
    const MAX_BYTES: usize = 16 + MAX_VOTERS * Seen::MAX_BYTES;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let seen: Vec<Seen> = decoder.list("voters seen", MAX_VOTERS)?;
        let nodes: Vec<_> = seen.iter().map(|seen| seen.node).collect();
        check_ascending("voters seen", &nodes)?;
        Ok(Self { seen })
    }
}

impl Participation {
    /// A voter is silent that is absent from the last 20 certificates.
    pub const SILENT_AFTER: u64 = 20;
    /// An entry is renewed when it is this old: a voter is found silent up to 4 blocks late, and
    /// never early.
    pub const STEP: u64 = 5;

    fn height(&self, node: &NodeId) -> Option<Height> {
        let at = self.seen.binary_search_by_key(node, |seen| seen.node).ok()?;
        Some(self.seen[at].height)
    }

    /// What it is after the certificate of `height`, which the voters at `signers` signed.
    fn after(&self, set: &ValidatorSet, height: Height, signers: &[usize]) -> Self {
        let seen = set.voters().iter().enumerate().map(|(at, voter)| {
            let known = self.height(&voter.node);
            let old = |known: Height| height.0.saturating_sub(known.0) >= Self::STEP;
            let height = match known {
                Some(known) if !signers.contains(&at) || !old(known) => known,
                // Seen again, or a voter since now.
                _ => height,
            };
            Seen { node: voter.node, height }
        });
        Self { seen: seen.collect() }
    }

    /// The voters that are silent as of the certificate of `height`: at most a third of them,
    /// those first that were seen longest ago.
    pub fn silent(&self, set: &ValidatorSet, height: Height) -> Vec<NodeId> {
        let limit = Self::SILENT_AFTER + Self::STEP - 1;
        let mut silent: Vec<_> = (self.seen.iter())
            .filter(|seen| set.position(&seen.node).is_some())
            .filter(|seen| height.0.saturating_sub(seen.height.0) >= limit)
            .map(|seen| (seen.height, seen.node))
            .collect();
        silent.sort_unstable();
        silent.truncate((set.count() - 1) / 3);
        silent.into_iter().map(|(_, node)| node).collect()
    }
}

impl State {
    /// When each voter was last seen.
    pub fn participation(&self) -> Option<&Participation> {
        match self.record(&Key::Participation) {
            Some(Record::Participation(participation)) => Some(participation),
            _ => None,
        }
    }

    /// The voters that propose last on top of the block at `tip`, whose state this is.
    pub fn silent_voters(&self, tip: Height) -> Vec<NodeId> {
        // The newest certificate in the ledger is the one that the tip carries.
        let newest = Height(tip.0.saturating_sub(1));
        let silent = |known: &Participation| known.silent(&self.validator_set(), newest);
        self.participation().map(silent).unwrap_or_default()
    }
}

impl Execution<'_> {
    /// Notes who certified the parent. `set` is who could.
    pub fn note_certificate(&mut self, set: &ValidatorSet, certificate: &Certificate) {
        let Signers::Votes(votes) = &certificate.signers else {
            return;
        };
        if set.count() == 1 {
            return;
        }
        let none = Participation::default();
        let known = match self.record(&Key::Participation) {
            Some(Record::Participation(known)) => known,
            _ => &none,
        };
        let signers: Vec<usize> = votes.signers().collect();
        let after = known.after(set, certificate.height, &signers);
        if after != *known {
            self.block.insert(Key::Participation, Arc::new(Record::Participation(after)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture::key, validator_set::Validator};

    fn set(count: u8) -> ValidatorSet {
        let voter = |i: u8| Validator { node: NodeId([i; 20]), vote_key: key(i + 1).public_key() };
        ValidatorSet::new(key(250).public_key(), (0..count).map(voter).collect()).unwrap()
    }

    fn run(
        mut known: Participation,
        set: &ValidatorSet,
        heights: core::ops::RangeInclusive<u64>,
        signers: &[usize],
    ) -> (Participation, u64) {
        let mut changes = 0;
        for height in heights {
            let after = known.after(set, Height(height), signers);
            changes += u64::from(after != known);
            known = after;
        }
        (known, changes)
    }

    #[test]
    fn a_voter_is_silent_after_twenty_certificates_and_back_with_one() {
        let set = set(4);
        let (known, _) = run(Participation::default(), &set, 1..=10, &[0, 1, 2, 3]);
        for last in 11..=29 {
            let (known, _) = run(known.clone(), &set, 11..=last, &[0, 1, 2]);
            assert_eq!(known.silent(&set, Height(last)), [], "height {last}");
        }
        let (known, _) = run(known, &set, 11..=34, &[0, 1, 2]);
        assert_eq!(known.silent(&set, Height(34)), [NodeId([3; 20])]);
        let (known, _) = run(known, &set, 35..=35, &[0, 2, 3]);
        assert_eq!(known.silent(&set, Height(35)), []);
    }

    #[test]
    fn at_most_a_third_is_silent_and_newcomers_have_their_time() {
        let four = set(4);
        let (known, _) = run(Participation::default(), &four, 1..=60, &[0, 3]);
        assert_eq!(known.silent(&four, Height(60)), [NodeId([1; 20])], "one of four, not two");
        let seven = set(7);
        let (known, _) = run(known, &seven, 61..=61, &[0, 3]);
        assert_eq!(known.silent(&seven, Height(61)), [NodeId([1; 20]), NodeId([2; 20])]);
        let three = set(3);
        assert_eq!(known.silent(&three, Height(61)), [], "of three none");
    }

    #[test]
    fn voters_that_sign_change_the_entry_every_fifth_block() {
        let (_, changes) = run(Participation::default(), &set(4), 1..=100, &[0, 1, 2, 3]);
        assert_eq!(changes, 20);
    }

    #[test]
    fn it_reads_back_in_one_form() {
        let (known, _) = run(Participation::default(), &set(4), 1..=3, &[0, 1]);
        assert_eq!(Participation::from_bytes(&known.to_bytes()), Ok(known.clone()));
        let mut doubled = known;
        doubled.seen[1] = doubled.seen[0];
        assert!(Participation::from_bytes(&doubled.to_bytes()).is_err());
    }
}
