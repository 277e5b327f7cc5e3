//! What the service manager is told: READY, STATUS, STOPPING, and WATCHDOG while every part shows
//! that it lives.
//!
//! Outside systemd nothing is sent. It must not decide what the state is.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Speaks to the service manager; repeats nothing that it already said.
#[derive(Debug, Default)]
pub struct Notifier {
    ready: bool,
    status: String,
}

impl Notifier {
    /// One that has said nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// READY, once. To be called when the store is open and the bus name is held.
    pub fn ready(&mut self) {
        if !std::mem::replace(&mut self.ready, true) {
            send(&[NotifyState::Ready]);
        }
    }

    /// One line for `systemctl status`, when it differs from the last.
    pub fn status(&mut self, status: &str) {
        // A line break would end the STATUS= assignment (sd_notify(3)).
        let line = status.replace(['\n', '\r'], " ");
        if line != self.status {
            send(&[NotifyState::Status(&line)]);
            self.status = line;
        }
    }

    /// STOPPING. To be called when shutdown begins.
    pub fn stopping(&mut self) {
        send(&[NotifyState::Stopping]);
    }
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager does not listen");
    }
}

/// The watchdog: fed only when every part has given proof of life since it was due.
///
/// The owner loop asks its parts (an answer to a message, never a timer of their own), reports
/// each answer with [`Watchdog::alive`], and calls [`Watchdog::feed`] every [`Watchdog::interval`].
#[derive(Debug)]
pub struct Watchdog {
    interval: Option<Duration>,
    parts: Vec<(&'static str, Instant)>,
}

/// What came of a call of [`Watchdog::feed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fed {
    /// No service manager watches.
    Unwatched,
    /// It was told that we live.
    Yes,
    /// It was told nothing: this part has been silent for longer than the watchdog allows.
    Silent(&'static str),
}

impl Watchdog {
    /// A watchdog over these parts, with the time that the service manager allows.
    pub fn from_environment(parts: &[&'static str], now: Instant) -> Self {
        Self::new(sd_notify::watchdog_enabled(), parts, now)
    }

    fn new(allowed: Option<Duration>, parts: &[&'static str], now: Instant) -> Self {
        Self { interval: allowed, parts: parts.iter().map(|part| (*part, now)).collect() }
    }

    /// How often to feed: half of what is allowed (sd_watchdog_enabled(3)); without a watchdog
    /// every 10 s, so that a silent part is logged all the same.
    pub fn interval(&self) -> Duration {
        self.interval.map_or(Duration::from_secs(10), |allowed| allowed / 2)
    }

    /// A part has answered.
    pub fn alive(&mut self, part: &'static str, now: Instant) {
        for (name, last) in &mut self.parts {
            if *name == part {
                *last = now;
            }
        }
    }

    /// Tells the service manager that we live, unless a part is silent.
    pub fn feed(&self, now: Instant) -> Fed {
        match self.verdict(now) {
            Fed::Yes => send(&[NotifyState::Watchdog]),
            Fed::Silent(part) => tracing::error!(part, "a part of the daemon does not answer"),
            Fed::Unwatched => {}
        }
        self.verdict(now)
    }

    fn verdict(&self, now: Instant) -> Fed {
        let allowed = self.interval.unwrap_or(Duration::from_secs(20));
        let silent = self.parts.iter().find(|(_, last)| now.duration_since(*last) > allowed);
        match (silent, self.interval) {
            (Some((part, _)), _) => Fed::Silent(part),
            (None, Some(_)) => Fed::Yes,
            (None, None) => Fed::Unwatched,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_silent_part_stops_the_feeding() {
        let start = Instant::now();
        let allowed = Duration::from_secs(30);
        let mut watchdog = Watchdog::new(Some(allowed), &["ledger", "ingest"], start);
        assert_eq!(watchdog.interval(), allowed / 2);
        let later = start + Duration::from_secs(31);
        assert_eq!(watchdog.verdict(start + allowed), Fed::Yes);
        watchdog.alive("ledger", later);
        assert_eq!(watchdog.verdict(later), Fed::Silent("ingest"));
        watchdog.alive("ingest", later);
        assert_eq!(watchdog.verdict(later), Fed::Yes);
    }

    #[test]
    fn without_a_watchdog_silence_is_seen_too() {
        let start = Instant::now();
        let watchdog = Watchdog::new(None, &["tpm"], start);
        assert_eq!(watchdog.verdict(start), Fed::Unwatched);
        assert_eq!(watchdog.verdict(start + Duration::from_secs(60)), Fed::Silent("tpm"));
    }
}
