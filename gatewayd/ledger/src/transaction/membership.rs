//! Bodies that make, renew and end the membership of a gateway (design §5 and §4 "Voters").
//!
//! What a quorum decides is signed by voters *inside* of the body, over digests that are made
//! here; any member may author the transaction that carries the signatures.

use alloc::{boxed::Box, vec::Vec};

use super::{
    Label, QuorumSignature, Reason, Statement, VoteKeyProof,
    statement::{SIGNATURES, decode_signatures},
};
use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder, canonical},
    crypto::{CryptoError, Domain, PublicKey, Signature},
    genesis::{FounderAttestation, TpmName},
    ids::{ChainId, Era, Hash, Height, NodeId},
    vote::Vote,
};

/// `GatewayApproval`: the operator lets one newcomer in, for 30 days of block time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayApproval {
    /// The newcomer's identity key.
    pub identity: PublicKey,
    /// SHA-256 of its TPM's EK public key.
    pub ek_digest: Hash,
    /// The label it may have.
    pub label: Label,
    /// `Policy::attestation_hash` of the policy that it was appraised under.
    pub policy_hash: Hash,
    /// Trust this one EK without a certificate.
    pub pin: bool,
}

canonical!(
    GatewayApproval,
    "gateway approval",
    128,
    [identity, ek_digest, label, policy_hash, pin,]
);

impl GatewayApproval {
    /// The gateway that is approved.
    pub fn node(&self) -> NodeId {
        NodeId::of_key(&self.identity)
    }
}

/// `Admit`: a quorum makes a gateway a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admit {
    /// What the verifiers found, with the purpose [`super::Purpose::Admit`].
    pub statement: Statement,
    /// The newcomer's vote key: certified by its identity key, and held.
    pub vote: VoteKeyProof,
    /// More than two thirds of the voters, ascending, over [`Statement::digest`].
    pub endorsements: Vec<QuorumSignature>,
    /// The newcomer's own appraisal of a founder that nobody has verified.
    pub founder: Option<FounderResult>,
}

impl Encode for Admit {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { statement, vote, endorsements, founder } = self;
        encoder.array(4).value(statement).value(vote).list(endorsements).value(founder);
    }
}

impl Decode for Admit {
    const MAX_BYTES: usize = 2048 + SIGNATURES;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("admission", 4)?;
        Ok(Self {
            statement: Statement::decode(decoder)?,
            vote: VoteKeyProof::decode(decoder)?,
            endorsements: decode_signatures(decoder, "endorsements")?,
            founder: decoder.option()?,
        })
    }
}

/// The founder as the second gateway appraised it, live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FounderResult {
    /// About the founder, with the purpose [`super::Purpose::Attest`].
    pub statement: Statement,
    /// The newcomer's vote key over [`Statement::digest`].
    pub signature: Signature,
}

canonical!(FounderResult, "founder result", 640, [statement, signature]);

/// `Attest`: a quorum renews the attestation of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attest {
    /// What the verifiers found, with the purpose [`super::Purpose::Attest`].
    pub statement: Statement,
    /// More than two thirds of the voters, ascending, over [`Statement::digest`].
    pub endorsements: Vec<QuorumSignature>,
}

impl Encode for Attest {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(2).value(&self.statement).list(&self.endorsements);
    }
}

impl Decode for Attest {
    const MAX_BYTES: usize = 1024 + SIGNATURES;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("attestation", 2)?;
        let statement = Statement::decode(decoder)?;
        Ok(Self { statement, endorsements: decode_signatures(decoder, "endorsements")? })
    }
}

/// `Activate`: members that have signed one tip are ready, and vote when the site may grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activate {
    /// Height of the tip that all of them signed.
    pub height: Height,
    /// Its header hash.
    pub hash: Hash,
    /// Each newcomer's signature over [`ready_digest`], ascending.
    pub nodes: Vec<QuorumSignature>,
    /// Voters that heard all of them long enough, over [`activate_digest`], ascending.
    pub quorum: Vec<QuorumSignature>,
}

