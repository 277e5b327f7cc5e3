//! Growth of the voters (design §4 "Voters"): members show that they follow by signing a block,
//! voters say whom they have heard, one of them collects and submits `Activate`.
//!
//! The plan is pure; [`super::member`] asks and submits.

use std::collections::BTreeMap;

use ledger::crypto::Signature;
use ledger::ids::{Hash, Height, NodeId};
use ledger::policy::VoterRule;
use ledger::state::{Attestation, Standing, State};
use ledger::transaction::QuorumSignature;

use super::endorsing::{Activation, MAX_READY_AGE};
use super::messages::Ready;
use crate::peers::PeerStatus;

/// All members sign the blocks at these heights, so that they sign the same one.
const READY_EVERY: u64 = 8;

/// Signed blocks that are kept of one member: those that are not too old, and some tips.
const MAX_KEPT: usize = (MAX_READY_AGE / READY_EVERY) as usize + 4;

/// Members of whom signatures are kept.
const MAX_MEMBERS: usize = 128;

/// Height of the block that members sign now: the same for all who are near the tip.
pub fn ready_height(tip: Height) -> Height {
    Height((tip.0 - tip.0 % READY_EVERY).max(1))
}

/// Whether a gateway may become a voter: a full member in good standing, online,
/// attested.
pub fn is_candidate(state: &State, node: &NodeId) -> bool {
    let fit = state.gateway(node).is_some_and(|gateway| {
        gateway.full
            && gateway.online
            && gateway.standing.standing == Standing::Active
            && matches!(gateway.attestation, Attestation::Attested { .. })
    });
    fit && state.voters().binary_search(node).is_err()
}

/// How many voters are to be added at once: the steps are 1, 4, 7, 10 and so on. `None`: all that
/// are ready.
pub fn wanted(rule: VoterRule, voters: usize) -> Option<usize> {
    match rule {
        VoterRule::All => None,
        // After removals the next step may be near.
        VoterRule::OneThenFour => Some(3 - voters.saturating_sub(1) % 3),
    }
}

/// Blocks that members have signed.
#[derive(Debug, Default)]
pub struct Readiness(BTreeMap<NodeId, Vec<Ready>>);

impl Readiness {
    /// Notes a member's signature, which the caller has checked.
    pub fn note(&mut self, node: NodeId, ready: Ready) {
        if self.0.len() >= MAX_MEMBERS && !self.0.contains_key(&node) {
            return;
        }
        let kept = self.0.entry(node).or_default();
        kept.retain(|known| known.height != ready.height);
        kept.push(ready);
        kept.sort_by_key(|known| known.height);
        if kept.len() > MAX_KEPT {
            kept.remove(0);
        }
    }

    /// Drops what is too old and who left.
    pub fn forget(&mut self, tip: Height, may_vote: impl Fn(&NodeId) -> bool) {
        for kept in self.0.values_mut() {
            // A height is a member's word, as high as it likes.
            kept.retain(|ready| ready.height.0.saturating_add(MAX_READY_AGE) > tip.0);
        }
        self.0.retain(|node, kept| !kept.is_empty() && may_vote(node));
    }

    /// The newest block that enough of these gateways have signed, and who of them votes then.
    pub fn plan(&self, heard: &[NodeId], wanted: Option<usize>) -> Option<Plan> {
        let mut blocks: BTreeMap<(Height, Hash), Vec<(NodeId, Signature)>> = BTreeMap::new();
        for (node, kept) in self.0.iter().filter(|(node, _)| heard.contains(node)) {
            for ready in kept {
                let signed = blocks.entry((ready.height, ready.hash)).or_default();
                signed.push((*node, ready.signature));
            }
        }
        let (&(height, hash), signed) =
            blocks.iter().rev().find(|(_, signed)| signed.len() >= wanted.unwrap_or(1))?;
        // In order of node ID, as the ledger wants them.
        let signed = signed.iter().take(wanted.unwrap_or(MAX_TOGETHER));
        let nodes: Vec<_> = signed
            .map(|(voter, signature)| QuorumSignature { voter: *voter, signature: *signature })
            .collect();
        let ids = nodes.iter().map(|node| node.voter).collect();
        Some(Plan { asked: Activation { height, hash, nodes: ids }, nodes })
    }
}

