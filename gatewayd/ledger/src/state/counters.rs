//! Which counters of a light node are committed: the highest, and the gaps below it.
//!
//! A counter is committed once: above the highest of the current session epoch, or inside a gap.
//! What is neither is committed already or closed for good. This module must not know who may
//! commit what.

use alloc::vec::Vec;

use thiserror::Error;

use crate::transaction::CounterRange;

/// Gap ranges kept while every listed gateway is online.
pub const MAX_GAPS: usize = 64;

/// Gap ranges kept while a listed gateway is offline and may come back with readings.
pub const MAX_GAPS_OFFLINE: usize = 1024;

/// Why counters cannot be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CounterError {
    /// The session epoch is not open (yet).
    #[error("session epoch {0} is not open")]
    Epoch(u32),
    /// Some of the counters are committed already, or their gap was closed.
    #[error("counters {first}–{last} of epoch {epoch} are committed already or closed")]
    Committed {
        /// Session epoch.
        epoch: u32,
        /// First counter asked for.
        first: u64,
        /// Last counter asked for.
        last: u64,
    },
}

/// The counters of one light node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Current session epoch; 0 before the first session, when nothing can be committed.
    pub epoch: u32,
    /// Highest committed counter of the current epoch.
    pub highest: Option<u64>,
    /// Counters that may still be committed, ascending, disjoint, not adjacent.
    pub gaps: Vec<CounterRange>,
}

impl Counters {
    /// Commits a range and returns the gaps that had to be closed to keep at most `limit`.
    ///
    /// # Errors
    /// [`CounterError`]; then nothing has changed.
    pub fn commit(
        &mut self,
        range: CounterRange,
        limit: usize,
    ) -> Result<Vec<CounterRange>, CounterError> {
        if range.epoch == 0 || range.epoch > self.epoch {
            return Err(CounterError::Epoch(range.epoch));
        }
        let next = self.next();
        if range.epoch == self.epoch && next.is_some_and(|next| range.first >= next) {
            self.append(range);
        } else {
            self.fill(range)?;
        }
        Ok(self.close_oldest(limit))
    }

    /// Begins the next session epoch; the tail of the old one stays open as one more gap.
    ///
    /// Returns the gaps that had to be closed; `None` when there is no further epoch.
    pub fn open(&mut self, limit: usize) -> Option<Vec<CounterRange>> {
        let epoch = self.epoch.checked_add(1)?;
        if let (true, Some(first)) = (self.epoch > 0, self.next()) {
            self.gaps.push(CounterRange { epoch: self.epoch, first, last: u64::MAX });
        }
        self.epoch = epoch;
        self.highest = None;
        Some(self.close_oldest(limit))
    }

    /// Whether a counter may still be committed.
    pub fn is_open(&self, epoch: u32, counter: u64) -> bool {
        let above =
            epoch > 0 && epoch == self.epoch && self.next().is_some_and(|next| counter >= next);
        above || self.gap_of(epoch, counter).is_some()
    }

    /// The lowest counter above the highest; `None` when the epoch is used up.
    fn next(&self) -> Option<u64> {
        match self.highest {
            None => Some(0),
            Some(highest) => highest.checked_add(1),
        }
    }

    fn append(&mut self, range: CounterRange) {
        let next = self.next().unwrap_or(u64::MAX);
        if range.first > next {
            let last = range.first - 1;
            self.gaps.push(CounterRange { epoch: range.epoch, first: next, last });
        }
        self.highest = Some(range.last);
    }

    fn fill(&mut self, range: CounterRange) -> Result<(), CounterError> {
        let index = self
            .gap_of(range.epoch, range.first)
            .filter(|index| range.last <= self.gaps[*index].last)
            .ok_or(CounterError::Committed {
                epoch: range.epoch,
                first: range.first,
                last: range.last,
            })?;
        let gap = self.gaps[index];
        let before =
            (range.first > gap.first).then(|| CounterRange { last: range.first - 1, ..gap });
        let after = (range.last < gap.last).then(|| CounterRange { first: range.last + 1, ..gap });
        self.gaps.splice(index..=index, before.into_iter().chain(after));
        Ok(())
    }

    fn gap_of(&self, epoch: u32, counter: u64) -> Option<usize> {
        let after = self.gaps.partition_point(|gap| (gap.epoch, gap.first) <= (epoch, counter));
        let index = after.checked_sub(1)?;
        let gap = self.gaps[index];
        (gap.epoch == epoch && counter <= gap.last).then_some(index)
    }

