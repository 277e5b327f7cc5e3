//! The genesis record: who founded the site. Its SHA-256 is the chain ID.

use thiserror::Error;

use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder, Text, canonical},
    crypto::{CryptoError, PublicKey, Signature, sha256},
    ids::{ChainId, Hash, NodeId},
    policy::Policy,
    transaction::VoteKeyProof,
    validator_set::{Validator, ValidatorSet},
};

/// Version of the genesis format.
pub const GENESIS_VERSION: u64 = 1;

/// What is known about the founder's TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FounderAttestation {
    /// A hardware TPM that nobody has checked yet.
    Unverified = 1,
    /// A software TPM: vouches for nothing.
    Unattested = 2,
}

impl Encode for FounderAttestation {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.uint(*self as u64);
    }
}

impl Decode for FounderAttestation {
    const MAX_BYTES: usize = 1;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        match decoder.uint8("attestation")? {
            1 => Ok(Self::Unverified),
            2 => Ok(Self::Unattested),
            _ => Err(DecodeError::Invalid("attestation")),
        }
    }
}

/// A TPM name: 2-byte algorithm and SHA-256 (TPM 2.0 Part 1, 16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TpmName(pub [u8; 34]);

impl Encode for TpmName {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.bytes(&self.0);
    }
}

impl Decode for TpmName {
    const MAX_BYTES: usize = 36;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self(decoder.fixed("TPM name")?))
    }
}

/// The gateway that founded the site, its first member and sole voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Founder {
    /// Identity key, in its TPM.
    pub identity: PublicKey,
    /// Vote key, in software.
    pub vote: PublicKey,
    /// The identity key's signature over `vote_key_digest` with [`Genesis::context`].
    pub vote_certificate: Signature,
    /// The vote key's signature over `vote_possession_digest` with [`Genesis::context`].
    pub vote_possession: Signature,
    /// SHA-256 of the TPM's EK public key.
    pub ek_digest: Hash,
    /// Name of the attestation key.
    pub ak_name: TpmName,
    /// What is known about the TPM.
    pub attestation: FounderAttestation,
}

canonical!(
    Founder,
    "founder",
    384,
    [identity, vote, vote_certificate, vote_possession, ek_digest, ak_name, attestation,]
);

impl Founder {
    /// The founder's node ID.
    pub fn node(&self) -> NodeId {
        NodeId::of_key(&self.identity)
    }
}

/// Why a genesis record is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GenesisError {
    /// The bytes are not a genesis record.
    #[error("not a genesis record: {0}")]
    Decode(#[from] DecodeError),
    /// The founder's keys do not certify each other.
    #[error("the founder's keys do not certify each other: {0}")]
    Founder(#[from] CryptoError),
}

/// The record that founds a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// When it was made, Unix milliseconds.
    pub time_ms: u64,
    /// The site's name, at most 64 bytes.
    pub site_name: Text<64>,
    /// The operator's key.
    pub operator: PublicKey,
    /// The first gateway.
    pub founder: Founder,
    /// The first policy.
    pub policy: Policy,
    /// 32 random bytes: two sites are never the same.
    pub salt: Hash,
}

impl Genesis {
    /// What the founder's key statements are bound to, as there is no chain ID yet.
    pub fn context(salt: &Hash) -> Hash {
        sha256(&[b"gatewayd/genesis-context/1", &salt.0])
    }

    /// SHA-256 of the canonical record.
    pub fn chain_id(&self) -> ChainId {
        ChainId(sha256(&[&self.to_bytes()]))
    }

    /// The first validator set: the founder alone.
    pub fn validator_set(&self) -> ValidatorSet {
        let founder = Validator { node: self.founder.node(), vote_key: self.founder.vote };
        ValidatorSet::new(self.operator, alloc::vec![founder]).expect("one voter is a valid set")
    }

    /// Reads a record and checks what the founder's keys say about each other.
    ///
    /// # Errors
    /// [`GenesisError`].
    pub fn read(bytes: &[u8]) -> Result<Self, GenesisError> {
        let genesis = Self::from_bytes(bytes)?;
        genesis.verify()?;
        Ok(genesis)
    }

    /// Checks the founder's key statements, and that the keys are points and three different.
    ///
    /// # Errors
    /// [`CryptoError`].
    pub fn verify(&self) -> Result<(), CryptoError> {
        self.operator.validate()?;
        let Founder { identity, vote, vote_certificate, vote_possession, .. } = self.founder;
        // One key, one role.
        if identity == vote || self.operator == identity || self.operator == vote {
            return Err(CryptoError::PublicKey);
        }
        let proof = VoteKeyProof {
            vote_key: vote,
            certificate: vote_certificate,
            possession: vote_possession,
        };
        proof.verify(&Self::context(&self.salt), &identity)
    }
}

impl Encode for Genesis {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { time_ms, site_name, operator, founder, policy, salt } = self;
        encoder.array(7).uint(GENESIS_VERSION).uint(*time_ms).value(site_name);
        encoder.value(operator).value(founder).value(policy).value(salt);
    }
}

impl Decode for Genesis {
    const MAX_BYTES: usize = 16 * 1024;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("genesis", 7)?;
        let found = decoder.uint("genesis version")?;
        if found != GENESIS_VERSION {
            return Err(DecodeError::Version { what: "genesis", found });
        }
        Ok(Self {
            time_ms: decoder.uint("time")?,
            site_name: Text::decode(decoder)?,
            operator: PublicKey::decode(decoder)?,
            founder: Founder::decode(decoder)?,
            policy: Policy::decode(decoder)?,
            salt: Hash::decode(decoder)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture::Fixture, header::Header, state::State};

    #[test]
    fn a_record_reads_back_and_names_the_chain() {
        let genesis = Fixture::new().genesis;
        let bytes = genesis.to_bytes();
        let read = Genesis::read(&bytes).unwrap();
        assert_eq!(read, genesis);
        assert_eq!(read.chain_id().0, sha256(&[&bytes]));
        let header = State::genesis_header(&genesis);
        assert_eq!(Header::from_bytes(&header.to_bytes()), Ok(header.clone()));
        assert_eq!(header.validators_hash, genesis.validator_set().hash());
    }

    #[test]
    fn keys_that_do_not_certify_each_other_are_refused() {
        let genesis = Fixture::new().genesis;
        let mut other_salt = genesis.clone();
        other_salt.salt = Hash([1; 32]);
        let mut swapped = genesis.clone();
        core::mem::swap(&mut swapped.founder.identity, &mut swapped.founder.vote);
        let mut no_possession = genesis.clone();
        no_possession.founder.vote_possession = genesis.founder.vote_certificate;
        for wrong in [other_salt, swapped, no_possession] {
            let refused = Genesis::read(&wrong.to_bytes());
            assert_eq!(refused, Err(GenesisError::Founder(CryptoError::Signature)));
        }
    }

    #[test]
    fn one_key_has_one_role() {
        let genesis = Fixture::new().genesis;
        for key in [genesis.founder.identity, genesis.founder.vote] {
            let wrong = Genesis { operator: key, ..genesis.clone() };
            assert_eq!(wrong.verify(), Err(CryptoError::PublicKey));
        }
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let mut bytes = Fixture::new().genesis.to_bytes();
        bytes[1] = 2;
        let version = DecodeError::Version { what: "genesis", found: 2 };
        assert_eq!(Genesis::from_bytes(&bytes), Err(version));
    }
}
