//! Transactions that wait for a block: bounded, each once, oldest first.
//!
//! Full means refuse, with the reason: what was taken in is never dropped to make room. Only
//! verified transactions come in here; whether they apply is known when a block is built.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::codec::Encode;
use crate::ids::{Hash, Height};
use crate::state::VerifiedTransaction;
use crate::transaction::{Author, Kind};

/// Why a transaction does not wait here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MempoolError {
    /// It waits here already.
    #[error("the transaction is waiting already")]
    Known,
    /// Too many transactions or bytes wait: try again after the next block.
    #[error("too many transactions are waiting")]
    Full,
    /// Too many transactions of this author wait: try again after the next block.
    #[error("too many transactions of this author are waiting")]
    AuthorLimit,
    /// Its expiry has passed.
    #[error("the transaction has expired")]
    Expired,
}

/// A waiting transaction.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) transaction: VerifiedTransaction,
    /// Monotonic milliseconds at arrival.
    pub(crate) since_ms: u64,
    /// Submitted at this gateway: told to the others, and its fate is reported.
    pub(crate) local: bool,
    /// Bytes as they travel.
    pub(crate) size: usize,
}

/// The waiting transactions in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Mempool {
    queue: BTreeMap<u64, Waiting>,
    by_hash: BTreeMap<Hash, u64>,
    by_author: BTreeMap<Author, usize>,
    bytes: usize,
    next: u64,
}

impl Mempool {
    pub(crate) fn insert(
        &mut self,
        transaction: VerifiedTransaction,
        now_ms: u64,
        local: bool,
    ) -> Result<(), MempoolError> {
        let hash = transaction.transaction().hash();
        let author = transaction.transaction().draft().author;
        let size = transaction.transaction().to_bytes().len();
        if self.by_hash.contains_key(&hash) {
            return Err(MempoolError::Known);
        }
        if self.queue.len() >= MAX_WAITING || self.bytes + size > MAX_WAITING_BYTES {
            return Err(MempoolError::Full);
        }
        let of_author = self.by_author.entry(author).or_default();
        if *of_author >= MAX_WAITING_PER_AUTHOR {
            return Err(MempoolError::AuthorLimit);
        }
        *of_author += 1;
        self.bytes += size;
        self.by_hash.insert(hash, self.next);
        self.queue.insert(self.next, Waiting { transaction, since_ms: now_ms, local, size });
        self.next += 1;
        Ok(())
    }

    pub(crate) fn contains(&self, hash: &Hash) -> bool {
        self.by_hash.contains_key(hash)
    }

    pub(crate) fn remove(&mut self, hash: &Hash) -> Option<Waiting> {
        let waiting = self.queue.remove(&self.by_hash.remove(hash)?)?;
        self.bytes -= waiting.size;
        let author = waiting.transaction.transaction().draft().author;
        if let Some(count) = self.by_author.get_mut(&author) {
            *count -= 1;
            if *count == 0 {
                self.by_author.remove(&author);
            }
        }
        Some(waiting)
    }

    /// Takes out what can no longer be recorded in a block of this height and time.
    pub(crate) fn expire(&mut self, height: Height, time_ms: u64) -> Vec<Waiting> {
        let expired: Vec<Hash> = (self.queue.values())
            .filter(|waiting| is_expired(waiting, height, time_ms))
            .map(|waiting| waiting.transaction.transaction().hash())
            .collect();
        expired.iter().filter_map(|hash| self.remove(hash)).collect()
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.queue.values()
    }

    /// When a block is due for what waits here: the oldest has waited for `interval_ms`, or now
    /// when something is urgent.
    pub(crate) fn due_ms(&self, interval_ms: u64) -> Option<u64> {
        let oldest = self.queue.values().next()?;
        let urgent =
            self.queue.values().filter(|waiting| is_urgent(waiting)).map(|each| each.since_ms);
        urgent.chain([oldest.since_ms + interval_ms]).min()
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}

/// Bounds: a second of the busiest site, and never more memory than this.
const MAX_WAITING: usize = 10_000;
const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;
const MAX_WAITING_PER_AUTHOR: usize = 4_000;

/// Somebody waits for these: a person, a join, a device.
fn is_urgent(waiting: &Waiting) -> bool {
    !matches!(
        waiting.transaction.transaction().draft().body.kind(),
        Kind::Batch | Kind::Receipts | Kind::Tally | Kind::Report | Kind::Refusal
    )
}

fn is_expired(waiting: &Waiting, height: Height, time_ms: u64) -> bool {
    let draft = waiting.transaction.transaction().draft();
    match draft.author {
        Author::Operator => draft.expiry < time_ms,
        Author::Node(_) => draft.expiry < height.0,
    }
}
