//! Readings become leaves, leaves a batch: one root for up to 4,096 readings.
//!
//! Each leaf is salted, so that a root says nothing about readings that can be guessed, and so
//! that a payload stays erasable: without its salt the leaf hash is noise. This module must not
//! know where readings come from or whether they are committed.

use alloc::vec::Vec;

use thiserror::Error;

use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder, check_ascending, check_size},
    crypto::Signature,
    ids::{ChainId, Hash, NodeId},
    merkle::{self, Tag},
    transaction::{Attachment, BatchHead, CounterRange, MAX_BATCH, NodeRanges, Receipt},
};

/// Largest SenML pack of one reading, in bytes.
pub const MAX_SENML: usize = 4096;

/// Most witnesses named by a leaf.
pub const MAX_WITNESSES: usize = 128;

/// How good the time of a reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum TimeQuality {
    /// The gateway's clock was synchronised.
    Synced = 1,
    /// Taken from the site's block time.
    Site = 2,
    /// The gateway did not know the time.
    Unknown = 3,
}

impl Encode for TimeQuality {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.uint(*self as u64);
    }
}

impl Decode for TimeQuality {
    const MAX_BYTES: usize = 1;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match decoder.uint8("time quality")? {
            1 => Self::Synced,
            2 => Self::Site,
            3 => Self::Unknown,
            _ => return Err(DecodeError::Invalid("time quality")),
        })
    }
}

/// 16 random bytes that hide a leaf.
pub type Salt = [u8; 16];

/// One verified reading as it stands in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The ledger it is recorded on.
    pub chain_id: ChainId,
    /// The light node.
    pub node: NodeId,
    /// Session epoch.
    pub epoch: u32,
    /// Counter in that epoch.
    pub counter: u64,
    /// When it was received, Unix milliseconds.
    pub time_ms: u64,
    /// How good that time is.
    pub time_quality: TimeQuality,
    /// Assurance level, 0 to 3.
    pub level: u8,
    /// Other gateways that received the same frame, ascending.
    pub witnesses: Vec<NodeId>,
    /// SenML pack in CBOR (RFC 8428); empty for an uplink without payload.
    pub senml: Vec<u8>,
    /// The device's own signature, at level 3.
    pub device_signature: Option<Signature>,
}

impl Leaf {
    /// SHA-256(tag ‖ salt ‖ canonical CBOR).
    pub fn hash(&self, salt: &Salt) -> Hash {
        Tag::BATCH.leaf(&[salt, &self.to_bytes()])
    }

    /// Order of leaves in a batch.
    pub fn position(&self) -> (NodeId, u32, u64) {
        (self.node, self.epoch, self.counter)
    }

    fn check(&self) -> Result<(), DecodeError> {
        check_size("SenML", self.senml.len(), MAX_SENML)?;
        check_size("witnesses", self.witnesses.len(), MAX_WITNESSES)?;
        check_ascending("witnesses", &self.witnesses)?;
        if self.level > 3 {
            return Err(DecodeError::Invalid("assurance level"));
        }
        Ok(())
    }
}

impl Encode for Leaf {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(10).value(&self.chain_id);
        self.encode_without_chain(encoder);
    }
}

impl Leaf {
    /// The nine fields after the chain ID, which a proof carries once.
    pub(crate) fn encode_without_chain(&self, encoder: &mut Encoder) {
        let Self {
            chain_id: _,
            node,
            epoch,
            counter,
            time_ms,
            time_quality,
            level,
            witnesses,
            senml,
            device_signature,
        } = self;
        encoder.value(node).value(epoch).value(counter).value(time_ms).value(time_quality);
        encoder.value(level).list(witnesses).bytes(senml).value(device_signature);
    }

    pub(crate) fn decode_with_chain(
        chain_id: ChainId,
        decoder: &mut Decoder<'_>,
    ) -> Result<Self, DecodeError> {
        let leaf = Self {
            chain_id,
            node: NodeId::decode(decoder)?,
            epoch: decoder.uint32("epoch")?,
            counter: decoder.uint("counter")?,
            time_ms: decoder.uint("time")?,
            time_quality: TimeQuality::decode(decoder)?,
            level: decoder.uint8("assurance level")?,
            witnesses: decoder.list("witnesses", MAX_WITNESSES)?,
            senml: decoder.bytes("SenML", MAX_SENML)?.to_vec(),
            device_signature: decoder.option()?,
        };
        leaf.check()?;
        Ok(leaf)
    }
}

