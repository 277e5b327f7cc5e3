//! Bodies about readings and what was heard: `Batch`, `Tally`, `Refusal`.

use alloc::vec::Vec;

use crate::{
    codec::{
        Decode, DecodeError, Decoder, Encode, Encoder, Text, canonical, check_ascending, check_size,
    },
    crypto::{Domain, Signature},
    ids::{ChainId, Era, Hash, NodeId},
};

/// Most readings of one batch.
pub const MAX_BATCH: usize = 4096;

/// Most counter ranges of one batch, over all its nodes.
pub const MAX_BATCH_RANGES: usize = MAX_BATCH;

/// Most receipts of one batch.
pub const MAX_RECEIPTS: usize = 128;

/// `Batch`: what is signed and what a proof carries; the counters are in the attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHead {
    /// Number of this batch among its author's, from 1 without gaps.
    pub sequence: u64,
    /// Earliest reading, Unix milliseconds.
    pub first_ms: u64,
    /// Latest reading, Unix milliseconds.
    pub last_ms: u64,
    /// Number of readings, 1 to [`MAX_BATCH`].
    pub count: u32,
    /// Root over the salted leaves (tag `batch`).
    pub root: Hash,
}

canonical!(BatchHead, "batch", 80, [sequence, first_ms, last_ms, count, root]);

/// Counters `first..=last` of one session epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CounterRange {
    /// Session epoch.
    pub epoch: u32,
    /// First counter.
    pub first: u64,
    /// Last counter, not below `first`.
    pub last: u64,
}

canonical!(CounterRange, "counter range", 32, [epoch, first, last]);

/// The counters of one light node that are in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRanges {
    /// The light node.
    pub node: NodeId,
    /// Ascending, disjoint, and not adjacent (or they would be one range).
    pub ranges: Vec<CounterRange>,
}

canonical!(NodeRanges, "counters of a node", 160 * 1024, [node, ranges: list(MAX_BATCH_RANGES)]);

/// Checks the list of an attachment: nodes ascending, ranges in their one canonical form, at
/// least one and no more than [`MAX_BATCH`] counters in all.
pub(super) fn check_list(list: &[NodeRanges]) -> Result<(), DecodeError> {
    if !list.windows(2).all(|pair| pair[0].node < pair[1].node) {
        return Err(DecodeError::Unsorted("batch list"));
    }
    for entry in list {
        check_ranges(&entry.ranges)?;
    }
    // Every range holds a counter, so this bounds the ranges as well.
    if count_of(list).is_none_or(|count| count == 0 || count > MAX_BATCH as u64) {
        return Err(DecodeError::Invalid("number of counters"));
    }
    Ok(())
}

fn check_ranges(ranges: &[CounterRange]) -> Result<(), DecodeError> {
    if ranges.is_empty() || ranges.iter().any(|range| range.first > range.last) {
        return Err(DecodeError::Invalid("counter range"));
    }
    let apart = ranges.windows(2).all(|pair| {
        let (a, b) = (&pair[0], &pair[1]);
        a.epoch < b.epoch || (a.epoch == b.epoch && a.last < b.first && b.first - a.last > 1)
    });
    if apart { Ok(()) } else { Err(DecodeError::Unsorted("counter ranges")) }
}

/// Number of counters in a list; `None` when it exceeds 64 bits.
pub(crate) fn count_of(list: &[NodeRanges]) -> Option<u64> {
    list.iter().flat_map(|entry| &entry.ranges).try_fold(0u64, |sum, range| {
        let width = range.last.checked_sub(range.first)?.checked_add(1)?;
        sum.checked_add(width)
    })
}

/// A holder's statement that the payloads of a batch are on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receipt {
    /// The gateway that holds the payloads.
    pub holder: NodeId,
    /// Until when it keeps them, Unix milliseconds.
    pub retained_until_ms: u64,
    /// Its vote key's signature over [`Receipt::digest`].
    pub signature: Signature,
}

canonical!(Receipt, "receipt", 128, [holder, retained_until_ms, signature]);

impl Receipt {
    /// What the holder signs: SHA-256(domain ‖ chain ‖ era ‖ author ‖ sequence ‖ root ‖
    /// retained-until); integers big-endian, the era being that of the batch.
    pub fn digest(
        chain_id: &ChainId,
        era: Era,
        author: &NodeId,
        sequence: u64,
        root: &Hash,
        retained_until_ms: u64,
    ) -> Hash {
        Domain::RECEIPT.digest(&[
            &chain_id.0.0,
            &era.0.to_be_bytes(),
            &author.0,
            &sequence.to_be_bytes(),
            &root.0,
            &retained_until_ms.to_be_bytes(),
        ])
    }
}

/// Checks that receipts are ascending by holder: none twice.
pub(crate) fn check_receipts(receipts: &[Receipt]) -> Result<(), DecodeError> {
    check_size("receipts", receipts.len(), MAX_RECEIPTS)?;
    let holders: Vec<_> = receipts.iter().map(|receipt| receipt.holder).collect();
    check_ascending("receipts", &holders)
}

/// What kind of stranger a [`Tally`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum TallyKind {
    /// An identity that is not registered.
    Unknown = 1,
    /// A registered identity with a wrong MIC or key.
    BadMic = 2,
    /// A replayed counter or nonce.
    Replay = 3,
    /// Bytes that are no frame.
    Malformed = 4,
}

impl Encode for TallyKind {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.uint(*self as u64);
    }
}

impl Decode for TallyKind {
    const MAX_BYTES: usize = 1;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match decoder.uint8("tally kind")? {
            1 => Self::Unknown,
            2 => Self::BadMic,
            3 => Self::Replay,
            4 => Self::Malformed,
            _ => return Err(DecodeError::Invalid("tally kind")),
        })
    }
}

/// Frames of one kind heard in an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TallyCount {
    /// What was heard.
    pub kind: TallyKind,
    /// Frames.
    pub frames: u64,
    /// Distinct senders, estimated from a fixed-size sketch.
    pub senders: u32,
}

canonical!(TallyCount, "tally count", 24, [kind, frames, senders]);

/// `Tally`: one aggregate of strangers for one gateway and hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Hours since the Unix epoch.
    pub hour: u64,
    /// Ascending by kind; at least one.
    pub counts: Vec<TallyCount>,
}

impl Encode for Tally {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(2).uint(self.hour).list(&self.counts);
    }
}

impl Decode for Tally {
    const MAX_BYTES: usize = 256;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("tally", 2)?;
        let hour = decoder.uint("hour")?;
        let counts: Vec<TallyCount> = decoder.list("tally counts", 8)?;
        let kinds: Vec<_> = counts.iter().map(|count| count.kind).collect();
        check_ascending("tally counts", &kinds)?;
        if counts.is_empty() {
            return Err(DecodeError::Invalid("tally without counts"));
        }
        Ok(Self { hour, counts })
    }
}

/// `Refusal`: a node was refused, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The node that was refused.
    pub node: NodeId,
    /// Why, in a sentence of at most 120 bytes.
    pub reason: Text<120>,
}

canonical!(Refusal, "refusal", 192, [node, reason]);
