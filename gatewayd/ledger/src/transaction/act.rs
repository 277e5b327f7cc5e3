//! Bodies that change keys, standing and eras.

use alloc::vec::Vec;

use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder, Text, canonical, check_ascending},
    crypto::{CryptoError, Domain, PublicKey, Signature, SigningKey, verify_digest},
    ids::{Era, Hash, Height, NodeId},
    validator_set::MAX_VOTERS,
};

/// Why the operator acts, in a sentence of at most 200 bytes; recorded for ever.
pub type Reason = Text<200>;

/// `Pardon` and `Revoke`: a node and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAct {
    /// A gateway or a light node.
    pub node: NodeId,
    /// Why.
    pub reason: Reason,
}

canonical!(NodeAct, "act on a node", 256, [node, reason]);

/// `OperatorRotation`: signed by the old key as author, and by the new key as possessor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorRotation {
    /// The new operator key.
    pub new_key: PublicKey,
    /// The new key's signature over [`OperatorRotation::possession_digest`].
    pub possession: Signature,
}

canonical!(OperatorRotation, "operator rotation", 128, [new_key, possession]);

impl OperatorRotation {
    /// Signs possession of a new operator key.
    pub fn new(chain_id: &Hash, key: &SigningKey) -> Self {
        let new_key = key.public_key();
        let possession = key.sign_digest(&Self::possession_digest(chain_id, &new_key));
        Self { new_key, possession }
    }

    /// SHA-256(domain ‖ chain ID ‖ new key).
    pub fn possession_digest(chain_id: &Hash, new_key: &PublicKey) -> Hash {
        Domain::OPERATOR_POSSESSION.digest(&[&chain_id.0, new_key.as_bytes()])
    }

    /// Checks that the new key signed.
    ///
    /// # Errors
    /// [`CryptoError::Signature`].
    pub fn verify(&self, chain_id: &Hash) -> Result<(), CryptoError> {
        let digest = Self::possession_digest(chain_id, &self.new_key);
        verify_digest(&self.new_key, &digest, &self.possession)
    }
}

/// `RotateKey`: a new vote key. The author's identity key signs the transaction, and so
/// certifies the key; the new key itself proves that it is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotateKey {
    /// The new vote key, never used on this ledger before.
    pub vote_key: PublicKey,
    /// The new key's signature over [`vote_possession_digest`].
    pub possession: Signature,
}

canonical!(RotateKey, "key rotation", 128, [vote_key, possession]);

impl RotateKey {
    /// Signs possession of a new vote key.
    pub fn new(chain_id: &Hash, identity: &PublicKey, key: &SigningKey) -> Self {
        let vote_key = key.public_key();
        let possession = key.sign_digest(&vote_possession_digest(chain_id, identity, &vote_key));
        Self { vote_key, possession }
    }
}

/// What an identity key signs to certify a vote key: SHA-256(domain ‖ context ‖ both keys).
///
/// `context` is the chain ID; in genesis, where there is none yet, the genesis context.
pub fn vote_key_digest(context: &Hash, identity: &PublicKey, vote: &PublicKey) -> Hash {
    Domain::VOTE_KEY.digest(&[&context.0, identity.as_bytes(), vote.as_bytes()])
}

/// What a vote key signs to prove that it is held: SHA-256(domain ‖ context ‖ both keys).
pub fn vote_possession_digest(context: &Hash, identity: &PublicKey, vote: &PublicKey) -> Hash {
    Domain::VOTE_POSSESSION.digest(&[&context.0, identity.as_bytes(), vote.as_bytes()])
}

/// A vote key certified by an identity key, with its proof of possession.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VoteKeyProof {
    /// The vote key.
    pub vote_key: PublicKey,
    /// The identity key's signature over [`vote_key_digest`].
    pub certificate: Signature,
    /// The vote key's signature over [`vote_possession_digest`].
    pub possession: Signature,
}

canonical!(VoteKeyProof, "vote key proof", 192, [vote_key, certificate, possession]);

impl VoteKeyProof {
    /// Checks both signatures.
    ///
    /// # Errors
    /// [`CryptoError::Signature`] when either is wrong.
    pub fn verify(&self, context: &Hash, identity: &PublicKey) -> Result<(), CryptoError> {
        let certified = vote_key_digest(context, identity, &self.vote_key);
        verify_digest(identity, &certified, &self.certificate)?;
        let held = vote_possession_digest(context, identity, &self.vote_key);
        verify_digest(&self.vote_key, &held, &self.possession)
    }
}

/// `Recover`: the operator begins a new era on top of a block it names.
///
/// It is the only transaction of its block. `block_digest` fixes that block's header but for
/// `tx_root`, which is the tree of this transaction alone: so the operator's signature on the
/// transaction certifies the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recover {
    /// The new era, one above the parent's.
    pub era: Era,
    /// Header hash of the last block that is kept.
    pub parent: Hash,
    /// Height of the block that this transaction makes: the parent's + 1.
    pub height: Height,
    /// The voters from now on, ascending by node.
    pub survivors: Vec<Survivor>,
    /// `Header::recovery_digest` of the block.
    pub block_digest: Hash,
}

canonical!(Recover, "recovery", 64 * 1024, [
    era, parent, height, survivors: list(MAX_VOTERS), block_digest,
]);

impl Recover {
    /// Checks that the survivors are at least one and strictly ascending.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] or [`DecodeError::Unsorted`].
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.survivors.is_empty() {
            return Err(DecodeError::Invalid("recovery without survivors"));
        }
        let nodes: Vec<_> = self.survivors.iter().map(|survivor| survivor.node).collect();
        check_ascending("survivors", &nodes)
    }
}

/// A gateway that votes after a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// The gateway, already a member.
    pub node: NodeId,
    /// A new vote key, when the old one is lost.
    pub new_vote_key: Option<VoteKeyProof>,
}

impl Encode for Survivor {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(2).value(&self.node).option(self.new_vote_key.as_ref());
    }
}

impl Decode for Survivor {
    const MAX_BYTES: usize = 256;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("survivor", 2)?;
        Ok(Self { node: NodeId::decode(decoder)?, new_vote_key: decoder.option()? })
    }
}
