//! One activated session: its keys, the 32-bit uplink counter, the windows of downlink counters.
//!
//! Pure: decides what a frame is to the session; the server decides what to do about it.

use sha2::{Digest, Sha256};

use super::frame::DataUp;
use super::ids::DevAddr;
use super::join::SessionKeys;

/// FCntDown values that a new session's first window holds, implied for who answered the join.
pub(crate) const FIRST_DOWN_WINDOW: u32 = 64;

/// Downlink counters that one saved record covers: after a crash at most so many are skipped.
const DOWN_COUNTERS_PER_RECORD: u32 = 16;

/// A window that was asked for and not granted is asked for again after this time, in ms.
const ASK_AGAIN_MS: u64 = 10_000;

/// Most answers to one uplink counter: a device sends a frame up to 15 times (NbTrans).
const MAX_ANSWERS: u8 = 16;

/// A range of counters granted from outside, and the next one after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Window {
    /// Next value to use.
    pub(crate) next: u32,
    /// First value beyond the window.
    pub(crate) end: u32,
    /// A second window that does not touch the first.
    pub(crate) following: Option<(u32, u32)>,
    /// When a further window was asked for last, if it was not granted since.
    pub(crate) asked_ms: Option<u64>,
}

impl Window {
    /// The next value, used up by this call.
    pub(crate) fn take(&mut self) -> Option<u32> {
        if self.next >= self.end
            && let Some((from, end)) = self.following.take()
        {
            (self.next, self.end) = (from, end);
        }
        if self.next >= self.end {
            return None;
        }
        self.next += 1;
        Some(self.next - 1)
    }

    /// How many values are left.
    pub(crate) fn left(&self) -> u32 {
        let following = self.following.map_or(0, |(from, end)| end - from);
        self.end.saturating_sub(self.next).saturating_add(following)
    }

    /// Adds `count` values from `from`; values below those already held are left out.
    pub(crate) fn grant(&mut self, from: u32, count: u32) {
        let end = from.saturating_add(count);
        let highest = self.following.map_or(self.end, |(_, end)| end);
        let from = from.max(highest).max(self.next);
        self.asked_ms = None;
        if from >= end {
            return;
        }
        if self.next >= self.end && self.following.is_none() {
            (self.next, self.end) = (from, end);
        } else if self.following.is_none() && from == self.end {
            self.end = end;
        } else {
            match &mut self.following {
                Some((_, last)) if *last == from => *last = end,
                // A third, separate window: the oldest is given up, never one used twice.
                Some((second, last)) => {
                    (self.next, self.end) = (*second, *last);
                    self.following = Some((from, end));
                }
                None => self.following = Some((from, end)),
            }
        }
    }

    /// Whether it is time to ask for more: when at most a quarter of `size` is left, and again when
    /// nothing came of it for a while.
    pub(crate) fn ask(&mut self, now_ms: u64, size: u32) -> bool {
        let waited = self.asked_ms.is_none_or(|asked_ms| now_ms >= asked_ms + ASK_AGAIN_MS);
        let ask = waited && self.left() <= size / 4;
        if ask {
            self.asked_ms = Some(now_ms);
        }
        ask
    }
}

/// What a frame is to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// A new counter.
    New(u32),
    /// The last counter again with equal port and payload: a retransmission.
    Again(u32),
    /// The last counter again with another payload.
    Conflict(u32),
    /// An older counter.
    Replayed(u32),
    /// No counter is left.
    Exhausted,
    /// Not a frame of this session.
    BadMic,
}

/// A session of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) dev_addr: DevAddr,
    pub(crate) keys: SessionKeys,
    pub(crate) dev_nonce: u16,
    pub(crate) join_nonce: u32,
    /// 0 until the first uplink opens the session.
    pub(crate) epoch: u32,
    /// Highest counter accepted.
    pub(crate) fcnt_up: Option<u32>,
    /// Port and encrypted payload of that uplink; unknown after a restart.
    pub(crate) last: Option<Vec<u8>>,
    /// How often that uplink was answered.
    pub(crate) answers: u8,
    pub(crate) down: Window,
    /// FCntDown below this are covered by the saved record.
    pub(crate) down_saved: u32,
}

impl Session {
    /// A session whose JoinAccept is about to leave.
    pub(crate) fn new(
        dev_addr: DevAddr,
        keys: SessionKeys,
        dev_nonce: u16,
        join_nonce: u32,
    ) -> Self {
        Self {
            dev_addr,
            keys,
            dev_nonce,
            join_nonce,
            epoch: 0,
            fcnt_up: None,
            last: None,
            answers: 0,
            down: Window { end: FIRST_DOWN_WINDOW, ..Window::default() },
            down_saved: 0,
        }
    }

    /// Extends the 16 bits of the frame to 32 (TS001-1.0.4 section 4.3.1.5), checks the MIC and
    /// tells what the frame is. A wrong MIC costs a second one, to tell a replay from a stranger.
    pub(crate) fn check(&self, frame: &DataUp<'_>) -> Check {
        let verify = |fcnt| frame.verify(&self.keys.nwk_s_key, fcnt);
        let Some(last) = self.fcnt_up else {
            let fcnt = u32::from(frame.fcnt());
            return if verify(fcnt) { Check::New(fcnt) } else { Check::BadMic };
        };
        let ahead = frame.fcnt().wrapping_sub(last as u16);
        let full = last.checked_add(u32::from(ahead));
        match full {
            Some(full) if verify(full) => {
                if ahead > 0 {
                    return Check::New(full);
                }
                match &self.last {
                    Some(sealed) if sealed.as_slice() != frame.sealed() => Check::Conflict(full),
                    _ => Check::Again(full),
                }
            }
            _ => {
                // The nearest lower counter with the same 16 bits.
                let behind = last.checked_sub((1 << 16) - u32::from(ahead));
                match behind {
                    Some(behind) if verify(behind) => Check::Replayed(behind),
                    _ if full.is_none() => Check::Exhausted,
                    _ => Check::BadMic,
                }
            }
        }
    }

    /// Notes a new uplink, after [`Check::New`].
    pub(crate) fn accept(&mut self, fcnt: u32, sealed: &[u8]) {
        self.fcnt_up = Some(fcnt);
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(sealed);
        self.answers = 0;
    }

    /// Whether the last uplink may be answered once more.
    pub(crate) fn count_answer(&mut self) -> bool {
        let may = self.answers < MAX_ANSWERS;
        self.answers = self.answers.saturating_add(1);
        may
    }

    /// The next FCntDown, and whether the device's record must be saved before it is used.
    pub(crate) fn take_down(&mut self) -> Option<(u32, bool)> {
        let fcnt = self.down.take()?;
        Some((fcnt, fcnt >= self.down_saved))
    }

    /// First FCntDown that a record saved now leaves to a restarted server.
    pub(crate) fn save_down(&mut self) -> u32 {
        self.down_saved = self.down.next.saturating_add(DOWN_COUNTERS_PER_RECORD);
        self.down_saved
    }
}

/// Digest of a session's public parameters, see [`super::effect::Effect::SessionOpened`].
pub(crate) fn session_digest(dev_nonce: u16, join_nonce: u32) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"gatewayd/lora-session/1");
    hash.update(dev_nonce.to_be_bytes());
    hash.update(join_nonce.to_be_bytes());
    hash.finalize().into()
}

#[cfg(test)]
mod tests;
