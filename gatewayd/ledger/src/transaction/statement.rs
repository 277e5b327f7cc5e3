//! What verifiers find out about a gateway, and the signatures of a quorum (design §5, step 6).

use alloc::vec::Vec;

use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder, canonical, check_ascending},
    crypto::{CryptoError, Domain, PublicKey, Signature, SigningKey, verify_digest},
    genesis::TpmName,
    ids::{ChainId, Era, Hash, Height, NodeId},
    validator_set::MAX_VOTERS,
};

/// What a gateway does on the site; at least one of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Full node: stores payloads, serves light nodes, may vote.
    pub full: bool,
    /// Coordinator: takes join requests and assigns.
    pub coordinator: bool,
}

impl Label {
    /// The label in words.
    pub fn words(self) -> &'static str {
        match (self.full, self.coordinator) {
            (true, true) => "full node and coordinator",
            (true, false) => "full node",
            (false, true) => "coordinator",
            (false, false) => "gateway without a label",
        }
    }
}

impl Encode for Label {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(2).bool(self.full).bool(self.coordinator);
    }
}

impl Decode for Label {
    const MAX_BYTES: usize = 3;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("label", 2)?;
        let label = Self { full: decoder.bool("full")?, coordinator: decoder.bool("coordinator")? };
        if label.full || label.coordinator { Ok(label) } else { Err(DecodeError::Invalid("label")) }
    }
}

/// Most claims of one statement.
pub const MAX_CLAIMS: usize = 32;

/// The verdict on one claim, in the numbers of the `attestation` crate, which the ledger does not
/// know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimVerdict {
    /// Which claim: `attestation::ClaimKind`, below [`MAX_CLAIMS`].
    pub claim: u8,
    /// 0 affirming, 1 warning, 2 contraindicated: `attestation::Status`.
    pub status: u8,
}

impl ClaimVerdict {
    /// The claim that somebody vouches for the EK: `attestation::ClaimKind`.
    pub const ENDORSEMENT: u8 = 0;
    /// The status of a claim that is not proven, which the policy accepts.
    pub const WARNING: u8 = 1;
    /// The status of a claim that does not hold.
    pub const CONTRAINDICATED: u8 = 2;
}

impl Encode for ClaimVerdict {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(2).value(&self.claim).value(&self.status);
    }
}

impl Decode for ClaimVerdict {
    const MAX_BYTES: usize = 5;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("claim", 2)?;
        let (claim, status) = (decoder.uint8("claim")?, decoder.uint8("status of a claim")?);
        if usize::from(claim) >= MAX_CLAIMS || status > Self::CONTRAINDICATED {
            return Err(DecodeError::Invalid("claim"));
        }
        Ok(Self { claim, status })
    }
}

/// What a [`Statement`] is good for: one made for one purpose is none for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// To admit a newcomer.
    Admit = 1,
    /// To renew a member's attestation, or to attest the founder for the first time.
    Attest = 2,
    /// To suspend a member whose re-attestation was contraindicated.
    Fail = 3,
}

impl Encode for Purpose {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.uint(*self as u64);
    }
}

impl Decode for Purpose {
    const MAX_BYTES: usize = 1;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match decoder.uint8("purpose of a statement")? {
            1 => Self::Admit,
            2 => Self::Attest,
            3 => Self::Fail,
            _ => return Err(DecodeError::Invalid("purpose of a statement")),
        })
    }
}

/// What the verifiers of one gateway sign in common (design §5, step 6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The ledger it is meant for.
    pub chain_id: ChainId,
    /// The era it was made in; void in every other.
    pub era: Era,
    /// What it is good for.
    pub purpose: Purpose,
    /// Identity key of the gateway that was appraised.
    pub identity: PublicKey,
    /// Its vote key.
    pub vote_key: PublicKey,
    /// SHA-256 of its TPM's EK public key.
    pub ek_digest: Hash,
    /// Name of its attestation key.
    pub ak_name: TpmName,
    /// Type of its EK: `attestation::EkKind` as a number.
    pub ek_kind: u8,
    /// SHA-256(manufacturer ‖ 0 ‖ model) of the EK certificate, or of what the TPM says.
    pub tpm_model: Hash,
    /// The label it asks for.
    pub label: Label,
    /// `Policy::attestation_hash` of the policy that was applied.
    pub policy_hash: Hash,
    /// Verdicts, ascending by claim; at least one.
    pub claims: Vec<ClaimVerdict>,
    /// Newest height that the verifiers knew: it holds for 1,000 blocks from there.
    pub base_height: Height,
}

