//! Gateways that lie, each in its way: what an honest node underneath says is changed, doubled or
//! held back before it leaves.
//!
//! They hold their own keys and nobody else's. An adversary may sign anything; what it must not
//! be able to do is in `witness`.

use std::collections::BTreeMap;
use std::path::Path;

use ledger::block::Block;
use ledger::certificate::{VoteType, vote_digest};
use ledger::codec::{Decode, Encode};
use ledger::consensus::message::{Message, Proposal, Vote, proposal_digest};
use ledger::crypto::SigningKey;
use ledger::ids::{ChainId, Era, Hash, Height, NodeId};
use ledger::store::{SnapshotServer, Store};
use ledger::sync::wire::Request;
use ledger::transaction::{Author, Body, Draft, Transaction};
use tempfile::TempDir;

use crate::gateway::{copy_files, folder};
use crate::random::Random;

/// What kind of liar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Villain {
    /// Says one thing to half of the gateways and another to the other half, both signed.
    Equivocator,
    /// Proposes and votes, and keeps the bodies to itself or shows them to one gateway alone.
    Withholder,
    /// Answers whoever is behind with changed, cut or old bytes, and boasts of blocks.
    SyncLiar,
    /// Sends again whatever it ever heard.
    Replayer,
    /// Proposes blocks with a wrong root, of tomorrow, or with a transaction that fails.
    Forger,
    /// Takes what quorums once said (endorsements, offline statements, evidence) and submits it
    /// anew as its own, and whole transactions again.
    StatementReplayer,
    /// Serves newcomers the state of long ago as the newest, at times with a change of its own.
    StaleServer,
}

impl Villain {
    pub(crate) const ALL: [Self; 7] = [
        Self::Equivocator,
        Self::Withholder,
        Self::SyncLiar,
        Self::Replayer,
        Self::Forger,
        Self::StatementReplayer,
        Self::StaleServer,
    ];
}

/// One message to one gateway.
pub(crate) type Letter = (usize, Vec<u8>);

/// One dishonest gateway.
pub(crate) struct Adversary {
    villain: Villain,
    node: NodeId,
    key: SigningKey,
    chain: ChainId,
    /// The second block for each first one of its own.
    twins: BTreeMap<Hash, (Hash, Vec<u8>)>,
    heard: Vec<Vec<u8>>,
    /// Transactions in which a quorum has said something.
    statements: Vec<Transaction>,
    nonce: u64,
    /// The ledger as it was, with its folder.
    stale: Option<(SnapshotServer, TempDir)>,
}

/// Messages that a replayer remembers.
const MEMORY: usize = 400;
/// Nonces of its own, far above those of what the node underneath does.
const FIRST_NONCE: u64 = 1_000;
/// The height of the ledger that a stale server keeps.
const STALE_AT: Height = Height(2);

impl Adversary {
    pub(crate) fn new(villain: Villain, node: NodeId, key: SigningKey, chain: ChainId) -> Self {
        Self {
            villain,
            node,
            key,
            chain,
            twins: BTreeMap::new(),
            heard: Vec::new(),
            statements: Vec::new(),
            nonce: FIRST_NONCE,
            stale: None,
        }
    }

    /// Keeps what it hears.
    pub(crate) fn hears(&mut self, bytes: &[u8], random: &mut Random) {
        match self.villain {
            Villain::Replayer => self.remember(bytes, random),
            Villain::StatementReplayer => self.collect(bytes),
            _ => {}
        }
    }

