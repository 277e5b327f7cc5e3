//! `Policy`: the site's policy with the documents that it names.

use alloc::vec::Vec;

use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder, check_ascending},
    crypto::sha256,
    ids::Hash,
    policy::Policy,
};

/// Largest document, in bytes.
pub const MAX_DOCUMENT: usize = 64 * 1024;

/// Most documents that come with one policy; the size of a transaction bounds them further.
pub const MAX_DOCUMENTS: usize = 64;

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum DocumentKind {
    /// A CA certificate in DER that may vouch for EKs.
    Anchor = 1,
    /// Reference values, as the `attestation` crate writes them.
    ReferenceValues = 2,
}

impl Encode for DocumentKind {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.uint(*self as u64);
    }
}

impl Decode for DocumentKind {
    const MAX_BYTES: usize = 1;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match decoder.uint8("kind of document")? {
            1 => Self::Anchor,
            2 => Self::ReferenceValues,
            _ => return Err(DecodeError::Invalid("kind of document")),
        })
    }
}

/// Bytes that the policy names by their hash; the ledger keeps them and does not read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What it is.
    pub kind: DocumentKind,
    /// Its bytes, at least one and at most [`MAX_DOCUMENT`].
    pub bytes: Vec<u8>,
}

impl Document {
    /// Its name: SHA-256 of its bytes.
    pub fn hash(&self) -> Hash {
        sha256(&[&self.bytes])
    }
}

impl Encode for Document {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(2).value(&self.kind).bytes(&self.bytes);
    }
}

impl Decode for Document {
    const MAX_BYTES: usize = MAX_DOCUMENT + 16;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("document", 2)?;
        let kind = DocumentKind::decode(decoder)?;
        let bytes = decoder.bytes("document", MAX_DOCUMENT)?.to_vec();
        if bytes.is_empty() {
            return Err(DecodeError::Invalid("document without bytes"));
        }
        Ok(Self { kind, bytes })
    }
}

/// `Policy`: replaces the policy, and brings the documents that the ledger has not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyAct {
    /// The new policy.
    pub policy: Policy,
    /// Documents that it names, ascending by hash.
    pub documents: Vec<Document>,
}

impl PolicyAct {
    /// Puts the documents into their order.
    pub fn new(policy: Policy, mut documents: Vec<Document>) -> Self {
        documents.sort_by_key(Document::hash);
        documents.dedup();
        Self { policy, documents }
    }
}

impl From<Policy> for PolicyAct {
    fn from(policy: Policy) -> Self {
        Self { policy, documents: Vec::new() }
    }
}

impl Encode for PolicyAct {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(2).value(&self.policy).list(&self.documents);
    }
}

impl Decode for PolicyAct {
    const MAX_BYTES: usize = super::MAX_TRANSACTION;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("policy act", 2)?;
        let policy = Policy::decode(decoder)?;
        let documents: Vec<Document> = decoder.list("documents", MAX_DOCUMENTS)?;
        let hashes: Vec<_> = documents.iter().map(Document::hash).collect();
        check_ascending("documents", &hashes)?;
        Ok(Self { policy, documents })
    }
}
