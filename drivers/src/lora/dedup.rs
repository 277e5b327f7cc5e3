//! Copies of one transmission that several forwarders (or antennas) heard.
//!
//! Keyed by the whole PHYPayload for a short window. A device repeats a frame only after its
//! receive windows, seconds later, so within the window equal bytes are one transmission.

use std::collections::{HashMap, VecDeque};

use super::ids::DevEui;

/// Most transmissions held: at 50,000 a second, a window of 200 ms holds 10,000. Beyond it the
/// oldest are forgotten; a late copy is then a retransmission to its session.
const MAX_ENTRIES: usize = 16_384;

/// Names an answer that waits to be sent: when it is due, and a running number.
pub(crate) type AnswerKey = (u64, u64);

#[derive(Debug)]
pub(crate) struct Transmission {
    phy: Vec<u8>,
    /// Whose frame it is, once verified.
    pub(crate) device: Option<DevEui>,
    /// The answer that is owed to it.
    pub(crate) answer: Option<AnswerKey>,
}

/// Recent transmissions.
#[derive(Debug, Default)]
pub(crate) struct Dedup {
    seen: HashMap<u64, Transmission>,
    order: VecDeque<(u64, u64)>,
    /// Buffers of forgotten transmissions, to be used again.
    spare: Vec<Vec<u8>>,
}

impl Dedup {
    /// Forgets what was heard before `oldest_ms`.
    pub(crate) fn expire(&mut self, oldest_ms: u64) {
        while let Some(&(heard_ms, key)) = self.order.front()
            && (heard_ms < oldest_ms || self.order.len() > MAX_ENTRIES)
        {
            self.order.pop_front();
            if let Some(old) = self.seen.remove(&key) {
                self.spare.push(old.phy);
            }
        }
    }

    /// The transmission that `phy` is a copy of, if there is one.
    pub(crate) fn find(&mut self, phy: &[u8]) -> Option<&mut Transmission> {
        self.seen.get_mut(&key(phy)).filter(|known| known.phy == phy)
    }

    /// A further copy of a frame of this device is a new frame.
    pub(crate) fn forget(&mut self, device: DevEui) {
        self.seen.retain(|_, known| known.device != Some(device));
    }

    /// Notes a transmission heard at `now_ms`. Frames that differ and share their last 8 bytes
    /// (not by chance: the MIC is among them) are not held twice.
    pub(crate) fn insert(
        &mut self,
        now_ms: u64,
        phy: &[u8],
        device: Option<DevEui>,
        answer: Option<AnswerKey>,
    ) {
        let key = key(phy);
        if self.seen.contains_key(&key) {
            return;
        }
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(phy);
        self.seen.insert(key, Transmission { phy: copy, device, answer });
        self.order.push_back((now_ms, key));
        // Bounds memory even if nobody calls `expire` in between.
        self.expire(0);
    }
}

/// The last 8 bytes, of which 4 are the MIC.
fn key(phy: &[u8]) -> u64 {
    phy.last_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_within_the_window_only() {
        let mut dedup = Dedup::default();
        let phy = [7; 20];
        dedup.insert(1_000, &phy, Some(DevEui([1; 8])), None);
        dedup.expire(1_000);
        assert_eq!(dedup.find(&phy).and_then(|known| known.device), Some(DevEui([1; 8])));
        let mut other = phy;
        other[0] = 8;
        assert!(dedup.find(&other).is_none(), "same tail, other frame");
        dedup.insert(1_000, &other, None, None);
        assert!(dedup.find(&other).is_none(), "not held: it is checked by its session");
        dedup.expire(1_001);
        assert!(dedup.find(&phy).is_none());
    }

    #[test]
    fn a_flood_is_bounded() {
        let mut dedup = Dedup::default();
        for number in 0..3 * MAX_ENTRIES as u64 {
            dedup.insert(0, &number.to_le_bytes(), None, None);
        }
        assert_eq!(dedup.seen.len(), MAX_ENTRIES);
        assert_eq!(dedup.order.len(), MAX_ENTRIES);
        assert!(dedup.spare.len() <= 1);
    }
}
