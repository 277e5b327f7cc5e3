//! The finality certificate: why a header can be trusted.
//!
//! Normally the signatures of more than two thirds of the voters; for a block that recovers the
//! ledger the operator's `Recover` transaction. A certificate names a block by its hash; era and
//! chain come from the header it certifies.

use alloc::{boxed::Box, vec::Vec};

use thiserror::Error;

use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder, check_size},
    crypto::{Domain, Signature, verify_digest},
    header::Header,
    ids::{ChainId, Era, Hash, Height},
    merkle::{self, Tag},
    transaction::{Author, Body, MAX_TRANSACTION, Transaction},
    validator_set::{MAX_VOTERS, ValidatorSet},
    vote::Vote,
};

/// Which vote a signature is; only precommits make a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteType {
    /// First step of a round.
    Prevote,
    /// Second step; a quorum of these is finality.
    Precommit,
}

impl VoteType {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Prevote => b"prevote",
            Self::Precommit => b"precommit",
        }
    }
}

/// What a voter signs: SHA-256(domain ‖ chain ID ‖ era ‖ type ‖ height ‖ round ‖ block hash).
///
/// Integers big-endian; `block_hash` is absent (no bytes) for a vote for nil, which is why it
/// stands last.
pub fn vote_digest(
    chain_id: &ChainId,
    era: Era,
    vote: VoteType,
    height: Height,
    round: u32,
    block_hash: Option<&Hash>,
) -> Hash {
    Domain::VOTE.digest(&[
        &chain_id.0.0,
        &era.0.to_be_bytes(),
        vote.name(),
        &height.0.to_be_bytes(),
        &round.to_be_bytes(),
        block_hash.map_or(&[][..], |hash| &hash.0),
    ])
}

/// Why a certificate does not certify a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// It names another block or height.
    #[error("the certificate is for another block")]
    OtherBlock,
    /// The header names another validator set than the one given.
    #[error("the validator set is not the one that the header names")]
    OtherValidators,
    /// The voter bitmap does not fit the validator set or the number of signatures.
    #[error("the voter bitmap does not fit the validator set")]
    Bitmap,
    /// Not more than two thirds of the voters signed.
    #[error("{found} signatures, {needed} are needed")]
    NoQuorum {
        /// Signatures in the certificate.
        found: usize,
        /// Fewest that decide.
        needed: usize,
    },
    /// A signature is not its voter's.
    #[error("the signature of voter {0} is not valid")]
    Signature(usize),
    /// The `Recover` transaction does not belong to this block, or the operator did not sign it.
    #[error("the recovery is not the operator's for this block")]
    Recovery,
}

/// Proof that a block is final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Height of the block.
    pub height: Height,
    /// Hash of the block's header.
    pub block_hash: Hash,
    /// Who certifies it.
    pub signers: Signers,
}

/// Who certifies a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signers {
    /// Precommits of one round.
    Votes(Votes),
    /// The operator: the block's only transaction, a `Recover` (boxed for its size).
    Operator(Box<Transaction>),
}

/// The precommits of a certificate, in the order of the validator set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Votes {
    /// The round in which the block was decided.
    pub round: u32,
    /// One bit a voter, voter 0 in the highest bit of the first byte; ⌈n/8⌉ bytes.
    pub bitmap: Vec<u8>,
    /// One signature for each set bit.
    pub signatures: Vec<Signature>,
}

impl Votes {
    /// Makes the canonical form of `(position in the set, signature)` pairs, in any order.
    ///
    /// A position that is not in a set of `voters` is left out; of doubled ones the last counts.
    pub fn collect(
        round: u32,
        voters: usize,
        votes: impl IntoIterator<Item = (usize, Signature)>,
    ) -> Self {
        let mut slots = alloc::vec![None; voters];
        for (index, signature) in votes {
            if let Some(slot) = slots.get_mut(index) {
                *slot = Some(signature);
            }
        }
        let mut bitmap = alloc::vec![0; voters.div_ceil(8)];
        for (index, _) in slots.iter().enumerate().filter(|(_, slot)| slot.is_some()) {
            bitmap[index / 8] |= 0x80 >> (index % 8);
        }
        Self { round, bitmap, signatures: slots.into_iter().flatten().collect() }
    }