impl Statement {
    /// What an endorser signs: SHA-256(domain ‖ canonical bytes).
    pub fn digest(&self) -> Hash {
        Domain::ENDORSEMENT.digest(&[&self.to_bytes()])
    }

    /// The gateway that was appraised.
    pub fn node(&self) -> NodeId {
        NodeId::of_key(&self.identity)
    }

    /// Whether a claim does not hold.
    pub fn is_contraindicated(&self) -> bool {
        self.claims.iter().any(|claim| claim.status >= ClaimVerdict::CONTRAINDICATED)
    }

    /// Whether somebody that the site trusts vouches for the EK: only then is the model of the TPM
    /// more than what it says of itself.
    pub fn is_endorsed(&self) -> bool {
        let affirmed = ClaimVerdict { claim: ClaimVerdict::ENDORSEMENT, status: 0 };
        self.claims.contains(&affirmed)
    }

    /// The claims that were accepted without proof, bit i for claim i.
    pub fn warnings(&self) -> u32 {
        let warned = self.claims.iter().filter(|claim| claim.status == ClaimVerdict::WARNING);
        warned.fold(0, |bits, claim| bits | 1u32.checked_shl(claim.claim.into()).unwrap_or(0))
    }
}

impl Encode for Statement {
    fn encode(&self, encoder: &mut Encoder) {
        let Self {
            chain_id,
            era,
            purpose,
            identity,
            vote_key,
            ek_digest,
            ak_name,
            ek_kind,
            tpm_model,
            label,
            policy_hash,
            claims,
            base_height,
        } = self;
        encoder.array(13).value(chain_id).value(era).value(purpose).value(identity);
        encoder.value(vote_key).value(ek_digest).value(ak_name).value(ek_kind).value(tpm_model);
        encoder.value(label).value(policy_hash).list(claims).value(base_height);
    }
}

impl Decode for Statement {
    const MAX_BYTES: usize = 512;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("statement", 13)?;
        let statement = Self {
            chain_id: ChainId::decode(decoder)?,
            era: Era::decode(decoder)?,
            purpose: Purpose::decode(decoder)?,
            identity: PublicKey::decode(decoder)?,
            vote_key: PublicKey::decode(decoder)?,
            ek_digest: Hash::decode(decoder)?,
            ak_name: TpmName::decode(decoder)?,
            ek_kind: decoder.uint8("EK type")?,
            tpm_model: Hash::decode(decoder)?,
            label: Label::decode(decoder)?,
            policy_hash: Hash::decode(decoder)?,
            claims: decoder.list("claims", MAX_CLAIMS)?,
            base_height: Height::decode(decoder)?,
        };
        if statement.claims.is_empty() {
            return Err(DecodeError::Invalid("statement without claims"));
        }
        let claims: Vec<_> = statement.claims.iter().map(|claim| claim.claim).collect();
        check_ascending("claims", &claims)?;
        Ok(statement)
    }
}

/// The signature of one voter on what a quorum decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumSignature {
    /// The gateway that signs, by its vote key.
    pub voter: NodeId,
    /// Over the digest of what is decided.
    pub signature: Signature,
}

canonical!(QuorumSignature, "quorum signature", 96, [voter, signature]);

impl QuorumSignature {
    /// Signs a digest.
    pub fn sign(voter: NodeId, digest: &Hash, key: &SigningKey) -> Self {
        Self { voter, signature: key.sign_digest(digest) }
    }

    /// Checks the signature under a key.
    ///
    /// # Errors
    /// [`CryptoError::Signature`].
    pub fn verify(&self, digest: &Hash, key: &PublicKey) -> Result<(), CryptoError> {
        verify_digest(key, digest, &self.signature)
    }
}

/// Reads signatures that ascend by voter, so that none is there twice; at least one.
pub(super) fn decode_signatures(
    decoder: &mut Decoder<'_>,
    what: &'static str,
) -> Result<Vec<QuorumSignature>, DecodeError> {
    let signatures: Vec<QuorumSignature> = decoder.list(what, MAX_VOTERS)?;
    let voters: Vec<_> = signatures.iter().map(|each| each.voter).collect();
    check_ascending(what, &voters)?;
    if signatures.is_empty() { Err(DecodeError::Invalid(what)) } else { Ok(signatures) }
}

/// Bound of a list of signatures, in bytes.
pub(super) const SIGNATURES: usize = 8 + MAX_VOTERS * QuorumSignature::MAX_BYTES;
