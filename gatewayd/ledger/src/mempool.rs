//! Transactions that wait for a block: bounded, each once, oldest first.
//!
//! Full means refuse, with the reason: what was taken in is never dropped to make room. Only
//! verified transactions come in here; whether they apply is known when a block is built.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::codec::Encode;
use crate::ids::{Hash, Height};
use crate::state::VerifiedTransaction;
use crate::transaction::{Author, Kind, Transaction};

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
    /// The newest block on top of which it did not apply: no reason for another one there.
    failed_on: Option<Height>,
}

impl Waiting {
    /// When a block is due for it: now for what is urgent, else after `interval_ms`.
    pub(crate) fn due_ms(&self, interval_ms: u64) -> u64 {
        let wait_ms = if is_urgent(self) { 0 } else { interval_ms };
        self.since_ms.saturating_add(wait_ms)
    }

    /// Whether it was not found to fail on top of this block.
    pub(crate) fn may_apply_on(&self, tip: Height) -> bool {
        self.failed_on != Some(tip)
    }
}

/// What waits of one author.
#[derive(Debug, Default)]
struct Share {
    count: usize,
    bytes: usize,
}

/// The waiting transactions in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Mempool {
    queue: BTreeMap<u64, Waiting>,
    by_hash: BTreeMap<Hash, u64>,
    by_author: BTreeMap<Author, Share>,
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
        let share = self.by_author.entry(author).or_default();
        let large = share.bytes + size > MAX_WAITING_BYTES_PER_AUTHOR;
        if share.count >= MAX_WAITING_PER_AUTHOR || (large && share.count > 0) {
            return Err(MempoolError::AuthorLimit);
        }
        share.count += 1;
        share.bytes += size;
        self.bytes += size;
        self.by_hash.insert(hash, self.next);
        let waiting = Waiting { transaction, since_ms: now_ms, local, size, failed_on: None };
        self.queue.insert(self.next, waiting);
        self.next += 1;
        Ok(())
    }

    pub(crate) fn contains(&self, hash: &Hash) -> bool {
        self.by_hash.contains_key(hash)
    }

    /// The verified form of this very transaction, when it waits here. Keys may have changed since:
    /// `apply` looks at that.
    pub(crate) fn verified(&self, transaction: &Transaction) -> Option<&VerifiedTransaction> {
        let waiting = self.queue.get(self.by_hash.get(&transaction.hash())?)?;
        let verified = &waiting.transaction;
        (verified.transaction() == transaction).then_some(verified)
    }

    pub(crate) fn remove(&mut self, hash: &Hash) -> Option<Waiting> {
        let waiting = self.queue.remove(&self.by_hash.remove(hash)?)?;
        self.bytes -= waiting.size;
        let author = waiting.transaction.transaction().draft().author;
        if let Some(share) = self.by_author.get_mut(&author) {
            share.count -= 1;
            share.bytes -= waiting.size;
            if share.count == 0 {
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

    /// When a block on top of `tip` is due for what waits here: the oldest has waited for
    /// `interval_ms`, or now when something is urgent.
    pub(crate) fn due_ms(&self, interval_ms: u64, tip: Height) -> Option<u64> {
        let useful = self.queue.values().filter(|waiting| waiting.may_apply_on(tip));
        useful.map(|waiting| waiting.due_ms(interval_ms)).min()
    }

    /// It does not apply on top of `tip`, and is looked at again on top of another block.
    pub(crate) fn put_off(&mut self, hash: &Hash, tip: Height) {
        let waiting = self.by_hash.get(hash).and_then(|at| self.queue.get_mut(at));
        if let Some(waiting) = waiting {
            waiting.failed_on = Some(tip);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}

/// Bounds: a second of the busiest site, and never more memory than this.
const MAX_WAITING: usize = 10_000;
const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;
const MAX_WAITING_PER_AUTHOR: usize = 1_000;
/// One gateway alone cannot fill the whole: a few of its largest batches.
const MAX_WAITING_BYTES_PER_AUTHOR: usize = MAX_WAITING_BYTES / 8;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Text;
    use crate::fixture::Fixture;
    use crate::policy::Policy;
    use crate::transaction::{Body, Refusal};

    fn refusal(fixture: &mut Fixture) -> VerifiedTransaction {
        let node = fixture.light_node_id(1);
        let body = Body::Refusal(Refusal { node, reason: Text::new("stranger").unwrap() });
        let transaction = fixture.by_founder(body);
        fixture.state.verify(transaction).unwrap()
    }

    fn act(fixture: &mut Fixture) -> VerifiedTransaction {
        let transaction = fixture.by_operator(Policy::default().into());
        fixture.state.verify(transaction).unwrap()
    }

    #[test]
    fn each_waits_once_and_an_author_has_a_limit() {
        let mut fixture = Fixture::new();
        let mut mempool = Mempool::default();
        let first = refusal(&mut fixture);
        let hash = first.transaction().hash();
        mempool.insert(first.clone(), 0, true).unwrap();
        assert_eq!(mempool.insert(first.clone(), 0, true), Err(MempoolError::Known));
        for _ in 1..MAX_WAITING_PER_AUTHOR {
            mempool.insert(refusal(&mut fixture), 0, true).unwrap();
        }
        let more = refusal(&mut fixture);
        assert_eq!(mempool.insert(more.clone(), 0, true), Err(MempoolError::AuthorLimit));
        mempool.insert(act(&mut fixture), 0, true).unwrap();
        assert!(mempool.remove(&hash).is_some());
        mempool.insert(more, 0, true).unwrap();
        assert_eq!(mempool.len(), MAX_WAITING_PER_AUTHOR + 1);
        assert!(!mempool.contains(&hash));
    }

    #[test]
    fn an_author_does_not_fill_the_whole() {
        let mut fixture = Fixture::new();
        let mut mempool = Mempool::default();
        let first = refusal(&mut fixture);
        let (author, hash) = (first.transaction().draft().author, first.transaction().hash());
        mempool.insert(first, 0, true).unwrap();
        let share = mempool.by_author.get_mut(&author).unwrap();
        let size = std::mem::replace(&mut share.bytes, MAX_WAITING_BYTES_PER_AUTHOR);
        let more = refusal(&mut fixture);
        assert_eq!(mempool.insert(more.clone(), 0, true), Err(MempoolError::AuthorLimit));
        mempool.insert(act(&mut fixture), 0, true).unwrap();
        mempool.by_author.get_mut(&author).unwrap().bytes = size;
        mempool.remove(&hash).unwrap();
        mempool.insert(more, 0, true).unwrap();
    }

    #[test]
    fn a_block_is_due_after_the_interval_or_at_once_for_what_is_urgent() {
        let mut fixture = Fixture::new();
        let (mut mempool, tip) = (Mempool::default(), Height(7));
        assert_eq!(mempool.due_ms(500, tip), None);
        mempool.insert(refusal(&mut fixture), 100, true).unwrap();
        mempool.insert(refusal(&mut fixture), 200, true).unwrap();
        assert_eq!(mempool.due_ms(500, tip), Some(600));
        let urgent = act(&mut fixture);
        let hash = urgent.transaction().hash();
        mempool.insert(urgent, 300, true).unwrap();
        assert_eq!(mempool.due_ms(500, tip), Some(300));
        mempool.put_off(&hash, tip);
        assert_eq!(mempool.due_ms(500, tip), Some(600), "it is no reason on top of this block");
        assert_eq!(mempool.due_ms(500, tip.next()), Some(300), "and perhaps one on the next");
    }

    #[test]
    fn what_has_expired_goes() {
        let mut fixture = Fixture::new();
        let mut mempool = Mempool::default();
        let waiting = refusal(&mut fixture);
        let expiry = waiting.transaction().draft().expiry;
        mempool.insert(waiting, 0, true).unwrap();
        assert_eq!(mempool.expire(Height(expiry), 0).len(), 0);
        assert_eq!(mempool.expire(Height(expiry + 1), 0).len(), 1);
        assert_eq!((mempool.len(), mempool.bytes), (0, 0));
        assert!(mempool.by_author.is_empty());
    }
}
