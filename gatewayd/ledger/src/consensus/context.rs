//! The engine's view of our types: heights, voters, votes and proposals as Malachite wants them.
//!
//! Only this file and the driver name the engine. Nothing here is stored or sent.

use core::fmt;
use core::time::Duration;
use std::sync::Arc;

use arc_malachitebft_core_types as engine;
use engine::{LinearTimeouts, NilOrVal, Round, SignedExtension, VoteType, VotingPower};

use crate::crypto::{PublicKey, Signature};
use crate::ids::{Hash, Height, NodeId};
use crate::validator_set::{Validator, ValidatorSet};

/// For a LAN: a silent proposer costs one second.
pub(super) const TIMEOUTS: LinearTimeouts = LinearTimeouts {
    propose: Duration::from_millis(1_000),
    propose_delta: Duration::from_millis(500),
    prevote: Duration::from_millis(500),
    prevote_delta: Duration::from_millis(250),
    precommit: Duration::from_millis(500),
    precommit_delta: Duration::from_millis(250),
    rebroadcast: Duration::from_millis(2_000),
    max_timeout: Duration::from_secs(30),
};

/// The engine's type parameter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context;

impl engine::Context for Context {
    type Address = Address;
    type Height = Height;
    type ProposalPart = NoPart;
    type Proposal = Proposal;
    type Validator = Voter;
    type ValidatorSet = Voters;
    type Timeouts = LinearTimeouts;
    type Value = Hash;
    type Vote = Vote;
    type Extension = ();
    type SigningScheme = Scheme;

    fn select_proposer<'a>(&self, voters: &'a Voters, height: Height, round: Round) -> &'a Voter {
        &voters.list[voters.proposer(height, round.as_u32().unwrap_or(0))]
    }

    fn new_proposal(
        &self,
        height: Height,
        round: Round,
        value: Hash,
        valid_round: Round,
        proposer: Address,
    ) -> Proposal {
        Proposal { height, round, value, valid_round, proposer }
    }

    fn new_prevote(
        &self,
        height: Height,
        round: Round,
        value: NilOrVal<Hash>,
        voter: Address,
    ) -> Vote {
        Vote { kind: VoteType::Prevote, height, round, value, voter }
    }

    fn new_precommit(
        &self,
        height: Height,
        round: Round,
        value: NilOrVal<Hash>,
        voter: Address,
    ) -> Vote {
        Vote { kind: VoteType::Precommit, height, round, value, voter }
    }
}

/// A voter's node ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address(pub(super) NodeId);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_gateway_string())
    }
}

impl engine::Address for Address {}

impl engine::Height for Height {
    const ZERO: Self = Self(0);
    const INITIAL: Self = Self(1);

    fn increment_by(&self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    fn decrement_by(&self, n: u64) -> Option<Self> {
        self.0.checked_sub(n).map(Self)
    }

    fn as_u64(&self) -> u64 {
        self.0
    }
}

/// A block is proposed by its header hash; the body travels apart.
impl engine::Value for Hash {
    type Id = Self;

    fn id(&self) -> Self {
        *self
    }
}

/// One voter of a height; all have the same weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Voter {
    pub(super) address: Address,
    pub(super) key: PublicKey,
}

impl engine::Validator<Context> for Voter {
    fn address(&self) -> &Address {
        &self.address
    }

    fn public_key(&self) -> &PublicKey {
        &self.key
    }

    fn voting_power(&self) -> VotingPower {
        1
    }
}

/// The voters of one height, ordered by node ID, and the order in which they propose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Voters {
    list: Arc<[Voter]>,
    /// Positions of those that take turns.
    active: Arc<[usize]>,
    /// Positions of those that propose when all others of a height have failed.
    silent: Arc<[usize]>,
}

impl Voters {
    /// Takes the voters of a height, in order of their node IDs, and who of them has been
    /// silent, at most a third.
    pub(super) fn new(set: &ValidatorSet, silent: &[NodeId]) -> Self {
        let voter = |v: &Validator| Voter { address: Address(v.node), key: v.vote_key };
        let list = set.voters().iter().map(voter).collect();
        let (silent, active) =
            (0..set.count()).partition::<Vec<_>, _>(|at| silent.contains(&set.voters()[*at].node));
        Self { list, active: active.into(), silent: silent.into() }
    }

