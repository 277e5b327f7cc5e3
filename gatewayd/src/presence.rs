//! Whether light nodes are heard as often as expected. Local, no ledger traffic, pure.

/// Presence of a light node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Never heard since it was paired.
    Unknown,
    /// Heard within its interval (with half of it for grace).
    Present,
    /// One to three intervals overdue.
    Late,
    /// Longer.
    Silent,
}

impl Presence {
    /// Word for people and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Present => "present",
            Self::Late => "late",
            Self::Silent => "silent",
        }
    }
}

/// Interval that is assumed when nobody named one, s.
const DEFAULT_INTERVAL_S: u32 = 3_600;

/// Presence from the last time it was heard and its expected interval in seconds (0: unknown).
pub fn presence(now_ms: u64, heard_ms: Option<u64>, interval_s: u32) -> Presence {
    let Some(heard) = heard_ms else { return Presence::Unknown };
    let interval_s = if interval_s == 0 { DEFAULT_INTERVAL_S } else { interval_s };
    let interval = u64::from(interval_s) * 1000;
    match now_ms.saturating_sub(heard) {
        silence if silence <= interval + interval / 2 => Presence::Present,
        silence if silence <= 3 * interval => Presence::Late,
        _ => Presence::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presence_follows_the_interval() {
        let cases = [
            ("never", 50_000, None, 10, Presence::Unknown),
            ("in time", 50_000, Some(41_000), 10, Presence::Present),
            ("within grace", 50_000, Some(35_000), 10, Presence::Present),
            ("late", 50_000, Some(34_999), 10, Presence::Late),
            ("silent", 50_000, Some(19_999), 10, Presence::Silent),
            ("no interval named", 3_600_000, Some(0), 0, Presence::Present),
            ("clock went back", 10, Some(50), 1, Presence::Present),
        ];
        for (what, now, heard, interval, expected) in cases {
            assert_eq!(presence(now, heard, interval), expected, "{what}");
        }
    }
}