    /// Positions of the voters that signed.
    pub fn signers(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.bitmap.len() * 8)
            .filter(|index| self.bitmap[index / 8] & (0x80 >> (index % 8)) != 0)
    }

    /// The same votes with no more signatures than a quorum: the shortest form for a proof.
    pub fn trimmed(&self, set: &ValidatorSet) -> Self {
        let votes = self.signers().zip(self.signatures.iter().copied()).take(set.quorum());
        Self::collect(self.round, set.count(), votes)
    }

    /// As [`Votes::trimmed`], with voters first that an `older` set names with the same key; `None`
    /// when those are no quorum of it.
    pub fn trimmed_for(&self, set: &ValidatorSet, older: &ValidatorSet) -> Option<Self> {
        let votes = || self.signers().zip(self.signatures.iter().copied());
        let known = |(index, _): &(usize, Signature)| set.is_same_voter(*index, older);
        let few = votes().filter(known).count() < older.quorum();
        let strangers = votes().filter(|vote| !known(vote));
        let chosen = votes().filter(known).chain(strangers).take(set.quorum().max(older.quorum()));
        (!few).then(|| Self::collect(self.round, set.count(), chosen))
    }

    fn verify(
        &self,
        header: &Header,
        hash: &Hash,
        set: &ValidatorSet,
    ) -> Result<(), CertificateError> {
        let signers: Vec<usize> = self.signers().collect();
        if self.bitmap.len() != set.count().div_ceil(8)
            || signers.len() != self.signatures.len()
            || signers.last().is_some_and(|last| *last >= set.count())
        {
            return Err(CertificateError::Bitmap);
        }
        if signers.len() < set.quorum() {
            let (found, needed) = (signers.len(), set.quorum());
            return Err(CertificateError::NoQuorum { found, needed });
        }
        let digest = vote_digest(
            &header.chain_id,
            header.era,
            VoteType::Precommit,
            header.height,
            self.round,
            Some(hash),
        );
        for (index, signature) in signers.iter().zip(&self.signatures) {
            verify_digest(&set.voters()[*index].vote_key, &digest, signature)
                .map_err(|_| CertificateError::Signature(*index))?;
        }
        Ok(())
    }
}

impl Certificate {
    /// Checks that this certificate makes `header` final under `set`.
    ///
    /// # Errors
    /// The first thing that is wrong, as [`CertificateError`].
    pub fn verify(&self, header: &Header, set: &ValidatorSet) -> Result<(), CertificateError> {
        let hash = header.hash();
        if self.block_hash != hash || self.height != header.height {
            return Err(CertificateError::OtherBlock);
        }
        self.signers.verify(header, &hash, set)
    }

    /// Adds a precommit that came late; says whether it is a new voter's, for this block.
    pub fn add(&mut self, vote: &Vote, header: &Header, set: &ValidatorSet) -> bool {
        let Signers::Votes(votes) = &mut self.signers else {
            return false;
        };
        let place = (vote.kind, vote.height, vote.round, vote.block);
        if place != (VoteType::Precommit, self.height, votes.round, Some(self.block_hash)) {
            return false;
        }
        let Some(position) = set.position(&vote.voter) else {
            return false;
        };
        let key = &set.voters()[position].vote_key;
        let new = !votes.signers().any(|signer| signer == position);
        if !new || vote.verify(&header.chain_id, header.era, key).is_err() {
            return false;
        }
        let all = votes.signers().zip(votes.signatures.iter().copied());
        *votes = Votes::collect(votes.round, set.count(), all.chain([(position, vote.signature)]));
        true
    }

    /// SHA-256 of the canonical encoding, as in `last_commit_hash` of the next header.
    pub fn hash(&self) -> Hash {
        crate::crypto::sha256(&[&self.to_bytes()])
    }
}

impl Signers {
    /// Whether among those who signed under `set` is a quorum of an `older` one, each with the key
    /// that it had then: what they certify follows from the older set, whatever changed between.
    pub fn are_quorum_of(&self, older: &ValidatorSet, set: &ValidatorSet) -> bool {
        match self {
            Self::Votes(votes) => {
                let known = votes.signers().filter(|index| set.is_same_voter(*index, older));
                known.count() >= older.quorum()
            }
            // The operator's word is that of the key in the set before, and of no older one.
            Self::Operator(_) => false,
        }
    }

    /// Checks that these signers make `header`, whose hash is `hash`, final under `set`.
    ///
    /// # Errors
    /// The first thing that is wrong, as [`CertificateError`].
    pub fn verify(
        &self,
        header: &Header,
        hash: &Hash,
        set: &ValidatorSet,
    ) -> Result<(), CertificateError> {
        if set.hash() != header.validators_hash {
            return Err(CertificateError::OtherValidators);
        }
        match self {
            Self::Votes(votes) => votes.verify(header, hash, set),
            Self::Operator(transaction) => verify_recovery(transaction, header, set),
        }
    }
}

