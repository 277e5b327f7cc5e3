//! Executes a node's effects on the store and the log, in their order.
//!
//! The composition of [`Node`], [`Store`] and [`Wal`] that the daemon, the tests and the
//! simulation share. One thread owns it. It must not decide anything: what to do and when is the
//! node's business; sockets and clocks are the caller's.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use thiserror::Error;

use crate::codec::Encode;
use crate::consensus::message::{Message, Vote};
use crate::consensus::wal::{FileMedium, Medium, Wal};
use crate::crypto::SigningKey;
use crate::ids::{Hash, NodeId};
use crate::node::{
    Committed, Decided, Effect, Fault, Input, Node, Now, Refusal, Setup, SetupError,
};
use crate::store::{Store, StoreError};

/// What leaves the host while it works, in order.
#[derive(Clone, Debug)]
pub enum Outward {
    /// Send to all gateways.
    Publish(Vec<u8>),
    /// Send to one gateway.
    Send {
        /// To whom.
        to: NodeId,
        /// An encoded message.
        bytes: Vec<u8>,
    },
    /// A block is final and stored.
    Committed(Box<Committed>),
    /// A transaction submitted here will not be recorded.
    Refused {
        /// Its hash.
        tx_hash: Hash,
        /// Why.
        error: Refusal,
    },
    /// A voter signed two different votes: the evidence.
    Equivocation(Box<(Vote, Vote)>),
    /// The disk is full: a decided block waits to be stored; tried again with every step.
    DiskFull,
}

/// Why the host stopped. It must be opened anew; what it had published stays true.
#[derive(Debug, Error)]
pub enum HostError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another process works on this ledger; two would vote twice.
    #[error("another gatewayd works on this ledger")]
    InUse,
    /// The write-ahead log failed: without it nothing may be signed.
    #[error("write-ahead log: {0}")]
    Log(io::Error),
    /// Store and log do not make a node.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The node stopped.
    #[error(transparent)]
    Node(#[from] Fault),
}

impl From<io::Error> for HostError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock => Self::InUse,
            _ => Self::Log(error),
        }
    }
}

/// A node with its disk.
pub struct Host<M = FileMedium> {
    node: Node,
    store: Store,
    wal: Wal<M>,
    /// Decided and not stored: the disk was full.
    unstored: Option<Box<Decided>>,
}

impl Host<FileMedium> {
    /// Opens the ledger in `directory`. Feed [`Input::Start`] next.
    ///
    /// # Errors
    /// [`HostError`]: nothing there, damage, or no access.
    pub fn open(
        directory: &Path,
        id: NodeId,
        vote_key: Option<SigningKey>,
    ) -> Result<Self, HostError> {
        let store = Store::open(directory)?;
        let log = Wal::open_in(directory)?;
        Self::assemble(store, log, id, vote_key)
    }
}

