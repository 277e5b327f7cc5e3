//! The block header: what is certified, and all that a light client keeps.

use crate::{
    codec::{Encode, canonical},
    crypto::sha256,
    ids::{ChainId, Era, Hash, Height, NodeId},
};

/// Header of a block: canonical CBOR array of these fields in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Version of the state machine that made this block.
    pub state_version: u32,
    /// SHA-256 of the genesis record.
    pub chain_id: ChainId,
    /// Operator recoveries so far, this block's included.
    pub era: Era,
    /// Height; genesis is 0.
    pub height: Height,
    /// Block time, Unix milliseconds; greater than the parent's.
    pub time_ms: u64,
    /// Hash of the parent's header; zero for genesis.
    pub parent_hash: Hash,
    /// Root of the tree of this block's transactions (tag `tx`).
    pub tx_root: Hash,
    /// Leaves of the tree under `tx_root`.
    pub tx_count: u32,
    /// Root of the state map after this block.
    pub state_root: Hash,
    /// Root of the tree of all earlier headers' hashes (tag `history`); it has `height` leaves.
    pub history_root: Hash,
    /// Hash of the validator set that votes on this block.
    pub validators_hash: Hash,
    /// Hash of the validator set after this block.
    pub next_validators_hash: Hash,
    /// SHA-256 of the parent's finality certificate as carried in the body; zero for none.
    pub last_commit_hash: Hash,
    /// The gateway that proposed this block.
    pub proposer: NodeId,
}

canonical!(
    Header,
    "header",
    512,
    [
        state_version,
        chain_id,
        era,
        height,
        time_ms,
        parent_hash,
        tx_root,
        tx_count,
        state_root,
        history_root,
        validators_hash,
        next_validators_hash,
        last_commit_hash,
        proposer,
    ]
);

impl Header {
    /// SHA-256 of the canonical encoding: the block's name.
    pub fn hash(&self) -> Hash {
        sha256(&[&self.to_bytes()])
    }

    /// SHA-256 of the header with `tx_root` zeroed, for a block that the operator certifies.
    ///
    /// A `Recover` transaction carries this digest and is itself a leaf of `tx_root`; with it
    /// the one operator signature fixes every field of the block.
    pub fn recovery_digest(&self) -> Hash {
        let mut template = self.clone();
        template.tx_root = Hash::ZERO;
        sha256(&[b"gatewayd/recovery-block/1", &template.to_bytes()])
    }
}