    /// Whose turn it is. The first proposer moves on with each height, the next ones with each
    /// round; after as many rounds as there are voters it begins anew.
    fn proposer(&self, height: Height, round: u32) -> usize {
        let round = u64::from(round) % self.list.len().max(1) as u64;
        let active = self.active.len() as u64;
        match round.checked_sub(active) {
            Some(turn) => self.silent[turn as usize],
            None => self.active[(height.0.wrapping_add(round) % active) as usize],
        }
    }

    pub(super) fn key(&self, address: &Address) -> Option<&PublicKey> {
        let index = self.list.binary_search_by_key(address, |voter| voter.address).ok()?;
        Some(&self.list[index].key)
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }
}

impl engine::ValidatorSet<Context> for Voters {
    fn count(&self) -> usize {
        self.list.len()
    }

    fn total_voting_power(&self) -> VotingPower {
        self.list.len() as VotingPower
    }

    fn get_by_address(&self, address: &Address) -> Option<&Voter> {
        let index = self.list.binary_search_by_key(address, |voter| voter.address).ok()?;
        self.list.get(index)
    }

    fn get_by_index(&self, index: usize) -> Option<&Voter> {
        self.list.get(index)
    }
}

/// Bodies are one message; the engine never sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoPart;

impl engine::ProposalPart<Context> for NoPart {
    fn is_first(&self) -> bool {
        true
    }

    fn is_last(&self) -> bool {
        true
    }
}

/// A vote without its signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vote {
    pub(super) kind: VoteType,
    pub(super) height: Height,
    pub(super) round: Round,
    pub(super) value: NilOrVal<Hash>,
    pub(super) voter: Address,
}

impl engine::Vote<Context> for Vote {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &NilOrVal<Hash> {
        &self.value
    }

    fn take_value(self) -> NilOrVal<Hash> {
        self.value
    }

    fn vote_type(&self) -> VoteType {
        self.kind
    }

    fn validator_address(&self) -> &Address {
        &self.voter
    }

    fn extension(&self) -> Option<&SignedExtension<Context>> {
        None
    }

    fn take_extension(&mut self) -> Option<SignedExtension<Context>> {
        None
    }

    fn extend(self, _: SignedExtension<Context>) -> Self {
        self
    }
}

/// A proposal without its signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) height: Height,
    pub(super) round: Round,
    pub(super) value: Hash,
    pub(super) valid_round: Round,
    pub(super) proposer: Address,
}

impl engine::Proposal<Context> for Proposal {
    fn height(&self) -> Height {
        self.height
    }

    fn round(&self) -> Round {
        self.round
    }

    fn value(&self) -> &Hash {
        &self.value
    }

    fn take_value(self) -> Hash {
        self.value
    }

    fn pol_round(&self) -> Round {
        self.valid_round
    }

    fn validator_address(&self) -> &Address {
        &self.proposer
    }
}

/// ES256, as everywhere in the ledger; signing goes through the driver, never through here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scheme;

impl engine::SigningScheme for Scheme {
    type DecodingError = &'static str;
    type Signature = Signature;
    type PublicKey = PublicKey;
    type PrivateKey = ();

    fn decode_signature(bytes: &[u8]) -> Result<Signature, &'static str> {
        bytes.try_into().map(Signature::from_bytes).map_err(|_| "a signature has 64 bytes")
    }

    fn encode_signature(signature: &Signature) -> Vec<u8> {
        signature.as_bytes().to_vec()
    }

    fn decode_public_key(bytes: &[u8]) -> Result<PublicKey, &'static str> {
        PublicKey::from_sec1(bytes).map_err(|_| "not a P-256 point")
    }

    fn encode_public_key(key: &PublicKey) -> Vec<u8> {
        key.as_bytes().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::key;

    fn turns(silent: &[u8], height: u64) -> Vec<usize> {
        let voter = |i: u8| Validator { node: NodeId([i; 20]), vote_key: key(i).public_key() };
        let voters = (1..=4).map(voter).collect();
        let set = ValidatorSet::new(key(250).public_key(), voters).unwrap();
        let silent: Vec<_> = silent.iter().map(|i| NodeId([*i; 20])).collect();
        let voters = Voters::new(&set, &silent);
        (0..5).map(|round| voters.proposer(Height(height), round)).collect()
    }

    #[test]
    fn voters_take_turns_and_the_silent_come_last() {
        assert_eq!(turns(&[], 7), [3, 0, 1, 2, 3]);
        assert_eq!(turns(&[], 8), [0, 1, 2, 3, 0]);
        assert_eq!(turns(&[2], 7), [2, 3, 0, 1, 2], "voter 1 waits for the three others");
        assert_eq!(turns(&[2], 9), [0, 2, 3, 1, 0]);
    }
}