impl<M: Medium> Host<M> {
    /// Puts a host together from an open store and the two media of a log.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn with_media(
        store: Store,
        media: [M; 2],
        id: NodeId,
        vote_key: Option<SigningKey>,
    ) -> Result<Self, HostError> {
        Self::assemble(store, Wal::open(media)?, id, vote_key)
    }

    fn assemble(
        store: Store,
        log: (Wal<M>, Vec<Vec<u8>>, crate::consensus::wal::Recovery),
        id: NodeId,
        vote_key: Option<SigningKey>,
    ) -> Result<Self, HostError> {
        let (wal, records, recovery) = log;
        let loaded = store.load()?;
        let node = Node::new(Setup { node: id, vote_key, loaded, records, recovery })?;
        Ok(Self { node, store, wal, unstored: None })
    }

    /// The node, for questions.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Gives the node the vote key that the ledger names for it now.
    pub fn set_vote_key(&mut self, key: Option<SigningKey>) {
        self.node.set_vote_key(key);
    }

    /// The store, for readers and the start counter.
    pub fn store(&mut self) -> &mut Store {
        &mut self.store
    }

    /// Monotonic time at which to feed [`Input::Wake`], if nothing comes before.
    pub fn next_wake(&self, now: Now) -> Option<u64> {
        match self.unstored {
            Some(_) => Some(now.mono_ms.saturating_add(RETRY_MS)),
            None => self.node.next_wake(),
        }
    }

    /// Feeds one input and executes everything that follows from it; `out` gets what leaves,
    /// when it leaves.
    ///
    /// # Errors
    /// [`HostError`]; the host must not be used again then.
    pub fn step(
        &mut self,
        now: Now,
        input: Input,
        out: &mut dyn FnMut(Outward),
    ) -> Result<(), HostError> {
        let mut inputs = VecDeque::from([input]);
        if let Some(decided) = self.unstored.take() {
            inputs.extend(self.store_block(decided, out)?);
        }
        while let Some(input) = inputs.pop_front() {
            for effect in self.node.step(now, input) {
                inputs.extend(self.execute(effect, out)?);
            }
        }
        Ok(())
    }

    fn execute(
        &mut self,
        effect: Effect,
        out: &mut dyn FnMut(Outward),
    ) -> Result<Option<Input>, HostError> {
        match effect {
            Effect::WalAppend(bytes) => self.wal.append(&bytes)?,
            Effect::WalSync => self.wal.sync()?,
            Effect::WalDiscard => self.wal.discard()?,
            Effect::Publish(bytes) => out(Outward::Publish(bytes)),
            Effect::Send { to, bytes } => out(Outward::Send { to, bytes }),
            Effect::Serve { to, height } => {
                if let Some((block, certificate)) = self.store.decided(height)? {
                    let (block, certificate) = (block.to_bytes(), certificate.to_bytes());
                    let bytes = Message::Decided { block, certificate }.to_bytes();
                    out(Outward::Send { to, bytes });
                }
            }
            Effect::Store(decided) => return self.store_block(decided, out),
            Effect::Committed(committed) => out(Outward::Committed(committed)),
            Effect::Refused { tx_hash, error } => out(Outward::Refused { tx_hash, error }),
            Effect::Equivocation(votes) => out(Outward::Equivocation(votes)),
            Effect::Fault(fault) => return Err(fault.into()),
        }
        Ok(None)
    }

    fn store_block(
        &mut self,
        decided: Box<Decided>,
        out: &mut dyn FnMut(Outward),
    ) -> Result<Option<Input>, HostError> {
        match self.store.commit(&decided) {
            Ok(()) => Ok(Some(Input::Stored(decided.block.header.height))),
            Err(StoreError::DiskFull) => {
                self.unstored = Some(decided);
                out(Outward::DiskFull);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A full disk is tried again after this long.
const RETRY_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;
    use crate::store::Founding;

    fn now(minutes: u64) -> Now {
        let mono_ms = minutes * 60_000;
        Now { mono_ms, wall_ms: crate::fixture::START_MS + mono_ms, synchronised: true }
    }

    fn open(fixture: &Fixture, directory: &Path) -> Result<Host, HostError> {
        let founder = &fixture.founder;
        Host::open(directory, founder.node(), Some(founder.vote.clone()))
    }

    #[test]
    fn a_full_disk_holds_the_block_back_until_there_is_room() {
        let (fixture, directory) = (Fixture::new(), tempfile::tempdir().unwrap());
        let path = directory.path();
        drop(Store::found(path, &Founding::new(fixture.genesis.clone())).unwrap());
        let mut host = open(&fixture, path).unwrap();
        let mut full = false;
        host.step(now(0), Input::Start, &mut |_| {}).unwrap();
        host.store().limit_pages(1);
        let mut minute = 0;
        while !full && minute < 60 {
            minute += 1;
            let mut out = |each: Outward| full |= matches!(each, Outward::DiskFull);
            host.step(now(minute), Input::Wake, &mut out).unwrap();
        }
        assert!(full);
        let height = host.node().tip().height;
        let again = host.next_wake(now(minute)).unwrap();
        assert_eq!(again, now(minute).mono_ms + RETRY_MS);
        host.step(now(minute + 1), Input::Wake, &mut |_| {}).unwrap();
        assert_eq!(host.node().tip().height, height, "still full");
        host.store().limit_pages(1_000);
        let mut committed = Vec::new();
        let mut out = |each| {
            if let Outward::Committed(block) = each {
                committed.push(block.height);
            }
        };
        host.step(now(minute + 2), Input::Wake, &mut out).unwrap();
        assert_eq!(committed.first(), Some(&height.next()));
    }

    #[test]
    fn a_ledger_has_one_host_at_a_time() {
        let (fixture, directory) = (Fixture::new(), tempfile::tempdir().unwrap());
        drop(Store::found(directory.path(), &Founding::new(fixture.genesis.clone())).unwrap());
        let host = open(&fixture, directory.path()).unwrap();
        let second = open(&fixture, directory.path());
        assert!(matches!(second, Err(HostError::InUse)));
        drop(host);
        open(&fixture, directory.path()).unwrap();
    }
}
