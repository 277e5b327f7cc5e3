//! Frames of strangers: counted, never recorded one by one. What is kept is bounded whatever is
//! sent; once an hour it becomes one aggregate on the record (design §6 "Budget").

use drivers::lora::effect::Stranger;
use ledger::transaction::{TallyCount, TallyKind};

/// Bits of the sketch: distinct senders are estimated well up to about twice as many.
const SKETCH_BITS: usize = 4096;

/// Counts of one hour.
#[derive(Debug)]
pub(super) struct Strangers {
    /// Unix hour that is counted.
    hour: u64,
    /// All strangers since start when the hour began.
    before: u64,
    unknown: Kind,
    bad_mic: Kind,
}

#[derive(Debug, Clone)]
struct Kind {
    told: u64,
    sketch: Vec<u64>,
}

impl Kind {
    fn new() -> Self {
        Self { told: 0, sketch: vec![0; SKETCH_BITS / 64] }
    }

    fn note(&mut self, sender: &[u8]) {
        self.told += 1;
        let hash = ledger::crypto::sha256(&[sender]).0;
        let bit = usize::from(u16::from_be_bytes([hash[0], hash[1]])) % SKETCH_BITS;
        self.sketch[bit / 64] |= 1 << (bit % 64);
    }

    /// Linear counting (Whang, Vander-Zanden, Taylor 1990): −m ln(empty share).
    fn senders(&self) -> u32 {
        let set: u32 = self.sketch.iter().map(|word| word.count_ones()).sum();
        let (bits, set) = (SKETCH_BITS as f64, f64::from(set));
        let empty = (bits - set).max(1.0) / bits;
        // Rounded and far below 2^32: at most m ln m.
        (-bits * empty.ln()).round() as u32
    }
}

impl Strangers {
    pub(super) fn new(hour: u64) -> Self {
        Self { hour, before: 0, unknown: Kind::new(), bad_mic: Kind::new() }
    }

    /// One that the server told of; it tells of some and counts all.
    pub(super) fn note(&mut self, stranger: &Stranger) {
        match stranger {
            Stranger::UnknownDevEui(eui) | Stranger::WrongJoinEui(eui) => self.unknown.note(&eui.0),
            Stranger::UnknownDevAddr(address) => self.unknown.note(&address.to_wire()),
            Stranger::JoinBadMic(eui) => self.bad_mic.note(&eui.0),
            Stranger::DataBadMic(address) => self.bad_mic.note(&address.to_wire()),
        }
    }

    /// Ends the hour when it is over: its number and counts, if there were any. `total` counts all
    /// strangers since start; those that were not told of count as unknown.
    pub(super) fn turn(&mut self, hour: u64, total: u64) -> Option<(u64, Vec<TallyCount>)> {
        if hour <= self.hour {
            return None;
        }
        let ended = std::mem::replace(self, Self { before: total, ..Self::new(hour) });
        let all = total.saturating_sub(ended.before);
        let unknown = all.saturating_sub(ended.bad_mic.told);
        let counts = [
            (TallyKind::Unknown, unknown, &ended.unknown),
            (TallyKind::BadMic, ended.bad_mic.told.min(all), &ended.bad_mic),
        ];
        let counts: Vec<_> = counts
            .into_iter()
            .filter(|(_, frames, _)| *frames > 0)
            .map(|(kind, frames, told)| TallyCount { kind, frames, senders: told.senders() })
            .collect();
        (!counts.is_empty()).then_some((ended.hour, counts))
    }
}

#[cfg(test)]
mod tests {
    use drivers::lora::ids::{DevAddr, DevEui};

    use super::*;

    #[test]
    fn an_hour_becomes_one_aggregate() {
        let mut strangers = Strangers::new(10);
        for sender in 0..500u64 {
            let eui = DevEui(sender.to_be_bytes());
            strangers.note(&Stranger::UnknownDevEui(eui));
            strangers.note(&Stranger::UnknownDevEui(eui));
        }
        strangers.note(&Stranger::DataBadMic(DevAddr(7)));
        assert_eq!(strangers.turn(10, 2_000), None);
        let (hour, counts) = strangers.turn(11, 2_000).unwrap();
        assert_eq!(hour, 10);
        assert_eq!(counts.len(), 2);
        assert_eq!((counts[0].kind, counts[0].frames), (TallyKind::Unknown, 1_999));
        assert!((450..550).contains(&counts[0].senders), "{}", counts[0].senders);
        assert_eq!(
            (counts[1].kind, counts[1].frames, counts[1].senders),
            (TallyKind::BadMic, 1, 1)
        );
        assert_eq!(strangers.turn(12, 2_000), None, "a quiet hour is not written down");
    }
}
