//! The durable buffer between drivers and ledger: one thread owns the buffer database, makes groups
//! of readings durable in one synced transaction each, cuts batches, and hands them on in order.
//!
//! Acknowledged means: `append` has returned. It must not verify frames, sign, or know blocks.
//!
//! Full is answered thus: the command queue blocks the drivers (they do not acknowledge, so the
//! sensor sends again); the disk budget drops the oldest committed batches, then refuses.

mod cut;
pub mod leaf;
mod owner;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{broadcast, mpsc, oneshot};

use crate::control::{ControlError, Event};
use crate::store::{Buffer, Entry, NodeBytes, SensorRow, StoreError, StoredBatch};

use cut::CutRule;
use owner::Owner;

/// Groups that may wait for the writer; drivers block beyond it.
const QUEUE: usize = 256;

/// Settings of the buffer.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Fixed batch interval, ms; none: by rate.
    pub batch_interval_ms: Option<u64>,
    /// Bytes the buffer may take on disk.
    pub budget_bytes: u64,
}

/// Readings and session records that become durable together.
#[derive(Debug, Default)]
pub struct Group {
    /// Verified readings.
    pub readings: Vec<Entry>,
    /// Sealed session records.
    pub sessions: Vec<(NodeBytes, Vec<u8>)>,
}

/// Highest durable counter of a node that is not committed yet, by node: (epoch, counter).
pub type Highest = HashMap<NodeBytes, (u32, u64)>;

/// What was heard of a node, and figures for `status`.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Newest reading of each node.
    pub newest: HashMap<NodeBytes, Entry>,
    /// Readings that wait, are committed, are unrecorded.
    pub counts: [u64; 3],
    /// Bytes used by the buffer.
    pub used_bytes: u64,
    /// Why appends are refused now.
    pub refusing: Option<String>,
}

enum Command {
    Append(Group, oneshot::Sender<Result<(), StoreError>>),
    Hurry { until_ms: u64 },
    Flush(oneshot::Sender<()>),
    Submitted { sequence: u64, outcome: Outcome },
    Heard(oneshot::Sender<Heard>),
    PutSensor(SensorRow, oneshot::Sender<Result<(), StoreError>>),
    Rename(NodeBytes, String, oneshot::Sender<Result<bool, StoreError>>),
    Remove(NodeBytes, oneshot::Sender<Result<(), StoreError>>),
    SetFact(&'static str, Vec<u8>, oneshot::Sender<Result<(), StoreError>>),
}

/// How the record answered a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Committed.
    Committed {
        /// Block.
        height: u64,
        /// Sequence among this gateway's batches on the record.
        sequence: u64,
        /// How many readings it holds.
        readings: u64,
    },
    /// The record will not take these readings (closed counters, a node that is not served any
    /// more): they stay here, and the rest is to be handed over again.
    Without {
        /// (node, epoch, counter) of each.
        readings: Vec<(NodeBytes, u32, u64)>,
        /// Why, in a sentence.
        reason: String,
    },
    /// Not taken now (queue full, no key): to be handed over again.
    Later,
}

/// Handle of the buffer's thread.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

/// What was found when the buffer was opened.
pub struct Opened {
    /// Handle.
    pub handle: Handle,
    /// Thread, to be joined at exit.
    pub thread: JoinHandle<()>,
    /// Highest durable counters.
    pub highest: Highest,
    /// Sensors with their sealed secrets.
    pub sensors: Vec<SensorRow>,
    /// Sealed session records.
    pub sessions: HashMap<NodeBytes, Vec<u8>>,
    /// Cut batches in the order to be submitted.
    pub batches: mpsc::Receiver<StoredBatch>,
}

/// Opens the buffer at `path` and starts its thread. `names` gives the chain's leaf identity.
pub fn open(
    path: &Path,
    context: leaf::Context,
    limits: Limits,
    events: broadcast::Sender<Event>,
) -> Result<Opened, StoreError> {
    let buffer = Buffer::open(path)?;
    let sensors = buffer.sensors()?;
    let mut sessions = HashMap::new();
    for sensor in &sensors {
        if let Some(record) = buffer.session(&sensor.node)? {
            sessions.insert(sensor.node, record);
        }
    }
    let (commands, inbox) = mpsc::channel(QUEUE);
    let (outbox, batches) = mpsc::channel(owner::IN_FLIGHT);
    let rule = CutRule::new(limits.batch_interval_ms);
    let path: Arc<Path> = path.into();
    let owner = Owner::new(buffer, path, context, rule, limits, outbox, events)?;
    let highest = owner.highest()?;
    let runtime = tokio::runtime::Handle::current();
    let thread = std::thread::Builder::new()
        .name("ingest".into())
        .spawn(move || runtime.block_on(owner.run(inbox)))
        .map_err(|error| StoreError::Io(error.to_string()))?;
    Ok(Opened { handle: Handle { commands }, thread, highest, sensors, sessions, batches })
}

impl Handle {
    /// Makes a group durable; when this returns it survives power loss. Blocks while the writer is
    /// behind. Errors: disk full, over budget, damaged: nothing of the group was kept.
    pub async fn append(&self, group: Group) -> Result<(), ControlError> {
        self.ask(|reply| Command::Append(group, reply)).await?.map_err(storage)
    }

    /// Cuts early until then (boot time, ms): somebody waits.
    pub async fn hurry(&self, until_ms: u64) {
        // A closed channel means that the daemon is stopping: then nobody waits any more.
        let _ = self.commands.send(Command::Hurry { until_ms }).await;
    }

    /// Cuts what waits at once.
    pub async fn flush(&self) -> Result<(), ControlError> {
        self.ask(Command::Flush).await
    }

    /// Tells how the record answered a batch.
    pub async fn submitted(&self, sequence: u64, outcome: Outcome) {
        // A closed channel means shutdown: the batch is open on disk and comes again.
        let _ = self.commands.send(Command::Submitted { sequence, outcome }).await;
    }

    /// Newest readings and figures.
    pub async fn heard(&self) -> Result<Heard, ControlError> {
        self.ask(Command::Heard).await
    }

    /// Adds or changes a sensor, durably.
    pub async fn put_sensor(&self, row: SensorRow) -> Result<(), ControlError> {
        self.ask(|reply| Command::PutSensor(row, reply)).await?.map_err(storage)
    }

    /// Renames; false when there is no such sensor.
    pub async fn rename(&self, node: NodeBytes, name: String) -> Result<bool, ControlError> {
        self.ask(|reply| Command::Rename(node, name, reply)).await?.map_err(storage)
    }

    /// Forgets a sensor with its secrets.
    pub async fn remove(&self, node: NodeBytes) -> Result<(), ControlError> {
        self.ask(|reply| Command::Remove(node, reply)).await?.map_err(storage)
    }

    /// Keeps a small fact about this gateway.
    pub async fn set_fact(&self, name: &'static str, value: Vec<u8>) -> Result<(), ControlError> {
        self.ask(|reply| Command::SetFact(name, value, reply)).await?.map_err(storage)
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, ControlError> {
        let (reply, answer) = oneshot::channel();
        let stopping = || ControlError::Unavailable("the daemon is stopping".into());
        self.commands.send(command(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }
}

fn storage(error: StoreError) -> ControlError {
    ControlError::Storage(error.to_string())
}
