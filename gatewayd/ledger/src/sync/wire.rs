//! What a gateway without a ledger asks a member, and what the member answers.
//!
//! Every list has a limit of entries and every answer one of bytes; a server fills an answer up
//! to [`PART_BYTES`] and says whether more follows.

use crate::certificate::Certificate;
use crate::codec::{Decode, DecodeError, Decoder, Encode, Encoder};
use crate::genesis::Genesis;
use crate::header::Header;
use crate::ids::{Hash, Height};
use crate::merkle::MAX_PATH;
use crate::state::map::MapProof;
use crate::store::SetStep;
use crate::validator_set::ValidatorSet;

use super::snapshot::Entry;

/// An answer is closed when it holds this many bytes.
pub const PART_BYTES: usize = 256 * 1024;
/// Largest answer: a full one whose last entry is the largest that there is.
pub const MAX_ANSWER: usize = 1024 * 1024;
/// Most changes of the voters in one answer.
pub const MAX_PART_STEPS: usize = 1_024;
/// Most state entries in one answer.
pub const MAX_PART_ENTRIES: usize = 8_192;
/// Largest stored key and value of the state, in bytes.
const MAX_KEY: usize = 64;
const MAX_VALUE: usize = 256 * 1024;

/// A question to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// "What can you send?"
    Newest {
        /// An older one is of no use.
        at_least: Height,
    },
    /// "Which blocks changed the voters?"
    Steps {
        /// Of the snapshot at this height.
        height: Height,
        /// Those above this one.
        after: Height,
    },
    /// "What is in the state?"
    Entries {
        /// Of the snapshot at this height.
        height: Height,
        /// What stands behind this key, in the order of the state's map; empty for the first.
        after: Vec<u8>,
    },
}

/// An answer. It repeats the question's place, so that late and doubled ones are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Request::Newest`].
    Manifest(Box<Manifest>),
    /// To [`Request::Steps`].
    Steps {
        /// Of the snapshot at this height.
        height: Height,
        /// As asked.
        after: Height,
        /// Ascending by height.
        steps: Vec<SetStep>,
        /// Whether others follow.
        more: bool,
    },
    /// To [`Request::Entries`].
    Entries {
        /// Of the snapshot at this height.
        height: Height,
        /// As asked.
        after: Vec<u8>,
        /// In the order of the state's map.
        entries: Vec<Entry>,
        /// Where others follow: shows the last of these under the state's root, so that every
        /// answer is checked when it comes.
        more: Option<MapProof>,
    },
    /// The snapshot of this height is not served, or not any more.
    Gone {
        /// As asked.
        height: Height,
    },
}

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The genesis record.
    pub genesis: Genesis,
    /// The header whose state it is.
    pub header: Header,
    /// Makes that header final.
    pub certificate: Certificate,
    /// Peaks of the tree over all earlier headers, the highest subtree first.
    pub peaks: Vec<Hash>,
    /// The block after which `validators` began to vote: 0 when all changes are still known.
    pub base: Height,
    /// The first voters that are known.
    pub validators: ValidatorSet,
    /// State entries, for a progress display; a claim.
    pub entries: u64,
}

impl Encode for Manifest {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { genesis, header, certificate, peaks, base, validators, entries } = self;
        encoder.array(7).value(genesis).value(header).value(certificate).list(peaks);
        encoder.value(base).value(validators).uint(*entries);
    }
}

impl Decode for Manifest {
    const MAX_BYTES: usize = Genesis::MAX_BYTES
        + Header::MAX_BYTES
        + Certificate::MAX_BYTES
        + MAX_PATH * Hash::MAX_BYTES
        + ValidatorSet::MAX_BYTES
        + 64;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("manifest", 7)?;
        Ok(Self {
            genesis: Genesis::decode(decoder)?,
            header: Header::decode(decoder)?,
            certificate: Certificate::decode(decoder)?,
            peaks: decoder.list("peaks", MAX_PATH)?,
            base: Height::decode(decoder)?,
            validators: ValidatorSet::decode(decoder)?,
            entries: decoder.uint("entries")?,
        })
    }
}

