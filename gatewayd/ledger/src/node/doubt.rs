//! After a stop that was not clean the disk may be an older copy of itself: its log then lacks
//! votes that have left. So a voter that is in doubt signs nothing, and begins no height, before
//! a quorum of the voters has said which of its votes they know.
//!
//! ```text
//! AskVotes ─> each member ─KnownVotes─> its own signatures: not in the log? silent there
//!                                       a quorum has answered? what is decided is passed in
//!                                       silence, and on the next height it votes again
//! ```
//!
//! Nobody can lie a voter silent: the votes are its own, and of the heights that are said to be
//! decided the one counts that an honest voter has reached. Whatever rests on a vote is on the
//! disk of an honest voter, and without a quorum nothing is decided anyway: the wait costs
//! nothing, also when all gateways come back at once.

use std::collections::BTreeMap;

use super::{Effect, Node};
use crate::certificate::{Signers, VoteType};
use crate::codec::Encode;
use crate::consensus::message::{MAX_KNOWN_VOTES, Message, PeerTip};
use crate::consensus::record::Record;
use crate::crypto::SigningKey;
use crate::ids::{Height, NodeId};
use crate::vote::Vote;

/// What was found out so far.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// Who has answered, and how far they are.
    answered: BTreeMap<NodeId, Height>,
    /// When those who have not are asked again.
    ask_ms: u64,
}

/// A question that is not answered is asked again after this long.
const ASK_AGAIN_MS: u64 = 500;
/// Between two answers to one peer.
const ANSWER_AGAIN_MS: u64 = 100;

impl Node {
    /// The log may be that of an older copy of this disk: to be called before `Input::Start`.
    pub fn doubt_log(&mut self) {
        self.doubt = Some(Doubt::default());
    }

    /// No vote up to this height, as the store says.
    pub(crate) fn keep_silent(&mut self, through: Height) {
        self.silent_through = self.silent_through.max(through);
    }

    /// Whether this node waits to hear which of its votes the others know.
    pub fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    /// When somebody is to be asked again.
    pub(super) fn ask_votes_ms(&self) -> Option<u64> {
        let doubt = self.doubt.as_ref()?;
        let open = self.peers.known.keys().any(|peer| !doubt.answered.contains_key(peer));
        open.then_some(doubt.ask_ms)
    }

    pub(super) fn ask_votes(&mut self) {
        let Some(doubt) = self.doubt.as_mut().filter(|doubt| doubt.ask_ms <= self.now.mono_ms)
        else {
            return;
        };
        doubt.ask_ms = self.now.mono_ms.saturating_add(ASK_AGAIN_MS);
        let silent = self.peers.known.keys().filter(|peer| !doubt.answered.contains_key(peer));
        let ask = |to: &NodeId| Effect::Send { to: *to, bytes: Message::AskVotes.to_bytes() };
        self.effects.extend(silent.map(ask));
    }

    /// Tells a voter which of its newest votes are known here.
    pub(super) fn serve_votes(&mut self, to: NodeId) {
        let (now_ms, tip) = (self.now.mono_ms, self.own_tip());
        let votes = self.votes_of(&to);
        let Some(peer) = self.peers.of(to) else {
            return;
        };
        let soon = |when: u64| now_ms.saturating_sub(when) < ANSWER_AGAIN_MS;
        if !peer.votes_told_ms.is_some_and(soon) {
            peer.votes_told_ms = Some(now_ms);
            let bytes = Message::KnownVotes { tip, votes }.to_bytes();
            self.effects.push(Effect::Send { to, bytes });
        }
    }

    fn votes_of(&self, voter: &NodeId) -> Vec<Vote> {
        let logged = self.replay.iter().chain(&self.held).filter_map(|record| match record {
            Record::Vote(vote) if vote.voter == *voter => Some(*vote),
            _ => None,
        });
        let mut votes: Vec<Vote> = logged.collect();
        votes.extend(self.driver.heard(voter).copied());
        votes.extend(self.certified_vote(voter));
        let place = |vote: &Vote| (vote.height, vote.round);
        votes.sort_by_key(|vote| std::cmp::Reverse(place(vote)));
        votes.dedup();
        votes.truncate(MAX_KNOWN_VOTES);
        votes
    }

    /// Its precommit in the certificate of the tip.
    fn certified_vote(&self, voter: &NodeId) -> Option<Vote> {
        let certificate = self.certificate.as_ref()?;
        let Signers::Votes(votes) = &certificate.signers else {
            return None;
        };
        let position = self.certifiers.position(voter)?;
        let at = votes.signers().position(|signer| signer == position)?;
        Some(Vote {
            kind: VoteType::Precommit,
            height: certificate.height,
            round: votes.round,
            block: Some(certificate.block_hash),
            voter: *voter,
            signature: *votes.signatures.get(at)?,
        })
    }

    /// A peer has said which votes of this node it knows.
    pub(super) fn take_known_votes(&mut self, from: NodeId, tip: PeerTip, votes: &[Vote]) {
        if self.doubt.is_none() {
            return;
        }
        // Of an era that is over here nothing can be voted on any more.
        let key = self.vote_key.as_ref().map(SigningKey::public_key);
        let unknown = votes.iter().filter(|vote| {
            let own = vote.voter == self.id && vote.height > self.tip.header.height;
            let signed = key.is_some_and(|key| vote.verify(&self.chain, tip.era, &key).is_ok());
            own && tip.era >= self.state.era() && signed && !self.has_logged(vote)
        });
        if let Some(height) = unknown.map(|vote| vote.height).max() {
            self.be_silent_through(height);
        }
        if let Some(doubt) = &mut self.doubt {
            doubt.answered.insert(from, tip.height);
        }
        self.settle_doubt();
    }

    /// Whether the log holds this vote, or one that says the same.
    fn has_logged(&self, vote: &Vote) -> bool {
        let same =
            |own: &Vote| own.voter == vote.voter && own.digest_place() == vote.digest_place();
        let records = self.replay.iter().chain(&self.held);
        records.into_iter().any(|record| matches!(record, Record::Vote(own) if same(own)))
    }

    /// Ends the doubt when enough voters have answered.
    pub(super) fn settle_doubt(&mut self) {
        let Some(doubt) = &self.doubt else {
            return;
        };
        let voters = &self.validators;
        let own = usize::from(voters.position(&self.id).is_some());
        let of_voters = doubt.answered.iter().filter(|(node, _)| voters.position(node).is_some());
        let mut tips: Vec<Height> =
            of_voters.filter(|(node, _)| **node != self.id).map(|(_, tip)| *tip).collect();
        // A sole voter's votes have left in stored blocks alone, and nobody else can be asked.
        if tips.len() + own < voters.quorum() {
            return;
        }
        // So many may lie: the next highest is one that an honest voter has reached.
        let liars = voters.count().saturating_sub(1) / 3;
        tips.sort_unstable_by(|one, other| other.cmp(one));
        let decided = tips.get(liars).copied();
        self.doubt = None;
        if let Some(decided) = decided.filter(|decided| *decided > self.tip.header.height) {
            self.be_silent_through(decided);
        }
    }

    /// No vote up to this height, also after another start: what was signed there is not known.
    fn be_silent_through(&mut self, height: Height) {
        if height <= self.silent_through {
            return;
        }
        self.silent_through = height;
        self.replay.clear();
        self.held.clear();
        let record = Record::Silent { height };
        self.effects.extend([Effect::WalAppend(record.to_bytes()), Effect::WalSync]);
    }
}