/// The operator's one signature fixes the whole block: its digest covers every header field but
/// `tx_root`, and `tx_root` is the tree of this very transaction alone.
fn verify_recovery(
    transaction: &Transaction,
    header: &Header,
    set: &ValidatorSet,
) -> Result<(), CertificateError> {
    let Body::Recover(recover) = &transaction.draft().body else {
        return Err(CertificateError::Recovery);
    };
    let belongs = transaction.draft().author == Author::Operator
        && transaction.draft().chain_id == header.chain_id
        && recover.era == header.era
        && transaction.draft().era < header.era
        && header.tx_count == 1
        && merkle::root(Tag::TX, &[transaction.hash()]) == header.tx_root
        && recover.block_digest == header.recovery_digest();
    if !belongs {
        return Err(CertificateError::Recovery);
    }
    transaction.verify_signature(set.operator()).map_err(|_| CertificateError::Recovery)
}

const VOTES: u64 = 0;
const OPERATOR: u64 = 1;

impl Encode for Signers {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Votes(Votes { round, bitmap, signatures }) => {
                let joined: Vec<u8> =
                    signatures.iter().flat_map(|signature| *signature.as_bytes()).collect();
                encoder.array(4).uint(VOTES).uint(u64::from(*round)).bytes(bitmap).bytes(&joined);
            }
            Self::Operator(transaction) => {
                encoder.array(2).uint(OPERATOR).bytes(transaction.raw());
            }
        }
    }
}

impl Decode for Signers {
    const MAX_BYTES: usize = MAX_TRANSACTION + 64;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let fields = decoder.array("signers", 4)?;
        match (decoder.uint("signers")?, fields) {
            (VOTES, 4) => Ok(Self::Votes(decode_votes(decoder)?)),
            (OPERATOR, 2) => {
                let raw = decoder.bytes("recovery", MAX_TRANSACTION)?;
                Ok(Self::Operator(Box::new(Transaction::from_raw(raw)?)))
            }
            _ => Err(DecodeError::Invalid("signers")),
        }
    }
}

fn decode_votes(decoder: &mut Decoder<'_>) -> Result<Votes, DecodeError> {
    let round = decoder.uint32("round")?;
    let bitmap = decoder.bytes("voter bitmap", MAX_VOTERS.div_ceil(8))?.to_vec();
    let joined = decoder.bytes("signatures", MAX_VOTERS * 64)?;
    let (whole, rest) = joined.as_chunks::<64>();
    if !rest.is_empty() {
        return Err(DecodeError::Invalid("signatures"));
    }
    let signatures: Vec<_> = whole.iter().map(|bytes| Signature::from_bytes(*bytes)).collect();
    let votes = Votes { round, bitmap, signatures };
    // One signature a set bit, here already, so that every decoded value is well-formed.
    if votes.signers().count() != votes.signatures.len() {
        return Err(DecodeError::Invalid("voter bitmap"));
    }
    Ok(votes)
}

impl Encode for Certificate {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(3).value(&self.height).value(&self.block_hash).value(&self.signers);
    }
}

impl Decode for Certificate {
    const MAX_BYTES: usize = Signers::MAX_BYTES + 64;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("certificate", 3)?;
        let height = Height::decode(decoder)?;
        let block_hash = Hash::decode(decoder)?;
        let start = decoder.position();
        let signers = Signers::decode(decoder)?;
        check_size("certificate", decoder.position() - start, Signers::MAX_BYTES)?;
        Ok(Self { height, block_hash, signers })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::{
        crypto::SigningKey,
        fixture::{Fixture, key},
        ids::NodeId,
        validator_set::Validator,
    };

    /// A header of a site with `n` voters, and their keys in the order of the set.
    fn site(n: u8) -> (Header, ValidatorSet, Vec<SigningKey>) {
        let voter = |i: u8| Validator { node: NodeId([i; 20]), vote_key: key(i).public_key() };
        let set = ValidatorSet::new(key(250).public_key(), (1..=n).map(voter).collect()).unwrap();
        let mut header = Fixture::new().tip.header;
        header.height = Height(9);
        header.era = Era(2);
        header.validators_hash = set.hash();
        (header, set, (1..=n).map(key).collect())
    }

    fn sign(header: &Header, key: &SigningKey, vote: VoteType, round: u32) -> Signature {
        let hash = header.hash();
        let (chain, era, height) = (&header.chain_id, header.era, header.height);
        key.sign_digest(&vote_digest(chain, era, vote, height, round, Some(&hash)))
    }

