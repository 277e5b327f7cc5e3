//! The requests of this gateway that are open on a connection, by number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::RequestError;
use super::wire::Outcome;

/// Requests that this gateway may have open on one connection.
const MAX_ASKED: usize = 32;

pub(super) type Answered = Result<Vec<u8>, RequestError>;
type Waiting = oneshot::Sender<Answered>;

/// Requests that wait for their answer.
#[derive(Debug, Default)]
pub(super) struct Calls {
    next: AtomicU32,
    open: Mutex<OpenCalls>,
}

#[derive(Debug, Default)]
struct OpenCalls {
    waiting: HashMap<u32, Waiting>,
    closed: Option<&'static str>,
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, OpenCalls> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more request: its number, and where its answer comes.
    pub(super) fn open(&self) -> Result<(u32, oneshot::Receiver<Answered>), RequestError> {
        let mut open = self.lock();
        if let Some(why) = open.closed {
            return Err(RequestError::Closed(why));
        }
        if open.waiting.len() >= MAX_ASKED {
            return Err(RequestError::TooMany);
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        open.waiting.insert(id, sender);
        Ok((id, receiver))
    }

    /// An answer; to a request that nobody waits for any more it is nothing.
    pub(super) fn answered(&self, id: u32, outcome: Outcome, bytes: Vec<u8>) {
        let Some(waiting) = self.lock().waiting.remove(&id) else { return };
        // Who asked may have gone away in this instant.
        let _ = waiting.send(match outcome {
            Outcome::Answered => Ok(bytes),
            Outcome::Busy => Err(RequestError::Busy),
            Outcome::Unanswered => Err(RequestError::Unanswered),
        });
    }

    /// No answer comes any more.
    pub(super) fn close(&self, why: &'static str) {
        let mut open = self.lock();
        open.closed = Some(why);
        let waiting = std::mem::take(&mut open.waiting);
        drop(open);
        drop(waiting);
    }

    /// Why not.
    pub(super) fn why(&self) -> &'static str {
        self.lock().closed.unwrap_or("it was closed here")
    }
}

/// A request that is waited for; it is forgotten when this is dropped.
pub(super) struct OpenCall<'a> {
    pub(super) calls: &'a Calls,
    pub(super) id: u32,
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        self.calls.lock().waiting.remove(&self.id);
    }
}