impl Decode for Leaf {
    const MAX_BYTES: usize = MAX_SENML + MAX_WITNESSES * NodeId::MAX_BYTES + 256;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("reading", 10)?;
        let chain_id = ChainId::decode(decoder)?;
        Self::decode_with_chain(chain_id, decoder)
    }
}

/// Why readings make no batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// No reading, or more than a batch holds.
    #[error("{0} readings, a batch holds 1 to 4096")]
    Count(usize),
    /// One counter of a node twice.
    #[error("counter {counter} of session epoch {epoch} occurs twice")]
    Duplicate {
        /// Session epoch.
        epoch: u32,
        /// The counter.
        counter: u64,
    },
    /// A reading that breaks a limit.
    #[error("a reading is not valid: {0}")]
    Leaf(#[from] DecodeError),
    /// Readings of different ledgers.
    #[error("readings of different ledgers")]
    Chain,
}

/// A batch that is cut: what goes into the transaction, and what stays to make paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutBatch {
    /// What the transaction carries.
    pub head: BatchHead,
    /// Counters present, for the attachment.
    pub list: Vec<NodeRanges>,
    /// Salts and leaves, ascending by (node, epoch, counter).
    pub leaves: Vec<(Salt, Leaf)>,
    /// Their hashes, in the same order.
    pub hashes: Vec<Hash>,
}

impl CutBatch {
    /// Cuts a batch: sorts the readings, hashes them and lists their counters.
    ///
    /// # Errors
    /// [`BatchError`]. An empty list is refused, so an author never signs for nothing.
    pub fn build(sequence: u64, mut leaves: Vec<(Salt, Leaf)>) -> Result<Self, BatchError> {
        if leaves.is_empty() || leaves.len() > MAX_BATCH {
            return Err(BatchError::Count(leaves.len()));
        }
        leaves.sort_by_key(|(_, leaf)| leaf.position());
        for (_, leaf) in &leaves {
            leaf.check()?;
        }
        for pair in leaves.windows(2) {
            let (before, after) = (&pair[0].1, &pair[1].1);
            if before.chain_id != after.chain_id {
                return Err(BatchError::Chain);
            }
            if before.position() == after.position() {
                let (epoch, counter) = (after.epoch, after.counter);
                return Err(BatchError::Duplicate { epoch, counter });
            }
        }
        let hashes: Vec<Hash> = leaves.iter().map(|(salt, leaf)| leaf.hash(salt)).collect();
        let times = leaves.iter().map(|(_, leaf)| leaf.time_ms);
        let head = BatchHead {
            sequence,
            first_ms: times.clone().min().unwrap_or_default(),
            last_ms: times.max().unwrap_or_default(),
            count: leaves.len() as u32,
            root: merkle::root(Tag::BATCH, &hashes),
        };
        let list = list_of(leaves.iter().map(|(_, leaf)| leaf.position()));
        Ok(Self { head, list, leaves, hashes })
    }

    /// Inclusion path of a leaf; `None` when there is no such leaf.
    pub fn path(&self, index: usize) -> Option<Vec<Hash>> {
        merkle::path(&self.hashes, index)
    }

    /// The attachment, with the receipts that other holders gave (in any order).
    pub fn attachment(&self, mut receipts: Vec<Receipt>) -> Attachment {
        receipts.sort_unstable();
        Attachment { list: self.list.clone(), receipts }
    }
}

/// Counter ranges by node, of positions in ascending order.
fn list_of(positions: impl Iterator<Item = (NodeId, u32, u64)>) -> Vec<NodeRanges> {
    let mut list: Vec<NodeRanges> = Vec::new();
    for (node, epoch, counter) in positions {
        let fresh = CounterRange { epoch, first: counter, last: counter };
        match list.last_mut().filter(|entry| entry.node == node) {
            None => list.push(NodeRanges { node, ranges: alloc::vec![fresh] }),
            Some(entry) => match entry.ranges.last_mut() {
                Some(range)
                    if range.epoch == epoch && range.last.checked_add(1) == Some(counter) =>
                {
                    range.last = counter;
                }
                _ => entry.ranges.push(fresh),
            },
        }
    }
    list
}

/// A salted leaf with the path that leads to a batch's root: what is kept of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafPath {
    /// The salt.
    pub salt: Salt,
    /// Position in the batch.
    pub index: u32,
    /// Siblings from the leaf upwards.
    pub path: Vec<Hash>,
    /// The reading.
    pub leaf: Leaf,
}

impl Encode for LeafPath {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { salt, index, path, leaf } = self;
        encoder.array(4).bytes(salt).value(index).list(path).value(leaf);
    }
}

