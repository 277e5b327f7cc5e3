//! When a batch is cut (design §4 "Batches"). Pure: time comes in, a decision goes out.

/// Most readings in a batch.
pub(super) const MAX_READINGS: usize = 4096;

/// A batch waits this long for company while readings are rare, ms.
const CALM_MS: u64 = 15_000;

/// …and this long when there are at least [`BUSY_PER_S`] readings a second or somebody waits, ms.
const EAGER_MS: u64 = 500;

/// From this rate on a batch is cut early, readings/s.
const BUSY_PER_S: u64 = 10;

/// Decides when to cut.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CutRule {
    /// Fixed interval from the configuration, ms; none: by rate.
    fixed_ms: Option<u64>,
    eager_until: u64,
}

impl CutRule {
    /// A rule with a fixed interval, or by rate.
    pub(super) fn new(fixed_ms: Option<u64>) -> Self {
        Self { fixed_ms, eager_until: 0 }
    }

    /// Somebody waits (pairing, export): cut early until then, boot time in ms.
    pub(super) fn hurry_until(&mut self, until_ms: u64) {
        self.eager_until = self.eager_until.max(until_ms);
    }

    /// When the batch is to be cut, boot time in ms: `oldest_ms` is when its oldest reading came,
    /// `count` how many it has.
    pub(super) fn due(&self, now_ms: u64, oldest_ms: u64, count: usize) -> u64 {
        if count >= MAX_READINGS {
            return now_ms;
        }
        let busy =
            count as u64 * 1000 >= BUSY_PER_S * now_ms.saturating_sub(oldest_ms).max(EAGER_MS);
        let wait = match self.fixed_ms {
            _ if now_ms < self.eager_until => EAGER_MS.min(self.fixed_ms.unwrap_or(EAGER_MS)),
            Some(fixed) => fixed,
            None if busy => EAGER_MS,
            None => CALM_MS,
        };
        oldest_ms.saturating_add(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_follows_rate_and_hurry() {
        let mut hurried = CutRule::new(None);
        hurried.hurry_until(5_000);
        let cases = [
            ("one lonely reading", CutRule::new(None), 1_000, 1_000, 1, 16_000),
            ("five in half a second are ten a second", CutRule::new(None), 1_500, 1_000, 5, 1_500),
            ("a slow trickle stays calm", CutRule::new(None), 9_000, 1_000, 20, 16_000),
            ("full", CutRule::new(None), 1_001, 1_000, MAX_READINGS, 1_001),
            ("somebody waits", hurried, 1_000, 1_000, 1, 1_500),
            ("nobody waits any more", hurried, 6_000, 5_500, 1, 20_500),
            ("fixed", CutRule::new(Some(2_000)), 1_000, 1_000, 100, 3_000),
        ];
        for (what, rule, now, oldest, count, due) in cases {
            assert_eq!(rule.due(now, oldest, count), due, "{what}");
        }
    }
}
