//! Responses.

use attestation::Evidence;
use attestation::activation::CredentialBlob;
use ledger::codec::{Decode, DecodeError, Decoder, Encode, Encoder};
use ledger::crypto::Signature;
use ledger::ids::{Hash, Height, NodeId};
use ledger::proof::MAX_PROOF;

use super::codec::{Bytes, ascending, wire};
use super::parts::{
    ClaimWords, LogPart, LogsWanted, MAX_CLAIMS, MemberAddress, Profile, Words, profile,
};
use super::{
    EvidenceRequest, Introduction, MAX_DOCUMENT, MAX_NODES, MAX_REQUEST, MAX_SNAPSHOT_PART,
};

/// Longest genesis record, in bytes.
const MAX_GENESIS: usize = 16 * 1024;

/// Most members of a site that are named.
const MAX_MEMBERS: usize = 128;

/// What a gateway answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// 1: Its record, and its own place in it.
    Head(Box<HeadAnswer>),
    /// 2: Prove it.
    Challenge(Box<Challenge>),
    /// 3: Appraised and endorsed.
    Appraised(Box<Appraised>),
    /// 4: Appraised; the operator has not approved. Ask again.
    NeedsApproval(Vec<ClaimWords>),
    /// 5: No.
    Refused(Refused),
    /// 6: Not now.
    Wait(Wait),
    /// 7: Where an admission stands.
    Progress(Progress),
    /// 8: Noted: the readiness counts while the gateway stays connected.
    Heard,
    /// 9: Signed, with the vote key.
    Endorsed {
        /// Who signed.
        voter: NodeId,
        /// The signature.
        signature: Signature,
    },
    /// 10: A part of a snapshot, in the ledger's own encoding.
    Snapshot(Bytes<MAX_SNAPSHOT_PART>),
    /// 11: Its keys, for whoever attests it.
    Introduction(Box<Introduction>),
    /// 12: The answer to the asker's challenge.
    Evidence(Box<EvidenceRequest>),
    /// 13: A document of the policy; its SHA-256 is what was asked for.
    Document(Bytes<MAX_DOCUMENT>),
    /// 14: Not signed: of the gateways that would vote, these were not heard for long enough here;
    /// ascending, never none.
    NotHeard(Vec<NodeId>),
    /// 15: The TPM is one that may be believed: now the logs that were announced, part by part.
    SendLogs,
    /// 16: A part of a log that was asked for.
    Log(Box<LogPart>),
}

/// A member's record as far as a newcomer needs it to know that it is at the right site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadAnswer {
    /// The genesis record: its SHA-256 is the chain ID.
    pub genesis: Bytes<MAX_GENESIS>,
    /// `ledger::proof::Proof` with `Subject::Identity(the answering gateway)` at its tip, with the
    /// site code that was asked about among its anchors, and the state proof of the policy beside
    /// those of the identity.
    pub proof: Bytes<MAX_PROOF>,
    /// Members with addresses, ascending by node ID; the answering one too.
    pub members: Vec<MemberAddress>,
}

wire!(HeadAnswer, "head", MAX_PROOF + 128 * 1024, [genesis, proof, members: list(MAX_MEMBERS)]);

/// A verifier's challenge; answered in the same session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Fresh for each challenge.
    pub nonce: Hash,
    /// `attestation::activation::CredentialBlob` for EK and AK of the introduction.
    pub credential: Bytes<{ CredentialBlob::MAX_LEN }>,
    /// Registers that the quote must cover, bit n for PCR n.
    pub pcrs: u32,
    /// Profile that is applied.
    pub profile: Profile,
    /// `Policy::attestation_hash` that is applied.
    pub policy_hash: Hash,
    /// Logs to be handed over with the evidence.
    pub logs: LogsWanted,
}

/// Accepted by this verifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appraised {
    /// The verdicts with their reasons.
    pub claims: Vec<ClaimWords>,
    /// Canonical `Statement`: equal from all verifiers.
    pub statement: Bytes<{ super::MAX_STATEMENT }>,
    /// The verifier.
    pub voter: NodeId,
    /// Its vote key's signature over the statement's digest.
    pub signature: Signature,
}

wire!(Appraised, "appraised", 16 * 1024, [
    claims: list(MAX_CLAIMS), statement, voter, signature,
]);

/// No, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// In a sentence.
    pub reason: Words,
    /// The verdicts, when evidence was appraised.
    pub claims: Vec<ClaimWords>,
}

wire!(Refused, "refused", 16 * 1024, [reason, claims: list(MAX_CLAIMS)]);

/// Not now, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// In a sentence.
    pub reason: Words,
    /// After how many seconds to ask again.
    pub after_s: u32,
}

wire!(Wait, "wait", 512, [reason, after_s]);

