//! From one stored block to the next: when a height starts, what the engine's outputs mean, and
//! what happens when its block is decided and stored.

use std::collections::VecDeque;

use super::candidate::Candidate;
use super::early::EarlyBody;
use super::{Committed, Decided, Effect, Fault, Node, Now};
use crate::block::Block;
use crate::certificate::{Certificate, Signers, Votes};
use crate::chain::Tip;
use crate::codec::Encode;
use crate::consensus::DriverError;
use crate::consensus::driver::{Decision, Driver, HeightStart, Output};
use crate::consensus::message::Message;
use crate::consensus::record::Record;
use crate::crypto::SigningKey;
use crate::header::Header;
use crate::ids::{Hash, Height, NodeId};
use crate::mempool::MempoolError;
use crate::policy::SUPPORTED_VERSIONS;
use crate::state::{Event, Outcome, State};
use crate::transaction::{Equivocation, Transaction};
use crate::validator_set::ValidatorSet;
use crate::vote::Vote;

/// A height in work for this long is one to ask the others about.
const TELL_AFTER_MS: u64 = 1_000;

/// A block after this much idleness: followers and clocks know that the voters live.
const HEARTBEAT_MS: u64 = 60_000;

/// Decided blocks between [`Effect::Store`] and `Input::Stored`, with what becomes of the node.
pub(super) struct Storing {
    /// One for each block, ascending.
    pub(super) done: Vec<Done>,
    pub(super) after: After,
    pub(super) tip: Tip,
    pub(super) validators: ValidatorSet,
    pub(super) certifiers: ValidatorSet,
    pub(super) certificate: Option<Certificate>,
}

/// The state after the last block.
pub(super) enum After {
    /// Of one block.
    Block(Box<Outcome>),
    /// Of several, executed beside the node's own state.
    Range(Box<State>),
}

/// What is reported about a block when it is stored.
pub(super) struct Done {
    header: Header,
    transactions: Vec<Hash>,
    receipts: Vec<(Hash, Vec<Event>)>,
}

impl Done {
    /// Takes the events out of the outcome.
    pub(super) fn of(block: &Block, outcome: &mut Outcome) -> Self {
        Self {
            header: block.header.clone(),
            transactions: block.transactions.iter().map(Transaction::hash).collect(),
            receipts: std::mem::take(&mut outcome.events),
        }
    }
}

impl Storing {
    /// Height of the last block.
    pub(super) fn height(&self) -> Height {
        self.tip.header.height
    }
}

impl Node {
    /// When the next height starts: a transaction waits, the heartbeat is due, the log holds a
    /// height begun before a restart, or another voter has begun.
    pub(super) fn due_ms(&self) -> Option<u64> {
        if self.called || !self.replay.is_empty() {
            return Some(self.now.mono_ms);
        }
        if !self.is_voter() {
            return None;
        }
        let interval = u64::from(self.state.policy().block_interval_ms);
        let heartbeat = self.tip_since_ms + HEARTBEAT_MS;
        let waiting = self.mempool.due_ms(interval, self.tip.header.height);
        waiting.into_iter().chain([heartbeat]).min()
    }

    /// Whether more than a waiting transaction says that the height starts: another voter, the
    /// log, or the heartbeat.
    fn must_start(&self) -> bool {
        let heartbeat = self.tip_since_ms + HEARTBEAT_MS <= self.now.mono_ms;
        self.called || !self.replay.is_empty() || heartbeat
    }

    pub(super) fn start_if_due(&mut self) {
        let idle = self.driver.running().is_none()
            && self.storing.is_none()
            && !self.missing_body
            && !self.is_in_doubt()
            && !self.stopped;
        if !idle || self.due_ms().is_none_or(|due| due > self.now.mono_ms) {
            return;
        }
        if !self.must_start() && !self.has_work() {
            return;
        }
        self.called = false;
        let version = self.state.policy().version_at(self.next_height());
        if !SUPPORTED_VERSIONS.contains(&version) {
            return self.fail(Fault::Version { version, known: *SUPPORTED_VERSIONS.end() });
        }
        self.repeat_gossip();
        if !self.driver.has_key(self.vote_key.as_ref()) {
            self.renew_driver();
        }
        self.tell_ms = self.now.mono_ms.saturating_add(TELL_AFTER_MS);
        let height = self.next_height();
        let records = std::mem::take(&mut self.replay);
        for record in &records {
            if let Record::Body { block, .. } = record {
                self.recall_candidate(block);
            }
        }
        self.held.clear();
        if !self.may_vote(height) && records.iter().any(|record| self.is_own(record)) {
            self.held.clone_from(&records);
        }
        let replaying = !records.is_empty();
        match self.driver.start(self.now.mono_ms, self.height_start(height, records)) {
            // The log says something else than follows from it.
            Err(_) if replaying => self.give_up_log(height),
            result => self.drive(|_, _| result),
        }
        self.take_early_bodies();
    }

