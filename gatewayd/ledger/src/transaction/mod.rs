//! Transactions: what members and the operator ask the ledger to record.
//!
//! A transaction is a signed *head*, the canonical bytes of a [`Draft`], with one signature over
//! them. The bytes that were signed are kept and stored, never a re-encoding. Bulky parts (the
//! counter list and receipts of a batch) are *attached*: they travel beside the head and are
//! fixed by a digest in it. Decoding checks form alone; whether the author may do this is for
//! `state::State::verify` and the state machine.

mod act;
mod body;
mod kind;
mod membership;
mod policy_act;
mod readings;
mod registry;
mod statement;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

pub use act::{
    NodeAct, OperatorRotation, Reason, Recover, RotateKey, Survivor, VoteKeyProof, vote_key_digest,
    vote_possession_digest,
};
pub use body::Body;
pub use kind::{Authorship, Kind};
pub use membership::{
    Activate, Admit, Attest, Equivocation, FailedAttestation, FounderResult, GatewayApproval,
    Leave, Offline, Online, Replace, Suspend, SuspendCause, activate_digest, offline_digest,
    ready_digest,
};
pub use policy_act::{Document, DocumentKind, MAX_DOCUMENT, MAX_DOCUMENTS, PolicyAct};
pub use readings::{
    BatchHead, CounterRange, MAX_BATCH, MAX_BATCH_RANGES, MAX_RECEIPTS, NodeRanges, Receipt,
    Refusal, Tally, TallyCount, TallyKind,
};
pub(crate) use readings::{check_receipts, count_of};
pub use registry::{
    Assign, AssignItem, AssignReason, HolderProof, MAX_GROUP, MAX_HOLDERS, Register, Reserve,
    ReserveItem, Retire, Session, Ticket, TicketIssuer, TicketPurpose, holder_digest,
};
pub use statement::{ClaimVerdict, Label, MAX_CLAIMS, Purpose, QuorumSignature, Statement};

use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder, check_size},
    crypto::{CryptoError, Domain, PublicKey, Signature, SigningKey, sha256, verify_digest},
    ids::{ChainId, Era, Hash, NodeId},
    merkle::Tag,
};

/// Version of the transaction format.
pub const TRANSACTION_VERSION: u64 = 1;

/// Largest head with its signature, in bytes.
pub const MAX_TRANSACTION: usize = 160 * 1024;

/// Largest attachment, in bytes.
pub const MAX_ATTACHMENT: usize = 512 * 1024;

/// Who authors a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Author {
    /// The holder of the operator key.
    Operator,
    /// A gateway, by its vote key or its identity key as the kind says.
    Node(NodeId),
}

const OPERATOR: u64 = 0;

impl Encode for Author {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Operator => encoder.uint(OPERATOR),
            Self::Node(node) => encoder.value(node),
        };
    }
}

impl Decode for Author {
    const MAX_BYTES: usize = NodeId::MAX_BYTES;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        if decoder.next_is_bytes() {
            return Ok(Self::Node(NodeId::decode(decoder)?));
        }
        match decoder.uint("author")? {
            OPERATOR => Ok(Self::Operator),
            _ => Err(DecodeError::Invalid("author")),
        }
    }
}

/// The content of a transaction before it is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The ledger it is meant for.
    pub chain_id: ChainId,
    /// The era it was made in; valid in this and all later ones.
    pub era: Era,
    /// Who signs it.
    pub author: Author,
    /// Never used twice by one author.
    pub nonce: u64,
    /// Last block height, or for the operator the last block time in Unix milliseconds, at which
    /// it may be recorded.
    pub expiry: u64,
    /// Digest of the attachment, see [`Attachment::digest`]; required for a batch, forbidden
    /// for all else.
    pub attachment: Option<Hash>,
    /// What it does.
    pub body: Body,
}

impl Draft {
    /// The canonical bytes: what is shown to the signer and stored.
    pub fn signing_bytes(&self) -> Vec<u8> {
        self.to_bytes()
    }

