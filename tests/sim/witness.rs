//! Sees everything that leaves any gateway, for ever, and compares.
//!
//! Each check panics with the words that its test below expects: a check that cannot fail shows
//! nothing.

use std::collections::{BTreeMap, BTreeSet};

use ledger::certificate::VoteType;
use ledger::codec::Decode;
use ledger::consensus::message::{Message, Vote};
use ledger::crypto::sha256;
use ledger::header::Header;
use ledger::ids::{Era, Hash, Height, NodeId};
use ledger::state::{Event, Standing};

/// Where one vote stands: voter, era, height, round, and whether it is a precommit.
type Place = (NodeId, Era, Height, u32, bool);

/// A block that was proposed, and the round from which it is proposed once more.
type Proposed = (Hash, Option<u32>);

/// Everything that was ever said and stored in a run.
#[derive(Default)]
pub(crate) struct Witness {
    /// Whose signatures prove nothing.
    pub(crate) liars: BTreeSet<NodeId>,
    votes: BTreeMap<Place, Option<Hash>>,
    proposals: BTreeMap<(NodeId, Era, Height, u32), Proposed>,
    /// Every block that was ever final.
    blocks: BTreeMap<(Era, Height), Hash>,
    /// Those that are on the record: of two at one height that of the later era.
    pub(crate) chain: BTreeMap<Height, (Era, Hash)>,
    /// Transactions of the blocks of the record.
    recorded: BTreeMap<Hash, Height>,
    /// The highest height that each gateway has stored.
    pub(crate) stored: BTreeMap<usize, Height>,
    /// Liveness epoch of each gateway that has had more than one.
    epochs: BTreeMap<NodeId, u32>,
    /// What a quorum of honest voters has said, and is not on the record yet.
    pub(crate) said: BTreeSet<Said>,
    fingerprint: u64,
    /// How often an honest gateway noticed two signed votes for one place.
    pub(crate) evidence: u64,
}

/// A statement of a quorum; good for one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Said {
    /// The gateway is silent in this liveness epoch.
    Silent(NodeId, u32),
    /// The gateway may come in.
    Welcome(NodeId),
    /// The gateway's attestation failed, or it voted twice.
    Guilty(NodeId),
}

impl Witness {
    pub(crate) fn new(liars: BTreeSet<NodeId>) -> Self {
        Self { liars, ..Self::default() }
    }

    /// What an honest gateway says, in its era; it may repeat what a liar signed.
    pub(crate) fn sent(&mut self, era: Era, bytes: &[u8]) {
        self.mix(bytes);
        match Message::from_bytes(bytes).expect("a gateway sends canonical messages") {
            Message::Vote(vote) => self.vote(era, &vote),
            Message::Justification(group) => {
                group.votes.iter().for_each(|vote| self.vote(era, vote));
            }
            Message::Proposal(proposal) if !self.liars.contains(&proposal.proposer) => {
                let place = (proposal.proposer, era, proposal.height, proposal.round);
                let said = (proposal.block, proposal.valid_round);
                let before = *self.proposals.entry(place).or_insert(said);
                assert_eq!(before, said, "two proposals for {place:?}");
            }
            _ => {}
        }
    }

    fn vote(&mut self, era: Era, vote: &Vote) {
        if self.liars.contains(&vote.voter) {
            return;
        }
        let precommit = vote.kind == VoteType::Precommit;
        let place = (vote.voter, era, vote.height, vote.round, precommit);
        let before = *self.votes.entry(place).or_insert(vote.block);
        assert_eq!(before, vote.block, "two votes for {place:?}");
    }

