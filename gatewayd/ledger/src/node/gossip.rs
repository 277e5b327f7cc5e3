//! Transactions that travel from gateway to gateway until a block has them.

use super::Node;
use crate::codec::{Decode, Encode};
use crate::consensus::message::Message;
use crate::mempool::Waiting;
use crate::state::ApplyError;
use crate::transaction::Transaction;

impl Node {
    /// Tells the others again what was submitted here and is in no block yet: the first telling
    /// may have been lost. After a while also what others submitted: whoever did may be gone, and
    /// nobody else know it. What does not apply is refused instead: whoever builds the next block
    /// would leave it out unheard, and make a block of nothing each time that it is told.
    pub(super) fn repeat_gossip(&mut self) {
        if !self.has_peers() {
            return;
        }
        let old = |each: &&Waiting| {
            let after = if each.local { GOSSIP_AGAIN_MS } else { GOSSIP_FOR_OTHERS_MS };
            self.now.mono_ms.saturating_sub(each.since_ms) >= after
        };
        let mut waiting = self.mempool.iter().filter(old).take(MAX_TRIED).peekable();
        if waiting.peek().is_none() {
            return;
        }
        let mut trial = self.begin_block(self.block_time_ms());
        let (mut list, mut failed) = (Vec::new(), Vec::new());
        for each in waiting {
            let transaction = each.transaction.transaction();
            match trial.apply(&each.transaction) {
                Ok(_) | Err(ApplyError::TooMany(_)) => list.push(transaction.to_bytes()),
                Err(error) => failed.push((transaction.hash(), error)),
            }
            if list.len() == MAX_REPEATED {
                break;
            }
        }
        for (tx_hash, error) in failed {
            self.refuse_waiting(tx_hash, error);
        }
        if !list.is_empty() {
            self.publish(&Message::Transactions(list));
        }
    }

    /// Takes what peers submitted.
    pub(super) fn take_gossip(&mut self, list: Vec<Vec<u8>>) {
        for bytes in list {
            // Refused here is no news to anybody: the author's gateway tells the author.
            if let Ok(transaction) = Transaction::from_bytes(&bytes) {
                let _ = self.accept(transaction, false);
            }
        }
    }
}

/// A transaction that waits this long is told again with each height that starts.
const GOSSIP_AGAIN_MS: u64 = 1_500;
/// One that a peer told is told again after this long.
const GOSSIP_FOR_OTHERS_MS: u64 = 10_000;
/// Transactions told again at once; below the limit of a message even with attachments.
const MAX_REPEATED: usize = 6;
/// Transactions tried for that.
const MAX_TRIED: usize = 4 * MAX_REPEATED;
