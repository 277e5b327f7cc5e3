//! What a guest may send and how long it may stay beyond what every guest may: granted by whoever
//! serves its requests, once it has shown that it holds a TPM that the site trusts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Most bytes that one connection is granted in all: its logs twice over, since whole ones may be
/// asked for after a part of them.
const MAX_BYTES: usize = 40 << 20;

/// Longest time that one connection is granted in all.
const MAX_TIME: Duration = Duration::from_secs(15 * 60);

/// Of one connection. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Allowance(Arc<Granted>);

#[derive(Debug, Default)]
struct Granted {
    /// Bytes that are left.
    bytes: AtomicUsize,
    /// Bytes that were ever granted.
    all_bytes: AtomicUsize,
    /// Time that was ever granted, ms.
    time_ms: AtomicU64,
}

impl Allowance {
    /// Grants more; beyond the bound of a connection nothing more comes.
    pub fn raise(&self, bytes: usize, time: Duration) {
        let before = self.0.all_bytes.fetch_add(bytes, Ordering::Relaxed);
        let bytes = bytes.min(MAX_BYTES.saturating_sub(before));
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.0.time_ms.fetch_add(time.min(MAX_MS), Ordering::Relaxed);
    }

    /// Uses bytes up, if so many are left. One reader asks.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let left = |granted: usize| granted.checked_sub(bytes);
        self.0.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok()
    }

    /// Time that was granted.
    pub(super) fn time(&self) -> Duration {
        Duration::from_millis(self.0.time_ms.load(Ordering::Relaxed).min(MAX_MS))
    }
}

/// [`MAX_TIME`] in ms.
const MAX_MS: u64 = MAX_TIME.as_secs() * 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_granted_is_used_up_and_bounded() {
        let (allowance, second) = (Allowance::default(), Duration::from_secs(1));
        assert!(!allowance.take(1) && allowance.take(0), "nothing is granted at first");
        allowance.raise(10, second);
        assert!(allowance.take(7) && !allowance.take(4) && allowance.take(3));
        assert_eq!(allowance.time(), second);
        for _ in 0..1_000 {
            allowance.raise(1 << 20, 60 * second);
        }
        assert!(!allowance.take(MAX_BYTES) && allowance.take(MAX_BYTES - 10));
        assert_eq!(allowance.time(), MAX_TIME);
    }
}
