//! The shortest way from one set of voters to a later one, as an exporter puts it into a file.
//!
//! Every change of the voters is certified by the set before it. A rotation of one vote key of
//! many leaves a quorum that still signs with its old keys: what these certify later follows from
//! the older set as well, so the file leaves out what lies between.

use alloc::vec::Vec;

use crate::{
    certificate::Signers,
    header::Header,
    ids::{Height, NodeId},
    validator_set::ValidatorSet,
};

/// A block that changed the voters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetChange {
    /// Its header.
    pub header: Header,
    /// Who certified it.
    pub signers: Signers,
    /// The voters from the next block on.
    pub next: ValidatorSet,
}

/// Sets and steps of a [`super::Target`].
pub type Way = (Vec<ValidatorSet>, Vec<(Header, Signers)>);

/// The way from `first` over `changes`, which ascend. A verifier that trusts the header at one of
/// the `stops` finds the voters after it on the way.
pub fn shortest_way(first: ValidatorSet, changes: Vec<SetChange>, stops: &[Height]) -> Way {
    let (mut sets, mut steps) = (alloc::vec![first], Vec::new());
    let mut at = 0;
    while let Some(before) = sets.last().cloned().filter(|_| at < changes.len()) {
        let (taken, signers) = farthest(&before, &changes[at..], stops);
        let SetChange { header, next, .. } = &changes[at + taken];
        if taken > 0 {
            sets.push(changes[at + taken - 1].next.clone());
        }
        steps.push((header.clone(), signers));
        sets.push(next.clone());
        at += taken + 1;
    }
    (sets, steps)
}

/// The last of `changes` that a quorum of `before` certified, with the votes that show it; at
/// least the first. Only rotations of vote keys are left out: who came and went is in the file.
fn farthest(before: &ValidatorSet, changes: &[SetChange], stops: &[Height]) -> (usize, Signers) {
    let first = match &changes[0].signers {
        Signers::Votes(votes) => Signers::Votes(votes.trimmed(before)),
        by_operator @ Signers::Operator(_) => by_operator.clone(),
    };
    let mut best = (0, first);
    for (index, pair) in changes.windows(2).enumerate() {
        let (left_out, change) = (&pair[0], &pair[1]);
        let set = &left_out.next;
        let known = (0..set.count()).filter(|position| set.is_same_voter(*position, before));
        let over_a_stop =
            |stop: &Height| (left_out.header.height..change.header.height).contains(stop);
        let ends = !is_rotation(before, set)
            || matches!(left_out.signers, Signers::Operator(_))
            || known.count() < before.quorum()
            || stops.iter().any(over_a_stop);
        if ends {
            break;
        }
        if let Signers::Votes(votes) = &change.signers
            && let Some(votes) = votes.trimmed_for(set, before)
        {
            best = (index + 1, Signers::Votes(votes));
        }
    }
    best
}

/// Whether both sets are of the same gateways and the same operator.
fn is_rotation(one: &ValidatorSet, other: &ValidatorSet) -> bool {
    let nodes = |set: &ValidatorSet| -> Vec<NodeId> {
        set.voters().iter().map(|voter| voter.node).collect()
    };
    one.operator() == other.operator() && nodes(one) == nodes(other)
}
