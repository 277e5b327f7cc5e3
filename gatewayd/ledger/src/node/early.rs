//! Bodies that came before their height began. Every sender has a few places of its own; where
//! all of them together are too much, whoever holds most gives way: a loud member cannot displace
//! the body of an honest proposer.

use crate::ids::{Height, NodeId};

/// A body that waits.
#[derive(Debug)]
pub(super) struct EarlyBody {
    pub(super) from: NodeId,
    pub(super) height: Height,
    pub(super) round: u32,
    pub(super) block: Vec<u8>,
}

/// Those that wait, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Early {
    bodies: Vec<EarlyBody>,
}

/// Bodies of one sender: one a round, in some rounds of two heights.
const MAX_EACH: usize = 4;
/// Bytes of all: sixteen of the largest bodies.
const MAX_BYTES: usize = 64 * 1024 * 1024;

impl Early {
    /// Keeps a body, as far as its sender has room.
    pub(super) fn keep(&mut self, body: EarlyBody) {
        self.keep_within(body, MAX_BYTES);
    }

    fn keep_within(&mut self, body: EarlyBody, limit: usize) {
        let own = self.bodies.iter().filter(|kept| kept.from == body.from).count();
        if own >= MAX_EACH {
            return;
        }
        let wanted = self.bytes_of(&body.from) + body.block.len();
        while self.bytes() + body.block.len() > limit {
            let most = self.bodies.iter().map(|kept| kept.from).max_by_key(|it| self.bytes_of(it));
            let Some(most) = most.filter(|most| self.bytes_of(most) > wanted) else {
                return;
            };
            let newest = self.bodies.iter().rposition(|kept| kept.from == most);
            newest.map(|at| self.bodies.remove(at));
        }
        self.bodies.push(body);
    }

    /// Keeps a body that this node had judged already: those are bounded by what was taken in.
    pub(super) fn keep_judged(&mut self, body: EarlyBody) {
        self.bodies.push(body);
    }

    /// Takes out the bodies of a height.
    pub(super) fn take(&mut self, height: Height) -> Vec<EarlyBody> {
        let all = std::mem::take(&mut self.bodies).into_iter();
        let (now, later) = all.partition(|body| body.height == height);
        self.bodies = later;
        now
    }

    /// Forgets those of decided heights.
    pub(super) fn decided(&mut self, height: Height) {
        self.bodies.retain(|body| body.height > height);
    }

    fn bytes(&self) -> usize {
        self.bodies.iter().map(|body| body.block.len()).sum()
    }

    fn bytes_of(&self, sender: &NodeId) -> usize {
        let of = self.bodies.iter().filter(|body| body.from == *sender);
        of.map(|body| body.block.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(from: u8, bytes: usize) -> EarlyBody {
        let from = NodeId([from; 20]);
        EarlyBody { from, height: Height(2), round: 0, block: vec![from.0[0]; bytes] }
    }

    fn senders(early: &Early) -> Vec<u8> {
        early.bodies.iter().map(|body| body.from.0[0]).collect()
    }

    #[test]
    fn one_sender_fills_its_own_places_alone() {
        let mut early = Early::default();
        (0..50).for_each(|_| early.keep(body(1, 10)));
        assert_eq!(senders(&early), [1; MAX_EACH]);
        early.keep(body(2, 10));
        assert_eq!(early.take(Height(2)).len(), MAX_EACH + 1);
        assert!(early.bodies.is_empty());
    }

    #[test]
    fn who_holds_most_gives_way_and_never_for_its_own() {
        let mut early = Early::default();
        early.keep_within(body(1, 40), 100);
        early.keep_within(body(1, 40), 100);
        early.keep_within(body(1, 40), 100);
        assert_eq!(senders(&early), [1, 1], "full with its own");
        early.keep_within(body(2, 30), 100);
        assert_eq!(senders(&early), [1, 2], "the honest body displaces one of the liar's");
        early.keep_within(body(1, 40), 100);
        assert_eq!(senders(&early), [1, 2], "and is not displaced again");
        early.decided(Height(2));
        assert!(early.bodies.is_empty());
    }
}
