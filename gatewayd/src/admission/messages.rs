//! The messages of admission, renewal and activation: one request, one response.
//!
//! Canonical CBOR as everywhere on the ledger (`ledger::codec`): one value has one encoding, each
//! field has its limit, left-over bytes are an error. A message is `[number, content]`; numbers
//! are never used again for something else. This module parses and judges nothing.

mod codec;
mod parts;
mod response;

use attestation::Evidence;
use ledger::codec::{Decode, DecodeError, Decoder, Encode, Encoder, Text};
use ledger::crypto::{PublicKey, Signature, sha256};
use ledger::ids::{Hash, Height, NodeId};
use ledger::proof::Anchor;
use ledger::transaction::VoteKeyProof;

pub use codec::Bytes;
use codec::wire;
pub use parts::{
    ClaimWords, EventLogHead, Label, LogPart, LogQuestion, LogsWanted, MAX_CLAIMS, MemberAddress,
    Profile, Words,
};
pub use response::{Appraised, Challenge, HeadAnswer, Progress, Refused, Response, Stage, Wait};

/// Longest part of a log in one message, in bytes; longer logs come in several.
pub const MAX_LOG_PART: usize = 256 * 1024;

/// Longest request, in bytes.
pub const MAX_REQUEST: usize = 1024 * 1024;

/// Longest `Admit` that is handed over, in bytes.
pub const MAX_ADMIT: usize = 64 * 1024;

/// Longest canonical statement, in bytes.
pub const MAX_STATEMENT: usize = 4096;

/// Longest part of a snapshot or question about one, in bytes.
pub const MAX_SNAPSHOT_PART: usize = 512 * 1024;

/// Longest document of the policy, in bytes (as the ledger has it).
pub const MAX_DOCUMENT: usize = 64 * 1024;

/// Most gateways that become voters together.
const MAX_NODES: usize = 16;

/// What one gateway asks of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// 1: Who are you, and how does your record follow from this site code? → [`Response::Head`].
    Head(Anchor),
    /// 2: I want to become a member → [`Response::Challenge`], [`Response::Wait`],
    /// [`Response::Refused`].
    Join(Box<Introduction>),
    /// 3: The answer to a challenge (of `Join` or `Attest`) → [`Response::SendLogs`] when logs were
    /// announced in it, [`Response::Appraised`], [`Response::NeedsApproval`],
    /// [`Response::Refused`]; or [`Response::Challenge`] once more, when other or more of the logs
    /// is needed.
    Evidence(Box<EvidenceRequest>),
    /// 4: The canonical bytes of an `Admit` with all endorsements, to be authored by a member →
    /// [`Response::Progress`], [`Response::Refused`].
    Admit(Bytes<MAX_ADMIT>),
    /// 5: Where does my admission stand? → [`Response::Progress`].
    Progress,
    /// 6: I am a member and renew my attestation → as `Join`.
    Attest(Box<Introduction>),
    /// 7: I have signed this tip and would vote → [`Response::Heard`], [`Response::Refused`].
    Ready(Ready),
    /// 8: Sign this as one of the quorum → [`Response::Endorsed`], [`Response::Refused`],
    /// [`Response::NotHeard`].
    Endorse(Endorse),
    /// 9: A question about the snapshot, in the ledger's own encoding; members only →
    /// [`Response::Snapshot`].
    Snapshot(Bytes<MAX_SNAPSHOT_PART>),
    /// 10: Show me your keys, I am going to attest you → [`Response::Introduction`]. A newcomer
    /// asks it of the founder whom nobody has attested yet.
    Introduce,
    /// 11: My challenge to you; only after `Introduce` in the same session →
    /// [`Response::Evidence`].
    Prove(Box<Challenge>),
    /// 12: A document that the policy names → [`Response::Document`].
    Document(Hash),
    /// 13: The next part of a log that was announced with the evidence, after
    /// [`Response::SendLogs`] → [`Response::Heard`]; to the last one, what is answered to
    /// `Evidence`.
    Log(Box<LogPart>),
    /// 14: A part of a log that was announced in the evidence that answered `Prove`, in the same
    /// session → [`Response::Log`].
    Logs(LogQuestion),
}

