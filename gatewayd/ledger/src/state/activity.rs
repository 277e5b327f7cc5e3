//! What an author has used up: its nonces, and its budgets of the current hour.

use crate::codec::canonical;

/// What an author has used up: nonces, and budgets of the current hour of block time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Highest nonce used; 0 for none.
    pub nonce_highest: u64,
    /// Bit i: nonce `nonce_highest` − i is used.
    pub nonce_used: u64,
    /// Sequence of the last batch.
    pub batch_sequence: u64,
    /// Hour of the last tally.
    pub tally_hour: u64,
    /// Hour that the next two count, hours since the Unix epoch.
    pub hour: u64,
    /// Registrations sponsored in that hour.
    pub registrations: u32,
    /// Refusals recorded in that hour.
    pub refusals: u32,
    /// Light nodes sponsored and not retired.
    pub sponsored: u32,
}

canonical!(
    Activity,
    "activity",
    80,
    [
        nonce_highest,
        nonce_used,
        batch_sequence,
        tally_hour,
        hour,
        registrations,
        refusals,
        sponsored,
    ]
);

/// Nonces that may come out of order.
pub const NONCE_WINDOW: u64 = 64;

/// Largest step from the highest nonce to a new one: a slip cannot use up all numbers.
pub const MAX_NONCE_STEP: u64 = 1 << 32;

impl Activity {
    /// Uses a nonce; false when it is used, too old, zero or too far ahead.
    #[must_use]
    pub fn use_nonce(&mut self, nonce: u64) -> bool {
        if nonce > self.nonce_highest {
            let step = nonce - self.nonce_highest;
            if step > MAX_NONCE_STEP {
                return false;
            }
            self.nonce_used = if step < NONCE_WINDOW { self.nonce_used << step } else { 0 };
            self.nonce_used |= 1;
            self.nonce_highest = nonce;
            return true;
        }
        let age = self.nonce_highest - nonce;
        if nonce == 0 || age >= NONCE_WINDOW || self.nonce_used & (1 << age) != 0 {
            return false;
        }
        self.nonce_used |= 1 << age;
        true
    }

    /// Begins a new hour's budgets when the hour has changed.
    pub fn enter_hour(&mut self, hour: u64) {
        if self.hour != hour {
            self.hour = hour;
            self.registrations = 0;
            self.refusals = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ends_of_the_nonce_range_do_not_overflow() {
        let mut activity = Activity::default();
        assert!(!activity.use_nonce(0));
        assert!(!activity.use_nonce(u64::MAX), "a slip must not use up all numbers");
        activity.nonce_highest = u64::MAX - 1;
        assert!(activity.use_nonce(u64::MAX));
        assert!(!activity.use_nonce(u64::MAX));
        assert!(activity.use_nonce(u64::MAX - 63));
        assert!(!activity.use_nonce(u64::MAX - 64));
    }

    proptest! {
        #[test]
        fn a_nonce_is_used_once(nonces in prop::collection::vec(0u64..300, 0..300)) {
            let mut activity = Activity::default();
            let mut used = BTreeSet::new();
            for nonce in nonces {
                let highest = used.last().copied().unwrap_or(0);
                let allowed = nonce > 0 && !used.contains(&nonce) && nonce + 64 > highest;
                prop_assert_eq!(activity.use_nonce(nonce), allowed);
                if allowed {
                    used.insert(nonce);
                }
            }
        }
    }
}