impl Activate {
    /// The newcomers.
    pub fn node_ids(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|each| each.voter).collect()
    }
}

impl Encode for Activate {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { height, hash, nodes, quorum } = self;
        encoder.array(4).value(height).value(hash).list(nodes).list(quorum);
    }
}

impl Decode for Activate {
    const MAX_BYTES: usize = 128 + 2 * SIGNATURES;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("activation", 4)?;
        Ok(Self {
            height: Height::decode(decoder)?,
            hash: Hash::decode(decoder)?,
            nodes: decode_signatures(decoder, "ready gateways")?,
            quorum: decode_signatures(decoder, "quorum")?,
        })
    }
}

/// What a member signs to show that it follows: SHA-256(domain ‖ chain ‖ era ‖ height ‖ hash).
pub fn ready_digest(chain_id: &ChainId, era: Era, height: Height, hash: &Hash) -> Hash {
    let (era, height) = (era.0.to_be_bytes(), height.0.to_be_bytes());
    Domain::READY.digest(&[&chain_id.0.0, &era, &height, &hash.0])
}

/// What a voter signs that heard `nodes` (ascending) for long enough: SHA-256(domain ‖ chain ‖ era
/// ‖ height ‖ hash ‖ node IDs).
pub fn activate_digest(
    chain_id: &ChainId,
    era: Era,
    height: Height,
    hash: &Hash,
    nodes: &[NodeId],
) -> Hash {
    let nodes: Vec<u8> = nodes.iter().flat_map(|node| node.0).collect();
    let (era, height) = (era.0.to_be_bytes(), height.0.to_be_bytes());
    Domain::ACTIVATE.digest(&[&chain_id.0.0, &era, &height, &hash.0, &nodes])
}

/// `Offline`: a quorum has not heard a gateway for `Policy::offline_after_ms`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offline {
    /// The silent gateway.
    pub node: NodeId,
    /// Its current liveness epoch: after its return the statement is void.
    pub liveness_epoch: u32,
    /// Voters, over [`offline_digest`], ascending.
    pub quorum: Vec<QuorumSignature>,
}

impl Encode for Offline {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { node, liveness_epoch, quorum } = self;
        encoder.array(3).value(node).value(liveness_epoch).list(quorum);
    }
}

impl Decode for Offline {
    const MAX_BYTES: usize = 64 + SIGNATURES;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("offline statement", 3)?;
        Ok(Self {
            node: NodeId::decode(decoder)?,
            liveness_epoch: decoder.uint32("liveness epoch")?,
            quorum: decode_signatures(decoder, "quorum")?,
        })
    }
}

/// What a voter signs about a silent gateway: SHA-256(domain ‖ chain ‖ era ‖ node ‖ epoch).
pub fn offline_digest(chain_id: &ChainId, era: Era, node: &NodeId, liveness_epoch: u32) -> Hash {
    let (era, epoch) = (era.0.to_be_bytes(), liveness_epoch.to_be_bytes());
    Domain::OFFLINE.digest(&[&chain_id.0.0, &era, &node.0, &epoch])
}

/// `Online`: the author is back, by its identity key; windows of earlier epochs are void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Online {
    /// The new liveness epoch: one above the current one.
    pub liveness_epoch: u32,
}

impl Encode for Online {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(1).value(&self.liveness_epoch);
    }
}

impl Decode for Online {
    const MAX_BYTES: usize = 8;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("online", 1)?;
        Ok(Self { liveness_epoch: decoder.uint32("liveness epoch")? })
    }
}

/// `Leave`: the author's rights end, by its identity key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leave {
    /// Why.
    pub reason: Reason,
    /// A ready member that a sole voter hands its vote to; nobody else names one.
    pub successor: Option<NodeId>,
}

canonical!(Leave, "leave", 256, [reason, successor]);

