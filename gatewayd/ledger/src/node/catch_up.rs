//! Going after those who are ahead: ranges of decided blocks, asked of one peer at a time.
//!
//! ```text
//! Tip, votes ─> who is ahead ─Fetch─> peer ─Decided─> one certificate, a chain of hashes
//!                   ^                                       │
//!                   └──── next question, before ────── executed and stored as one
//! ```
//!
//! The certificate of the last block makes all of them final, for each names its parent and one
//! set of voters certifies them all. A peer that answers wrongly or not at all is left out for a
//! while, longer each time, and the next one is asked.

use super::heights::{After, Done, Storing};
use super::peers::{Peer, Peers};
use super::recovery::is_recovery_block;
use super::{Behind, Decided, Effect, Fault, Node};
use crate::block::Block;
use crate::certificate::Certificate;
use crate::chain::{self, BlockError};
use crate::codec::{Decode, Encode};
use crate::consensus::message::{MAX_RANGE, Message};
use crate::ids::{Era, Height, NodeId};

/// A question to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) peer: NodeId,
    what: Question,
    /// When it counts as not answered.
    until_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// Blocks from this height on.
    Blocks(Height),
    /// The block that began the era after this one.
    Era(Era),
}

/// A block that is just being decided here is not asked for before this.
const PATIENCE_MS: u64 = 50;
/// An answer is awaited for this long, longer after failures: a slow link is no lie.
const ANSWER_MS: u64 = 1_000;
/// A peer that failed is left out for this long, doubled with each time.
const PAUSE_MS: u64 = 250;
/// Doublings of both.
const MAX_DOUBLINGS: u32 = 7;
/// After so many failures in a row the peer's claim is forgotten, until it makes it again.
const MAX_FAILURES: u32 = 8;
/// Blocks of the first question to a peer.
const FIRST_COUNT: u32 = 32;

impl Peers {
    /// The open question was not answered, or wrongly.
    pub(super) fn failed(&mut self, now_ms: u64) {
        let Some(Asked { peer, .. }) = self.asked.take() else {
            return;
        };
        if let Some(peer) = self.known.get_mut(&peer) {
            let pause = PAUSE_MS << peer.failures.min(MAX_DOUBLINGS);
            peer.ask_after_ms = now_ms.saturating_add(pause);
            peer.failures = peer.failures.saturating_add(1);
            peer.count = (peer.count / 4).max(1);
            if peer.failures % MAX_FAILURES == 0 {
                peer.tip = Default::default();
            }
        }
    }

    /// The peer's answer was good.
    pub(super) fn succeeded(&mut self, from: &NodeId) {
        self.asked.take_if(|asked| asked.peer == *from);
        if let Some(peer) = self.known.get_mut(from) {
            peer.failures = 0;
            peer.ask_after_ms = 0;
            peer.count = peer.count.max(FIRST_COUNT).saturating_mul(2).min(MAX_RANGE as u32);
        }
    }
}

impl Peer {
    /// What this peer can be asked by a node of this era that needs the block at `needed`.
    fn question(&self, era: Era, needed: Height) -> Option<Question> {
        let has = self.tip.height >= needed && self.tip.first <= needed;
        if self.tip.era > era {
            let known = self.next_era.is_some_and(|begins| begins > needed);
            return match known {
                true => has.then_some(Question::Blocks(needed)),
                false => Some(Question::Era(era)),
            };
        }
        has.then_some(Question::Blocks(needed))
    }
}

impl Node {
    /// The first block that is neither stored nor about to be.
    fn needed(&self) -> Height {
        self.storing.as_ref().map_or(self.next_height(), |storing| storing.height().next())
    }