    /// A gateway has stored a block with these transactions.
    pub(crate) fn committed(
        &mut self,
        gateway: usize,
        header: &Header,
        receipts: &[(Hash, Vec<Event>)],
    ) {
        let (era, height, hash) = (header.era, header.height, header.hash());
        self.mix(&hash.0);
        let before = *self.blocks.entry((era, height)).or_insert(hash);
        assert_eq!(before, hash, "a fork at height {height} of era {era}");
        let stored = self.stored.entry(gateway).or_default();
        assert_eq!(height.0, stored.0 + 1, "gateway {gateway} left out a height");
        *stored = height;
        let newest = self.chain.last_key_value();
        let known = newest
            .is_some_and(|(newest, (last, _))| *last > era || *last == era && *newest >= height);
        if known {
            return;
        }
        // The first of its era leaves out what was above its parent.
        self.chain.split_off(&height);
        assert_eq!(self.chain.len() as u64, height.0 - 1, "a block without its parent");
        self.recorded.retain(|_, recorded| *recorded < height);
        self.chain.insert(height, (era, hash));
        for (transaction, events) in receipts {
            let twice = self.recorded.insert(*transaction, height);
            assert_eq!(twice, None, "transaction {transaction} is recorded twice");
            events.iter().for_each(|event| self.happened(event));
        }
    }

    /// What quorums decide is decided once for each time that they say so.
    fn happened(&mut self, event: &Event) {
        let needed = match event {
            Event::WentOffline { gateway } => {
                Said::Silent(*gateway, self.epochs.get(gateway).copied().unwrap_or(0))
            }
            Event::Admitted { gateway, .. } => Said::Welcome(*gateway),
            Event::StandingChanged { node, to: Standing::Suspended, .. } => Said::Guilty(*node),
            Event::CameOnline { gateway, epoch } => {
                self.epochs.insert(*gateway, *epoch);
                return;
            }
            _ => return,
        };
        assert!(self.said.remove(&needed), "nobody has said {needed:?}, or it was said before");
    }

    /// Whether a transaction is on the record.
    pub(crate) fn has_recorded(&self, transaction: &Hash) -> bool {
        self.recorded.contains_key(transaction)
    }

    /// Its state is the one that its newest header names.
    pub(crate) fn state(&self, gateway: usize, header: &Header, root: Hash, voters: Hash) {
        let named = (header.state_root, header.next_validators_hash);
        assert_eq!((root, voters), named, "gateway {gateway} has another state");
    }

    /// A gateway came back: everything that it had stored is there.
    pub(crate) fn restarted(&mut self, gateway: usize, tip: &Header) {
        let stored = self.stored.get(&gateway).copied().unwrap_or_default();
        let height = tip.height;
        assert!(height >= stored, "gateway {gateway} lost blocks above {height}, it had {stored}");
        if let Some(known) = self.blocks.get(&(tip.era, height)) {
            assert_eq!(*known, tip.hash(), "gateway {gateway} came back with another block");
        }
        // A block stored in the very step of the cut was never announced.
        self.stored.insert(gateway, height);
    }

    /// A gateway begins from what others sent: it must be what is on the record.
    pub(crate) fn founded(&mut self, gateway: usize, header: &Header) {
        let known = self.blocks.get(&(header.era, header.height));
        assert_eq!(known, Some(&header.hash()), "gateway {gateway} believed a forged snapshot");
        self.stored.insert(gateway, header.height);
    }

    /// Nothing but the heartbeat is due: `wake_ms` is asked for, at `heartbeat_ms` the voters
    /// make a block of nothing, and everybody else sleeps.
    pub(crate) fn idle(&self, gateway: usize, wake_ms: Option<u64>, heartbeat_ms: Option<u64>) {
        assert_eq!(wake_ms, heartbeat_ms, "gateway {gateway} is not idle");
    }

