//! What this gateway had recorded in a ledger that was set aside: the operator's recovery has left
//! it out, and it is submitted again, in its order and before anything new.

use std::path::Path;

use ledger::host::HostError;
use ledger::ids::{Height, NodeId};
use ledger::state::State;
use ledger::store::{Aside, StoreError, newest_aside, own_transactions};
use ledger::transaction::{Author, Transaction};

use super::owner::{Owner, Waiter};

/// Most of them; what is more was recorded while most voters were away, which is not to be.
const MAX_AGAIN: usize = 1_000;

/// This gateway's transactions that a recovery has left out, as far as they can still be recorded.
pub(super) fn left_out(
    data_dir: &Path,
    gateway: &NodeId,
    state: &State,
    tip: Height,
) -> Result<Vec<Transaction>, StoreError> {
    let Some(Aside { directory, tip: last }) = newest_aside(data_dir)? else {
        return Ok(Vec::new());
    };
    let recoveries = &state.site().recoveries;
    let Some(recovery) = recoveries.iter().find(|recovery| recovery.era > last.era) else {
        // Everything in it is on the record.
        return Ok(Vec::new());
    };
    let parent = Height(recovery.height.0.saturating_sub(1));
    let mut found = own_transactions(&directory, gateway, parent, MAX_AGAIN)?;
    let activity = state.activity(&Author::Node(*gateway)).cloned().unwrap_or_default();
    found.retain(|transaction| {
        let draft = transaction.draft();
        // Taken in order, each nonce follows on the one before.
        let used =
            draft.nonce <= activity.nonce_highest && !activity.clone().use_nonce(draft.nonce);
        draft.expiry > tip.0 && !used
    });
    Ok(found)
}

impl Owner {
    /// Submits them; batches wait until the record has taken or refused each.
    pub(super) async fn submit_again(&mut self) -> Result<(), HostError> {
        let again = std::mem::take(&mut self.again);
        if !again.is_empty() {
            tracing::warn!(count = again.len(), "what the recovery left out is submitted again");
        }
        self.again_in_flight = again.len();
        for transaction in again {
            self.enqueue(transaction, Waiter::Again).await?;
        }
        Ok(())
    }
}
