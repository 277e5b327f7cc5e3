//! Wall clocks that are right, nearly so, or not at all.

use crate::plan::Clocks;
use crate::random::Random;
use crate::site::START_MS;

/// 2035-01-01, Unix milliseconds.
const YEAR_2035_MS: u64 = 2_051_222_400_000;
const HOUR_MS: u64 = 3_600_000;

/// The wall clock of one gateway.
pub(crate) struct WallClock {
    kind: Clocks,
    gateway: usize,
    skew_ms: u64,
    /// Added to the time, for clocks that jump; begins in the middle, so that they jump both ways.
    jumped_ms: u64,
}

impl WallClock {
    /// `gateway` says which of the wrong clocks it is.
    pub(crate) fn new(kind: Clocks, gateway: usize, random: &mut Random) -> Self {
        Self { kind, gateway, skew_ms: random.below(2_000), jumped_ms: 48 * HOUR_MS }
    }

    /// Steps to another time within two days, if it is one of those.
    pub(crate) fn jump(&mut self, random: &mut Random) {
        self.jumped_ms = random.below(96) * HOUR_MS;
    }

    /// Unix milliseconds, after so much virtual time.
    pub(crate) fn wall_ms(&self, now_ms: u64) -> u64 {
        match (self.kind, self.gateway % 4) {
            (Clocks::Near, _) => START_MS + self.skew_ms + now_ms,
            (Clocks::Jumping, _) => START_MS + self.jumped_ms + now_ms,
            (Clocks::Wrong, 0) => now_ms,
            (Clocks::Wrong, 1) => YEAR_2035_MS + now_ms,
            (Clocks::Wrong, 2) => START_MS + 1,
            (Clocks::Wrong, _) => START_MS + now_ms + now_ms / 10,
        }
    }

    /// Whether the gateway takes its clock for right.
    pub(crate) fn is_synchronised(&self) -> bool {
        self.kind == Clocks::Wrong || self.gateway % 3 != 2
    }
}
