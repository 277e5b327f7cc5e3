//! From one stored block to the next: when a height starts, what the engine's outputs mean, and
//! what happens when its block is decided and stored.

use std::collections::VecDeque;

use super::candidate::Candidate;
use super::{Committed, Decided, Effect, Fault, Node, Now};
use crate::block::Block;
use crate::certificate::{Certificate, Signers, Votes};
use crate::codec::Encode;
use crate::consensus::DriverError;
use crate::consensus::driver::{Decision, Driver, HeightStart, Output};
use crate::consensus::message::{Message, Record};
use crate::crypto::SigningKey;
use crate::header::Header;
use crate::ids::{Height, NodeId};
use crate::mempool::MempoolError;

/// A block after this much idleness: followers and clocks know that the voters live.
const HEARTBEAT_MS: u64 = 60_000;

/// A decided block between [`Effect::Store`] and `Input::Stored`.
pub(super) struct Storing {
    pub(super) candidate: Candidate,
    pub(super) certificate: Certificate,
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
        self.mempool.due_ms(interval).into_iter().chain([heartbeat]).min()
    }

    pub(super) fn start_if_due(&mut self) {
        let idle = self.driver.running().is_none()
            && self.storing.is_none()
            && !self.missing_body
            && !self.stopped;
        if !idle || self.due_ms().is_none_or(|due| due > self.now.mono_ms) {
            return;
        }
        self.called = false;
        self.repeat_gossip();
        let height = self.next_height();
        let records = std::mem::take(&mut self.replay);
        for record in &records {
            if let Record::Body { block, .. } = record {
                self.recall_candidate(block);
            }
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
        let may_vote = self.is_voter() && height > self.silent_through;
        HeightStart { height, voters: self.validators.clone(), may_vote, records }
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
        if self.is_voter() && self.validators.count() > 1 {
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
                Output::Equivocation(one, other) => {
                    self.effects.push(Effect::Equivocation(Box::new((one, other))));
                }
            }
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
            self.peers.fetch_from_all(decision.height);
            self.publish(&Message::Fetch(decision.height));
            return;
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

    pub(super) fn store(&mut self, mut candidate: Candidate, certificate: Certificate) {
        self.driver.leave();
        let changed = candidate.outcome.validators != self.validators;
        let decided = Decided {
            block: candidate.block.clone(),
            certificate: certificate.clone(),
            changes: std::mem::take(&mut candidate.outcome.changes),
            events: candidate.outcome.events.clone(),
            next_validators: changed.then(|| candidate.outcome.validators.clone()),
        };
        self.storing = Some(Storing { candidate, certificate });
        self.effects.push(Effect::Store(Box::new(decided)));
    }

    pub(super) fn stored(&mut self, height: Height) {
        let this = |storing: &mut Storing| storing.candidate.block.header.height == height;
        let Some(Storing { candidate, certificate }) = self.storing.take_if(this) else {
            return;
        };
        let Candidate { block, mut outcome } = candidate;
        let was_alone = self.validators.count() == 1 && self.is_voter();
        let receipts = std::mem::take(&mut outcome.events);
        let era_began = outcome.era != self.state.era();
        let validators = outcome.validators.clone();
        self.state.commit(outcome);
        self.certifiers = std::mem::replace(&mut self.validators, validators);
        self.tip = self.tip.advance(block.header.clone());
        self.tip_since_ms = self.now.mono_ms;
        self.certificate = Some(certificate);
        self.candidates.clear();
        self.replay.clear();
        self.effects.push(Effect::WalDiscard);
        if era_began {
            self.renew_driver();
        }
        for transaction in &block.transactions {
            self.mempool.remove(&transaction.hash());
        }
        let header = block.header.clone();
        self.expire(&header);
        if was_alone {
            // A sole voter's blocks leave as a whole, stored and certified.
            self.announce(&block);
        }
        let committed = Box::new(Committed { height, header, receipts });
        self.effects.push(Effect::Committed(committed));
        self.peers.stored(height);
        self.fetch_more();
    }

    /// Gives this node the vote key that the ledger names for it. Another one is useless: the
    /// node follows in silence while its key is not that of the validator set.
    pub fn set_vote_key(&mut self, key: Option<SigningKey>) {
        self.vote_key = key;
        if self.driver.running().is_none() {
            self.renew_driver();
        }
    }

    fn renew_driver(&mut self) {
        let (era, key) = (self.state.era(), self.vote_key.clone());
        self.driver = Driver::new(self.chain, era, self.id, key, &self.validators);
    }

    fn expire(&mut self, header: &Header) {
        for waiting in self.mempool.expire(header.height.next(), header.time_ms) {
            if waiting.local {
                let tx_hash = waiting.transaction.transaction().hash();
                let error = MempoolError::Expired.into();
                self.effects.push(Effect::Refused { tx_hash, error });
            }
        }
    }

    fn announce(&mut self, block: &Block) {
        if let Some(certificate) = self.certificate.clone().filter(|_| self.has_peers()) {
            let message =
                Message::Decided { block: block.to_bytes(), certificate: certificate.to_bytes() };
            self.publish(&message);
        }
    }
}
