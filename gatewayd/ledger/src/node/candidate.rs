//! Blocks on trial: built here or received, executed beside the state.
//!
//! The proposer leaves out a transaction that fails; for everybody else a block that contains
//! one is invalid. What a block does becomes the state when it is stored, else it is dropped.

use super::{Effect, Fault, Node, Now};
use crate::block::{Block, MAX_BLOCK, MAX_BLOCK_TRANSACTIONS};
use crate::chain::{self, BlockError};
use crate::codec::{Decode, Encode};
use crate::consensus::driver::Output;
use crate::consensus::message::Message;
use crate::consensus::record::Record;
use crate::ids::{Hash, Height};
use crate::state::{ApplyError, Execution, Outcome};
use crate::transaction::Transaction;

/// A block with what its execution gave.
pub(super) struct Candidate {
    pub(super) block: Block,
    pub(super) outcome: Outcome,
    /// The round in which it came.
    pub(super) round: u32,
}

/// A proposer's clock may be this much ahead.
const MAX_AHEAD_MS: u64 = 10_000;

/// Left for header and certificate in a block.
const RESERVED_BYTES: usize = 64 * 1024;

impl Node {
    /// Builds the block of a round and hands it to the engine.
    pub(super) fn propose(&mut self, height: Height, round: u32) -> Result<Vec<Output>, Fault> {
        let candidate = Candidate { round, ..self.build() };
        let hash = candidate.block.header.hash();
        let bytes = candidate.block.to_bytes();
        let record = Record::Body { height, block: bytes };
        self.effects.push(Effect::WalAppend(record.to_bytes()));
        if let Record::Body { block, .. } = record {
            self.publish(&Message::Body { height, round, block });
        }
        self.candidates.insert(hash, candidate);
        Ok(self.driver.propose(self.now.mono_ms, height, round, hash)?)
    }

    /// A block of what waits and applies. What does not apply leaves the mempool.
    fn build(&mut self) -> Candidate {
        let time_ms = self.block_time_ms();
        let mut execution = self.begin_block(time_ms);
        let mut transactions = Vec::new();
        let mut failed = Vec::new();
        let mut bytes = RESERVED_BYTES;
        for waiting in self.mempool.iter() {
            bytes += waiting.size;
            if bytes > MAX_BLOCK || transactions.len() == MAX_BLOCK_TRANSACTIONS {
                break;
            }
            let transaction = waiting.transaction.transaction();
            match execution.apply(&waiting.transaction) {
                Ok(_) => transactions.push(transaction.clone()),
                // Others of this author are in this block; this one is in the next.
                Err(ApplyError::TooMany(_)) => {}
                Err(error) => failed.push((transaction.hash(), error)),
            }
        }
        let outcome = execution.finish();
        for (tx_hash, error) in failed {
            self.refuse_waiting(tx_hash, error);
        }
        let last_commit = self.certificate.clone();
        let header = self.tip.next_header(
            &self.state,
            &outcome,
            &transactions,
            last_commit.as_ref(),
            time_ms,
            self.id,
        );
        Candidate { block: Block { header, transactions, last_commit }, outcome, round: 0 }
    }

    /// Time of a block that is built now.
    pub(super) fn block_time_ms(&self) -> u64 {
        self.site_time_ms(self.now).max(self.tip.header.time_ms.saturating_add(1))
    }

    /// The next block, as far as it is fixed before its transactions.
    pub(super) fn begin_block(&self, time_ms: u64) -> Execution<'_> {
        let (state, tip) = (&self.state, &self.tip);
        chain::begin(state, tip, &self.certifiers, self.certificate.as_ref(), time_ms)
    }

    pub(super) fn publish_body(&mut self, hash: &Hash) {
        if let Some(candidate) = self.candidates.get(hash) {
            let height = candidate.block.header.height;
            let block = candidate.block.to_bytes();
            self.publish(&Message::Body { height, round: 0, block });
        }
    }

    /// A body from the log: its verdict follows there.
    pub(super) fn recall_candidate(&mut self, bytes: &[u8]) {
        let Ok(block) = Block::from_bytes(bytes) else {
            return;
        };
        if let Ok(candidate) = self.check(block) {
            self.candidates.insert(candidate.block.header.hash(), candidate);
        }
    }

    /// A proposed body of a peer: executes it and reports the verdict to the engine.
    pub(super) fn judge(&mut self, round: u32, bytes: &[u8]) {
        let Ok(block) = Block::from_bytes(bytes) else {
            return;
        };
        let (hash, proposer) = (block.header.hash(), block.header.proposer);
        if self.candidates.contains_key(&hash) {
            return;
        }
        // A body that is not the header's is the sender's fault, and says nothing about the block:
        // else a member could have a good proposal refused by being quicker than its proposer.
        if block.check_body().is_err() {
            return;
        }
        let height = block.header.height;
        let in_time = self.is_acceptable_time(block.header.time_ms, self.now);
        // The operator alone certifies a recovery, and no vote.
        let votable = in_time && !super::recovery::is_recovery_block(&block);
        let valid = match votable.then(|| self.check(block)) {
            Some(Ok(candidate)) => {
                // Into the log before the verdict, and so before any vote for it.
                let record = Record::Body { height, block: bytes.to_vec() };
                self.effects.push(Effect::WalAppend(record.to_bytes()));
                self.candidates.insert(hash, Candidate { round, ..candidate });
                true
            }
            Some(Err(_)) | None => false,
        };
        self.drive(|driver, now| driver.verdict(now.mono_ms, height, round, proposer, hash, valid));
    }

    /// Executes a block on top of the tip. The clock is not asked: that is for proposals alone,
    /// never for a decided block.
    pub(super) fn check(&self, block: Block) -> Result<Candidate, BlockError> {
        // Most often every transaction waits here, too: its signatures were checked when it came.
        let verify = |transaction: &Transaction| match self.mempool.verified(transaction) {
            Some(verified) => Ok(verified.clone()),
            None => self.state.verify(transaction.clone()),
        };
        let (state, tip, certifiers) = (&self.state, &self.tip, &self.certifiers);
        let outcome = chain::execute_with(state, tip, certifiers, &block, verify)?;
        Ok(Candidate { block, outcome, round: 0 })
    }

    /// As [`Node::check`], for a block that is certified.
    pub(super) fn check_decided(&self, block: Block) -> Result<Candidate, BlockError> {
        let (state, tip, certifiers) = (&self.state, &self.tip, &self.certifiers);
        let outcome = chain::execute_decided(state, tip, certifiers, &block)?;
        Ok(Candidate { block, outcome, round: 0 })
    }

    fn is_acceptable_time(&self, time_ms: u64, now: Now) -> bool {
        !now.synchronised
            || time_ms <= now.wall_ms.saturating_add(MAX_AHEAD_MS)
            || time_ms == self.tip.header.time_ms.saturating_add(1)
    }
}
