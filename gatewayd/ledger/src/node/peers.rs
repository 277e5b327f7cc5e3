//! Messages of peers: what concerns this height goes to the engine, who is behind is told, and
//! who is ahead is asked (`catch_up`).
//!
//! Everything here is unverified until the engine or a certificate says otherwise; every store of
//! it has a bound a peer.

use std::collections::BTreeMap;

use super::catch_up::Asked;
use super::early::{Early, EarlyBody};
use super::{Effect, Node};
use crate::certificate::VoteType;
use crate::codec::Encode;
use crate::consensus::message::{self, MAX_RANGE, Message, PeerTip};
use crate::header::Header;
use crate::ids::{Era, Height, NodeId};
use crate::validator_set::MAX_VOTERS;

/// What is remembered about peers.
#[derive(Debug, Default)]
pub(super) struct Peers {
    pub(super) known: BTreeMap<NodeId, Peer>,
    /// Bodies of heights that have not begun here.
    pub(super) early: Early,
    /// The question that is open.
    pub(super) asked: Option<Asked>,
    /// Since when somebody is known to be ahead.
    pub(super) behind_since_ms: Option<u64>,
}

/// One peer.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// How far it is, as far as it says.
    pub(super) tip: PeerTip,
    /// Where the era after this node's begins, when that is above this node's tip.
    pub(super) next_era: Option<Height>,
    /// Questions that it left open or answered wrongly since the last good answer.
    pub(super) failures: u32,
    /// It is not asked before this.
    pub(super) ask_after_ms: u64,
    /// Blocks that it is asked for at once; grows with good answers.
    pub(super) count: u32,
    /// Bodies taken from it at this height.
    bodies: u32,
    /// When it was last helped, and from which height on.
    served: Option<(Height, u64)>,
    /// When it was last told how far this node is.
    told_ms: Option<u64>,
    /// When it was last told which of its votes are known here.
    pub(super) votes_told_ms: Option<u64>,
}

/// Bodies of one peer at one height: a proposer sends one a round, and again after a lock.
const MAX_BODIES: u32 = 8;
/// Between two answers to one peer about one height.
const SERVE_AGAIN_MS: u64 = 500;
/// Between two answers to a peer that says it is behind.
const TELL_AGAIN_MS: u64 = 500;
/// A vote for a decided height is late before this, and the voter behind after it.
const LATE_MS: u64 = 250;

impl Peers {
    pub(super) fn of(&mut self, node: NodeId) -> Option<&mut Peer> {
        // Peers are members, whose number is bounded; the bound here is for safety alone.
        if self.known.len() >= 2 * MAX_VOTERS && !self.known.contains_key(&node) {
            return None;
        }
        Some(self.known.entry(node).or_default())
    }

