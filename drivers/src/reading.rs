//! What the sessions hand on: readings that were verified, and how strong that word is.
//!
//! Only code of this crate that has checked a frame (or, at level 0, the port it came from) can
//! make a [`VerifiedReading`]; everybody else can only look at it.

use crate::device::Identity;

/// Assurance level of a reading: who could have made it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// No cryptography on the wire: the gateway saw it on a port that is bound to the node.
    Observed = 0,
    /// Authenticated with a key that the node shares with its holders: each of them could forge.
    SharedKey = 1,
    /// Authenticated in a session with the node's own key; the gateway vouches.
    DeviceKey = 2,
    /// Signed by the node itself (ES256): anyone can check.
    DeviceSigned = 3,
}

impl Level {
    /// The level as the number that ledger and proofs carry, 0 to 3.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Inverse of [`Level::number`].
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Observed),
            1 => Some(Self::SharedKey),
            2 => Some(Self::DeviceKey),
            3 => Some(Self::DeviceSigned),
            _ => None,
        }
    }

    /// The level as a sentence for people.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Observed => "observed: no cryptography on the wire, the gateway saw it",
            Self::SharedKey => "shared key: a holder of the session could forge it",
            Self::DeviceKey => "device key: sent in a session with the sensor's own key",
            Self::DeviceSigned => "device signed: signed by the sensor, anyone can check",
        }
    }
}

/// One measurement of one light node that passed its driver's checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedReading {
    identity: Identity,
    epoch: u32,
    counter: u64,
    received_ms: u64,
    level: Level,
    senml: Vec<u8>,
    device_signature: Option<Vec<u8>>,
}

/// The fields of a [`VerifiedReading`], named, for the session that has checked them.
pub(crate) struct Checked {
    pub(crate) identity: Identity,
    pub(crate) epoch: u32,
    pub(crate) counter: u64,
    pub(crate) received_ms: u64,
    pub(crate) level: Level,
    pub(crate) senml: Vec<u8>,
    pub(crate) device_signature: Option<Vec<u8>>,
}

impl VerifiedReading {
    /// Only a session that has authenticated the frame (levels 1 to 3) or taken it from the bound
    /// port (level 0) may call this.
    pub(crate) fn new(checked: Checked) -> Self {
        let Checked { identity, epoch, counter, received_ms, level, senml, device_signature } =
            checked;
        Self { identity, epoch, counter, received_ms, level, senml, device_signature }
    }

    /// Who measured.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        self.identity
    }

    /// Session epoch: the number the caller gave when the session was opened.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Counter within the epoch: the wire's own (levels 1 to 3) or the gateway's (level 0).
    #[must_use]
    pub const fn counter(&self) -> u64 {
        self.counter
    }

    /// When the frame was received: the `now_ms` of the step that verified it, in milliseconds
    /// since 1970 by the gateway's clock.
    #[must_use]
    pub const fn received_ms(&self) -> u64 {
        self.received_ms
    }

    /// Assurance level.
    #[must_use]
    pub const fn level(&self) -> Level {
        self.level
    }

    /// SenML pack as CBOR (RFC 8428 section 6); empty for an uplink without payload.
    #[must_use]
    pub fn senml(&self) -> &[u8] {
        &self.senml
    }

    /// The node's own signature over the reading, at level 3.
    #[must_use]
    pub fn device_signature(&self) -> Option<&[u8]> {
        self.device_signature.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_the_numbers_of_the_ledger() {
        for number in 0..=3 {
            let level = Level::from_number(number).expect("0 to 3 are levels");
            assert_eq!(level.number(), number);
            assert!(!level.sentence().is_empty());
        }
        assert_eq!(Level::from_number(4), None);
    }

    #[test]
    fn getters_give_back_what_was_checked() {
        let reading = VerifiedReading::new(Checked {
            identity: Identity::DevEui([1; 8]),
            epoch: 2,
            counter: u64::MAX,
            received_ms: 4,
            level: Level::SharedKey,
            senml: vec![0x80],
            device_signature: None,
        });
        assert_eq!(reading.identity(), Identity::DevEui([1; 8]));
        assert_eq!((reading.epoch(), reading.counter()), (2, u64::MAX));
        assert_eq!((reading.received_ms(), reading.level()), (4, Level::SharedKey));
        assert_eq!((reading.senml(), reading.device_signature()), (&[0x80][..], None));
    }
}
