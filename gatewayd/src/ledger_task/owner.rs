//! The owner of the ledger's host (node, store, log): signs, submits, answers those who wait.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use ledger::crypto::SigningKey;
use ledger::host::{Host, HostError, Outward};
use ledger::ids::{Hash, Height, NodeId};
use ledger::node::{Behind, Committed, Input, Node, Now, Refusal};
use ledger::state::{Attestation, State};
use ledger::store::StoreError;
use ledger::transaction::{Author, Body, Draft, Session, Transaction};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::again::left_out;
use super::batches::InFlight;
use super::links::Others;
use super::{Command, Done, Here, Inbox, Parts, Tip};
use crate::clock::{self, SiteClock};
use crate::control::{ControlError, Event, Result};
use crate::ingest;
use crate::store::{NodeBytes, StoredBatch};
use crate::vote_keys::Keeper;

/// Blocks after which an own transaction that was not taken is given up.
const EXPIRY_BLOCKS: u64 = 1_000;

/// Why the ledger's thread cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Store and log.
    #[error("ledger: {0}")]
    Host(#[from] HostError),
    /// The store cannot be read.
    #[error("ledger: {0}")]
    Store(#[from] StoreError),
    /// No thread.
    #[error("thread: {0}")]
    Thread(std::io::Error),
}

/// Sessions of one node that are opened at once: more than a crash can keep from the record.
const MAX_MISSING: u32 = 64;

/// A session that the record has not opened yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unopened {
    epoch: u32,
    digest: [u8; 32],
    /// How often readings of it had to wait.
    pub(super) tries: u32,
}

/// Who waits for a transaction.
pub(super) enum Waiter {
    Caller(oneshot::Sender<Result<Done>>),
    Batch(InFlight),
    Session(NodeBytes, u32),
    /// Nobody; it is made again when it is refused.
    Accusation(NodeId),
    /// Nobody: it was recorded once, in what a recovery left out.
    Again,
}

pub(super) struct Owner {
    pub(super) host: Host,
    pub(super) others: Others,
    pub(super) key: Option<SigningKey>,
    next_key: Option<SigningKey>,
    silent_from: Option<u64>,
    keeper: Keeper,
    pub(super) gateway: NodeId,
    commands: mpsc::Receiver<Command>,
    batches: mpsc::Receiver<StoredBatch>,
    pub(super) ingest: ingest::Handle,
    tip: watch::Sender<Tip>,
    clock: watch::Sender<SiteClock>,
    behind: watch::Sender<Option<Behind>>,
    pub(super) events: broadcast::Sender<Event>,
    stopped: mpsc::Sender<String>,
    waiting: HashMap<Hash, Waiter>,
    /// Sessions on their way into the record.
    pub(super) opening: HashSet<(NodeBytes, u32)>,
    /// Sessions that a driver has opened and the record has not.
    pub(super) unopened: HashMap<NodeBytes, Unopened>,
    /// When this thread began, boot time in ms.
    pub(super) began_ms: u64,
    /// Roots of our newest committed batches: (root, height, sequence).
    pub(super) recent: VecDeque<(Hash, u64, u64)>,
    /// Batches on their way into the record.
    pub(super) batches_in_flight: u64,
    /// To be submitted again.
    pub(super) again: Vec<Transaction>,
    /// Submitted again, and neither recorded nor refused yet.
    pub(super) again_in_flight: usize,
    nonce: u64,
}

impl Owner {
    pub(super) fn new(inbox: Inbox, parts: Parts) -> std::result::Result<Self, StartError> {
        let Inbox { commands, tip, clock, behind } = inbox;
        let Parts {
            host,
            data_dir,
            gateway,
            vote_key,
            next_vote_key,
            silent_from,
            keeper,
            batches,
            ingest,
            links,
            events,
            stopped,
        } = parts;
        let mut owner = Self {
            host,
            others: Others::new(links),
            key: vote_key,
            next_key: next_vote_key,
            silent_from,
            keeper,
            gateway,
            commands,
            batches,
            ingest,
            tip,
            clock,
            behind,
            events,
            stopped,
            waiting: HashMap::new(),
            opening: HashSet::new(),
            unopened: HashMap::new(),
            began_ms: clock::boot_ms(),
            recent: VecDeque::new(),
            batches_in_flight: 0,
            again: Vec::new(),
            again_in_flight: 0,
            nonce: 0,
        };
        let height = owner.node().tip().height;
        owner.again = left_out(&data_dir, &gateway, owner.state(), height)?;
        // What is made now must not take their numbers.
        owner.nonce = owner.again.iter().map(|each| each.draft().nonce).max().unwrap_or(0);
        owner.load_recent()?;
        owner.settle_keys();
        Ok(owner)
    }