    fn height_start(&self, height: Height, records: Vec<Record>) -> HeightStart {
        let may_vote = self.may_vote(height);
        let silent = self.state.silent_voters(self.tip.header.height);
        HeightStart { height, voters: self.validators.clone(), silent, may_vote, records }
    }

    fn may_vote(&self, height: Height) -> bool {
        self.is_voter() && height > self.silent_through
    }

    /// Begins the height without its log, which is as good as damaged.
    fn give_up_log(&mut self, height: Height) {
        self.renew_driver();
        self.fall_silent();
        let start = self.height_start(height, Vec::new());
        self.drive(|driver, now| driver.start(now.mono_ms, start));
    }

    /// After the loss of log records: no vote at the height that they can have been about. A
    /// sole voter goes on; its votes never left this machine, except in stored blocks.
    pub(super) fn fall_silent(&mut self) {
        if self.validators.position(&self.id).is_some() && self.validators.count() > 1 {
            self.silent_through = self.silent_through.max(self.next_height());
            let record = Record::Silent { height: self.silent_through };
            self.effects.extend([Effect::WalAppend(record.to_bytes()), Effect::WalSync]);
        }
    }

    /// Runs the driver and everything that follows from it.
    pub(super) fn drive<F>(&mut self, run: F)
    where
        F: FnOnce(&mut Driver, Now) -> Result<Vec<Output>, DriverError>,
    {
        let mut queue = VecDeque::new();
        match run(&mut self.driver, self.now) {
            Ok(outputs) => queue.extend(outputs),
            Err(error) => return self.fail(error.into()),
        }
        while let Some(output) = queue.pop_front() {
            match output {
                Output::Append(bytes) => self.effects.push(Effect::WalAppend(bytes)),
                Output::Sync => self.effects.push(Effect::WalSync),
                Output::Publish(message) => self.publish(&message),
                Output::PublishBody(hash) => self.publish_body(&hash),
                Output::Build(height, round) => match self.propose(height, round) {
                    // In front of what is left: the order within one input is the driver's.
                    Ok(more) => more.into_iter().rev().for_each(|each| queue.push_front(each)),
                    Err(fault) => return self.fail(fault),
                },
                Output::Decided(decision) => self.decided(&decision),
                Output::Equivocation(one, other) => self.report(one, other),
            }
        }
    }

    /// Two votes of this height that no honest voter signs both.
    fn report(&mut self, first: Vote, second: Vote) {
        if let Some(vote_key) = self.validators.vote_key(&first.voter).copied() {
            let evidence = Equivocation { era: self.state.era(), vote_key, first, second };
            self.effects.push(Effect::Equivocation(Box::new(evidence)));
        }
    }

    pub(super) fn fail(&mut self, fault: Fault) {
        self.stopped = true;
        self.effects.push(Effect::Fault(fault));
    }

    /// The engine has decided: the body is here, for a vote needs it.
    fn decided(&mut self, decision: &Decision) {
        let Some(candidate) = self.candidates.remove(&decision.block) else {
            // Decided, and the body is not here (its log record was lost): fetch the block. The
            // height must not be started again, for this node has voted in it.
            self.missing_body = true;
            self.driver.leave();
            self.peers.all_have(decision.height);
            return self.fetch_more();
        };
        let position = |node: &NodeId| self.validators.position(node);
        let votes = decision
            .signatures
            .iter()
            .filter_map(|(node, signature)| Some((position(node)?, *signature)));
        let votes = Votes::collect(decision.round, self.validators.count(), votes);
        let certificate = Certificate {
            height: decision.height,
            block_hash: decision.block,
            signers: Signers::Votes(votes),
        };
        self.store(candidate, certificate);
    }

    pub(super) fn store(&mut self, candidate: Candidate, certificate: Certificate) {
        self.driver.leave();
        let Candidate { block, mut outcome, .. } = candidate;
        let decided = Decided::new(block, certificate.clone(), &mut outcome, &self.validators);
        self.storing = Some(Storing {
            done: vec![Done::of(&decided.block, &mut outcome)],
            tip: self.tip.advance(decided.block.header.clone()),
            validators: outcome.validators.clone(),
            certifiers: self.validators.clone(),
            certificate: Some(certificate),
            after: After::Block(Box::new(outcome)),
        });
        self.effects.push(Effect::Store(vec![decided]));
    }