    fn collect(&mut self, bytes: &[u8]) {
        let transactions = match Message::from_bytes(bytes) {
            Ok(Message::Transactions(list)) => {
                list.iter().filter_map(|bytes| Transaction::from_bytes(bytes).ok()).collect()
            }
            Ok(Message::Body { block, .. }) => {
                Block::from_bytes(&block).map(|block| block.transactions).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        for transaction in transactions {
            let known = |each: &Transaction| each.draft().body == transaction.draft().body;
            let of_a_quorum = matches!(
                transaction.draft().body,
                Body::Admit(_) | Body::Attest(_) | Body::Offline(_) | Body::Suspend(_)
            );
            if of_a_quorum && self.statements.len() < MEMORY && !self.statements.iter().any(known) {
                self.statements.push(transaction);
            }
        }
    }

    /// What it has collected, once more: as it was, or as an act of its own.
    fn restate(&mut self, to: &[usize], bytes: Vec<u8>, random: &mut Random) -> Vec<Letter> {
        let mut letters: Vec<_> = to.iter().map(|gateway| (*gateway, bytes.clone())).collect();
        if self.statements.is_empty() || random.percent(80) {
            return letters;
        }
        let old = &self.statements[random.below(self.statements.len() as u64) as usize];
        let again = if random.percent(30) {
            old.clone()
        } else {
            self.nonce += 1;
            let (author, nonce) = (Author::Node(self.node), self.nonce);
            Draft { author, nonce, expiry: u64::MAX, ..old.draft().clone() }.sign(&self.key)
        };
        let message = Message::Transactions(vec![again.to_bytes()]).to_bytes();
        letters.extend(to.iter().map(|gateway| (*gateway, message.clone())));
        letters
    }

    /// Keeps the ledger as it is now, to serve it for ever.
    pub(crate) fn keep_ledger(&mut self, height: Height, directory: &Path) {
        if self.villain == Villain::StaleServer && self.stale.is_none() && height >= STALE_AT {
            let copy = folder();
            copy_files(directory, copy.path());
            let server = Store::open(copy.path()).unwrap().snapshot_server();
            self.stale = Some((server, copy));
        }
    }

    /// Its own answer to a question for a snapshot, if it has one.
    pub(crate) fn answers(
        &mut self,
        now_ms: u64,
        bytes: &[u8],
        random: &mut Random,
    ) -> Option<Vec<u8>> {
        let (server, _) = self.stale.as_mut()?;
        let Ok(Message::SnapshotRequest(request)) = Message::from_bytes(bytes) else {
            return None;
        };
        let request = match request {
            Request::Newest { .. } => Request::Newest { at_least: Height::GENESIS },
            other => other,
        };
        let mut answer = Message::Snapshot(server.answer(now_ms, &request).unwrap()).to_bytes();
        if random.percent(20) {
            let at = random.below(answer.len() as u64) as usize;
            answer[at] ^= 1 << random.below(8);
        }
        Some(answer)
    }

    fn remember(&mut self, bytes: &[u8], random: &mut Random) {
        if self.heard.len() < MEMORY {
            self.heard.push(bytes.to_vec());
        } else {
            self.heard[random.below(MEMORY as u64) as usize] = bytes.to_vec();
        }
    }

    /// What leaves in place of an honest message to these gateways.
    pub(crate) fn says(
        &mut self,
        to: &[usize],
        bytes: Vec<u8>,
        random: &mut Random,
    ) -> Vec<Letter> {
        let message = Message::from_bytes(&bytes).unwrap();
        match self.villain {
            Villain::Equivocator => self.equivocate(to, bytes, message),
            Villain::Withholder => withhold(to, bytes, &message, random),
            Villain::SyncLiar => lie(to, bytes, &message, random),
            Villain::Replayer => self.replay(to, bytes, random),
            Villain::Forger => self.forge(to, bytes, message, random),
            Villain::StatementReplayer => self.restate(to, bytes, random),
            Villain::StaleServer => to.iter().map(|to| (*to, bytes.clone())).collect(),
        }
    }

    fn equivocate(&mut self, to: &[usize], bytes: Vec<u8>, message: Message) -> Vec<Letter> {
        let other = match message {
            Message::Vote(vote) => Some(Message::Vote(self.other_vote(vote))),
            Message::Body { height, round, block } => {
                let mut twin = Block::from_bytes(&block).unwrap();
                let first = twin.header.hash();
                twin.header.time_ms += 1;
                let (hash, block) = (twin.header.hash(), twin.to_bytes());
                self.twins.insert(first, (hash, block.clone()));
                Some(Message::Body { height, round, block })
            }
            Message::Proposal(proposal) => self.other_proposal(proposal).map(Message::Proposal),
            _ => None,
        };
        let other = other.map_or_else(|| bytes.clone(), |message| message.to_bytes());
        let pick = |gateway: &usize| {
            (*gateway, if gateway.is_multiple_of(2) { bytes.clone() } else { other.clone() })
        };
        to.iter().map(pick).collect()
    }

    fn other_vote(&self, vote: Vote) -> Vote {
        let twin = vote.block.and_then(|block| self.twins.get(&block)).map(|(hash, _)| *hash);
        let block = match (vote.block, twin) {
            (Some(_), twin) => twin,
            (None, _) => Some(Hash([0x66; 32])),
        };
        self.sign_vote(Vote { block, ..vote })
    }

    fn sign_vote(&self, vote: Vote) -> Vote {
        let Vote { kind, height, round, block, .. } = vote;
        let digest = vote_digest(&self.chain, Era(0), kind, height, round, block.as_ref());
        Vote { signature: self.key.sign_digest(&digest), ..vote }
    }

    fn other_proposal(&self, proposal: Proposal) -> Option<Proposal> {
        let (block, _) = self.twins.get(&proposal.block)?;
        Some(self.sign_proposal(Proposal { block: *block, ..proposal }))
    }

    fn sign_proposal(&self, proposal: Proposal) -> Proposal {
        let Proposal { height, round, block, valid_round, .. } = proposal;
        let digest = proposal_digest(&self.chain, Era(0), height, round, &block, valid_round);
        Proposal { signature: self.key.sign_digest(&digest), ..proposal }
    }

    fn replay(&mut self, to: &[usize], bytes: Vec<u8>, random: &mut Random) -> Vec<Letter> {
        let mut letters: Vec<_> = to.iter().map(|gateway| (*gateway, bytes.clone())).collect();
        for gateway in to {
            if !self.heard.is_empty() && random.percent(50) {
                let old = random.below(self.heard.len() as u64) as usize;
                letters.push((*gateway, self.heard[old].clone()));
            }
        }
        self.remember(&bytes, random);
        letters
    }

    fn forge(
        &mut self,
        to: &[usize],
        bytes: Vec<u8>,
        message: Message,
        random: &mut Random,
    ) -> Vec<Letter> {
        let forged = match message {
            Message::Body { height, round, block } => {
                let mut wrong = Block::from_bytes(&block).unwrap();
                let first = wrong.header.hash();
                spoil(&mut wrong, random);
                let (hash, block) = (wrong.header.hash(), wrong.to_bytes());
                self.twins.insert(first, (hash, block.clone()));
                Message::Body { height, round, block }
            }
            Message::Proposal(proposal) => match self.other_proposal(proposal) {
                Some(other) => Message::Proposal(other),
                None => Message::Proposal(proposal),
            },
            // It stands by its block.
            Message::Vote(vote) if vote.kind == VoteType::Prevote => {
                let twin = vote.block.and_then(|block| self.twins.get(&block));
                let block = twin.map_or(vote.block, |(hash, _)| Some(*hash));
                Message::Vote(self.sign_vote(Vote { block, ..vote }))
            }
            _ => return to.iter().map(|gateway| (*gateway, bytes.clone())).collect(),
        };
        let bytes = forged.to_bytes();
        to.iter().map(|gateway| (*gateway, bytes.clone())).collect()
    }
}

fn spoil(block: &mut Block, random: &mut Random) {
    match random.below(4) {
        0 => block.header.state_root = Hash([0x99; 32]),
        1 => block.header.time_ms += 86_400_000,
        2 => {
            // The first transaction once more: its nonce is used.
            block.transactions.extend(block.transactions.first().cloned());
            block.header.tx_root = Block::tx_root(&block.transactions);
            block.header.tx_count = block.transactions.len() as u32;
        }
        _ => block.last_commit = None,
    }
}

fn withhold(to: &[usize], bytes: Vec<u8>, message: &Message, random: &mut Random) -> Vec<Letter> {
    let hidden = matches!(message, Message::Body { .. } | Message::Decided { .. });
    let all = to.iter().map(|gateway| (*gateway, bytes.clone()));
    match (hidden, random.percent(50)) {
        (false, _) => all.collect(),
        (true, true) => Vec::new(),
        (true, false) => all.take(1).collect(),
    }
}

fn lie(to: &[usize], mut bytes: Vec<u8>, message: &Message, random: &mut Random) -> Vec<Letter> {
    let honest = matches!(
        message,
        Message::Vote(_)
            | Message::Proposal(_)
            | Message::Justification(_)
            | Message::Body { .. }
            | Message::Transactions(_)
    );
    if !honest {
        match random.below(3) {
            0 => bytes.truncate(random.below(bytes.len() as u64) as usize),
            _ => {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
        }
    }
    to.iter().map(|gateway| (*gateway, bytes.clone())).collect()
}
