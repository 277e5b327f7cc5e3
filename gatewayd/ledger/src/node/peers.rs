//! Messages of peers: what concerns this height goes to the engine, who is behind is helped, and
//! who is ahead is asked.
//!
//! Everything here is unverified until the engine or a certificate says otherwise; every store of
//! it has a bound a peer.

use std::collections::BTreeMap;

use super::{Effect, Fault, Node};
use crate::block::Block;
use crate::certificate::Certificate;
use crate::codec::{Decode, Encode};
use crate::consensus::message::{self, Message, PeerTip};
use crate::header::Header;
use crate::ids::{Height, NodeId};
use crate::transaction::Transaction;
use crate::validator_set::MAX_VOTERS;

/// What is remembered about peers.
#[derive(Debug, Default)]
pub(super) struct Peers {
    known: BTreeMap<NodeId, Peer>,
    /// Bodies for the height above the next one, which came while a block was being stored.
    early: Vec<EarlyBody>,
}

#[derive(Debug, Default)]
struct Peer {
    /// Highest height that it takes part in.
    height: Height,
    /// Bodies taken from it at this height.
    bodies: u32,
    /// When it was last helped, and with which height.
    served: Option<(Height, u64)>,
    /// When it was last asked.
    asked_ms: Option<u64>,
    /// When it was last told how far this node is.
    told_ms: Option<u64>,
}

#[derive(Debug)]
struct EarlyBody {
    height: Height,
    round: u32,
    block: Vec<u8>,
}

/// Bodies of one peer at one height: a proposer sends one a round, and again after a lock.
const MAX_BODIES: u32 = 8;
/// Bodies kept for the height after the next.
const MAX_EARLY: usize = 4;
/// Between two answers to one peer about one height.
const SERVE_AGAIN_MS: u64 = 1_000;
/// Between two questions to one peer.
const ASK_AGAIN_MS: u64 = 250;
/// Between two answers to a peer that says it is behind.
const TELL_AGAIN_MS: u64 = 1_000;
/// A vote for a decided height is late before this, and the voter behind after it.
const LATE_MS: u64 = 1_000;

impl Peers {
    fn of(&mut self, node: NodeId) -> Option<&mut Peer> {
        // Peers are members, whose number is bounded; the bound here is for safety alone.
        if self.known.len() >= 2 * MAX_VOTERS && !self.known.contains_key(&node) {
            return None;
        }
        Some(self.known.entry(node).or_default())
    }

    /// The connection to it has ended, and with it what it said.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.known.remove(node);
    }

    /// Who was asked last of those above `height`, and the newest block that anybody claims.
    pub(super) fn source(&self, height: Height) -> (Option<NodeId>, Height) {
        let ahead = self.known.iter().filter(|(_, peer)| peer.height > height.next());
        let newest = ahead.clone().map(|(_, peer)| Height(peer.height.0 - 1)).max();
        let asked = ahead.filter(|(_, peer)| peer.asked_ms.is_some());
        let from = asked.max_by_key(|(_, peer)| peer.asked_ms).map(|(node, _)| *node);
        (from, newest.unwrap_or(height))
    }

    pub(super) fn stored(&mut self, height: Height) {
        self.known.values_mut().for_each(|peer| peer.bodies = 0);
        self.early.retain(|body| body.height > height);
    }

    /// The block of this height was decided without its body reaching this node.
    pub(super) fn fetch_from_all(&mut self, height: Height) {
        for peer in self.known.values_mut() {
            peer.height = peer.height.max(height.next());
        }
    }
}

impl Node {
    pub(super) fn message(&mut self, from: NodeId, bytes: &[u8]) {
        // Bytes that are no message say that the peer runs something else; the transport counts.
        let Ok(message) = message::parse(bytes) else {
            return;
        };
        if let Some(height) = message.height() {
            return self.consensus_message(from, height, message);
        }
        match message {
            Message::Transactions(list) => {
                for bytes in list {
                    // Refused here is no news to anybody: the author's gateway tells the author.
                    if let Ok(transaction) = Transaction::from_bytes(&bytes) {
                        let _ = self.accept(transaction, false);
                    }
                }
            }
            Message::Fetch(height) => self.serve(from, height),
            Message::Decided { block, certificate } => self.follow(from, &block, &certificate),
            Message::Tip(tip) => self.peer_tip(from, tip),
            _ => {}
        }
    }

    pub(super) fn peer_up(&mut self, peer: NodeId) {
        // Whatever it said before belongs to a connection that is gone.
        self.peers.forget(&peer);
        self.tell(peer);
    }

    /// Tells a peer how far this node is.
    fn tell(&mut self, to: NodeId) {
        let now_ms = self.now.mono_ms;
        if let Some(peer) = self.peers.of(to) {
            peer.told_ms = Some(now_ms);
            let bytes = Message::Tip(self.own_tip()).to_bytes();
            self.effects.push(Effect::Send { to, bytes });
        }
    }

    pub(super) fn own_tip(&self) -> PeerTip {
        let Header { height, era, .. } = self.tip.header;
        PeerTip { height, era, first: self.first }
    }

