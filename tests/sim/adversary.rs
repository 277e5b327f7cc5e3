//! Gateways that lie, each in its way: what an honest node underneath says is changed, doubled or
//! held back before it leaves.
//!
//! They hold their own keys and nobody else's. An adversary may sign anything; what it must not
//! be able to do is in `witness`.

use std::collections::BTreeMap;

use ledger::block::Block;
use ledger::certificate::{VoteType, vote_digest};
use ledger::codec::{Decode, Encode};
use ledger::consensus::message::{Message, Proposal, Vote, proposal_digest};
use ledger::crypto::SigningKey;
use ledger::ids::{ChainId, Era, Hash};

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
}

impl Villain {
    pub(crate) const ALL: [Self; 5] =
        [Self::Equivocator, Self::Withholder, Self::SyncLiar, Self::Replayer, Self::Forger];
}

/// One message to one gateway.
pub(crate) type Letter = (usize, Vec<u8>);

/// One dishonest gateway.
pub(crate) struct Adversary {
    villain: Villain,
    key: SigningKey,
    chain: ChainId,
    /// The second block for each first one of its own.
    twins: BTreeMap<Hash, (Hash, Vec<u8>)>,
    heard: Vec<Vec<u8>>,
}

/// Messages that a replayer remembers.
const MEMORY: usize = 400;

impl Adversary {
    pub(crate) fn new(villain: Villain, key: SigningKey, chain: ChainId) -> Self {
        Self { villain, key, chain, twins: BTreeMap::new(), heard: Vec::new() }
    }

    /// Keeps what it hears.
    pub(crate) fn hears(&mut self, bytes: &[u8], random: &mut Random) {
        if self.villain != Villain::Replayer {
            return;
        }
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
        self.hears(&bytes, random);
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
