//! The proof file: what a stranger needs to check one reading, or the absence of an ID.
//!
//! ```text
//! reading + salt ─path─> batch root, in a Batch transaction ─path─> block header
//!     ─history path─> certified header <─certificates─ anchor that the verifier holds
//!                          └─ state proofs: vouching gateway, light node, site
//! ```
//!
//! The format is canonical CBOR and self-contained. To stay short it says the chain ID once,
//! names validator sets and proposers by their position, and joins the hashes of a path. Nothing
//! here judges: that is `light`.

mod sets;
mod way;

use alloc::{boxed::Box, string::String, vec::Vec};

use crate::{
    batch::{Leaf, LeafPath, Salt},
    certificate::Signers,
    codec::{Decode, DecodeError, Decoder, Encode, Encoder, check_size},
    crypto::Signature,
    header::Header,
    ids::{ChainId, Era, Hash, Height, NodeId, ParseIdError, decode_bech32m, encode_bech32m},
    merkle::MAX_PATH,
    state::StateProof,
    transaction::{
        Author, BatchHead, Body, Draft, MAX_RECEIPTS, MAX_TRANSACTION, Receipt, Transaction,
    },
    validator_set::ValidatorSet,
};

pub use way::{SetChange, Way, shortest_way};

/// Largest proof file, in bytes.
pub const MAX_PROOF: usize = 512 * 1024;

/// Most set changes in a file: a thousand rotations of vote keys, and some more. With four voters
/// and more a step leads over several rotations, so that there may have been more of them.
pub const MAX_STEPS: usize = 1_100;

/// Most anchor headers in a file.
pub const MAX_ANCHORS: usize = 8;

/// Most state proofs in a file.
pub const MAX_STATES: usize = 8;

/// A header that the verifier trusts because someone it trusts said so: the site code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Height of the header.
    pub height: Height,
    /// Its hash.
    pub hash: Hash,
}

const ANCHOR_PREFIX: &str = "gws";

impl Anchor {
    /// The anchor that a header makes.
    pub fn of(header: &Header) -> Self {
        Self { height: header.height, hash: header.hash() }
    }

    /// The site code, bech32m `gws1…` over (height, 8 bytes big-endian; header hash).
    pub fn to_code(&self) -> String {
        let mut data = [0; 40];
        data[..8].copy_from_slice(&self.height.0.to_be_bytes());
        data[8..].copy_from_slice(&self.hash.0);
        encode_bech32m(ANCHOR_PREFIX, &data)
    }

    /// Reads a site code.
    ///
    /// # Errors
    /// [`ParseIdError`], which tells a typing mistake from another kind of code.
    pub fn parse(code: &str) -> Result<Self, ParseIdError> {
        let (prefix, data) = decode_bech32m(code.trim())?;
        if prefix != ANCHOR_PREFIX {
            return Err(ParseIdError::Prefix("gws1…"));
        }
        let data: [u8; 40] = data.try_into().map_err(|_| ParseIdError::Length)?;
        let (height, hash) = data.split_at(8);
        let height = height.iter().fold(0u64, |value, byte| (value << 8) | u64::from(*byte));
        let hash = hash.try_into().map_err(|_| ParseIdError::Length)?;
        Ok(Self { height: Height(height), hash: Hash(hash) })
    }
}

/// For fuzzing: reads a site code as people type it.
///
/// # Panics
/// When one anchor has two codes.
pub fn fuzz_anchor(bytes: &[u8]) {
    if let Ok(code) = core::str::from_utf8(bytes)
        && let Ok(anchor) = Anchor::parse(code)
    {
        assert!(anchor.to_code().eq_ignore_ascii_case(code.trim()), "one anchor, one code");
    }
}

/// A proof file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// What is proved.
    pub subject: Subject,
    /// The header that everything hangs on, and why it can be trusted.
    pub target: Target,
    /// State entries under the target's `state_root`.
    pub states: Vec<StateProof>,
}

/// What is proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A reading is on the record (boxed for its size).
    Reading(Box<ReadingProof>),
    /// What is registered under an ID, or that nothing ever was: by the state proofs of the ID
    /// as gateway and as light node.
    Identity(NodeId),
}

/// A reading, up to the header of its block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadingProof {
    /// Salt of the leaf.
    pub salt: Salt,
    /// Position in the batch.
    pub index: u32,
    /// Path in the batch, from the leaf upwards.
    pub path: Vec<Hash>,
    /// The reading.
    pub leaf: Leaf,
    /// The `Batch` transaction's stored bytes.
    pub transaction: Vec<u8>,
    /// Its position in the block.
    pub tx_index: u32,
    /// Its path in the block.
    pub tx_path: Vec<Hash>,
    /// The holders' receipts, when they are shown.
    pub receipts: Option<ShownReceipts>,
    /// Header of the block and its path in the target's history; `None` when the target is the
    /// block.
    pub block: Option<(Header, Vec<Hash>)>,
}