    fn peer_tip(&mut self, from: NodeId, tip: PeerTip) {
        let (own, now_ms) = (self.tip.header.height, self.now.mono_ms);
        let Some(peer) = self.peers.of(from) else {
            return;
        };
        peer.height = tip.height.next();
        let told = |when| now_ms.saturating_sub(when) < TELL_AGAIN_MS;
        if tip.height < own && !peer.told_ms.is_some_and(told) {
            self.tell(from);
        }
        self.fetch_more();
    }

    fn consensus_message(&mut self, from: NodeId, height: Height, message: Message) {
        let next = self.next_height();
        if height < next {
            return self.help_late(from, height);
        }
        if let Some(peer) = self.peers.of(from) {
            peer.height = peer.height.max(height);
        }
        let storing = self.storing.is_some();
        let at = if storing { next.next() } else { next };
        if height > at {
            self.fetch_more();
        }
        if height > at.next() {
            return;
        }
        if height == at && !storing && self.driver.running().is_none() {
            self.called = true;
            self.start_if_due();
        }
        match message {
            Message::Body { round, block, .. } => self.body(from, height, round, block),
            message => self.drive(|driver, now| driver.message(now.mono_ms, &message)),
        }
    }

    fn body(&mut self, from: NodeId, height: Height, round: u32, block: Vec<u8>) {
        let Some(peer) = self.peers.of(from) else {
            return;
        };
        if peer.bodies >= MAX_BODIES {
            return;
        }
        peer.bodies += 1;
        if self.driver.running() == Some(height) {
            self.judge(round, &block);
        } else if self.peers.early.len() < MAX_EARLY {
            self.peers.early.push(EarlyBody { height, round, block });
        }
    }

    /// The bodies that came before their height began.
    pub(super) fn take_early_bodies(&mut self) {
        let Some(running) = self.driver.running() else {
            return;
        };
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.peers.early).into_iter().partition(|b| b.height == running);
        self.peers.early = later;
        for EarlyBody { round, block, .. } in now {
            if self.driver.running() == Some(running) {
                self.judge(round, &block);
            }
        }
    }

    /// A vote for a decided height: once that is old, its sender is behind.
    fn help_late(&mut self, from: NodeId, height: Height) {
        let old = height < self.tip.header.height
            || self.now.mono_ms.saturating_sub(self.tip_since_ms) >= LATE_MS;
        if old {
            self.serve(from, height);
        }
    }

    fn serve(&mut self, to: NodeId, height: Height) {
        if height > self.tip.header.height || height == Height::GENESIS {
            return;
        }
        let now_ms = self.now.mono_ms;
        let Some(peer) = self.peers.of(to) else {
            return;
        };
        let again = peer.served.is_some_and(|(served, when)| {
            served == height && now_ms.saturating_sub(when) < SERVE_AGAIN_MS
        });
        if !again {
            peer.served = Some((height, now_ms));
            self.effects.push(Effect::Serve { to, height });
        }
    }

    /// Asks a peer that is ahead for the next block.
    pub(super) fn fetch_more(&mut self) {
        if self.storing.is_some() {
            return;
        }
        let (next, now_ms) = (self.next_height(), self.now.mono_ms);
        let ready = |peer: &Peer| {
            peer.height > next
                && peer.asked_ms.is_none_or(|when| now_ms.saturating_sub(when) >= ASK_AGAIN_MS)
        };
        let ahead = self.peers.known.iter_mut().find(|(_, peer)| ready(peer));
        if let Some((to, peer)) = ahead {
            peer.asked_ms = Some(now_ms);
            let bytes = Message::Fetch(next).to_bytes();
            self.effects.push(Effect::Send { to: *to, bytes });
        }
    }

    /// When to ask again while a peer is ahead: question or answer may have been lost.
    pub(super) fn ask_again_ms(&self) -> Option<u64> {
        let next = self.next_height();
        let ahead = self.peers.known.values().filter(|peer| peer.height > next);
        ahead.map(|peer| peer.asked_ms.map_or(self.now.mono_ms, |when| when + ASK_AGAIN_MS)).min()
    }

    /// A decided block: verified by its certificate, executed, stored.
    fn follow(&mut self, from: NodeId, block: &[u8], certificate: &[u8]) {
        let (Ok(block), Ok(certificate)) =
            (Block::from_bytes(block), Certificate::from_bytes(certificate))
        else {
            return;
        };
        let next = self.next_height();
        if block.header.height > next {
            // A block of the sole voter was lost on the way: ask for what is missing.
            if let Some(peer) = self.peers.of(from) {
                peer.height = peer.height.max(block.header.height.next());
            }
            return self.fetch_more();
        }
        // A body that is not the header's is the peer's fault, and says nothing about the block.
        if self.storing.is_some() || block.header.height != next || block.check_body().is_err() {
            return;
        }
        if super::recovery::is_recovery_block(&block) {
            return self.follow_recovery(block, certificate);
        }
        if certificate.verify(&block.header, &self.validators).is_err() {
            return;
        }
        let height = block.header.height;
        let hash = block.header.hash();
        let known = self.candidates.remove(&hash);
        match known.map_or_else(|| self.check(block), Ok) {
            Ok(candidate) => {
                // The next block may be asked for as soon as this one is stored.
                self.peers.known.values_mut().for_each(|peer| peer.asked_ms = None);
                self.missing_body = false;
                self.store(candidate, certificate);
            }
            Err(error) => self.fail(Fault::Decided { height, error }),
        }
    }
}
