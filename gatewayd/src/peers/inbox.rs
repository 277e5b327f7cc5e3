//! What members say, on its way to the ledger's thread. Bounded for each member apart, and served
//! in turn, so that a loud one cannot silence the others.
//!
//! Full is answered thus: of consensus the oldest frame of that member is dropped (consensus
//! repeats itself); for bulk the member waits, since it gets new credit only when the ledger has
//! taken what it sent.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ledger::ids::NodeId;
use tokio::sync::Notify;

use super::PeerEvent;

/// Frames of consensus that one member may have waiting here.
const MAX_FRAMES: usize = 1024;
/// Their bytes together.
const MAX_BYTES: usize = 2 * 1024 * 1024;
/// Reports of duplicates that may wait; more say nothing new.
const MAX_REPORTS: usize = 16;

/// The transport's end; the ledger's ends with its last clone.
#[derive(Clone)]
pub struct InboxSender {
    queues: Arc<Queues>,
    _open: Arc<Open>,
}

/// The ledger's end.
pub struct Inbox {
    queues: Arc<Queues>,
}

/// Both ends.
pub fn inbox() -> (InboxSender, Inbox) {
    let queues = Arc::new(Queues::default());
    let open = Arc::new(Open(Arc::clone(&queues)));
    (InboxSender { queues: Arc::clone(&queues), _open: open }, Inbox { queues })
}

/// Lives as long as any sender.
struct Open(Arc<Queues>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.notify_one();
    }
}

/// Gives a member its credit back when dropped.
pub(super) type Grant = Box<dyn Send + Sync>;

#[derive(Default)]
struct Queues {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    closed: bool,
    reports: VecDeque<PeerEvent>,
    changes: VecDeque<PeerEvent>,
    members: BTreeMap<NodeId, Frames>,
    /// Whose turn it was.
    served: Option<NodeId>,
}

#[derive(Default)]
struct Frames {
    consensus: VecDeque<Vec<u8>>,
    consensus_bytes: usize,
    bulk: VecDeque<(Vec<u8>, Grant)>,
}

impl Queues {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InboxSender {
    /// A member came or went. What the ledger has not seen yet is not told twice.
    pub(super) fn changed(&self, node: NodeId, up: bool) {
        let mut state = self.queues.lock();
        let came = PeerEvent::Up(node);
        let unseen = state.changes.iter().position(|change| *change == came);
        match (up, unseen) {
            (true, _) => state.changes.push_back(came),
            // It came and went between two looks; a "went" before that still stands.
            (false, Some(at)) => {
                state.changes.remove(at);
            }
            (false, None) => state.changes.push_back(PeerEvent::Down(node)),
        }
        drop(state);
        self.queues.wake.notify_one();
    }

    /// Two machines have one identity.
    pub(super) fn report(&self, event: PeerEvent) {
        let mut state = self.queues.lock();
        if state.reports.len() < MAX_REPORTS {
            state.reports.push_back(event);
        }
        drop(state);
        self.queues.wake.notify_one();
    }

    /// A frame of consensus; gives how many older ones had to go for it.
    pub(super) fn consensus(&self, from: NodeId, bytes: Vec<u8>) -> u64 {
        let mut state = self.queues.lock();
        let frames = state.members.entry(from).or_default();
        frames.consensus_bytes += bytes.len();
        frames.consensus.push_back(bytes);
        let mut dropped = 0;
        while frames.consensus.len() > MAX_FRAMES || frames.consensus_bytes > MAX_BYTES {
            let Some(oldest) = frames.consensus.pop_front() else { break };
            frames.consensus_bytes -= oldest.len();
            dropped += 1;
        }
        drop(state);
        self.queues.wake.notify_one();
        dropped
    }

    /// A message of bulk, bounded by the credit of its sender.
    pub(super) fn bulk(&self, from: NodeId, bytes: Vec<u8>, grant: Grant) {
        self.queues.lock().members.entry(from).or_default().bulk.push_back((bytes, grant));
        self.queues.wake.notify_one();
    }

    /// It is no member any more: what it said is not heard.
    pub(super) fn forget(&self, node: NodeId) {
        // Credit goes back outside of the lock.
        let forgotten = self.queues.lock().members.remove(&node);
        drop(forgotten);
    }
}

impl Inbox {
    /// The next event; none when the transport has ended. May be dropped half-way.
    pub async fn recv(&mut self) -> Option<PeerEvent> {
        loop {
            if let Some(event) = self.next() {
                return Some(event);
            }
            if self.queues.lock().closed {
                return None;
            }
            self.queues.wake.notified().await;
        }
    }