    /// What ES256 signs: the domain-separated SHA-256 of [`Draft::signing_bytes`].
    pub fn signing_digest(&self) -> Hash {
        Domain::TRANSACTION.digest(&[&self.signing_bytes()])
    }

    /// Signs with a software key.
    pub fn sign(self, key: &SigningKey) -> Transaction {
        let head = self.signing_bytes();
        let signature = key.sign(Domain::TRANSACTION, &[&head]);
        Transaction::assemble(self, &head, signature)
    }

    /// Adds a signature made elsewhere (TPM, laptop) over [`Draft::signing_digest`].
    pub fn with_signature(self, signature: Signature) -> Transaction {
        let head = self.signing_bytes();
        Transaction::assemble(self, &head, signature)
    }
}

impl Encode for Draft {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { chain_id, era, author, nonce, expiry, attachment, body } = self;
        encoder.array(9).uint(TRANSACTION_VERSION).value(chain_id).value(era).value(author);
        encoder.uint(*nonce).uint(*expiry).value(attachment);
        encoder.uint(u64::from(body.kind().number())).value(body);
    }
}

impl Decode for Draft {
    const MAX_BYTES: usize = MAX_TRANSACTION;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("transaction", 9)?;
        let found = decoder.uint("transaction version")?;
        if found != TRANSACTION_VERSION {
            return Err(DecodeError::Version { what: "transaction", found });
        }
        let chain_id = ChainId::decode(decoder)?;
        let era = Era::decode(decoder)?;
        let author = Author::decode(decoder)?;
        let nonce = decoder.uint("nonce")?;
        let expiry = decoder.uint("expiry")?;
        let attachment = Option::<Hash>::decode(decoder)?;
        let kind = Kind::from_number(decoder.uint("kind")?)?;
        if attachment.is_some() != (kind == Kind::Batch) {
            return Err(DecodeError::Invalid("attachment digest"));
        }
        let body = Body::decode(kind, decoder)?;
        Ok(Self { chain_id, era, author, nonce, expiry, attachment, body })
    }
}

/// A signed transaction whose form is right. Nothing says yet that its signature is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    raw: Vec<u8>,
    hash: Hash,
    digest: Hash,
    draft: Draft,
    signature: Signature,
    attachment: Option<Attachment>,
}

impl Transaction {
    fn assemble(draft: Draft, head: &[u8], signature: Signature) -> Self {
        let mut encoder = Encoder::new();
        encoder.array(2).bytes(head).value(&signature);
        let raw = encoder.into_bytes();
        let hash = Tag::TX.leaf(&[&raw]);
        let digest = Domain::TRANSACTION.digest(&[head]);
        Self { raw, hash, digest, draft, signature, attachment: None }
    }

    /// Reads the stored bytes: the array of head and signature, without attachment.
    ///
    /// # Errors
    /// Any departure from the canonical form, and kinds that are not delivered.
    pub fn from_raw(raw: &[u8]) -> Result<Self, DecodeError> {
        check_size("transaction", raw.len(), MAX_TRANSACTION)?;
        let mut decoder = Decoder::new(raw);
        decoder.fields("signed transaction", 2)?;
        let head = decoder.bytes("head", MAX_TRANSACTION)?;
        let signature = Signature::decode(&mut decoder)?;
        decoder.finish()?;
        let draft = Draft::from_bytes(head)?;
        Ok(Self {
            raw: raw.to_vec(),
            hash: Tag::TX.leaf(&[raw]),
            digest: Domain::TRANSACTION.digest(&[head]),
            draft,
            signature,
            attachment: None,
        })
    }

    /// Adds the attachment whose digest is in the head.
    ///
    /// # Errors
    /// The head names none, or another; or the attachment has not the canonical order.
    pub fn attach(mut self, attachment: Attachment) -> Result<Self, DecodeError> {
        attachment.check()?;
        if self.draft.attachment != Some(attachment.digest()) {
            return Err(DecodeError::Invalid("attachment"));
        }
        self.attachment = Some(attachment);
        Ok(self)
    }

