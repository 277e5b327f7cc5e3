//! A signed vote: what voters send each other, and the evidence when one of them votes twice.

use crate::{
    certificate::{VoteType, vote_digest},
    codec::{Decode, DecodeError, Decoder, Encode, Encoder},
    crypto::{CryptoError, PublicKey, Signature, verify_digest},
    ids::{ChainId, Era, Hash, Height, NodeId},
};

/// A signed vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Prevote or precommit.
    pub kind: VoteType,
    /// The height voted on.
    pub height: Height,
    /// The round of that height.
    pub round: u32,
    /// Header hash of the block, or none for "no block in this round".
    pub block: Option<Hash>,
    /// Who votes.
    pub voter: NodeId,
    /// By the voter's vote key over [`crate::certificate::vote_digest`].
    pub signature: Signature,
}

impl Vote {
    /// What the voter signed.
    pub fn digest(&self, chain_id: &ChainId, era: Era) -> Hash {
        vote_digest(chain_id, era, self.kind, self.height, self.round, self.block.as_ref())
    }

    /// What a vote says, without who says it: two signatures over it are one vote.
    pub fn digest_place(&self) -> (bool, Height, u32, Option<Hash>) {
        (self.kind == VoteType::Precommit, self.height, self.round, self.block)
    }

    /// Checks the signature under a key.
    ///
    /// # Errors
    /// [`CryptoError::Signature`].
    pub fn verify(&self, chain_id: &ChainId, era: Era, key: &PublicKey) -> Result<(), CryptoError> {
        verify_digest(key, &self.digest(chain_id, era), &self.signature)
    }

    /// Whether no honest voter signs both: one voter, height, round and type, two answers.
    pub fn contradicts(&self, other: &Self) -> bool {
        let place = |vote: &Self| (vote.voter, vote.kind as u8, vote.height, vote.round);
        place(self) == place(other) && self.block != other.block
    }
}

impl Encode for Vote {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { kind, height, round, block, voter, signature } = self;
        encoder.array(6).uint(u64::from(*kind == VoteType::Precommit)).value(height);
        encoder.uint(u64::from(*round)).option(block.as_ref()).value(voter).value(signature);
    }
}

impl Decode for Vote {
    const MAX_BYTES: usize = 256;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("vote", 6)?;
        Ok(Self {
            kind: match decoder.uint("vote kind")? {
                0 => VoteType::Prevote,
                1 => VoteType::Precommit,
                _ => return Err(DecodeError::Invalid("vote kind")),
            },
            height: Height::decode(decoder)?,
            round: decode_round(decoder)?,
            block: decoder.option()?,
            voter: NodeId::decode(decoder)?,
            signature: Signature::decode(decoder)?,
        })
    }
}

/// No site ever needs this many rounds; the bound keeps arithmetic on rounds from overflowing.
const MAX_ROUND: u32 = 1_000_000;

/// Reads a round.
pub(crate) fn decode_round(decoder: &mut Decoder<'_>) -> Result<u32, DecodeError> {
    let round = decoder.uint32("round")?;
    if round <= MAX_ROUND { Ok(round) } else { Err(DecodeError::Invalid("round")) }
}
