//! A block: header, transactions with their attachments, and the parent's certificate.

use alloc::vec::Vec;

use thiserror::Error;

use crate::{
    certificate::Certificate,
    codec::{Decode, DecodeError, Decoder, Encode, Encoder, check_size},
    header::Header,
    ids::Hash,
    merkle::{self, Tag},
    transaction::Transaction,
};

/// Most transactions of a block.
pub const MAX_BLOCK_TRANSACTIONS: usize = 2_000;

/// Largest block, in bytes.
pub const MAX_BLOCK: usize = 4 * 1024 * 1024;

/// A block as it travels and is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What is certified.
    pub header: Header,
    /// In order of execution, with attachments.
    pub transactions: Vec<Transaction>,
    /// Certificate of the parent; `None` for the first block.
    pub last_commit: Option<Certificate>,
}

/// Why body and header of a block do not belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BodyError {
    /// The header counts or hashes other transactions.
    #[error("the transactions are not those that the header names")]
    Transactions,
    /// The header names another parent certificate.
    #[error("the parent's certificate is not the one that the header names")]
    LastCommit,
}

impl Block {
    /// Root over the hashes of transactions (tag `tx`).
    pub fn tx_root(transactions: &[Transaction]) -> Hash {
        merkle::root(Tag::TX, &Self::tx_hashes(transactions))
    }

    /// Leaf hashes of the tree under `tx_root`.
    pub fn tx_hashes(transactions: &[Transaction]) -> Vec<Hash> {
        transactions.iter().map(Transaction::hash).collect()
    }

    /// `last_commit_hash` of a header: SHA-256 of the certificate, or zero.
    pub fn last_commit_hash(certificate: Option<&Certificate>) -> Hash {
        certificate.map_or(Hash::ZERO, Certificate::hash)
    }

    /// Checks that the header names exactly this body.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn check_body(&self) -> Result<(), BodyError> {
        let count = u32::try_from(self.transactions.len()).map_err(|_| BodyError::Transactions)?;
        if self.header.tx_count != count || self.header.tx_root != Self::tx_root(&self.transactions)
        {
            return Err(BodyError::Transactions);
        }
        if self.header.last_commit_hash != Self::last_commit_hash(self.last_commit.as_ref()) {
            return Err(BodyError::LastCommit);
        }
        Ok(())
    }
}

impl Encode for Block {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { header, transactions, last_commit } = self;
        encoder.array(3).value(header).list(transactions).option(last_commit.as_ref());
    }
}

impl Decode for Block {
    const MAX_BYTES: usize = MAX_BLOCK;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("block", 3)?;
        let start = decoder.position();
        let header = Header::decode(decoder)?;
        let transactions = decoder.list("transactions", MAX_BLOCK_TRANSACTIONS)?;
        let last_commit = decoder.option()?;
        check_size("block", decoder.position() - start, MAX_BLOCK)?;
        Ok(Self { header, transactions, last_commit })
    }
}