/// Who wants to be attested, with everything that is not evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// The label that is asked for.
    pub label: Label,
    /// The measurements behind it, in words for the operator.
    pub measurements: Text<1024>,
    /// Height that all verifiers are to sign as the statement's base: the newcomer takes it from
    /// the head it has verified. A verifier that is not there yet answers *wait*; one that is far
    /// above it refuses.
    pub base_height: Height,
    /// `attestation::Endorsements`: EK certificate and intermediates.
    pub endorsements: Bytes<{ attestation::Endorsements::MAX_LEN }>,
    /// `TPMT_PUBLIC` of the endorsement key.
    pub ek_public: Bytes<1024>,
    /// `TPMT_PUBLIC` of the attestation key.
    pub ak_public: Bytes<1024>,
    /// `TPMT_PUBLIC` of the identity key: the key of the TLS session.
    pub identity_public: Bytes<1024>,
    /// The vote key, certified by the identity key for this chain.
    pub vote: VoteKeyProof,
    /// `TPM_PT_MANUFACTURER`, as the TPM reports it.
    pub manufacturer: u32,
}

wire!(
    Introduction,
    "introduction",
    48 * 1024,
    [
        label,
        measurements,
        base_height,
        endorsements,
        ek_public,
        ak_public,
        identity_public,
        vote,
        manufacturer,
    ]
);

/// The answer to a challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceRequest {
    /// Nonce of the challenge that it answers.
    pub nonce: Hash,
    /// `attestation::Evidence`.
    pub evidence: Bytes<{ Evidence::MAX_LEN }>,
    /// The firmware's event log, when it was asked for: it follows.
    pub event_log: Option<EventLogHead>,
    /// Length of the IMA list from the offset that was asked for, likewise: it is read after the
    /// quote, and bound by the register that it leads to.
    pub ima: Option<u64>,
}

wire!(EvidenceRequest, "evidence", Evidence::MAX_LEN + 256, [nonce, evidence, event_log, ima]);

/// A newcomer's signature over the tip: `ledger`'s `ready_digest`, by its vote key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Height of the tip.
    pub height: Height,
    /// Its header's hash.
    pub hash: Hash,
    /// The signature.
    pub signature: Signature,
}

wire!(Ready, "ready", 128, [height, hash, signature]);

/// What a member is asked to sign with its vote key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endorse {
    /// 1: A statement about an attester that this member has appraised itself.
    Statement(Bytes<MAX_STATEMENT>),
    /// 2: These gateways were heard for long enough, and may vote together from this tip on.
    Activate {
        /// Height of the tip.
        height: Height,
        /// Its header's hash.
        hash: Hash,
        /// The gateways, ascending.
        nodes: Vec<NodeId>,
    },
    /// 3: This gateway is silent.
    Offline {
        /// The gateway.
        node: NodeId,
        /// Its liveness epoch.
        liveness_epoch: u32,
    },
}

/// What quote and certification of an answer must carry: it binds them to this verifier's nonce,
/// to this very TLS session, to the keys and the label that are asked for, and to the logs.
pub fn qualifying_data(bound: &Bound<'_>) -> [u8; 32] {
    let Bound { nonce, exporter, identity, vote_key, label, event_log } = bound;
    // A log that was not asked for is as an empty one: its absence cannot be forged into a log.
    let event_log = event_log.unwrap_or_else(|| sha256(&[]));
    sha256(&[
        b"gatewayd/attest/2",
        &nonce.0,
        *exporter,
        identity.as_bytes(),
        vote_key.as_bytes(),
        &[u8::from(label.full), u8::from(label.coordinator)],
        &event_log.0,
    ])
    .0
}

/// What [`qualifying_data`] binds together; every field has a fixed length or is hashed.
#[derive(Debug, Clone, Copy)]
pub struct Bound<'a> {
    /// Nonce of the challenge.
    pub nonce: Hash,
    /// Exporter of the TLS session in which it was made.
    pub exporter: &'a [u8; 32],
    /// The attester's identity key: that of the session.
    pub identity: &'a PublicKey,
    /// Its vote key.
    pub vote_key: &'a PublicKey,
    /// The label that it asks for.
    pub label: Label,
    /// SHA-256 of the whole event log that goes with the answer.
    pub event_log: Option<Hash>,
}