impl ReadingProof {
    /// Puts the parts together: a kept leaf, and where its batch is.
    pub fn new(
        kept: LeafPath,
        transaction: Vec<u8>,
        tx_index: u32,
        tx_path: Vec<Hash>,
        block: Option<(Header, Vec<Hash>)>,
    ) -> Self {
        let LeafPath { salt, index, path, leaf } = kept;
        Self { salt, index, path, leaf, transaction, tx_index, tx_path, receipts: None, block }
    }
}

/// Receipts of a batch, with what is needed to check them against the batch's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownReceipts {
    /// Digest of the attachment's other part.
    pub list_digest: Hash,
    /// The receipts, ascending by holder.
    pub receipts: Vec<Receipt>,
}

/// A certified header, and the way to it from what a verifier may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The header.
    pub header: Header,
    /// Who certified it, under the last of `sets`.
    pub signers: Signers,
    /// Validator sets in their order in time; at least one. The last certified `header`.
    pub sets: Vec<ValidatorSet>,
    /// Headers that changed the voters (or recovered the ledger), each certified by the set that
    /// it names. That set is the one before, or shares a quorum of those who signed with it.
    pub steps: Vec<(Header, Signers)>,
    /// Older headers that a verifier may hold as its anchor.
    pub anchors: Vec<Header>,
}

const MAGIC: &str = "gatewayd proof";
const VERSION: u64 = 1;
const READING: u64 = 1;
const IDENTITY: u64 = 2;

impl Encode for Proof {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { subject, target, states } = self;
        let names = Names::of(&target.sets);
        encoder.array(6).text(MAGIC).uint(VERSION).value(&target.header.chain_id);
        encode_target(encoder, target, &names);
        match subject {
            Subject::Reading(reading) => {
                encode_reading(encoder, reading, target.header.chain_id, &names)
            }
            Subject::Identity(node) => {
                encoder.array(2).uint(IDENTITY).value(node);
            }
        }
        encoder.list(states);
    }
}

impl Decode for Proof {
    const MAX_BYTES: usize = MAX_PROOF;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("proof", 6)?;
        if decoder.text("magic", 32)? != MAGIC {
            return Err(DecodeError::Invalid("magic: this is no proof file"));
        }
        let found = decoder.uint("proof version")?;
        if found != VERSION {
            return Err(DecodeError::Version { what: "proof", found });
        }
        let chain_id = ChainId::decode(decoder)?;
        let (target, names) = decode_target(decoder, chain_id)?;
        let subject = decode_subject(decoder, chain_id, &names)?;
        let states = decoder.list("state proofs", MAX_STATES)?;
        Ok(Self { subject, target, states })
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        check_size("proof", bytes.len(), MAX_PROOF)?;
        let mut decoder = Decoder::new(bytes);
        let proof = Self::decode(&mut decoder)?;
        decoder.finish()?;
        // Sets are named by position or by hash: of the two forms only ours is taken.
        if proof.to_bytes() != bytes {
            return Err(DecodeError::NonCanonical("proof"));
        }
        Ok(proof)
    }
}

fn encode_target(encoder: &mut Encoder, target: &Target, names: &Names) {
    let Target { header, signers, sets, steps, anchors } = target;
    // The sets come first: headers name them.
    encoder.array(5);
    sets::encode(encoder, sets);
    encode_header(encoder, header, names);
    encoder.value(signers);
    encoder.array(steps.len());
    for (header, signers) in steps {
        encoder.array(2);
        encode_header(encoder, header, names);
        encoder.value(signers);
    }
    encoder.array(anchors.len());
    for header in anchors {
        encode_header(encoder, header, names);
    }
}

fn decode_target(
    decoder: &mut Decoder<'_>,
    chain_id: ChainId,
) -> Result<(Target, Names), DecodeError> {
    decoder.fields("target", 5)?;
    let sets = sets::decode(decoder)?;
    let names = Names::of(&sets);
    let header = decode_header(decoder, chain_id, &names)?;
    let signers = Signers::decode(decoder)?;
    let count = decoder.array("set changes", MAX_STEPS)?;
    if sets.is_empty() {
        return Err(DecodeError::Invalid("number of validator sets"));
    }
    let mut steps = Vec::new();
    for _ in 0..count {
        decoder.fields("set change", 2)?;
        let header = decode_header(decoder, chain_id, &names)?;
        steps.push((header, Signers::decode(decoder)?));
    }
    let count = decoder.array("anchors", MAX_ANCHORS)?;
    let mut anchors = Vec::new();
    for _ in 0..count {
        anchors.push(decode_header(decoder, chain_id, &names)?);
    }
    Ok((Target { header, signers, sets, steps, anchors }, names))
}

