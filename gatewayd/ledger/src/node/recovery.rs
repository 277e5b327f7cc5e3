//! `site recover`: a block that the operator certifies, when the voters cannot.
//!
//! The operator's transaction fixes the whole block but for what follows from the tip: time is
//! the parent's + 1 ms and the first survivor stands as proposer. So every member makes the same
//! block of it, before and after a restart.

use thiserror::Error;

use super::{Effect, Node};
use crate::block::Block;
use crate::certificate::{Certificate, CertificateError};
use crate::chain::BlockError;
use crate::codec::Encode;
use crate::consensus::message::Message;
use crate::header::Header;
use crate::ids::{Era, Height, NodeId};
use crate::operator::{ActError, Recovery, certify_recovery};
use crate::transaction::{Body, Draft, Survivor, Transaction};

/// Why a recovery is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecoveryError {
    /// The era has begun already; a second recovery of it would fork the ledger.
    #[error("era {0} has begun already: this ledger was recovered before")]
    KnownEra(Era),
    /// It builds on another block than the newest one here.
    #[error("the recovery was made for another newest block")]
    OtherParent,
    /// A block is being stored: try again.
    #[error("a block is being stored; try again")]
    Busy,
    /// It was signed for another block than follows from the ledger.
    #[error("the recovery was signed for another block")]
    OtherBlock,
    /// It cannot be prepared.
    #[error(transparent)]
    Act(#[from] ActError),
    /// A peer tells of one that is older than what this ledger keeps.
    #[error("the recovery at height {0} is older than the voters that are known here")]
    NotKept(Height),
    /// The block that it makes is invalid.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The operator did not certify the block.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

pub(super) fn is_recovery(transaction: &Transaction) -> bool {
    matches!(transaction.draft().body, Body::Recover(_))
}

pub(super) fn is_recovery_block(block: &Block) -> bool {
    block.transactions.iter().any(is_recovery)
}

impl Node {
    /// The act that the operator signs to begin a new era on top of the newest block.
    ///
    /// `survivors` ascend by node; `nonce` and `expiry_ms` as for every act of the operator.
    ///
    /// # Errors
    /// [`RecoveryError::Act`] when the state machine would refuse it.
    pub fn prepare_recovery(
        &self,
        survivors: Vec<Survivor>,
        nonce: u64,
        expiry_ms: u64,
    ) -> Result<Draft, RecoveryError> {
        Ok(self.plan(survivors, nonce, expiry_ms)?.0)
    }

    fn plan(
        &self,
        survivors: Vec<Survivor>,
        nonce: u64,
        expiry_ms: u64,
    ) -> Result<(Draft, Header), ActError> {
        let proposer = survivors.first().map_or(self.id, |survivor| survivor.node);
        let recovery = Recovery {
            state: &self.state,
            tip: &self.tip,
            last_commit: self.certificate.as_ref(),
            time_ms: self.tip.header.time_ms.saturating_add(1),
            proposer,
            survivors,
            nonce,
            expiry_ms,
        };
        recovery.draft()
    }

    /// Makes the block of a signed recovery and stores it.
    pub(super) fn recover(&mut self, transaction: Transaction) -> Result<(), RecoveryError> {
        let draft = transaction.draft();
        let Body::Recover(recover) = &draft.body else {
            return Err(RecoveryError::OtherBlock);
        };
        if self.storing.is_some() {
            return Err(RecoveryError::Busy);
        }
        if recover.era <= self.state.era() {
            return Err(RecoveryError::KnownEra(recover.era));
        }
        if recover.parent != self.tip.hash {
            return Err(RecoveryError::OtherParent);
        }
        let (planned, header) = self.plan(recover.survivors.clone(), draft.nonce, draft.expiry)?;
        if planned != *draft {
            return Err(RecoveryError::OtherBlock);
        }
        let (header, certificate) = certify_recovery(header, transaction.clone());
        let last_commit = self.certificate.clone();
        let block = Block { header, transactions: vec![transaction], last_commit };
        self.adopt_recovery(block.clone(), certificate.clone())?;
        let (blocks, certificate) = (vec![block.to_bytes()], certificate.to_bytes());
        let message = Message::Decided { blocks, certificate };
        self.publish(&message);
        Ok(())
    }

    /// A recovery that a peer has stored; whether it was of use. One that does not fit is
    /// refused: the peer keeps it, and the operator decides.
    pub(super) fn take_recovery(
        &mut self,
        from: NodeId,
        mut blocks: Vec<Block>,
        certificate: Certificate,
    ) -> bool {
        let Some(block) = blocks.pop().filter(|_| blocks.is_empty()) else {
            return false;
        };
        if block.header.era <= self.state.era() {
            return true;
        }
        let (height, next) = (block.header.height, self.next_height());
        if height > next {
            if let Some(peer) = self.peers.of(from) {
                peer.next_era = Some(height);
                peer.tip.height = peer.tip.height.max(height);
            }
            self.peers.succeeded(&from);
            return true;
        }
        if height == next {
            let adopted = self.adopt_recovery(block, certificate).is_ok();
            if adopted {
                self.missing_body = false;
                self.peers.succeeded(&from);
            }
            return adopted;
        }
        let hash = block.header.hash();
        if self.judged.replace(hash) != Some(hash) {
            self.effects.push(Effect::JudgeRecovery(Box::new((block, certificate))));
        }
        // It is of no use to ask again soon: nothing follows from it here.
        false
    }

    fn adopt_recovery(
        &mut self,
        block: Block,
        certificate: Certificate,
    ) -> Result<(), RecoveryError> {
        let candidate = self.check(block)?;
        certificate.verify(&candidate.block.header, &self.validators)?;
        self.driver.leave();
        self.store(candidate, certificate);
        Ok(())
    }
}
