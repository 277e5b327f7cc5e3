//! Sees everything that leaves any gateway, for ever, and compares.

use std::collections::{BTreeMap, BTreeSet};

use ledger::certificate::VoteType;
use ledger::codec::Decode;
use ledger::consensus::message::{Message, Vote};
use ledger::ids::{Hash, Height, NodeId};

/// Everything that was ever said and stored in a run.
#[derive(Default)]
pub(crate) struct Witness {
    /// Whose signatures prove nothing.
    liars: BTreeSet<NodeId>,
    votes: BTreeMap<(NodeId, Height, u32, bool), Option<Hash>>,
    proposals: BTreeMap<(NodeId, Height, u32), (Hash, Option<u32>)>,
    /// Header hash of each height, as the first gateway stored it.
    pub(crate) chain: BTreeMap<Height, Hash>,
    /// The highest height that each gateway has stored.
    pub(crate) stored: BTreeMap<usize, Height>,
    fingerprint: u64,
    /// How often an honest gateway noticed two signed votes for one place.
    pub(crate) evidence: u64,
}

impl Witness {
    pub(crate) fn new(liars: BTreeSet<NodeId>) -> Self {
        Self { liars, ..Self::default() }
    }

    /// What an honest gateway says; it may repeat what a liar signed.
    pub(crate) fn sent(&mut self, bytes: &[u8]) {
        self.mix(bytes);
        match Message::from_bytes(bytes).expect("a gateway sends canonical messages") {
            Message::Vote(vote) => self.vote(&vote),
            Message::Justification(group) => group.votes.iter().for_each(|vote| self.vote(vote)),
            Message::Proposal(proposal) if !self.liars.contains(&proposal.proposer) => {
                let place = (proposal.proposer, proposal.height, proposal.round);
                let said = (proposal.block, proposal.valid_round);
                let before = *self.proposals.entry(place).or_insert(said);
                assert_eq!(before, said, "two proposals for {place:?}");
            }
            _ => {}
        }
    }

    fn vote(&mut self, vote: &Vote) {
        if self.liars.contains(&vote.voter) {
            return;
        }
        let precommit = vote.kind == VoteType::Precommit;
        let place = (vote.voter, vote.height, vote.round, precommit);
        let before = *self.votes.entry(place).or_insert(vote.block);
        assert_eq!(before, vote.block, "two votes for {place:?}");
    }

    pub(crate) fn committed(&mut self, gateway: usize, height: Height, hash: Hash) {
        self.mix(&hash.0);
        let before = *self.chain.entry(height).or_insert(hash);
        assert_eq!(before, hash, "a fork at height {height}");
        let stored = self.stored.entry(gateway).or_default();
        assert_eq!(height.0, stored.0 + 1, "gateway {gateway} left out a height");
        *stored = height;
    }

    /// A gateway came back: everything that it had stored is there.
    pub(crate) fn restarted(&self, gateway: usize, tip: Height, hash: Hash) {
        let stored = self.stored.get(&gateway).copied().unwrap_or_default();
        assert!(tip >= stored, "gateway {gateway} lost blocks above {tip}, it had {stored}");
        if let Some(known) = self.chain.get(&tip) {
            assert_eq!(*known, hash, "gateway {gateway} came back with another block");
        }
    }

    pub(crate) fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            // FNV-1a, 64 bits.
            self.fingerprint = (self.fingerprint ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}