    /// The connection to it has ended, and with it what it said.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.known.remove(node);
        self.asked.take_if(|asked| asked.peer == *node);
    }

    /// Whoever is asked for blocks, and the newest block that anybody claims.
    pub(super) fn source(&self, own: Height) -> (Option<NodeId>, Height) {
        let newest = self.known.values().map(|peer| peer.tip.height).max().unwrap_or(own);
        let from = self.asked.as_ref().map(|asked| asked.peer);
        (from.filter(|_| newest > own), newest)
    }

    pub(super) fn stored(&mut self, height: Height) {
        self.known.values_mut().for_each(|peer| peer.bodies = 0);
        self.early.decided(height);
        self.behind_since_ms = None;
    }

    /// The block of this height was decided without its body reaching this node.
    pub(super) fn all_have(&mut self, height: Height) {
        for peer in self.known.values_mut() {
            peer.tip.height = peer.tip.height.max(height);
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
            Message::Transactions(list) => self.take_gossip(list),
            Message::Fetch { from: height, count } => self.serve(from, height, count),
            Message::Decided { blocks, certificate } => {
                self.decided_blocks(from, blocks, certificate)
            }
            Message::Tip(tip) => self.peer_tip(from, tip),
            Message::FetchEra(era) => self.serve_era(from, era),
            Message::AskVotes => self.serve_votes(from),
            Message::KnownVotes { tip, votes } => self.take_known_votes(from, tip, &votes),
            Message::SnapshotRequest(request) => {
                self.effects.push(Effect::ServeSnapshot { to: from, request });
            }
            // Parts of a snapshot are for a gateway that has no node yet.
            _ => {}
        }
    }

    pub(super) fn peer_up(&mut self, peer: NodeId) {
        // Whatever it said before belongs to a connection that is gone.
        self.peers.forget(&peer);
        self.tell(peer);
        if self.is_in_doubt() {
            let bytes = Message::AskVotes.to_bytes();
            self.effects.push(Effect::Send { to: peer, bytes });
        }
    }

    /// Tells a peer how far this node is.
    fn tell(&mut self, to: NodeId) {
        let now_ms = self.now.mono_ms;
        let bytes = Message::Tip(self.own_tip()).to_bytes();
        if let Some(peer) = self.peers.of(to)
            && peer.told_ms.is_none_or(|when| now_ms.saturating_sub(when) >= TELL_AGAIN_MS)
        {
            peer.told_ms = Some(now_ms);
            self.effects.push(Effect::Send { to, bytes });
        }
    }

    pub(super) fn own_tip(&self) -> PeerTip {
        let Header { height, era, .. } = self.tip.header;
        PeerTip { height, era, first: self.first }
    }

    fn peer_tip(&mut self, from: NodeId, tip: PeerTip) {
        let own = self.own_tip();
        let Some(peer) = self.peers.of(from) else {
            return;
        };
        peer.tip = tip;
        if (tip.era, tip.height) < (own.era, own.height) {
            self.tell(from);
        }
        self.fetch_more();
    }

    fn consensus_message(&mut self, from: NodeId, height: Height, message: Message) {
        let next = self.next_height();
        if height < next {
            self.late_precommit(&message);
            return self.help_late(from, height);
        }
        if let Some(peer) = self.peers.of(from) {
            let decided = Height(height.0.saturating_sub(1));
            peer.tip.height = peer.tip.height.max(decided);
        }
        let storing = self.storing.is_some();
        let at = if storing { next.next() } else { next };
        if height > at {
            self.fetch_more();
        }
        if height > at.next() {
            return;
        }
        if let Message::Body { round, block, .. } = message {
            return self.body(from, height, round, block);
        }
        if height == at && self.driver.running().is_none() {
            // It has not begun here, and what nobody who votes on it has signed does not begin it.
            if !self.is_signed_by_a_voter(&message) {
                return;
            }
            self.called = true;
            self.start_if_due();
        }
        self.drive(|driver, now| driver.message(now.mono_ms, &message));
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
        } else {
            self.peers.early.keep(EarlyBody { from, height, round, block });
        }
    }

    /// The bodies that came before their height began.
    pub(super) fn take_early_bodies(&mut self) {
        let Some(running) = self.driver.running() else {
            return;
        };
        for EarlyBody { round, block, .. } in self.peers.early.take(running) {
            if self.driver.running() == Some(running) {
                self.judge(round, &block);
            }
        }
    }

    /// A precommit that came after the decision joins the certificate, so that the next block
    /// shows that its voter takes part.
    fn late_precommit(&mut self, message: &Message) {
        let Message::Vote(vote) = message else {
            return;
        };
        let decided = vote.kind == VoteType::Precommit && vote.block == Some(self.tip.hash);
        if let Some(certificate) = self.certificate.as_mut().filter(|_| decided) {
            certificate.add(vote, &self.tip.header, &self.certifiers);
        }
    }

    /// A vote for a decided height: once that is old, its sender is behind.
    fn help_late(&mut self, from: NodeId, height: Height) {
        let old = height < self.tip.header.height
            || self.now.mono_ms.saturating_sub(self.tip_since_ms) >= LATE_MS;
        if old {
            self.tell(from);
        }
    }

    fn serve(&mut self, to: NodeId, from: Height, count: u32) {
        if from > self.tip.header.height || from < self.first {
            let message = Message::Decided { blocks: Vec::new(), certificate: Vec::new() };
            return self.effects.push(Effect::Send { to, bytes: message.to_bytes() });
        }
        let now_ms = self.now.mono_ms;
        let Some(peer) = self.peers.of(to) else {
            return;
        };
        let again = peer.served.is_some_and(|(served, when)| {
            served == from && now_ms.saturating_sub(when) < SERVE_AGAIN_MS
        });
        if !again {
            peer.served = Some((from, now_ms));
            let count = (count as usize).clamp(1, MAX_RANGE);
            self.effects.push(Effect::Serve { to, from, count });
        }
    }

    fn serve_era(&mut self, to: NodeId, after: Era) {
        let recoveries = &self.state.site().recoveries;
        if let Some(recovery) = recoveries.iter().find(|recovery| recovery.era > after) {
            let height = recovery.height;
            self.serve(to, height, 1);
        }
    }
}