    fn load_recent(&mut self) -> std::result::Result<(), StoreError> {
        // What an identity before this one has recorded is not recorded again: oldest first.
        for author in self.state().lineage(&self.gateway).into_iter().rev() {
            let first = self.sequence_of(author).saturating_sub(super::batches::RECENT as u64 - 1);
            self.load_recent_from(author, first.max(1))?;
        }
        Ok(())
    }

    fn load_recent_from(
        &mut self,
        author: NodeId,
        first: u64,
    ) -> std::result::Result<(), StoreError> {
        let reader = self.host.store().reader()?;
        for sequence in first..=self.sequence_of(author) {
            let Some(found) = reader.batch_inclusion(&author, sequence)? else { continue };
            if let Body::Batch(head) = &found.transaction.draft().body {
                self.recent.push_back((head.root, found.header.height.0, sequence));
            }
        }
        while self.recent.len() > super::batches::RECENT {
            self.recent.pop_front();
        }
        Ok(())
    }

    pub(super) async fn run(mut self) {
        self.publish_tip();
        if let Err(error) = self.work().await {
            tracing::error!(%error, "the record stops being written");
            // The root ends the daemon, to be started anew from what is on disk.
            let _ = self.stopped.send(error.to_string()).await;
        }
    }

    async fn work(&mut self) -> std::result::Result<(), HostError> {
        self.others.set_members(self.host.node().state());
        self.step(Input::Start).await?;
        self.submit_again().await?;
        loop {
            self.accuse().await?;
            if self.wake_ms() == Some(0) {
                // However much the others say: the timers of consensus are heard.
                self.step(Input::Wake).await?;
            }
            let wake = self.wake_ms();
            let takes_batches = self.key.is_some() && self.again_in_flight == 0;
            // No order among them: a member that never stops talking must not keep this gateway's
            // own batches waiting.
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command).await?,
                    None => return Ok(()),
                },
                event = self.others.next() => self.heard(event).await?,
                batch = self.batches.recv(), if takes_batches => match batch {
                    Some(batch) => self.batch(batch).await?,
                    None => return Ok(()),
                },
                () = sleep_ms(wake) => self.step(Input::Wake).await?,
            }
        }
    }

    /// For how long nothing is due.
    fn wake_ms(&self) -> Option<u64> {
        let now = now();
        self.host.next_wake(now).map(|at| at.saturating_sub(now.mono_ms))
    }

    pub(super) fn node(&self) -> &Node {
        self.host.node()
    }

    pub(super) fn state(&self) -> &State {
        self.host.node().state()
    }

    async fn command(&mut self, command: Command) -> std::result::Result<(), HostError> {
        match command {
            Command::Propose { make, reply } => match self.draft(make) {
                Ok(transaction) => self.enqueue(transaction, Waiter::Caller(reply)).await,
                Err(error) => {
                    // A caller that has gone away is not told.
                    let _ = reply.send(Err(error));
                    Ok(())
                }
            },
            Command::OpenSession { node, epoch, digest } => {
                self.open_session(node, epoch, digest).await
            }
            Command::Submit { transaction, reply } => {
                self.enqueue(*transaction, Waiter::Caller(reply)).await
            }
            Command::View(look) => {
                look(self.host.node());
                Ok(())
            }
            Command::Draft { make, reply } => {
                let drafted = make(self.state()).map(|body| self.drafted(body, None));
                // A caller that has gone away is not told.
                let _ = reply.send(drafted);
                Ok(())
            }
            Command::NextVoteKey(key) => {
                self.next_key = Some(key);
                self.settle_keys();
                Ok(())
            }
            Command::WithKey(act) => {
                act(self.here());
                Ok(())
            }
        }
    }

    async fn open_session(
        &mut self,
        node: NodeBytes,
        epoch: u32,
        digest: [u8; 32],
    ) -> std::result::Result<(), HostError> {
        self.unopened.insert(node, Unopened { epoch, digest, tries: 0 });
        self.open_missing(node).await
    }

    /// Opens a session, and before it those that a crash kept from the record: their readings were
    /// acknowledged. Of these the digest is not known any more.
    pub(super) async fn open_missing(
        &mut self,
        node: NodeBytes,
    ) -> std::result::Result<(), HostError> {
        let Some(Unopened { epoch, digest, .. }) = self.unopened.get(&node).copied() else {
            return Ok(());
        };
        let known = self.session_epoch(&node);
        if epoch <= known || epoch - known > MAX_MISSING {
            if epoch > known {
                tracing::error!(epoch, known, "a session too far ahead of the record");
            }
            self.unopened.remove(&node);
            return Ok(());
        }
        for next in known + 1..=epoch {
            if !self.opening.contains(&(node, next)) {
                let digest = if next == epoch { digest } else { [0; 32] };
                self.submit_session(node, next, digest).await?;
            }
        }
        Ok(())
    }

    /// Session epoch of a node on the record.
    pub(super) fn session_epoch(&self, node: &NodeBytes) -> u32 {
        self.state().session(&NodeId(*node)).map_or(0, |session| session.counters.epoch)
    }

    async fn submit_session(
        &mut self,
        node: NodeBytes,
        epoch: u32,
        digest: [u8; 32],
    ) -> std::result::Result<(), HostError> {
        let made = self.draft(|here| {
            let gateway = here.state.gateway(&here.gateway);
            let liveness_epoch = gateway.map_or(0, |gateway| gateway.liveness_epoch);
            let expected_epoch = epoch.saturating_sub(1);
            let (node, digest) = (NodeId(node), Hash(digest));
            Ok(Body::Session(Session { node, expected_epoch, digest, liveness_epoch }))
        });
        match made {
            Ok(transaction) => {
                self.opening.insert((node, epoch));
                self.enqueue(transaction, Waiter::Session(node, epoch)).await
            }
            Err(error) => {
                tracing::error!(%error, "a session cannot be opened on the record");
                Ok(())
            }
        }
    }

    /// A transaction of this gateway, signed with its vote key.
    fn draft(&mut self, make: impl FnOnce(&Here<'_>) -> Result<Body>) -> Result<Transaction> {
        let body = make(&self.here()?)?;
        self.sign(body, None)
    }

    fn here(&self) -> Result<Here<'_>> {
        let key = self
            .key
            .as_ref()
            .ok_or_else(|| ControlError::Unavailable("this gateway has no vote key now".into()))?;
        Ok(Here {
            state: self.state(),
            gateway: self.gateway,
            chain_id: self.state().chain_id(),
            era: self.state().era(),
            time_ms: self.node().site_time_ms(now()),
            key,
            tip: self.node().tip(),
        })
    }

    pub(super) fn sign(&mut self, body: Body, attachment: Option<Hash>) -> Result<Transaction> {
        let draft = self.drafted(body, attachment);
        Ok(draft.sign(self.here()?.key))
    }

    fn drafted(&mut self, body: Body, attachment: Option<Hash>) -> Draft {
        let author = Author::Node(self.gateway);
        let used = self.state().activity(&author).map_or(0, |activity| activity.nonce_highest);
        self.nonce = self.nonce.max(used) + 1;
        Draft {
            chain_id: self.state().chain_id(),
            era: self.state().era(),
            author,
            nonce: self.nonce,
            expiry: self.node().tip().height.0 + EXPIRY_BLOCKS,
            attachment,
            body,
        }
    }

    /// Takes the next vote key once the record names it; the old one is destroyed. Votes again once
    /// the record says that this gateway was attested.
    fn settle_keys(&mut self) {
        let Some(own) = self.state().gateway(&self.gateway) else { return };
        let (named, attestation) = (Some(own.vote_key), own.attestation);
        let attested = match attestation {
            Attestation::Attested { height, .. } => height.0,
            _ => 0,
        };
        let above = |from: &mut u64| attested > *from;
        if self.silent_from.take_if(above).is_some() {
            self.host.set_vote_key(self.key.clone());
            match self.keeper.attested() {
                Ok(()) => tracing::info!("attested once more: this gateway votes again"),
                // It is silent after the next start until it is attested anew.
                Err(error) => tracing::error!(%error, "what was asked for stays on the disk"),
            }
        }
        let Some(key) = self.next_key.take_if(|next| named == Some(next.public_key())) else {
            return;
        };
        if self.silent_from.is_none() {
            self.host.set_vote_key(Some(key.clone()));
        }
        self.key = Some(key);
        match self.keeper.take_next() {
            Ok(()) => tracing::info!("the record names the new vote key; the old one is gone"),
            // It is looked at again at the next start.
            Err(error) => tracing::error!(%error, "the new vote key stays beside the old one"),
        }
    }

    pub(super) async fn enqueue(
        &mut self,
        transaction: Transaction,
        waiter: Waiter,
    ) -> std::result::Result<(), HostError> {
        self.waiting.insert(transaction.hash(), waiter);
        self.step(Input::Submit(Box::new(transaction))).await
    }

    pub(super) async fn enqueue_batch(
        &mut self,
        transaction: Transaction,
        batch: InFlight,
    ) -> std::result::Result<(), HostError> {
        self.batches_in_flight += 1;
        self.enqueue(transaction, Waiter::Batch(batch)).await
    }

    pub(super) async fn step(&mut self, input: Input) -> std::result::Result<(), HostError> {
        let mut outward = Vec::new();
        let done = self.host.step(now(), input, &mut |out| outward.push(out));
        for out in outward {
            match out {
                Outward::Committed(committed) => self.committed(*committed).await,
                Outward::Refused { tx_hash, error } => self.refused(&tx_hash, &error).await,
                Outward::Equivocation(votes) => self.equivocation(*votes),
                Outward::DiskFull => {
                    self.tip.send_modify(|tip| tip.disk_full = true);
                    let message = "the record waits: its disk is full".into();
                    // Nobody listening is no error.
                    let _ = self.events.send(Event::Alert { kind: "disk", message });
                }
                Outward::Behind(behind) => {
                    self.behind.send_replace(Some(*behind));
                }
                Outward::Publish(bytes) => self.others.publish(bytes),
                Outward::Send { to, bytes } => self.others.send(to, bytes),
            }
        }
        done
    }

    async fn committed(&mut self, committed: Committed) {
        let Committed { height, receipts, .. } = committed;
        self.others.set_members(self.host.node().state());
        self.settle_keys();
        self.publish_tip();
        let mut readings = 0;
        let transactions = u32::try_from(receipts.len()).unwrap_or(u32::MAX);
        for (hash, events) in receipts {
            match self.waiting.remove(&hash) {
                Some(Waiter::Caller(reply)) => {
                    // A caller that has gone away is not told.
                    let _ = reply.send(Ok(Done { height: height.0, hash }));
                }
                Some(Waiter::Batch(batch)) => {
                    self.batches_in_flight = self.batches_in_flight.saturating_sub(1);
                    readings += batch.readings;
                    batch.committed(&self.ingest, height).await;
                }
                Some(Waiter::Session(node, epoch)) => {
                    self.opening.remove(&(node, epoch));
                    if self.unopened.get(&node).is_some_and(|unopened| unopened.epoch <= epoch) {
                        self.unopened.remove(&node);
                    }
                }
                Some(Waiter::Accusation(node)) => {
                    tracing::warn!(gateway = node.to_gateway_string(), "suspended by the rules");
                }
                Some(Waiter::Again) => {
                    self.again_in_flight = self.again_in_flight.saturating_sub(1);
                    self.remember(&events);
                }
                // Of before a crash: read back from the log, and its caller is gone.
                None => self.remember(&events),
            }
        }
        let readings = u32::try_from(readings).unwrap_or(u32::MAX);
        // Nobody listening is no error.
        let _ = self.events.send(Event::Committed { height: height.0, transactions, readings });
    }

    /// A batch that was on its way when the daemon was killed: not to be submitted again.
    fn remember(&mut self, events: &[ledger::state::Event]) {
        for event in events {
            let ledger::state::Event::BatchCommitted { gateway, sequence, .. } = event else {
                continue;
            };
            if *gateway == self.gateway
                && let Err(error) = self.load_recent_from(self.gateway, *sequence)
            {
                tracing::error!(%error, sequence, "a committed batch cannot be read back");
            }
        }
    }

    async fn refused(&mut self, hash: &Hash, error: &Refusal) {
        match self.waiting.remove(hash) {
            Some(Waiter::Caller(reply)) => {
                // A caller that has gone away is not told.
                let _ = reply.send(Err(ControlError::Refused(error.to_string())));
            }
            Some(Waiter::Batch(batch)) => {
                self.batches_in_flight = self.batches_in_flight.saturating_sub(1);
                tracing::warn!(%error, sequence = batch.sequence, "batch not taken; later again");
                batch.later(&self.ingest).await;
            }
            Some(Waiter::Session(node, epoch)) => {
                self.opening.remove(&(node, epoch));
                tracing::error!(%error, epoch, "the record does not open a session");
            }
            Some(Waiter::Accusation(node)) => {
                let gateway = node.to_gateway_string();
                tracing::warn!(%error, gateway, "an accusation is not recorded; later again");
            }
            Some(Waiter::Again) => {
                self.again_in_flight = self.again_in_flight.saturating_sub(1);
                tracing::warn!(%error, %hash, "what the recovery left out is not recorded again");
            }
            None => tracing::debug!(%error, "a transaction was refused"),
        }
    }

    fn publish_tip(&self) {
        let (header, state) = (self.node().tip(), self.state());
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.tip.send_replace(Tip {
            height: header.height.0,
            time_ms: header.time_ms,
            era: header.era.0,
            members: count(state.gateways().count()),
            voters: count(state.voters().len()),
            disk_full: false,
        });
        if header.height > Height::GENESIS {
            self.clock.send_modify(|clock| clock.observe_block(header.time_ms, clock::boot_ms()));
        }
    }
}

fn now() -> Now {
    let synchronised = clock::synchronised();
    Now { mono_ms: clock::boot_ms(), wall_ms: clock::wall_ms(), synchronised }
}

async fn sleep_ms(ms: Option<u64>) {
    match ms {
        Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        None => std::future::pending().await,
    }
}