/// Whom to leave out of the next step, after a question about these gateways that led to no quorum.
///
/// `missed` is what each voter that answered says it has not heard, this gateway among them with
/// nothing; one that has signed has heard all of them. Left out is whom too few have heard; when
/// each was heard by enough and yet no quorum has heard all of them, whom the fewest have heard.
/// A voter's word alone leaves nobody out: with a quorum of honest ones, who is heard stays in.
pub fn to_leave_out(asked: &[NodeId], missed: &[Vec<NodeId>], needed: usize) -> Vec<NodeId> {
    let heard_by = |node: &NodeId| missed.iter().filter(|missed| !missed.contains(node)).count();
    let too_few = asked.iter().filter(|node| heard_by(node) < needed).copied();
    let too_few: Vec<NodeId> = too_few.collect();
    // Too few voters have answered at all: nobody is to blame.
    if missed.len() < needed {
        return vec![];
    }
    match asked.iter().min_by_key(|node| heard_by(node)) {
        Some(fewest) if too_few.is_empty() => vec![*fewest],
        _ => too_few,
    }
}

/// Most gateways that become voters together: as many as one question names.
const MAX_TOGETHER: usize = 16;

/// What is to be submitted once a quorum has signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What voters sign.
    pub asked: Activation,
    /// The newcomers' own signatures.
    pub nodes: Vec<QuorumSignature>,
}

/// Whether a peer is connected since long enough and was heard lately, boot time in ms.
pub fn heard(peer: &PeerStatus, now_ms: u64, for_ms: u64, silence_ms: u64) -> bool {
    now_ms.saturating_sub(peer.since_ms) >= for_ms
        && now_ms.saturating_sub(peer.last_heard_ms) <= silence_ms
}

/// Voters that take turns with what one of them has to do.
pub const COLLECTORS: usize = 4;

/// How long a turn is, ms.
const TURN_MS: u64 = 30_000;

/// Who of the voters does what one of them has to do: the lowest that are connected, in turns of
/// the site's time, so that one that does nothing stops nothing. Where two think that it is their
/// turn, the second one's transaction is refused.
pub fn collector(
    voters: &[NodeId],
    own: &NodeId,
    connected: &[NodeId],
    site_ms: u64,
) -> Option<NodeId> {
    in_turn(voters, own, connected, site_ms, TURN_MS)
}

