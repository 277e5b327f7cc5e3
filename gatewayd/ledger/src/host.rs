//! Executes a node's effects on the store and the log, in their order.
//!
//! The composition of [`Node`], [`Store`] and [`Wal`] that the daemon, the tests and the
//! simulation share. One thread owns it. It must not decide anything: what to do and when is the
//! node's business; sockets and clocks are the caller's.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use thiserror::Error;

use crate::certificate::Certificate;
use crate::codec::Encode;
use crate::consensus::message::Message;
use crate::consensus::wal::{FileMedium, Medium, Recovery, Wal};
use crate::crypto::SigningKey;
use crate::header::Header;
use crate::ids::{Hash, Height, NodeId};
use crate::node::{
    Behind, Committed, Decided, Effect, Fault, Input, Node, Now, RecoveryError, Refusal, Setup,
    SetupError,
};
use crate::store::{SnapshotServer, Store, StoreError};
use crate::sync::wire::{Answer, Request};
use crate::transaction::{Equivocation, Transaction};

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
    /// A voter signed two different votes: the evidence, as a `Suspend` carries it.
    Equivocation(Box<Equivocation>),
    /// The disk is full: a decided block waits to be stored; tried again with every step.
    DiskFull,
    /// This gateway cannot go on from its store alone: let a `sync::Client` fetch a snapshot that
    /// follows from the header in it, and when that is verified drop the host, set the ledger
    /// aside and found it anew (`store::begin_anew`), open it and submit again what
    /// `store::own_transactions` finds.
    Behind(Box<Behind>),
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
    unstored: Option<Vec<Decided>>,
    /// The store knows that the log was used.
    log_used: bool,
    snapshots: SnapshotServer,
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
        log: (Wal<M>, Vec<Vec<u8>>, Recovery),
        id: NodeId,
        vote_key: Option<SigningKey>,
    ) -> Result<Self, HostError> {
        let (wal, records, mut recovery) = log;
        let loaded = store.load()?;
        let log_used = store.log_was_used()?;
        // A log that was used is never found empty: this one was lost as a whole. One that was
        // not has nothing to tell, at any height: so a gateway can vote from the moment on at
        // which it becomes a voter.
        if log_used && recovery == Recovery::Empty {
            recovery = Recovery::Damaged;
        }
        let snapshots = store.snapshot_server();
        let silent = store.silent_through()?;
        let mut node = Node::new(Setup { node: id, vote_key, loaded, records, recovery })?;
        node.keep_silent(silent);
        Ok(Self { node, store, wal, unstored: None, log_used, snapshots })
    }

    /// The node, for questions.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The disk may be an older copy of itself, for the last stop was not clean: no vote before
    /// a quorum has said which of this node's votes they know. To be called before
    /// [`Input::Start`].
    pub fn doubt_log(&mut self) {
        self.node.doubt_log();
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
            inputs.extend(self.store_blocks(decided, out)?);
        }
        while let Some(input) = inputs.pop_front() {
            for effect in self.node.step(now, input) {
                inputs.extend(self.execute(now, effect, out)?);
            }
        }
        self.snapshots.close_idle(now.mono_ms);
        Ok(())
    }

    fn execute(
        &mut self,
        now: Now,
        effect: Effect,
        out: &mut dyn FnMut(Outward),
    ) -> Result<Option<Input>, HostError> {
        match effect {
            Effect::WalAppend(bytes) => self.wal.append(&bytes)?,
            Effect::WalSync => self.sync_log()?,
            Effect::WalDiscard => self.wal.discard()?,
            Effect::Publish(bytes) => out(Outward::Publish(bytes)),
            Effect::Send { to, bytes } => out(Outward::Send { to, bytes }),
            Effect::Serve { to, from, count } => {
                let bytes = self.decided(from, count)?;
                out(Outward::Send { to, bytes });
            }
            Effect::Announce(height) => out(Outward::Publish(self.decided(height, 1)?)),
            Effect::ServeSnapshot { to, request } => {
                let bytes = Message::Snapshot(self.snapshot(now, &request)?).to_bytes();
                out(Outward::Send { to, bytes });
            }
            Effect::Store(decided) => return self.store_blocks(decided, out),
            Effect::JudgeRecovery(sealed) => {
                let (block, certificate) = *sealed;
                let tx_hash = block.transactions.first().map_or(Hash::ZERO, Transaction::hash);
                out(match self.judge_recovery(&block.header, &certificate)? {
                    Ok(behind) => Outward::Behind(Box::new(behind)),
                    Err(error) => Outward::Refused { tx_hash, error: error.into() },
                });
            }
            Effect::Behind(behind) => out(Outward::Behind(behind)),
            Effect::Committed(committed) => out(Outward::Committed(committed)),
            Effect::Refused { tx_hash, error } => out(Outward::Refused { tx_hash, error }),
            Effect::Equivocation(votes) => out(Outward::Equivocation(votes)),
            Effect::Fault(fault) => return Err(fault.into()),
        }
        Ok(None)
    }

    /// What rests on the log may leave after this. The store notes the first time, so that a log
    /// that is lost later is not taken for one that never was.
    fn sync_log(&mut self) -> Result<(), HostError> {
        self.wal.sync()?;
        if !self.log_used {
            self.store.mark_log_used()?;
            self.log_used = true;
        }
        Ok(())
    }

    /// The answer to one who asks for blocks: none when they are not here.
    fn decided(&self, from: Height, count: usize) -> Result<Vec<u8>, HostError> {
        let range = self.store.range(from, count, RANGE_BYTES)?;
        let (blocks, certificate) =
            range.map(|range| (range.blocks, range.certificate)).unwrap_or_default();
        Ok(Message::Decided { blocks, certificate }.to_bytes())
    }

    /// Answers a gateway that has no ledger yet.
    ///
    /// # Errors
    /// [`HostError::Store`].
    pub fn snapshot(&mut self, now: Now, request: &Request) -> Result<Answer, HostError> {
        Ok(self.snapshots.answer(now.mono_ms, request)?)
    }

    /// Whether a recovery, certified by the operator whom this ledger knows, is one on top of an
    /// older block of it.
    fn judge_recovery(
        &self,
        header: &Header,
        certificate: &Certificate,
    ) -> Result<Result<Behind, RecoveryError>, HostError> {
        let (era, height) = (header.era, header.height);
        if era <= self.node.state().era() {
            return Ok(Err(RecoveryError::KnownEra(era)));
        }
        let reader = self.store.reader()?;
        let parent = Height(height.0.saturating_sub(1));
        // Below the first block here the parent is not kept; then the operator's word stands.
        let own = reader.header(parent)?;
        if own.is_some_and(|own| own.hash() != header.parent_hash) {
            return Ok(Err(RecoveryError::OtherParent));
        }
        // A peer may say anything: what is of before this ledger's memory is no fault of its own.
        let Some(voters) = reader.known_validators(height)? else {
            return Ok(Err(RecoveryError::NotKept(height)));
        };
        let certified = certificate.verify(header, &voters).map_err(RecoveryError::from);
        let behind = Behind::Recovered { trusted: header.clone(), parent };
        Ok(certified.map(|()| behind))
    }

    fn store_blocks(
        &mut self,
        decided: Vec<Decided>,
        out: &mut dyn FnMut(Outward),
    ) -> Result<Option<Input>, HostError> {
        match self.store.commit_all(&decided) {
            Ok(()) => Ok(decided.last().map(|last| Input::Stored(last.block.header.height))),
            Err(StoreError::DiskFull) => {
                self.unstored = Some(decided);
                out(Outward::DiskFull);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Blocks for one who is behind: about so many bytes a message, and one block at least.
const RANGE_BYTES: usize = 1024 * 1024;

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