    pub(super) fn stored(&mut self, height: Height) {
        let Some(storing) = self.storing.take_if(|storing| storing.height() == height) else {
            return;
        };
        let Storing { done, after, tip, validators, certifiers, certificate } = storing;
        let was_alone = self.validators.count() == 1 && self.is_voter();
        let era = self.state.era();
        match after {
            After::Block(outcome) => self.state.commit(*outcome),
            After::Range(state) => self.state = *state,
        }
        (self.tip, self.validators, self.certifiers) = (tip, validators, certifiers);
        self.certificate = certificate;
        self.tip_since_ms = self.now.mono_ms;
        self.candidates.clear();
        self.replay.clear();
        self.held.clear();
        self.effects.push(Effect::WalDiscard);
        if self.state.era() != era {
            self.renew_driver();
        }
        for transaction in done.iter().flat_map(|done| &done.transactions) {
            self.mempool.remove(transaction);
        }
        self.expire();
        self.announce(was_alone);
        for Done { header, receipts, .. } in done {
            let committed = Committed { height: header.height, header, receipts };
            self.effects.push(Effect::Committed(Box::new(committed)));
        }
        self.peers.stored(height);
        // Other voters may be those that have answered.
        self.settle_doubt();
        // Voters do it with each height that they start.
        if !self.is_voter() {
            self.repeat_gossip();
        }
        self.fetch_more();
    }

    /// Says that there is a new block, where nobody else does.
    fn announce(&mut self, was_alone: bool) {
        if !self.has_peers() {
            return;
        }
        if was_alone {
            // A sole voter's blocks leave as a whole, stored and certified.
            let height = self.tip.header.height;
            self.effects.push(Effect::Announce(height));
        } else if self.tip.header.proposer == self.id {
            // Who has missed its votes would not know until the next block.
            self.publish(&Message::Tip(self.own_tip()));
        }
    }

    /// A height that takes long was perhaps decided without this node: everybody says how far
    /// it is.
    pub(super) fn tell_when_stuck(&mut self) {
        if self.driver.running().is_some() && self.tell_ms <= self.now.mono_ms {
            self.tell_ms = self.now.mono_ms.saturating_add(TELL_AFTER_MS);
            self.publish(&Message::Tip(self.own_tip()));
        }
    }

    /// Gives this node the vote key that the ledger names for it. Another one is useless: the
    /// node follows in silence while its key is not that of the validator set.
    pub fn set_vote_key(&mut self, key: Option<SigningKey>) {
        self.vote_key = key;
    }

    /// The height in work was begun without the right to vote, and now it is there: the key came
    /// late, perhaps to all voters. So the height begins anew. Either this node has signed
    /// nothing at it, and what the log holds of it is declared void, for it was not a voter's;
    /// or what it has signed before a restart is replayed now.
    pub(super) fn vote_after_all(&mut self) {
        let height = self.next_height();
        let late =
            self.driver.running() == Some(height) && !self.driver.votes() && self.may_vote(height);
        if !late {
            return;
        }
        self.replay = std::mem::take(&mut self.held);
        if self.replay.is_empty() {
            let record = Record::Afresh { height };
            self.effects.extend([Effect::WalAppend(record.to_bytes()), Effect::WalSync]);
            // Bodies are judged and logged once more: no vote without its body in the log.
            for candidate in std::mem::take(&mut self.candidates).into_values() {
                let (from, round) = (self.id, candidate.round);
                let block = candidate.block.to_bytes();
                self.peers.early.keep_judged(EarlyBody { from, height, round, block });
            }
        }
        self.renew_driver();
        self.called = true;
    }

    /// Whether a record is a vote or a proposal of this node.
    fn is_own(&self, record: &Record) -> bool {
        match record {
            Record::Vote(vote) => vote.voter == self.id,
            Record::Proposal(proposal) => proposal.proposer == self.id,
            _ => false,
        }
    }

    fn renew_driver(&mut self) {
        let (era, key) = (self.state.era(), self.vote_key.clone());
        self.driver = Driver::new(self.chain, era, self.id, key, &self.validators);
    }

    fn expire(&mut self) {
        let (height, time_ms) = (self.next_height(), self.tip.header.time_ms);
        for waiting in self.mempool.expire(height, time_ms) {
            if waiting.local {
                let tx_hash = waiting.transaction.transaction().hash();
                let error = MempoolError::Expired.into();
                self.effects.push(Effect::Refused { tx_hash, error });
            }
        }
    }
}