/// `Replace`: the operator moves a gateway's place to another TPM or identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replace {
    /// The gateway that goes.
    pub old: NodeId,
    /// The identity key that takes its place.
    pub identity: PublicKey,
    /// The vote key: certified by the new identity key, and held.
    pub vote: VoteKeyProof,
    /// SHA-256 of the new TPM's EK public key.
    pub ek_digest: Hash,
    /// Name of the new attestation key.
    pub ak_name: TpmName,
    /// Type of the new EK.
    pub ek_kind: u8,
    /// SHA-256(manufacturer ‖ 0 ‖ model) of the new TPM.
    pub tpm_model: Hash,
    /// The label.
    pub label: Label,
    /// What is known about the new TPM: a quorum attests it afterwards.
    pub attestation: FounderAttestation,
    /// Why.
    pub reason: Reason,
}

canonical!(
    Replace,
    "replacement",
    768,
    [old, identity, vote, ek_digest, ak_name, ek_kind, tpm_model, label, attestation, reason,]
);

/// `Suspend`: a node's rights end for now; by the operator, or by rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspend {
    /// A gateway or a light node; by rule a gateway.
    pub node: NodeId,
    /// Why.
    pub reason: Reason,
    /// Who decided, and on what evidence.
    pub cause: SuspendCause,
}

canonical!(Suspend, "suspension", 1024 + SIGNATURES, [node, reason, cause]);

/// Why a node is suspended: only the first is the operator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SuspendCause {
    /// The operator says so.
    Operator,
    /// Its re-attestation was contraindicated.
    FailedAttestation(Box<FailedAttestation>),
    /// It signed two different votes for one (era, height, round, type).
    Equivocation(Box<Equivocation>),
}

/// A contraindicated re-attestation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedAttestation {
    /// What the verifiers found, with the purpose [`super::Purpose::Fail`].
    pub statement: Statement,
    /// More than two thirds of the voters, ascending, over [`Statement::digest`].
    pub endorsements: Vec<QuorumSignature>,
}

impl Encode for FailedAttestation {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(2).value(&self.statement).list(&self.endorsements);
    }
}

impl Decode for FailedAttestation {
    const MAX_BYTES: usize = 1024 + SIGNATURES;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("failed attestation", 2)?;
        let statement = Statement::decode(decoder)?;
        Ok(Self { statement, endorsements: decode_signatures(decoder, "endorsements")? })
    }
}

/// Two votes of which an honest voter signs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Equivocation {
    /// The era of both votes.
    pub era: Era,
    /// The vote key that signed both: to rotate it is no way out.
    pub vote_key: PublicKey,
    /// One vote.
    pub first: Vote,
    /// The other.
    pub second: Vote,
}

canonical!(Equivocation, "equivocation", 640, [era, vote_key, first, second]);

impl Equivocation {
    /// Checks both signatures.
    ///
    /// # Errors
    /// [`CryptoError::Signature`].
    pub fn verify(&self, chain_id: &ChainId) -> Result<(), CryptoError> {
        self.first.verify(chain_id, self.era, &self.vote_key)?;
        self.second.verify(chain_id, self.era, &self.vote_key)
    }
}

const OPERATOR: u64 = 1;
const FAILED_ATTESTATION: u64 = 2;
const EQUIVOCATION: u64 = 3;

impl Encode for SuspendCause {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Operator => encoder.array(1).uint(OPERATOR),
            Self::FailedAttestation(failed) => {
                encoder.array(2).uint(FAILED_ATTESTATION).value(&**failed)
            }
            Self::Equivocation(votes) => encoder.array(2).uint(EQUIVOCATION).value(&**votes),
        };
    }
}

impl Decode for SuspendCause {
    const MAX_BYTES: usize = 1024 + SIGNATURES;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let fields = decoder.array("cause of a suspension", 2)?;
        Ok(match (decoder.uint("cause of a suspension")?, fields) {
            (OPERATOR, 1) => Self::Operator,
            (FAILED_ATTESTATION, 2) => Self::FailedAttestation(Box::new(Decode::decode(decoder)?)),
            (EQUIVOCATION, 2) => Self::Equivocation(Box::new(Decode::decode(decoder)?)),
            _ => return Err(DecodeError::Invalid("cause of a suspension")),
        })
    }
}
