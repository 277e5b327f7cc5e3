//! Batches on their way into the record: looked at against the state first, so that one reading
//! that the record would refuse does not hold up the rest.

use ledger::host::HostError;
use ledger::ids::{Hash, Height, NodeId};
use ledger::transaction::{Author, Body, Transaction};

use super::owner::Owner;
use crate::clock;
use crate::control::ControlError;
use crate::ingest::{self, Outcome, leaf};
use crate::store::{Entry, StoredBatch};

/// How many of the newest committed batches are remembered: more than can be on their way at a
/// crash, so that one committed just before it is not submitted twice.
pub(super) const RECENT: usize = 64;

/// How often readings of a session that the record does not open wait for it, about once a second.
const MAX_TRIES: u32 = 60;

/// After the start, drivers tell what sessions they hold within this time, ms.
const RESUME_MS: u64 = 60_000;

/// A batch in the mempool.
#[derive(Debug, Clone, Copy)]
pub(super) struct InFlight {
    /// Number of the cut, local.
    pub(super) sequence: u64,
    /// Sequence on the record.
    committed_as: u64,
    /// Readings in it.
    pub(super) readings: u64,
}

impl InFlight {
    pub(super) async fn committed(self, ingest: &ingest::Handle, height: Height) {
        let Self { sequence, committed_as, readings } = self;
        let done = Outcome::Committed { height: height.0, sequence: committed_as, readings };
        ingest.submitted(sequence, done).await;
    }

    pub(super) async fn later(self, ingest: &ingest::Handle) {
        ingest.submitted(self.sequence, Outcome::Later).await;
    }
}

impl Owner {
    /// Sequence of this gateway's last batch on the record.
    pub(super) fn last_sequence(&self) -> u64 {
        self.sequence_of(self.gateway)
    }

    /// Sequence of a gateway's last batch on the record.
    pub(super) fn sequence_of(&self, gateway: NodeId) -> u64 {
        let author = Author::Node(gateway);
        self.state().activity(&author).map_or(0, |activity| activity.batch_sequence)
    }

    pub(super) async fn batch(&mut self, batch: StoredBatch) -> Result<(), HostError> {
        let sequence = batch.sequence;
        let readings = batch.readings.len() as u64;
        let root = Hash(batch.root);
        if let Some((_, height, committed_as)) = self.recent.iter().find(|each| each.0 == root) {
            // Committed before a crash that kept its buffer from hearing of it.
            let known = InFlight { sequence, committed_as: *committed_as, readings };
            known.committed(&self.ingest, Height(*height)).await;
            return Ok(());
        }
        if self.waits_for_session(&batch.readings).await? {
            self.ingest.submitted(sequence, Outcome::Later).await;
            return Ok(());
        }
        let closed = self.closed(&batch.readings);
        if !closed.is_empty() {
            let reason = "their counters or their sensors are closed on the record".into();
            let outcome = Outcome::Without { readings: closed, reason };
            self.ingest.submitted(sequence, outcome).await;
            return Ok(());
        }
        let committed_as = self.last_sequence() + self.batches_in_flight + 1;
        let in_flight = InFlight { sequence, committed_as, readings };
        match self.transaction(&batch, committed_as) {
            Ok(transaction) => self.enqueue_batch(transaction, in_flight).await,
            Err(error) => {
                tracing::error!(%error, sequence, "a batch cannot be made now");
                in_flight.later(&self.ingest).await;
                Ok(())
            }
        }
    }

    fn transaction(
        &mut self,
        batch: &StoredBatch,
        committed_as: u64,
    ) -> Result<Transaction, ControlError> {
        let internal = |error: &dyn std::fmt::Display| ControlError::Internal(error.to_string());
        let context = leaf::Context { chain_id: self.state().chain_id(), gateway: self.gateway };
        let cut = context.cut(batch, committed_as).map_err(|error| internal(&error))?;
        let attachment = cut.attachment(vec![]);
        let signed = self.sign(Body::Batch(cut.head), Some(attachment.digest()))?;
        signed.attach(attachment).map_err(|error| internal(&error))
    }

    /// Whether some readings are of a session that is not on the record yet and not on its way:
    /// a crash or a refusal came between the buffer, which has acknowledged them, and the record.
    async fn waits_for_session(&mut self, readings: &[Entry]) -> Result<bool, HostError> {
        let resuming = clock::boot_ms() < self.began_ms.saturating_add(RESUME_MS);
        let mut waits = false;
        for group in readings.chunk_by(|a, b| a.node == b.node) {
            let node = group[0].node;
            let known = self.session_epoch(&node);
            let newest = group.iter().map(|entry| entry.epoch).max().unwrap_or(0);
            if newest <= known || !self.is_served(&node) {
                continue;
            }
            let opening = |owner: &Self| {
                (known + 1..=newest).all(|epoch| owner.opening.contains(&(node, epoch)))
            };
            if opening(self) {
                continue;
            }
            if let Some(unopened) = self.unopened.get_mut(&node) {
                unopened.tries += 1;
                if unopened.tries > MAX_TRIES {
                    self.unopened.remove(&node);
                    continue;
                }
                self.open_missing(node).await?;
                waits |= !opening(self);
            } else {
                waits |= resuming;
            }
        }
        Ok(waits)
    }

    /// Whether the record takes readings of this node.
    fn is_served(&self, node: &[u8; 20]) -> bool {
        self.state()
            .light_node(&NodeId(*node))
            .is_some_and(|known| known.retired.is_none() && known.standing.standing.may_record())
    }

    /// Readings that the record would refuse.
    fn closed(&self, readings: &[Entry]) -> Vec<([u8; 20], u32, u64)> {
        let state = self.state();
        let mut closed = Vec::new();
        for group in readings.chunk_by(|a, b| a.node == b.node) {
            let node = group[0].node;
            let id = NodeId(node);
            let known = self.is_served(&node);
            let session = state.session(&id);
            for entry in group {
                let open = session
                    .is_some_and(|session| session.counters.is_open(entry.epoch, entry.counter))
                    || self.opening.contains(&(node, entry.epoch));
                if !known || !open {
                    closed.push((node, entry.epoch, entry.counter));
                }
            }
        }
        closed
    }
}
