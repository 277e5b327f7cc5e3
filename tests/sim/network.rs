//! The network between gateways: slow, lossy, doubling, and at times in two parts.

use crate::plan::Plan;
use crate::random::Random;

/// Whom whom reaches now.
#[derive(Default)]
pub(crate) struct Network {
    /// One bit for each gateway that is on the far side of the cut.
    far: u128,
    /// Nothing is lost, doubled or late any more.
    healed: bool,
}

impl Network {
    /// Cuts some gateways off from the others.
    pub(crate) fn cut(&mut self, random: &mut Random) {
        self.far = u128::from(random.next()) << 64 | u128::from(random.next());
    }

    /// Everybody reaches everybody again.
    pub(crate) fn heal(&mut self) {
        self.far = 0;
    }

    /// From now on all is well.
    pub(crate) fn heal_for_good(&mut self) {
        self.far = 0;
        self.healed = true;
    }

    fn side(&self, gateway: usize) -> bool {
        self.far >> gateway & 1 == 1
    }

    pub(crate) fn are_connected(&self, one: usize, other: usize) -> bool {
        self.side(one) == self.side(other)
    }

    /// After how many milliseconds a message arrives: not at all, once, or twice.
    pub(crate) fn delays(
        &self,
        plan: &Plan,
        from: usize,
        to: usize,
        random: &mut Random,
    ) -> Vec<u64> {
        if self.healed {
            return vec![1 + random.below(30)];
        }
        if !self.are_connected(from, to) || random.percent(plan.loss) {
            return Vec::new();
        }
        let copies = if random.percent(plan.doubled) { 2 } else { 1 };
        let delay = |_| {
            let slowest = if random.percent(plan.late) { 2_000 } else { 30 };
            1 + random.below(slowest)
        };
        (0..copies).map(delay).collect()
    }
}