    /// The bytes that were signed, with the signature: what is stored and hashed.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The transaction's name: its leaf hash in the block's tree (tag `tx`).
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The content.
    pub fn draft(&self) -> &Draft {
        &self.draft
    }

    /// The author's signature.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The attachment, when it is at hand.
    pub fn attachment(&self) -> Option<&Attachment> {
        self.attachment.as_ref()
    }

    /// Checks the author's signature under a key.
    ///
    /// # Errors
    /// [`CryptoError::Signature`].
    pub fn verify_signature(&self, key: &PublicKey) -> Result<(), CryptoError> {
        verify_digest(key, &self.digest, &self.signature)
    }
}

/// A transaction as it travels: stored bytes and attachment.
impl Encode for Transaction {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(2).bytes(&self.raw).value(&self.attachment);
    }
}

impl Decode for Transaction {
    const MAX_BYTES: usize = MAX_TRANSACTION + MAX_ATTACHMENT + 32;

    /// A batch must come with its attachment, everything else without one.
    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("transaction with attachment", 2)?;
        let transaction = Self::from_raw(decoder.bytes("transaction", MAX_TRANSACTION)?)?;
        match (Option::<Attachment>::decode(decoder)?, transaction.draft.attachment) {
            (Some(attachment), Some(_)) => transaction.attach(attachment),
            (None, None) => Ok(transaction),
            _ => Err(DecodeError::Invalid("attachment")),
        }
    }
}

/// What a batch carries beside its head: which counters are in it, and the holders' receipts.
///
/// Both parts stay in their canonical bytes; [`Attachment::digest`] covers a digest of each, so
/// that a proof can show the receipts without the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Counters present, in ascending order of node.
    pub list: Vec<NodeRanges>,
    /// Receipts, in ascending order of holder.
    pub receipts: Vec<Receipt>,
}

impl Attachment {
    /// Checks order and counts, which the digest is computed over.
    ///
    /// # Errors
    /// [`DecodeError`] naming the part that is not canonical.
    pub fn check(&self) -> Result<(), DecodeError> {
        readings::check_list(&self.list)?;
        readings::check_receipts(&self.receipts)
    }

    /// The digest named in the head.
    pub fn digest(&self) -> Hash {
        Self::digest_of_parts(&self.list_digest(), &self.receipts_digest())
    }

    /// SHA-256 over the canonical list.
    pub fn list_digest(&self) -> Hash {
        let mut encoder = Encoder::new();
        encoder.list(&self.list);
        sha256(&[b"gatewayd/batch-list/1", &encoder.into_bytes()])
    }

    /// SHA-256 over the canonical receipts.
    pub fn receipts_digest(&self) -> Hash {
        Self::digest_of_receipts(&self.receipts)
    }

    /// SHA-256 over canonical receipts.
    pub fn digest_of_receipts(receipts: &[Receipt]) -> Hash {
        let mut encoder = Encoder::new();
        encoder.list(receipts);
        sha256(&[b"gatewayd/batch-receipts/1", &encoder.into_bytes()])
    }

    /// The digest named in the head, from the digests of its parts.
    pub fn digest_of_parts(list: &Hash, receipts: &Hash) -> Hash {
        sha256(&[b"gatewayd/attachment/1", &list.0, &receipts.0])
    }
}

impl Encode for Attachment {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { list, receipts } = self;
        encoder.array(2).list(list).list(receipts);
    }
}

impl Decode for Attachment {
    const MAX_BYTES: usize = MAX_ATTACHMENT;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("attachment", 2)?;
        let start = decoder.position();
        let list = decoder.list("batch list", MAX_BATCH)?;
        let receipts = decoder.list("receipts", MAX_RECEIPTS)?;
        check_size("attachment", decoder.position() - start, MAX_ATTACHMENT)?;
        let attachment = Self { list, receipts };
        attachment.check()?;
        Ok(attachment)
    }
}
