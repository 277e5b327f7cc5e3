//! What members say to each other about being there: canonical CBOR like everything else, in a
//! frame of its own. Parses and judges nothing.

use ledger::codec::{Decode, DecodeError, Decoder, Encode, Encoder};
use ledger::ids::Height;

/// A sign of life, or its acknowledgement. Numbers are never used again for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// 1: I am here, in this life.
    Heartbeat {
        /// The sender's liveness epoch, as its record has it.
        epoch: u32,
        /// The sender's own mark of when it sent it: it comes back unread.
        stamp: u64,
    },
    /// 2: I have heard you.
    Acknowledgement {
        /// Epoch of the heartbeat.
        epoch: u32,
        /// Stamp of the heartbeat.
        stamp: u64,
        /// Newest block of the one that acknowledges: what it said about the site before, it said
        /// from there.
        tip: Height,
        /// It has signed that the sender is silent in this epoch: this is no acknowledgement, and
        /// the sender has to come back.
        signed: bool,
    },
}

impl Encode for Beat {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Heartbeat { epoch, stamp } => encoder.array(3).uint(1).value(epoch).value(stamp),
            Self::Acknowledgement { epoch, stamp, tip, signed } => {
                encoder.array(5).uint(2).value(epoch).value(stamp).value(tip).bool(*signed)
            }
        };
    }
}

impl Decode for Beat {
    const MAX_BYTES: usize = crate::peers::MAX_BEAT;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let fields = decoder.array("beat", 5)?;
        match (decoder.uint("beat")?, fields) {
            (1, 3) => Ok(Self::Heartbeat {
                epoch: decoder.uint32("liveness epoch")?,
                stamp: decoder.uint("stamp")?,
            }),
            (2, 5) => Ok(Self::Acknowledgement {
                epoch: decoder.uint32("liveness epoch")?,
                stamp: decoder.uint("stamp")?,
                tip: Height::decode(decoder)?,
                signed: decoder.bool("signed")?,
            }),
            _ => Err(DecodeError::Invalid("beat")),
        }
    }
}

/// For fuzzing: bytes of a member.
///
/// # Panics
/// When one beat has two encodings.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(beat) = Beat::from_bytes(bytes) {
        assert_eq!(beat.to_bytes(), bytes, "one beat, one encoding");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_are_read_back_and_fit_their_frame() {
        let most = u64::MAX;
        for (beat, hex) in [
            (Beat::Heartbeat { epoch: 3, stamp: 70_000 }, "8301031a00011170"),
            (
                Beat::Acknowledgement { epoch: 3, stamp: 9, tip: Height(41), signed: true },
                "850203091829f5",
            ),
            (
                Beat::Acknowledgement {
                    epoch: u32::MAX,
                    stamp: most,
                    tip: Height(most),
                    signed: false,
                },
                "8502",
            ),
        ] {
            let bytes = beat.to_bytes();
            let written: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(written.starts_with(hex), "{written}");
            assert!(bytes.len() <= Beat::MAX_BYTES, "{} bytes", bytes.len());
            assert_eq!(Beat::from_bytes(&bytes), Ok(beat));
            for len in 0..bytes.len() {
                assert!(Beat::from_bytes(&bytes[..len]).is_err(), "cut at {len}");
            }
            fuzz(&bytes);
        }
        assert!(Beat::from_bytes(&[0x83, 2, 0, 0]).is_err(), "an acknowledgement has five fields");
    }
}