/// As [`collector`], with turns of another length.
pub fn in_turn(
    voters: &[NodeId],
    own: &NodeId,
    connected: &[NodeId],
    site_ms: u64,
    turn_ms: u64,
) -> Option<NodeId> {
    let here = |node: &&NodeId| *node == own || connected.contains(node);
    let mut here: Vec<_> = voters.iter().filter(here).collect();
    here.sort_unstable();
    here.truncate(COLLECTORS);
    let turn = site_ms.checked_div(turn_ms)?.checked_rem(here.len() as u64)?;
    here.get(turn as usize).map(|node| **node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ledger::crypto::SigningKey;

    fn node(byte: u8) -> NodeId {
        NodeId([byte; 20])
    }

    fn ready(height: u64, hash: u8) -> Ready {
        let signature = SigningKey::from_bytes(&[7; 32]).unwrap().sign_digest(&Hash([1; 32]));
        Ready { height: Height(height), hash: Hash([hash; 32]), signature }
    }

    #[test]
    fn voters_grow_in_steps_that_tolerate_more() {
        for (voters, more) in [(1, 3), (2, 2), (3, 1), (4, 3), (5, 2), (6, 1), (7, 3), (10, 3)] {
            assert_eq!(wanted(VoterRule::OneThenFour, voters), Some(more), "{voters} voters");
        }
        assert_eq!(wanted(VoterRule::All, 1), None);
    }

    #[test]
    fn members_near_the_tip_sign_the_same_block() {
        for (tip, height) in [(1, 1), (7, 1), (8, 8), (15, 8), (16, 16), (1_000_001, 1_000_000)] {
            assert_eq!(ready_height(Height(tip)), Height(height));
        }
    }

    #[test]
    fn a_step_takes_all_newcomers_over_one_block() {
        let heard = [node(1), node(2), node(3), node(4)];
        let mut readiness = Readiness::default();
        readiness.note(node(3), ready(8, 1));
        readiness.note(node(1), ready(8, 1));
        assert_eq!(readiness.plan(&heard, Some(3)), None, "two are no step");
        assert!(readiness.plan(&heard, None).is_some(), "with voters = all one is enough");
        readiness.note(node(2), ready(16, 2));
        assert_eq!(readiness.plan(&heard, Some(3)), None, "the third signed another block");
        readiness.note(node(2), ready(8, 9));
        assert_eq!(readiness.plan(&heard, Some(3)), None, "the third is on another chain");
        readiness.note(node(2), ready(8, 1));
        let plan = readiness.plan(&heard, Some(3)).unwrap();
        assert_eq!(plan.asked.nodes, [node(1), node(2), node(3)]);
        assert_eq!((plan.asked.height, plan.asked.hash), (Height(8), Hash([1; 32])));
        assert_eq!(readiness.plan(&heard[1..], Some(3)), None, "one of them is not heard");
        readiness.note(node(4), ready(8, 1));
        let plan = readiness.plan(&heard, Some(3)).unwrap();
        assert_eq!(plan.nodes.len(), 3, "a step is not overshot");
    }

    #[test]
    fn who_is_heard_by_too_few_is_left_out_and_nobody_else() {
        let asked = [node(1), node(2), node(3)];
        let table = [
            (
                "one is heard by the collector alone",
                vec![vec![], vec![2], vec![2], vec![2]],
                vec![2],
            ),
            ("a liar misses everybody", vec![vec![], vec![1, 2, 3], vec![2], vec![2]], vec![2]),
            ("two are missed", vec![vec![], vec![1, 2], vec![1, 2], vec![]], vec![1, 2]),
            ("each misses another", vec![vec![], vec![3], vec![2], vec![]], vec![2]),
            ("too few answer", vec![vec![], vec![1, 2, 3]], vec![]),
        ];
        for (what, missed, left_out) in table {
            let ids = |list: Vec<u8>| list.into_iter().map(node).collect::<Vec<_>>();
            let missed: Vec<_> = missed.into_iter().map(ids).collect();
            assert_eq!(to_leave_out(&asked, &missed, 3), ids(left_out), "{what}");
        }
    }

    #[test]
    fn old_signatures_and_those_who_left_are_forgotten() {
        let mut readiness = Readiness::default();
        // More than are kept, the newest of them at 40.
        for height in (0..=MAX_KEPT as u64).rev().map(|before| 40 - before) {
            readiness.note(node(1), ready(height, 1));
        }
        assert_eq!(readiness.0[&node(1)].len(), MAX_KEPT);
        readiness.note(node(2), ready(40, 1));
        readiness.forget(Height(44), |id| *id == node(1));
        assert!(!readiness.0.contains_key(&node(2)));
        readiness.note(node(3), ready(u64::MAX, 1));
        readiness.forget(Height(40 + MAX_READY_AGE), |id| *id != node(3));
        assert!(readiness.0.is_empty());
    }

    #[test]
    fn the_lowest_connected_voters_collect_in_turns() {
        let voters = [node(1), node(2), node(3)];
        assert_eq!(collector(&voters, &node(2), &[node(3)], 0), Some(node(2)));
        assert_eq!(collector(&voters, &node(3), &[node(1)], 0), Some(node(1)));
        assert_eq!(collector(&voters, &node(3), &[node(1)], TURN_MS), Some(node(3)));
        assert_eq!(collector(&voters, &node(3), &[node(1)], 2 * TURN_MS), Some(node(1)));
        assert_eq!(collector(&voters, &node(9), &[], 0), None, "no voter is here");
        let many: Vec<_> = (1..=9).map(node).collect();
        let turns = (0..9).map(|turn| collector(&many, &node(1), &many, turn * TURN_MS).unwrap());
        assert!(turns.into_iter().all(|each| each <= node(COLLECTORS as u8)));
    }
}