    fn certificate(header: &Header, n: usize, keys: &[SigningKey], who: &[usize]) -> Certificate {
        let votes = who.iter().map(|i| (*i, sign(header, &keys[*i], VoteType::Precommit, 3)));
        let votes = Votes::collect(3, n, votes);
        let (height, block_hash) = (header.height, header.hash());
        Certificate { height, block_hash, signers: Signers::Votes(votes) }
    }

    #[test]
    fn a_quorum_of_four_and_of_a_hundred_certifies_and_less_does_not() {
        for n in [1u8, 4, 7, 100] {
            let (header, set, keys) = site(n);
            let everyone: Vec<usize> = (0..usize::from(n)).rev().collect();
            let quorum = &everyone[..set.quorum()];
            let count = usize::from(n);
            let certified = certificate(&header, count, &keys, quorum);
            assert_eq!(certified.verify(&header, &set), Ok(()));
            assert_eq!(Certificate::from_bytes(&certified.to_bytes()), Ok(certified));
            let whole = certificate(&header, count, &keys, &everyone);
            let Signers::Votes(votes) = &whole.signers else { unreachable!() };
            assert_eq!(votes.trimmed(&set).signatures.len(), set.quorum());
            let trimmed = Signers::Votes(votes.trimmed(&set));
            assert_eq!(trimmed.verify(&header, &header.hash(), &set), Ok(()));
            let few = certificate(&header, count, &keys, &quorum[1..]);
            let (found, needed) = (set.quorum() - 1, set.quorum());
            let error = Err(CertificateError::NoQuorum { found, needed });
            assert_eq!(few.verify(&header, &set), error);
        }
    }

    #[test]
    fn votes_of_another_block_kind_round_era_or_voter_do_not_count() {
        let (header, set, keys) = site(4);
        let with = |last: (usize, Signature)| {
            let precommit = |i: usize| (i, sign(&header, &keys[i], VoteType::Precommit, 3));
            let votes = Votes::collect(3, 4, [precommit(0), precommit(1), last]);
            Signers::Votes(votes).verify(&header, &header.hash(), &set)
        };
        assert_eq!(with((2, sign(&header, &keys[2], VoteType::Precommit, 3))), Ok(()));
        let wrong = Err(CertificateError::Signature(2));
        assert_eq!(with((2, sign(&header, &keys[2], VoteType::Prevote, 3))), wrong);
        assert_eq!(with((2, sign(&header, &keys[2], VoteType::Precommit, 4))), wrong);
        assert_eq!(with((2, sign(&header, &keys[3], VoteType::Precommit, 3))), wrong);
        let other_era = Header { era: Era(1), ..header.clone() };
        assert_eq!(with((2, sign(&other_era, &keys[2], VoteType::Precommit, 3))), wrong);
        // One voter's signature in two places is two wrong votes, not two votes.
        assert_eq!(with((2, sign(&header, &keys[0], VoteType::Precommit, 3))), wrong);
        let nowhere = with((9, sign(&header, &keys[2], VoteType::Precommit, 3)));
        assert_eq!(nowhere, Err(CertificateError::NoQuorum { found: 2, needed: 3 }));
    }

    #[test]
    fn bitmaps_fit_their_set_exactly() {
        let (header, set, keys) = site(4);
        let good = certificate(&header, 4, &keys, &[0, 1, 2]);
        let Signers::Votes(votes) = &good.signers else { unreachable!() };
        for bitmap in [vec![0b1110_1000], vec![0b1110_0000, 0], vec![], vec![0b1100_0000]] {
            let votes = Votes { bitmap, ..votes.clone() };
            let result = Signers::Votes(votes).verify(&header, &header.hash(), &set);
            assert_eq!(result, Err(CertificateError::Bitmap));
        }
        let other_set = site(7).1;
        let error = Err(CertificateError::OtherValidators);
        assert_eq!(good.verify(&header, &other_set), error);
        let other = Header { time_ms: 1, ..header };
        assert_eq!(good.verify(&other, &set), Err(CertificateError::OtherBlock));
    }

    #[test]
    fn a_vote_for_nil_is_no_vote_for_a_block() {
        let (header, ..) = site(1);
        let (chain, era, height) = (&header.chain_id, header.era, header.height);
        let nil = vote_digest(chain, era, VoteType::Precommit, height, 0, None);
        let zero = vote_digest(chain, era, VoteType::Precommit, height, 0, Some(&Hash::ZERO));
        assert_ne!(nil, zero);
    }
}