    fn close_oldest(&mut self, limit: usize) -> Vec<CounterRange> {
        let surplus = self.gaps.len().saturating_sub(limit);
        self.gaps.drain(..surplus).collect()
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn range(epoch: u32, first: u64, last: u64) -> CounterRange {
        CounterRange { epoch, first, last }
    }

    fn opened() -> Counters {
        let mut counters = Counters::default();
        counters.open(MAX_GAPS).unwrap();
        counters
    }

    #[test]
    fn nothing_is_committed_before_the_first_session() {
        let mut counters = Counters::default();
        assert_eq!(counters.commit(range(0, 0, 0), 64), Err(CounterError::Epoch(0)));
        assert_eq!(counters.commit(range(1, 0, 0), 64), Err(CounterError::Epoch(1)));
        counters.open(64).unwrap();
        assert!(counters.gaps.is_empty(), "epoch 0 leaves no tail");
    }

    #[test]
    fn the_tail_of_an_epoch_stays_open_as_a_gap() {
        let mut counters = opened();
        counters.commit(range(1, 0, 9), 64).unwrap();
        counters.open(64).unwrap();
        assert_eq!(counters.gaps, [range(1, 10, u64::MAX)]);
        counters.commit(range(1, 12, 12), 64).unwrap();
        assert_eq!(counters.gaps, [range(1, 10, 11), range(1, 13, u64::MAX)]);
        counters.commit(range(2, 0, 0), 64).unwrap();
        assert!(counters.commit(range(1, 12, 12), 64).is_err());
    }

    #[test]
    fn the_largest_counter_ends_an_epoch_without_overflow() {
        let mut counters = opened();
        counters.commit(range(1, u64::MAX, u64::MAX), 64).unwrap();
        assert!(counters.commit(range(1, u64::MAX, u64::MAX), 64).is_err());
        assert_eq!(counters.gaps, [range(1, 0, u64::MAX - 1)]);
        counters.commit(range(1, 0, u64::MAX - 1), 64).unwrap();
        counters.open(64).unwrap();
        assert!(counters.gaps.is_empty());
        counters.epoch = u32::MAX;
        assert_eq!(counters.open(64), None);
    }

    #[test]
    fn on_overflow_the_oldest_gap_closes() {
        let mut counters = opened();
        for counter in (1..=131).step_by(2) {
            let closed = counters.commit(range(1, counter, counter), MAX_GAPS).unwrap();
            let expected = if counter < 129 { 0 } else { 1 };
            assert_eq!(closed.len(), expected, "at {counter}");
        }
        assert_eq!(counters.gaps.len(), MAX_GAPS);
        let lost = CounterError::Committed { epoch: 1, first: 0, last: 0 };
        assert_eq!(counters.commit(range(1, 0, 0), MAX_GAPS), Err(lost));
    }

    proptest! {
        /// The model is the set of committed counters; the gap limit is out of reach.
        #[test]
        fn equals_a_set(
            steps in prop::collection::vec((1u32..4, 0u64..60, 0u64..6, any::<u8>()), 1..80),
        ) {
            let mut counters = opened();
            let mut committed = BTreeSet::new();
            for (epoch, first, width, choice) in steps {
                if choice < 12 {
                    counters.open(1000).unwrap();
                    continue;
                }
                let asked = range(epoch, first, first + width);
                let fresh = epoch <= counters.epoch
                    && (asked.first..=asked.last).all(|c| !committed.contains(&(epoch, c)));
                prop_assert_eq!(counters.commit(asked, 1000).is_ok(), fresh);
                if fresh {
                    committed.extend((asked.first..=asked.last).map(|c| (epoch, c)));
                }
                for epoch in 1..4 {
                    for counter in 0..70 {
                        let open = epoch <= counters.epoch
                            && !committed.contains(&(epoch, counter));
                        prop_assert_eq!(counters.is_open(epoch, counter), open);
                    }
                }
                let apart = counters.gaps.windows(2).all(|pair| {
                    pair[0].epoch < pair[1].epoch
                        || (pair[0].epoch == pair[1].epoch && pair[0].last + 1 < pair[1].first)
                });
                prop_assert!(apart, "{:?}", counters.gaps);
            }
        }
    }
}
