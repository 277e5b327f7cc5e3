//! The clocks of this machine: wall time, monotonic time that goes on in suspend, and whether the
//! kernel says the wall clock is synchronised. The only place that asks the system for time.

use std::time::{SystemTime, UNIX_EPOCH};

/// Where a reading's time comes from (design §4 "Time").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    /// The kernel says the clock is disciplined by NTP, PTP or GNSS.
    Synced,
    /// Derived from the record's own time and monotonic time since.
    Site,
    /// Neither: this machine's clock as it is.
    Unknown,
}

impl Quality {
    /// Number in the leaf of a reading.
    pub fn code(self) -> u8 {
        match self {
            Self::Synced => 0,
            Self::Site => 1,
            Self::Unknown => 2,
        }
    }

    /// Word for people and JSON.
    pub fn word(self) -> &'static str {
        quality_word(self.code())
    }
}

/// Word of a time quality's number.
pub fn quality_word(code: u8) -> &'static str {
    match code {
        0 => "synced",
        1 => "site",
        _ => "unknown",
    }
}

/// Wall time, ms since 1970, as this machine has it.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Monotonic time since boot including suspend (CLOCK_BOOTTIME), ms.
pub fn boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000)
}

/// Whether the kernel says that the wall clock is disciplined (NTP, PTP, GNSS).
pub fn synchronised() -> bool {
    crate::os::clock_is_synchronised()
}

/// Tells time for readings: the wall clock when it is disciplined, else the record's time carried
/// on by the monotonic clock, so that two gateways without NTP still agree.
#[derive(Debug, Clone, Copy, Default)]
pub struct SiteClock {
    tip: Option<(u64, u64)>,
}

impl SiteClock {
    /// Notes the time of a block and when (boot time) it was seen.
    pub fn observe_block(&mut self, block_ms: u64, boot_ms: u64) {
        self.tip = Some((block_ms, boot_ms));
    }

    /// Time now and its quality.
    pub fn now(&self) -> (u64, Quality) {
        self.at(wall_ms(), boot_ms(), synchronised())
    }

    fn at(&self, wall: u64, boot: u64, synchronised: bool) -> (u64, Quality) {
        match self.tip {
            _ if synchronised => (wall, Quality::Synced),
            Some((block, seen)) => (block.saturating_add(boot.saturating_sub(seen)), Quality::Site),
            None => (wall, Quality::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_never_goes_back() {
        let first = boot_ms();
        assert!(first > 0);
        assert!(boot_ms() >= first);
    }

    #[test]
    fn a_site_clock_is_carried_on_from_the_block() {
        let mut clock = SiteClock::default();
        assert_eq!(clock.at(500, 10, false), (500, Quality::Unknown));
        clock.observe_block(1_000, 10);
        assert_eq!(clock.at(500, 60, false), (1_050, Quality::Site));
        assert_eq!(clock.at(500, 60, true), (500, Quality::Synced));
    }
}