    pub(crate) fn mix(&mut self, bytes: &[u8]) {
        let mixed = sha256(&[&self.fingerprint.to_be_bytes(), bytes]);
        let first = mixed.0.first_chunk().expect("a hash is longer");
        self.fingerprint = u64::from_be_bytes(*first);
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

#[cfg(test)]
mod tests {
    use ledger::codec::Encode;
    use ledger::crypto::Signature;

    use super::*;
    use crate::site::Site;

    fn header(height: u64, time_ms: u64) -> Header {
        let genesis = Site::new(4).founding().header;
        Header { height: Height(height), time_ms, ..genesis }
    }

    fn vote(block: u8) -> Vec<u8> {
        let (kind, signature) = (VoteType::Prevote, Signature::from_bytes([0; 64]));
        let block = Some(Hash([block; 32]));
        let voter = NodeId([1; 20]);
        Message::Vote(Vote { kind, height: Height(3), round: 0, block, voter, signature })
            .to_bytes()
    }

    /// Runs what a check must notice, and looks at its words.
    fn noticed(words: &str, wrong: impl FnOnce() + std::panic::UnwindSafe) {
        let told = std::panic::catch_unwind(wrong).expect_err("nothing was noticed");
        let said = told.downcast_ref::<String>().cloned().unwrap_or_default();
        assert!(said.contains(words), "{said}");
    }

    #[test]
    fn what_is_right_passes() {
        let mut witness = Witness::default();
        witness.committed(0, &header(1, 1), &[]);
        witness.committed(1, &header(1, 1), &[]);
        witness.sent(Era(0), &vote(1));
        witness.sent(Era(0), &vote(1));
        witness.sent(Era(1), &vote(2));
        witness.restarted(0, &header(1, 1));
        witness.founded(2, &header(1, 1));
    }

    #[test]
    fn two_blocks_at_one_height_are_noticed() {
        noticed("a fork at height 1", || {
            let mut witness = Witness::default();
            witness.committed(0, &header(1, 1), &[]);
            witness.committed(1, &header(1, 2), &[]);
        });
    }

    #[test]
    fn a_height_that_is_left_out_is_noticed() {
        noticed("left out a height", || {
            let mut witness = Witness::default();
            witness.committed(0, &header(1, 1), &[]);
            witness.committed(0, &header(3, 3), &[]);
        });
    }

    #[test]
    fn two_votes_for_one_place_are_noticed() {
        noticed("two votes for", || {
            let mut witness = Witness::default();
            witness.sent(Era(0), &vote(1));
            witness.sent(Era(0), &vote(2));
        });
    }

    #[test]
    fn a_block_that_is_lost_is_noticed() {
        noticed("lost blocks above", || {
            let mut witness = Witness::default();
            witness.committed(0, &header(1, 1), &[]);
            witness.restarted(0, &header(0, 0));
        });
    }

    #[test]
    fn another_block_after_a_restart_is_noticed() {
        noticed("came back with another block", || {
            let mut witness = Witness::default();
            witness.committed(0, &header(1, 1), &[]);
            witness.restarted(0, &header(1, 2));
        });
    }

    #[test]
    fn a_transaction_that_is_recorded_twice_is_noticed() {
        noticed("is recorded twice", || {
            let mut witness = Witness::default();
            let receipt = [(Hash([7; 32]), vec![])];
            witness.committed(0, &header(1, 1), &receipt);
            witness.committed(0, &header(2, 2), &receipt);
        });
    }

    #[test]
    fn a_statement_that_counts_twice_is_noticed() {
        noticed("nobody has said Silent", || {
            let mut witness = Witness::default();
            let gateway = NodeId([1; 20]);
            witness.said.insert(Said::Silent(gateway, 0));
            let offline = |byte: u8| [(Hash([byte; 32]), vec![Event::WentOffline { gateway }])];
            witness.committed(0, &header(1, 1), &offline(1));
            witness.committed(0, &header(2, 2), &offline(2));
        });
    }

    #[test]
    fn another_state_is_noticed() {
        noticed("has another state", || {
            let header = header(1, 1);
            let root = Hash([9; 32]);
            Witness::default().state(0, &header, root, header.next_validators_hash);
        });
    }

    #[test]
    fn a_forged_snapshot_is_noticed() {
        noticed("believed a forged snapshot", || {
            let mut witness = Witness::default();
            witness.committed(0, &header(1, 1), &[]);
            witness.founded(1, &header(1, 2));
        });
    }

    #[test]
    fn a_timer_that_runs_while_idle_is_noticed() {
        noticed("is not idle", || {
            Witness::default().idle(0, Some(2_000), Some(60_000));
        });
    }
}