    /// Asks a peer that is ahead, unless a question is open.
    pub(super) fn fetch_more(&mut self) {
        let (needed, era, now_ms) = (self.needed(), self.state.era(), self.now.mono_ms);
        if let Some(asked) = self.peers.asked {
            let moot = match asked.what {
                Question::Blocks(from) => from < needed,
                Question::Era(asked) => asked < era,
            };
            match moot {
                true => self.peers.asked = None,
                false if asked.until_ms > now_ms => return,
                false => self.peers.failed(now_ms),
            }
        }
        self.note_if_left_behind(needed);
        let Some(due_ms) = self.ask_due_ms() else {
            self.peers.behind_since_ms = None;
            return;
        };
        self.peers.behind_since_ms.get_or_insert(now_ms);
        if due_ms > now_ms {
            return;
        }
        let ready = self.peers.known.iter().filter(|(_, peer)| peer.ask_after_ms <= now_ms);
        let able = ready.filter_map(|(to, peer)| Some((*to, peer, peer.question(era, needed)?)));
        if let Some((to, peer, what)) = able.min_by_key(|(_, peer, _)| peer.failures) {
            let wait = ANSWER_MS << peer.failures.min(MAX_DOUBLINGS);
            let missing = peer.tip.height.0.saturating_sub(needed.0).saturating_add(1);
            let count = peer.count.max(FIRST_COUNT).min(missing.min(MAX_RANGE as u64) as u32);
            self.ask(Asked { peer: to, what, until_ms: now_ms + wait }, count);
        }
    }

    fn ask(&mut self, asked: Asked, count: u32) {
        let message = match asked.what {
            Question::Blocks(from) => Message::Fetch { from, count },
            Question::Era(era) => Message::FetchEra(era),
        };
        self.effects.push(Effect::Send { to: asked.peer, bytes: message.to_bytes() });
        self.peers.asked = Some(asked);
    }

    /// When the next question is due, if anybody can answer one.
    fn ask_due_ms(&self) -> Option<u64> {
        let (needed, era) = (self.needed(), self.state.era());
        let deciding = self.driver.running() == Some(needed);
        let due = |peer: &Peer| {
            let question = peer.question(era, needed)?;
            // This very block is being decided here: most often it comes by itself.
            let wait = deciding
                && !self.missing_body
                && question == Question::Blocks(needed)
                && peer.tip.height == needed;
            let since = self.peers.behind_since_ms.unwrap_or(self.now.mono_ms);
            let patience = if wait { since + PATIENCE_MS } else { 0 };
            Some(peer.ask_after_ms.max(patience))
        };
        self.peers.known.values().filter_map(due).min()
    }

    /// When to ask, or to ask somebody else.
    pub(super) fn ask_again_ms(&self) -> Option<u64> {
        match &self.peers.asked {
            Some(asked) => Some(asked.until_ms),
            None => self.ask_due_ms(),
        }
    }

    /// Everybody who is ahead has begun from a snapshot above the next block: blocks alone do
    /// not lead there.
    fn note_if_left_behind(&mut self, needed: Height) {
        let era = self.state.era();
        let mut ahead =
            self.peers.known.values().filter(|peer| peer.tip.height >= needed).peekable();
        let some = ahead.peek().is_some();
        let all = ahead.all(|peer| peer.tip.first > needed && peer.tip.era == era);
        if some && all && self.storing.is_none() && self.left_behind != Some(needed) {
            self.left_behind = Some(needed);
            let behind = Behind::NoBlocks { trusted: self.tip.header.clone() };
            self.effects.push(Effect::Behind(Box::new(behind)));
        }
    }

    /// Decided blocks of a peer, asked for or not.
    pub(super) fn decided_blocks(
        &mut self,
        from: NodeId,
        blocks: Vec<Vec<u8>>,
        certificate: Vec<u8>,
    ) {
        if self.storing.is_some() {
            return;
        }
        let parsed = parse(&blocks, &certificate);
        let asked = self.peers.asked.is_some_and(|asked| asked.peer == from);
        let good =
            parsed.is_some_and(|(blocks, certificate)| self.take_blocks(from, blocks, certificate));
        if !good && asked {
            self.peers.failed(self.now.mono_ms);
        }
        self.fetch_more();
    }