impl Encode for SetStep {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { header, certificate, next } = self;
        encoder.array(3).value(header).value(certificate).value(next);
    }
}

impl Decode for SetStep {
    const MAX_BYTES: usize =
        16 + Header::MAX_BYTES + Certificate::MAX_BYTES + ValidatorSet::MAX_BYTES;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("change of the voters", 3)?;
        Ok(Self {
            header: Header::decode(decoder)?,
            certificate: Certificate::decode(decoder)?,
            next: ValidatorSet::decode(decoder)?,
        })
    }
}

const NEWEST: u64 = 1;
const STEPS: u64 = 2;
const ENTRIES: u64 = 3;
const GONE: u64 = 4;

impl Encode for Request {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Newest { at_least } => encoder.array(2).uint(NEWEST).value(at_least),
            Self::Steps { height, after } => {
                encoder.array(3).uint(STEPS).value(height).value(after)
            }
            Self::Entries { height, after } => {
                encoder.array(3).uint(ENTRIES).value(height).bytes(after)
            }
        };
    }
}

impl Decode for Request {
    const MAX_BYTES: usize = 128;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let fields = decoder.array("snapshot request", 3)?;
        match (decoder.uint("snapshot request")?, fields) {
            (NEWEST, 2) => Ok(Self::Newest { at_least: Height::decode(decoder)? }),
            (STEPS, 3) => Ok(Self::Steps {
                height: Height::decode(decoder)?,
                after: Height::decode(decoder)?,
            }),
            (ENTRIES, 3) => Ok(Self::Entries {
                height: Height::decode(decoder)?,
                after: decoder.bytes("key", MAX_KEY)?.to_vec(),
            }),
            _ => Err(DecodeError::Invalid("snapshot request")),
        }
    }
}

impl Encode for Answer {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Manifest(manifest) => encoder.array(2).uint(NEWEST).value(&**manifest),
            Self::Steps { height, after, steps, more } => {
                encoder.array(5).uint(STEPS).value(height).value(after).list(steps).bool(*more)
            }
            Self::Entries { height, after, entries, more } => {
                encoder.array(5).uint(ENTRIES).value(height).bytes(after).array(entries.len());
                for (key, value) in entries {
                    encoder.array(2).bytes(key).bytes(value);
                }
                encoder.option(more.as_ref())
            }
            Self::Gone { height } => encoder.array(2).uint(GONE).value(height),
        };
    }
}

impl Decode for Answer {
    const MAX_BYTES: usize = MAX_ANSWER;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let fields = decoder.array("snapshot", 5)?;
        match (decoder.uint("snapshot")?, fields) {
            (NEWEST, 2) => Ok(Self::Manifest(Box::new(Manifest::decode(decoder)?))),
            (STEPS, 5) => Ok(Self::Steps {
                height: Height::decode(decoder)?,
                after: Height::decode(decoder)?,
                steps: decoder.list("changes of the voters", MAX_PART_STEPS)?,
                more: decoder.bool("more")?,
            }),
            (ENTRIES, 5) => Ok(Self::Entries {
                height: Height::decode(decoder)?,
                after: decoder.bytes("key", MAX_KEY)?.to_vec(),
                entries: decode_entries(decoder)?,
                more: decoder.option()?,
            }),
            (GONE, 2) => Ok(Self::Gone { height: Height::decode(decoder)? }),
            _ => Err(DecodeError::Invalid("snapshot")),
        }
    }
}

fn decode_entries(decoder: &mut Decoder<'_>) -> Result<Vec<Entry>, DecodeError> {
    let count = decoder.array("entries", MAX_PART_ENTRIES)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        decoder.fields("entry", 2)?;
        let key = decoder.bytes("key", MAX_KEY)?.to_vec();
        entries.push((key, decoder.bytes("value", MAX_VALUE)?.to_vec()));
    }
    Ok(entries)
}