impl Decode for LeafPath {
    const MAX_BYTES: usize = Leaf::MAX_BYTES + merkle::MAX_PATH * Hash::MAX_BYTES + 64;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("leaf with path", 4)?;
        Ok(Self {
            salt: decoder.fixed("salt")?,
            index: decoder.uint32("index")?,
            path: decoder.list("path", merkle::MAX_PATH)?,
            leaf: Leaf::decode(decoder)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaf(node: u8, epoch: u32, counter: u64) -> Leaf {
        Leaf {
            chain_id: ChainId(Hash([1; 32])),
            node: NodeId([node; 20]),
            epoch,
            counter,
            time_ms: 1_000 + counter,
            time_quality: TimeQuality::Synced,
            level: 1,
            witnesses: Vec::new(),
            senml: alloc::vec![0x80],
            device_signature: None,
        }
    }

    #[test]
    fn a_batch_is_sorted_listed_and_every_leaf_has_a_path() {
        let order = [(2, 1, 5), (1, 2, 0), (1, 1, 9), (2, 1, 4), (2, 1, 7), (1, 1, 8)];
        let leaves = order.iter().map(|(n, e, c)| ([*c as u8; 16], leaf(*n, *e, *c))).collect();
        let batch = CutBatch::build(3, leaves).unwrap();
        let range = |epoch, first, last| CounterRange { epoch, first, last };
        let expected = [
            NodeRanges {
                node: NodeId([1; 20]),
                ranges: alloc::vec![range(1, 8, 9), range(2, 0, 0)],
            },
            NodeRanges {
                node: NodeId([2; 20]),
                ranges: alloc::vec![range(1, 4, 5), range(1, 7, 7)],
            },
        ];
        assert_eq!(batch.list, expected);
        assert_eq!((batch.head.first_ms, batch.head.last_ms), (1_000, 1_009));
        for index in 0..6 {
            let path = batch.path(index).unwrap();
            let (salt, leaf) = &batch.leaves[index];
            let root = merkle::root_from_path(&leaf.hash(salt), index as u64, 6, &path);
            assert_eq!(root, Some(batch.head.root));
        }
        assert!(batch.attachment(Vec::new()).check().is_ok());
    }

    #[test]
    fn empty_oversize_and_doubled_batches_are_refused() {
        assert_eq!(CutBatch::build(1, Vec::new()), Err(BatchError::Count(0)));
        let many = (0..4097).map(|c| ([0; 16], leaf(1, 1, c))).collect();
        assert_eq!(CutBatch::build(1, many), Err(BatchError::Count(4097)));
        let doubled = alloc::vec![([0; 16], leaf(1, 1, 7)), ([1; 16], leaf(1, 1, 7))];
        let error = BatchError::Duplicate { epoch: 1, counter: 7 };
        assert_eq!(CutBatch::build(1, doubled), Err(error));
        let mut large = leaf(1, 1, 1);
        large.senml = alloc::vec![0; MAX_SENML + 1];
        assert!(matches!(
            CutBatch::build(1, alloc::vec![([0; 16], large)]),
            Err(BatchError::Leaf(_))
        ));
    }

    #[test]
    fn the_salt_hides_the_leaf_and_every_field_counts() {
        let base = leaf(1, 1, 1);
        assert_ne!(base.hash(&[0; 16]), base.hash(&[1; 16]));
        let mut changed = base.clone();
        changed.time_quality = TimeQuality::Unknown;
        assert_ne!(base.hash(&[0; 16]), changed.hash(&[0; 16]));
        let mut signed = base.clone();
        signed.device_signature = Some(Signature::from_bytes([7; 64]));
        assert_ne!(base.hash(&[0; 16]), signed.hash(&[0; 16]));
    }

    proptest! {
        #[test]
        fn leaves_round_trip(
            counter in any::<u64>(), level in 0u8..4,
            senml in prop::collection::vec(any::<u8>(), 0..99),
            witnesses in prop::collection::btree_set(any::<[u8; 20]>(), 0..4),
            signed in any::<bool>(),
        ) {
            let mut leaf = leaf(1, 7, 0);
            leaf.counter = counter;
            leaf.level = level;
            leaf.senml = senml;
            leaf.witnesses = witnesses.into_iter().map(NodeId).collect();
            leaf.device_signature = signed.then(|| Signature::from_bytes([3; 64]));
            let path = LeafPath { salt: [9; 16], index: 5, path: alloc::vec![Hash([4; 32])], leaf };
            prop_assert_eq!(LeafPath::from_bytes(&path.to_bytes()), Ok(path));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(leaf) = Leaf::from_bytes(&bytes) {
                prop_assert_eq!(leaf.to_bytes(), bytes);
            }
        }
    }
}
