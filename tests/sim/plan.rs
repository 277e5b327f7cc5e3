//! What a run is to go through.

use crate::adversary::Villain;

/// A plan; [`Plan::quiet`] is the one without trouble.
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) voters: usize,
    /// The run ends when every honest gateway that is not away has stored this many blocks.
    pub(crate) blocks: u64,
    /// Power cuts, spread over the run.
    pub(crate) crashes: u64,
    /// Messages lost, percent.
    pub(crate) loss: u64,
    /// Messages that arrive twice, percent.
    pub(crate) doubled: u64,
    /// Messages that take up to two seconds and so overtake each other, percent.
    pub(crate) late: u64,
    /// Times at which the gateways fall apart into two groups for a while.
    pub(crate) cuts: u64,
    /// Gateways without a vote.
    pub(crate) followers: usize,
    /// Gateways that never run.
    pub(crate) away: usize,
    /// Each power cut of the first voter also damages its log, in one copy or both.
    pub(crate) damage: bool,
    /// What the wall clocks show.
    pub(crate) clocks: Clocks,
    /// All power is off once, for so many milliseconds.
    pub(crate) blackout_ms: Option<u64>,
    /// So many of the last voters are lost for ever, and the operator begins a new era with the
    /// others.
    pub(crate) lost: usize,
    /// The followers become voters, all at once, by the voters' own rule.
    pub(crate) grows: bool,
    /// The last voters are this: at most as many as the site stands.
    pub(crate) villain: Option<Villain>,
}

/// What the wall clocks show.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clocks {
    /// Within two seconds, every third not synchronised.
    Near,
    /// 1970, 2035, stopped, and ten percent too fast; all of them believe themselves.
    Wrong,
    /// Steps of hours, both ways.
    Jumping,
}

impl Plan {
    pub(crate) fn quiet(seed: u64) -> Self {
        Self {
            seed,
            voters: 1,
            blocks: 10,
            crashes: 0,
            loss: 0,
            doubled: 0,
            late: 0,
            cuts: 0,
            followers: 0,
            away: 0,
            damage: false,
            clocks: Clocks::Near,
            blackout_ms: None,
            lost: 0,
            grows: false,
            villain: None,
        }
    }

    pub(crate) fn gateways(&self) -> usize {
        self.voters + self.followers
    }

    /// The first gateways run; those that are away never do.
    pub(crate) fn running(&self) -> usize {
        self.gateways() - self.away
    }

    /// Whether a gateway is dishonest: the last third of the voters, rounded down.
    pub(crate) fn is_villain(&self, gateway: usize) -> bool {
        let villains = if self.villain.is_some() { (self.voters - 1) / 3 } else { 0 };
        (self.voters - villains..self.voters).contains(&gateway)
    }
}