    fn next(&mut self) -> Option<PeerEvent> {
        let mut state = self.queues.lock();
        if let Some(event) = state.changes.pop_front().or_else(|| state.reports.pop_front()) {
            return Some(event);
        }
        let (from, bytes, grant) = state.frame()?;
        drop(state);
        drop(grant);
        Some(PeerEvent::Frame { from, bytes })
    }
}

impl State {
    /// The next frame: consensus of anybody before bulk of anybody, members in turn.
    fn frame(&mut self) -> Option<(NodeId, Vec<u8>, Option<Grant>)> {
        self.turn(|frames| {
            let bytes = frames.consensus.pop_front()?;
            frames.consensus_bytes -= bytes.len();
            Some((bytes, None))
        })
        .or_else(|| self.turn(|frames| frames.bulk.pop_front().map(|(b, grant)| (b, Some(grant)))))
    }

    fn turn<T>(
        &mut self,
        mut take: impl FnMut(&mut Frames) -> Option<(Vec<u8>, T)>,
    ) -> Option<(NodeId, Vec<u8>, T)> {
        let (after, until) = (self.served.map_or(Unbounded, Excluded), self.served);
        let later = self.members.range((after, Unbounded));
        let earlier = self.members.range(..).take_while(|(node, _)| until >= Some(**node));
        let order: Vec<NodeId> = later.chain(earlier).map(|(node, _)| *node).collect();
        for node in &order {
            let frames = self.members.get_mut(node)?;
            if let Some((bytes, rest)) = take(frames) {
                if frames.consensus.is_empty() && frames.bulk.is_empty() {
                    self.members.remove(node);
                }
                self.served = Some(*node);
                return Some((*node, bytes, rest));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const A: NodeId = NodeId([1; 20]);
    const B: NodeId = NodeId([2; 20]);

    fn drain(inbox: &mut Inbox) -> Vec<PeerEvent> {
        std::iter::from_fn(|| inbox.next()).collect()
    }

    #[test]
    fn members_take_turns_and_consensus_goes_first() {
        let (sender, mut inbox) = inbox();
        sender.bulk(A, vec![9], Box::new(()));
        for n in 0..3 {
            sender.consensus(A, vec![n]);
        }
        sender.consensus(B, vec![7]);
        sender.changed(A, true);
        let order: Vec<_> = drain(&mut inbox)
            .into_iter()
            .map(|event| match event {
                PeerEvent::Frame { from, bytes } => (from, bytes[0]),
                other => {
                    assert_eq!(other, PeerEvent::Up(A));
                    (A, 255)
                }
            })
            .collect();
        assert_eq!(order, [(A, 255), (A, 0), (B, 7), (A, 1), (A, 2), (A, 9)]);
    }

    #[test]
    fn a_loud_member_loses_its_own_oldest_frames() {
        let (sender, mut inbox) = inbox();
        sender.consensus(B, vec![7]);
        let dropped: u64 = (0..MAX_FRAMES + 10).map(|n| sender.consensus(A, vec![n as u8])).sum();
        assert_eq!(dropped, 10);
        let big: u64 = (0..3).map(|_| sender.consensus(A, vec![0; MAX_BYTES / 2])).sum();
        assert!(big > 0, "bytes are bounded, too");
        let frames = drain(&mut inbox);
        assert!(frames.contains(&PeerEvent::Frame { from: B, bytes: vec![7] }));
    }

    #[test]
    fn credit_goes_back_when_the_ledger_has_taken_the_message() {
        struct Credit(Arc<AtomicUsize>);
        impl Drop for Credit {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let (given, (sender, mut inbox)) = (Arc::new(AtomicUsize::new(0)), inbox());
        sender.bulk(A, vec![1], Box::new(Credit(Arc::clone(&given))));
        sender.bulk(A, vec![2], Box::new(Credit(Arc::clone(&given))));
        assert_eq!(given.load(Ordering::Relaxed), 0);
        inbox.next().unwrap();
        assert_eq!(given.load(Ordering::Relaxed), 1);
        sender.forget(A);
        assert_eq!(given.load(Ordering::Relaxed), 2);
        assert_eq!(inbox.next(), None);
    }

    #[test]
    fn flapping_takes_no_room() {
        let (sender, mut inbox) = inbox();
        for _ in 0..1_000 {
            sender.changed(A, true);
            sender.changed(A, false);
        }
        assert_eq!(drain(&mut inbox), []);
        sender.changed(A, true);
        assert_eq!(drain(&mut inbox), [PeerEvent::Up(A)]);
        for _ in 0..1_000 {
            sender.changed(A, false);
            sender.changed(A, true);
        }
        assert_eq!(drain(&mut inbox), [PeerEvent::Down(A), PeerEvent::Up(A)]);
    }

    #[tokio::test]
    async fn the_end_is_told() {
        let (sender, mut inbox) = inbox();
        let second = sender.clone();
        sender.changed(A, true);
        drop((sender, second));
        assert_eq!(inbox.recv().await, Some(PeerEvent::Up(A)));
        assert_eq!(inbox.recv().await, None);
    }
}