    /// Whether they were of use.
    fn take_blocks(&mut self, from: NodeId, blocks: Vec<Block>, certificate: Certificate) -> bool {
        let (next, first) = (self.next_height(), blocks[0].header.height);
        if is_recovery_block(&blocks[0]) {
            return self.take_recovery(from, blocks, certificate);
        }
        if first > next {
            // A block of the sole voter was lost on the way: what is missing is asked for.
            // The height is the peer's word, as high as it likes.
            let newest = Height(first.0.saturating_add(blocks.len() as u64 - 1));
            if let Some(peer) = self.peers.of(from) {
                peer.tip.height = peer.tip.height.max(newest);
            }
            return true;
        }
        if first < next {
            // Late, or told by two: neither good nor bad.
            return true;
        }
        if !self.is_decided(&blocks, &certificate) {
            return false;
        }
        self.peers.succeeded(&from);
        self.missing_body = false;
        match self.store_blocks(blocks, certificate) {
            Ok(()) => self.fetch_more(),
            Err((height, error)) => self.fail(Fault::Decided { height, error }),
        }
        true
    }

    /// Whether blocks on top of the tip are final: one certificate and a chain of hashes.
    fn is_decided(&self, blocks: &[Block], certificate: &Certificate) -> bool {
        let tip = &self.tip.header;
        let (mut parent, mut height) = (self.tip.hash, tip.height);
        for block in blocks {
            let header = &block.header;
            let follows = header.height == height.next()
                && header.parent_hash == parent
                && header.chain_id == tip.chain_id
                && header.era == self.state.era()
                && header.validators_hash == tip.next_validators_hash
                // A body that is not the header's is the peer's fault, and says nothing about
                // the block.
                && block.check_body().is_ok()
                && !is_recovery_block(block);
            if !follows {
                return false;
            }
            (parent, height) = (header.hash(), header.height);
        }
        let last = blocks.last().map(|block| &block.header);
        last.is_some_and(|header| certificate.verify(header, &self.validators).is_ok())
    }

    fn store_blocks(
        &mut self,
        mut blocks: Vec<Block>,
        certificate: Certificate,
    ) -> Result<(), (Height, BlockError)> {
        if blocks.len() > 1 {
            return self.store_range(blocks, certificate);
        }
        let Some(block) = blocks.pop() else {
            return Ok(());
        };
        let height = block.header.height;
        let known = self.candidates.remove(&block.header.hash());
        let candidate = match known {
            Some(candidate) => candidate,
            None => self.check_decided(block).map_err(|error| (height, error))?,
        };
        self.store(candidate, certificate);
        Ok(())
    }

    /// Executes blocks one after the other beside the state, and stores them as one.
    fn store_range(
        &mut self,
        blocks: Vec<Block>,
        certificate: Certificate,
    ) -> Result<(), (Height, BlockError)> {
        let mut certificates: Vec<Option<Certificate>> =
            blocks.iter().skip(1).map(|block| block.last_commit.clone()).collect();
        certificates.push(Some(certificate));
        let (mut state, mut tip) = (self.state.clone(), self.tip.clone());
        let (mut validators, mut certifiers) = (self.validators.clone(), self.certifiers.clone());
        let (mut decided, mut done) = (Vec::new(), Vec::new());
        for (block, certificate) in blocks.into_iter().zip(certificates) {
            let height = block.header.height;
            let mut outcome = chain::execute_decided(&state, &tip, &certifiers, &block)
                .map_err(|error| (height, error))?;
            let certificate = certificate.ok_or((height, BlockError::LastCommit))?;
            let next = outcome.validators.clone();
            let each = Decided::new(block, certificate, &mut outcome, &validators);
            done.push(Done::of(&each.block, &mut outcome));
            state.commit(outcome);
            tip = tip.advance(each.block.header.clone());
            certifiers = std::mem::replace(&mut validators, next);
            decided.push(each);
        }
        self.driver.leave();
        let certificate = decided.last().map(|each| each.certificate.clone());
        let after = After::Range(Box::new(state));
        self.storing = Some(Storing { done, after, tip, validators, certifiers, certificate });
        // Asked before the disk is waited for.
        self.fetch_more();
        self.effects.push(Effect::Store(decided));
        Ok(())
    }
}

/// Blocks and certificate, when there is at least one block and all can be read.
fn parse(blocks: &[Vec<u8>], certificate: &[u8]) -> Option<(Vec<Block>, Certificate)> {
    let blocks: Option<Vec<Block>> =
        blocks.iter().map(|bytes| Block::from_bytes(bytes).ok()).collect();
    let blocks = blocks.filter(|blocks| !blocks.is_empty())?;
    Some((blocks, Certificate::from_bytes(certificate).ok()?))
}
