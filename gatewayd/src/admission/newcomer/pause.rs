//! Pauses between rounds in vain: they grow, and no two newcomers keep the same step.

use std::time::Duration;

use crate::vault;

/// First pause; it doubles.
const FIRST: Duration = Duration::from_secs(2);

/// Longest pause.
const LONGEST: Duration = Duration::from_secs(60);

/// Pause after so many rounds in vain, with up to a quarter more by chance.
pub(crate) fn after(failures: u32) -> Duration {
    // Without random bytes newcomers may keep the same step; nothing else is lost.
    let [chance] = vault::random::<1>().unwrap_or([128]);
    spread(failures, chance)
}

fn spread(failures: u32, chance: u8) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let pause = doubled.min(LONGEST);
    pause + pause * u32::from(chance) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let seconds = |failures| spread(failures, 0).as_secs();
        assert_eq!([1, 2, 3, 4, 5, 6, 99].map(seconds), [2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(spread(1, 255).as_millis(), 2_498);
        assert!(after(1) >= FIRST);
    }
}