/// Where an admission stands at this member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Stage.
    pub stage: Stage,
    /// The admission's block; 0 before it.
    pub height: Height,
    /// In a sentence.
    pub detail: Words,
}

wire!(Progress, "progress", 512, [stage, height, detail]);

/// Stages of an admission, as a member sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Nothing is known of it.
    Unknown = 1,
    /// Appraised for display; the operator has not approved.
    AwaitingApproval = 2,
    /// Approved: fresh evidence can be endorsed now.
    Approved = 3,
    /// The transaction waits for a block.
    Submitted = 4,
    /// The gateway is a member.
    Admitted = 5,
}

impl Encode for Stage {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.uint(*self as u64);
    }
}

impl Decode for Stage {
    const MAX_BYTES: usize = 1;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match decoder.uint8("stage")? {
            1 => Self::Unknown,
            2 => Self::AwaitingApproval,
            3 => Self::Approved,
            4 => Self::Submitted,
            5 => Self::Admitted,
            _ => return Err(DecodeError::Invalid("stage")),
        })
    }
}

impl Encode for Challenge {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { nonce, credential, pcrs, profile, policy_hash, logs } = self;
        encoder.array(6).value(nonce).value(credential).value(pcrs);
        encoder.uint(*profile as u64).value(policy_hash).value(logs);
    }
}

impl Decode for Challenge {
    const MAX_BYTES: usize = 1024;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("challenge", 6)?;
        Ok(Self {
            nonce: Hash::decode(decoder)?,
            credential: Bytes::decode(decoder)?,
            pcrs: decoder.uint32("pcrs")?,
            profile: profile(decoder)?,
            policy_hash: Hash::decode(decoder)?,
            logs: LogsWanted::decode(decoder)?,
        })
    }
}

impl Encode for Response {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(2);
        match self {
            Self::Head(head) => encoder.uint(1).value(&**head),
            Self::Challenge(challenge) => encoder.uint(2).value(&**challenge),
            Self::Appraised(appraised) => encoder.uint(3).value(&**appraised),
            Self::NeedsApproval(claims) => encoder.uint(4).list(claims),
            Self::Refused(refused) => encoder.uint(5).value(refused),
            Self::Wait(wait) => encoder.uint(6).value(wait),
            Self::Progress(progress) => encoder.uint(7).value(progress),
            Self::Heard => encoder.uint(8).null(),
            Self::Endorsed { voter, signature } => {
                encoder.uint(9).array(2).value(voter).value(signature)
            }
            Self::Snapshot(part) => encoder.uint(10).value(part),
            Self::Introduction(introduction) => encoder.uint(11).value(&**introduction),
            Self::Evidence(evidence) => encoder.uint(12).value(&**evidence),
            Self::Document(document) => encoder.uint(13).value(document),
            Self::NotHeard(nodes) => encoder.uint(14).list(nodes),
            Self::SendLogs => encoder.uint(15).null(),
            Self::Log(part) => encoder.uint(16).value(&**part),
        };
    }
}

impl Decode for Response {
    const MAX_BYTES: usize = MAX_REQUEST;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("response", 2)?;
        Ok(match decoder.uint("response number")? {
            1 => Self::Head(Box::new(HeadAnswer::decode(decoder)?)),
            2 => Self::Challenge(Box::new(Challenge::decode(decoder)?)),
            3 => Self::Appraised(Box::new(Appraised::decode(decoder)?)),
            4 => Self::NeedsApproval(decoder.list("claims", MAX_CLAIMS)?),
            5 => Self::Refused(Refused::decode(decoder)?),
            6 => Self::Wait(Wait::decode(decoder)?),
            7 => Self::Progress(Progress::decode(decoder)?),
            8 => super::codec::nothing(decoder, Self::Heard)?,
            9 => {
                decoder.fields("endorsed", 2)?;
                let voter = NodeId::decode(decoder)?;
                Self::Endorsed { voter, signature: Signature::decode(decoder)? }
            }
            10 => Self::Snapshot(Bytes::decode(decoder)?),
            11 => Self::Introduction(Box::new(Introduction::decode(decoder)?)),
            12 => Self::Evidence(Box::new(EvidenceRequest::decode(decoder)?)),
            13 => Self::Document(Bytes::decode(decoder)?),
            14 => Self::NotHeard(ascending(decoder, "nodes", MAX_NODES)?),
            15 => super::codec::nothing(decoder, Self::SendLogs)?,
            16 => Self::Log(Box::new(LogPart::decode(decoder)?)),
            _ => return Err(DecodeError::Invalid("response number")),
        })
    }
}

const _: () = assert!(MAX_REQUEST >= MAX_PROOF + 128 * 1024 && Evidence::MAX_LEN < MAX_REQUEST);
