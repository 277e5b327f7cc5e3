//! Duty-cycle accounting of one forwarder: time on air by sub-band over the last hour.
//!
//! ETSI EN 300 220-1 section 5.4 measures the duty cycle over any hour; minutes are the grain here
//! and the running one counts in full, so the account errs to the safe side.

use super::region::SUB_BANDS;

const MINUTES: usize = 61;
const MINUTE_MS: u64 = 60_000;
const HOUR_US: u64 = 3_600_000_000;

/// Time on air of one forwarder.
#[derive(Clone, Debug)]
pub(crate) struct DutyCycle {
    bands: [[u32; MINUTES]; SUB_BANDS.len()],
    /// The minute that was last written or cleared.
    minute: u64,
}

impl DutyCycle {
    /// Nothing sent yet.
    pub(crate) const fn new() -> Self {
        Self { bands: [[0; MINUTES]; SUB_BANDS.len()], minute: 0 }
    }

    /// Books `airtime_us` in `band` (index of [`SUB_BANDS`]) if the hour still has room.
    pub(crate) fn spend(&mut self, now_ms: u64, band: usize, airtime_us: u64) -> bool {
        self.advance(now_ms);
        let used: u64 = self.bands[band].iter().map(|us| u64::from(*us)).sum();
        let allowed = HOUR_US / 1_000 * u64::from(SUB_BANDS[band].duty_per_mille);
        if used + airtime_us > allowed {
            return false;
        }
        let slot = &mut self.bands[band][(self.minute % MINUTES as u64) as usize];
        *slot = slot.saturating_add(u32::try_from(airtime_us).unwrap_or(u32::MAX));
        true
    }

    /// Gives back what was booked in this or an earlier minute and then not sent.
    pub(crate) fn refund(&mut self, band: usize, airtime_us: u64) {
        let mut rest = u32::try_from(airtime_us).unwrap_or(u32::MAX);
        for age in 0..MINUTES as u64 {
            let index = (self.minute + MINUTES as u64 - age) % MINUTES as u64;
            let slot = &mut self.bands[band][index as usize];
            let part = rest.min(*slot);
            *slot -= part;
            rest -= part;
        }
    }

    /// Time on air used in `band` over the last hour, in µs.
    #[cfg(test)]
    fn used_us(&mut self, now_ms: u64, band: usize) -> u64 {
        self.advance(now_ms);
        self.bands[band].iter().map(|us| u64::from(*us)).sum()
    }

    /// Clears the minutes that began since the last call.
    fn advance(&mut self, now_ms: u64) {
        let minute = now_ms / MINUTE_MS;
        let passed = minute.saturating_sub(self.minute).min(MINUTES as u64);
        for step in 1..=passed {
            let index = ((self.minute + step) % MINUTES as u64) as usize;
            self.bands.iter_mut().for_each(|band| band[index] = 0);
        }
        if passed == MINUTES as u64 {
            self.bands = [[0; MINUTES]; SUB_BANDS.len()];
        }
        self.minute = self.minute.max(minute);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 868.0 to 868.6 MHz: 1 %, 36 s an hour.
    const BAND: usize = 2;

    #[test]
    fn an_hour_holds_one_percent() {
        let mut duty = DutyCycle::new();
        for second in 0..36 {
            assert!(duty.spend(second * 90_000, BAND, 1_000_000), "second {second} of 36");
        }
        assert!(!duty.spend(3_240_000, BAND, 1), "the hour is full");
        assert!(duty.spend(3_240_000, 4, 1_000_000), "another sub-band has its own account");
        assert!(duty.spend(3_661_000, BAND, 1_000_000), "the first minute is over an hour old");
        assert!(!duty.spend(3_661_000, BAND, 1_000_000), "and gave back one second only");
    }

    #[test]
    fn a_long_pause_clears_everything() {
        let mut duty = DutyCycle::new();
        assert!(duty.spend(0, BAND, 36_000_000));
        assert!(!duty.spend(0, BAND, 1));
        assert_eq!(duty.used_us(100_000_000, BAND), 0);
        assert!(duty.spend(100_000_000, BAND, 36_000_000));
    }

    #[test]
    fn what_was_not_sent_is_given_back() {
        let mut duty = DutyCycle::new();
        assert!(duty.spend(59_000, BAND, 20_000_000));
        assert!(duty.spend(61_000, BAND, 10_000_000));
        duty.refund(BAND, 20_000_000);
        assert_eq!(duty.used_us(61_000, BAND), 10_000_000);
        duty.refund(BAND, u64::MAX);
        assert_eq!(duty.used_us(61_000, BAND), 0, "never below nothing");
    }
}