/// What headers may name by position: the hashes of the file's sets, and the newest voters.
struct Names {
    sets: Vec<Hash>,
    voters: Vec<NodeId>,
}

impl Names {
    fn of(sets: &[ValidatorSet]) -> Self {
        let newest = sets.last().map_or(&[][..], ValidatorSet::voters);
        Self {
            sets: sets.iter().map(ValidatorSet::hash).collect(),
            voters: newest.iter().map(|voter| voter.node).collect(),
        }
    }
}

/// A value by its position among `named`, or itself.
fn encode_name<T: Encode + PartialEq>(encoder: &mut Encoder, named: &[T], value: &T) {
    match named.iter().position(|each| each == value) {
        Some(index) => encoder.uint(index as u64),
        None => encoder.value(value),
    };
}

fn decode_name<T: Decode + Copy>(decoder: &mut Decoder<'_>, named: &[T]) -> Result<T, DecodeError> {
    if decoder.next_is_bytes() {
        return T::decode(decoder);
    }
    let index = usize::try_from(decoder.uint("position")?).ok();
    index.and_then(|index| named.get(index)).copied().ok_or(DecodeError::Invalid("position"))
}

/// A header without its chain ID, and with positions for sets and voters that are in the file.
fn encode_header(encoder: &mut Encoder, header: &Header, names: &Names) {
    let Header {
        state_version,
        chain_id: _,
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
    } = header;
    encoder.array(13).value(state_version).value(era).value(height).value(time_ms);
    encoder.value(parent_hash).value(tx_root).value(tx_count).value(state_root);
    encoder.value(history_root);
    for set_hash in [validators_hash, next_validators_hash] {
        encode_name(encoder, &names.sets, set_hash);
    }
    encoder.value(last_commit_hash);
    encode_name(encoder, &names.voters, proposer);
}

fn decode_header(
    decoder: &mut Decoder<'_>,
    chain_id: ChainId,
    names: &Names,
) -> Result<Header, DecodeError> {
    decoder.fields("header", 13)?;
    Ok(Header {
        state_version: decoder.uint32("state version")?,
        chain_id,
        era: Era::decode(decoder)?,
        height: Height::decode(decoder)?,
        time_ms: decoder.uint("time")?,
        parent_hash: Hash::decode(decoder)?,
        tx_root: Hash::decode(decoder)?,
        tx_count: decoder.uint32("transactions")?,
        state_root: Hash::decode(decoder)?,
        history_root: Hash::decode(decoder)?,
        validators_hash: decode_name(decoder, &names.sets)?,
        next_validators_hash: decode_name(decoder, &names.sets)?,
        last_commit_hash: Hash::decode(decoder)?,
        proposer: decode_name(decoder, &names.voters)?,
    })
}

fn encode_reading(encoder: &mut Encoder, reading: &ReadingProof, chain_id: ChainId, names: &Names) {
    let ReadingProof { salt, index, path, leaf, transaction, tx_index, tx_path, receipts, block } =
        reading;
    encoder.array(18).uint(READING).bytes(salt).value(index);
    encode_path(encoder, path);
    leaf.encode_without_chain(encoder);
    encode_transaction(encoder, transaction, chain_id);
    encoder.value(tx_index);
    encode_path(encoder, tx_path);
    match receipts {
        None => encoder.null(),
        Some(ShownReceipts { list_digest, receipts }) => {
            encoder.array(2).value(list_digest).list(receipts)
        }
    };
    match block {
        None => {
            encoder.null();
        }
        Some((header, path)) => {
            encoder.array(2);
            encode_header(encoder, header, names);
            encode_path(encoder, path);
        }
    }
}