impl Encode for Request {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(2);
        match self {
            Self::Head(anchor) => {
                encoder.uint(1).array(2).value(&anchor.height).value(&anchor.hash)
            }
            Self::Join(introduction) => encoder.uint(2).value(&**introduction),
            Self::Evidence(evidence) => encoder.uint(3).value(&**evidence),
            Self::Admit(admit) => encoder.uint(4).value(admit),
            Self::Progress => encoder.uint(5).null(),
            Self::Attest(introduction) => encoder.uint(6).value(&**introduction),
            Self::Ready(ready) => encoder.uint(7).value(ready),
            Self::Endorse(endorse) => encoder.uint(8).value(endorse),
            Self::Snapshot(question) => encoder.uint(9).value(question),
            Self::Introduce => encoder.uint(10).null(),
            Self::Prove(challenge) => encoder.uint(11).value(&**challenge),
            Self::Document(hash) => encoder.uint(12).value(hash),
            Self::Log(part) => encoder.uint(13).value(&**part),
            Self::Logs(question) => encoder.uint(14).value(question),
        };
    }
}

impl Decode for Request {
    const MAX_BYTES: usize = MAX_REQUEST;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("request", 2)?;
        Ok(match decoder.uint("request number")? {
            1 => {
                decoder.fields("anchor", 2)?;
                let (height, hash) = (Height::decode(decoder)?, Hash::decode(decoder)?);
                Self::Head(Anchor { height, hash })
            }
            2 => Self::Join(Box::new(Introduction::decode(decoder)?)),
            3 => Self::Evidence(Box::new(EvidenceRequest::decode(decoder)?)),
            4 => Self::Admit(Bytes::decode(decoder)?),
            5 => codec::nothing(decoder, Self::Progress)?,
            6 => Self::Attest(Box::new(Introduction::decode(decoder)?)),
            7 => Self::Ready(Ready::decode(decoder)?),
            8 => Self::Endorse(Endorse::decode(decoder)?),
            9 => Self::Snapshot(Bytes::decode(decoder)?),
            10 => codec::nothing(decoder, Self::Introduce)?,
            11 => Self::Prove(Box::new(Challenge::decode(decoder)?)),
            12 => Self::Document(Hash::decode(decoder)?),
            13 => Self::Log(Box::new(LogPart::decode(decoder)?)),
            14 => Self::Logs(LogQuestion::decode(decoder)?),
            _ => return Err(DecodeError::Invalid("request number")),
        })
    }
}

impl Encode for Endorse {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Statement(statement) => encoder.array(2).uint(1).value(statement),
            Self::Activate { height, hash, nodes } => {
                encoder.array(4).uint(2).value(height).value(hash).list(nodes)
            }
            Self::Offline { node, liveness_epoch } => {
                encoder.array(3).uint(3).value(node).value(liveness_epoch)
            }
        };
    }
}

impl Decode for Endorse {
    const MAX_BYTES: usize = MAX_STATEMENT + 16;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let fields = decoder.array("endorse", 4)?;
        Ok(match (decoder.uint("endorse")?, fields) {
            (1, 2) => Self::Statement(Bytes::decode(decoder)?),
            (2, 4) => Self::Activate {
                height: Height::decode(decoder)?,
                hash: Hash::decode(decoder)?,
                nodes: codec::ascending(decoder, "nodes", MAX_NODES)?,
            },
            (3, 3) => Self::Offline {
                node: NodeId::decode(decoder)?,
                liveness_epoch: decoder.uint32("liveness epoch")?,
            },
            _ => return Err(DecodeError::Invalid("endorse")),
        })
    }
}

/// For fuzzing: bytes of a peer, as request and as response.
///
/// # Panics
/// When one message has two encodings.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(request) = Request::from_bytes(bytes) {
        assert_eq!(request.to_bytes(), bytes, "one request, one encoding");
    }
    if let Ok(response) = Response::from_bytes(bytes) {
        assert_eq!(response.to_bytes(), bytes, "one response, one encoding");
    }
}

#[cfg(test)]
mod tests;