fn decode_subject(
    decoder: &mut Decoder<'_>,
    chain_id: ChainId,
    names: &Names,
) -> Result<Subject, DecodeError> {
    let fields = decoder.array("subject", 18)?;
    match (decoder.uint("subject")?, fields) {
        (IDENTITY, 2) => Ok(Subject::Identity(NodeId::decode(decoder)?)),
        (READING, 18) => {
            let reading = ReadingProof {
                salt: decoder.fixed("salt")?,
                index: decoder.uint32("index")?,
                path: decode_path(decoder)?,
                leaf: Leaf::decode_with_chain(chain_id, decoder)?,
                transaction: decode_transaction(decoder, chain_id)?,
                tx_index: decoder.uint32("transaction index")?,
                tx_path: decode_path(decoder)?,
                receipts: decode_receipts(decoder)?,
                block: decode_block(decoder, chain_id, names)?,
            };
            Ok(Subject::Reading(Box::new(reading)))
        }
        _ => Err(DecodeError::Invalid("subject")),
    }
}

/// The stored bytes of a batch of this ledger follow from its fields: those are written, without
/// the chain ID. Anything else is written as it is.
fn encode_transaction(encoder: &mut Encoder, raw: &[u8], chain_id: ChainId) {
    let parsed = Transaction::from_raw(raw).ok().filter(|t| t.draft().chain_id == chain_id);
    let parts = parsed.as_ref().map(|transaction| (transaction.draft(), transaction.signature()));
    match parts {
        Some((
            Draft { era, author, nonce, expiry, attachment, body: Body::Batch(head), .. },
            s,
        )) => {
            encoder.array(7).value(era).value(author).uint(*nonce).uint(*expiry);
            encoder.value(attachment).value(head).value(s);
        }
        _ => {
            encoder.bytes(raw);
        }
    }
}

fn decode_transaction(
    decoder: &mut Decoder<'_>,
    chain_id: ChainId,
) -> Result<Vec<u8>, DecodeError> {
    if decoder.next_is_bytes() {
        return Ok(decoder.bytes("transaction", MAX_TRANSACTION)?.to_vec());
    }
    decoder.fields("batch transaction", 7)?;
    let draft = Draft {
        chain_id,
        era: Era::decode(decoder)?,
        author: Author::decode(decoder)?,
        nonce: decoder.uint("nonce")?,
        expiry: decoder.uint("expiry")?,
        attachment: decoder.option()?,
        body: Body::Batch(BatchHead::decode(decoder)?),
    };
    let transaction = draft.with_signature(Signature::decode(decoder)?);
    Ok(transaction.raw().to_vec())
}

fn decode_receipts(decoder: &mut Decoder<'_>) -> Result<Option<ShownReceipts>, DecodeError> {
    if decoder.null() {
        return Ok(None);
    }
    decoder.fields("receipts", 2)?;
    let list_digest = Hash::decode(decoder)?;
    let receipts: Vec<Receipt> = decoder.list("receipts", MAX_RECEIPTS)?;
    crate::transaction::check_receipts(&receipts)?;
    Ok(Some(ShownReceipts { list_digest, receipts }))
}

fn decode_block(
    decoder: &mut Decoder<'_>,
    chain_id: ChainId,
    names: &Names,
) -> Result<Option<(Header, Vec<Hash>)>, DecodeError> {
    if decoder.null() {
        return Ok(None);
    }
    decoder.fields("block", 2)?;
    let header = decode_header(decoder, chain_id, names)?;
    Ok(Some((header, decode_path(decoder)?)))
}

/// A path as one byte string: two bytes less for each hash.
fn encode_path(encoder: &mut Encoder, path: &[Hash]) {
    let joined: Vec<u8> = path.iter().flat_map(|hash| hash.0).collect();
    encoder.bytes(&joined);
}

fn decode_path(decoder: &mut Decoder<'_>) -> Result<Vec<Hash>, DecodeError> {
    let joined = decoder.bytes("path", MAX_PATH * 32)?;
    let (hashes, rest) = joined.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(DecodeError::Invalid("path"));
    }
    Ok(hashes.iter().map(|hash| Hash(*hash)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_read_back_and_refuse_typing_mistakes() {
        let anchor = Anchor { height: Height(1_234_567), hash: Hash([0xab; 32]) };
        let code = anchor.to_code();
        assert!(code.starts_with("gws1"));
        assert_eq!(Anchor::parse(&code), Ok(anchor));
        assert_eq!(Anchor::parse(&alloc::format!(" {code}\n")), Ok(anchor));
        for index in 4..code.len() {
            let mut wrong = code.clone().into_bytes();
            wrong[index] = if wrong[index] == b'q' { b'p' } else { b'q' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert_eq!(Anchor::parse(&wrong), Err(ParseIdError::Bech32), "at {index}");
        }
        let node = NodeId([1; 20]).to_gateway_string();
        assert!(matches!(Anchor::parse(&node), Err(ParseIdError::Prefix(_))));
    }
}
