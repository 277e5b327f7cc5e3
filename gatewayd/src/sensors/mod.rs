//! The sensors of this gateway: one task owns their list, the tasks of their links, and the pairing
//! window. Drivers verify, the buffer keeps, the ledger records; this decides who is served.

mod candidate;
mod list;
mod lora;
mod owner;
mod port;
pub mod settings;
pub mod shared;
mod strangers;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::bridge;
use crate::config::Settings;
use crate::control::{
    CommittedInfo, ControlError, Event, PairingRequest, PairingStatus, Result, SensorInfo,
};
use crate::ingest::Highest;
use crate::ledger_task;
use crate::store::{NodeBytes, SensorRow};

pub use lora::LoraState;
use shared::Shared;

/// Commands that may wait; callers block beyond it.
const QUEUE: usize = 64;

enum Command {
    OpenPairing(Box<PairingRequest>, oneshot::Sender<Result<u64>>),
    Confirm(u64, oneshot::Sender<Result<()>>),
    Close(u64, oneshot::Sender<Result<()>>),
    List(oneshot::Sender<Result<Vec<SensorInfo>>>),
    Find(String, oneshot::Sender<Result<(NodeBytes, String)>>),
    Names(oneshot::Sender<Vec<(NodeBytes, String)>>),
    Rename(String, String, oneshot::Sender<Result<()>>),
    Forget(String, oneshot::Sender<Result<CommittedInfo>>),
    Lora(oneshot::Sender<Option<LoraState>>),
    Intervals(oneshot::Sender<Vec<(NodeBytes, u32)>>),
}

/// Handle of the task.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

/// What the task is started with.
pub struct Parts {
    /// Handles of the rest.
    pub shared: Shared,
    /// Sensors in the buffer.
    pub rows: Vec<SensorRow>,
    /// Their sealed session records.
    pub sessions: std::collections::HashMap<NodeBytes, Vec<u8>>,
    /// Highest durable counters that are not committed.
    pub highest: Highest,
    /// Configuration.
    pub settings: Settings,
    /// Where the pairing window is shown.
    pub pairing: watch::Sender<PairingStatus>,
    /// For `monitor`.
    pub events: broadcast::Sender<Event>,
    /// The ledger.
    pub ledger: ledger_task::Handle,
    /// What bridges lend; none while nobody is connected.
    pub lent: Option<Lent>,
}

/// The bridges, and the datagrams of the packet forwarders beside them.
pub type Lent = (bridge::Handle, mpsc::Receiver<bridge::Uplink>);

/// Starts the task.
pub fn start(parts: Parts) -> Handle {
    let (commands, inbox) = mpsc::channel(QUEUE);
    tokio::spawn(owner::Owner::new(parts).run(inbox));
    Handle { commands }
}

impl Handle {
    /// Opens a pairing window; its number.
    ///
    /// # Errors
    /// A window is open, an argument is wrong, a link is not available.
    pub async fn open_pairing(&self, request: PairingRequest) -> Result<u64> {
        self.ask(|reply| Command::OpenPairing(Box::new(request), reply)).await?
    }

    /// Accepts the preview.
    ///
    /// # Errors
    /// There is no such window, or nothing to confirm.
    pub async fn confirm(&self, window: u64) -> Result<()> {
        self.ask(|reply| Command::Confirm(window, reply)).await?
    }

    /// Closes the window.
    ///
    /// # Errors
    /// There is no such window.
    pub async fn close(&self, window: u64) -> Result<()> {
        self.ask(|reply| Command::Close(window, reply)).await?
    }

    /// All sensors.
    ///
    /// # Errors
    /// The ledger or the buffer does not answer.
    pub async fn list(&self) -> Result<Vec<SensorInfo>> {
        self.ask(Command::List).await?
    }

    /// Node ID and name of a sensor given by ID or name.
    ///
    /// # Errors
    /// None, or several of that name.
    pub async fn find(&self, id_or_name: &str) -> Result<(NodeBytes, String)> {
        self.ask(|reply| Command::Find(id_or_name.to_owned(), reply)).await?
    }

    /// Names of all sensors.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub async fn names(&self) -> Result<Vec<(NodeBytes, String)>> {
        self.ask(Command::Names).await
    }

    /// Gives a sensor another name.
    ///
    /// # Errors
    /// No such sensor, a bad or taken name.
    pub async fn rename(&self, id_or_name: &str, name: &str) -> Result<()> {
        let (who, name) = (id_or_name.to_owned(), name.to_owned());
        self.ask(|reply| Command::Rename(who, name, reply)).await?
    }

    /// Retires a sensor and forgets its keys.
    ///
    /// # Errors
    /// No such sensor; the ledger does not take it.
    pub async fn forget(&self, id_or_name: &str) -> Result<CommittedInfo> {
        self.ask(|reply| Command::Forget(id_or_name.to_owned(), reply)).await?
    }

    /// Figures of the LoRaWAN side; `None` when it is switched off.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub async fn lora(&self) -> Result<Option<LoraState>> {
        self.ask(Command::Lora).await
    }

    /// Expected interval of each sensor, s; 0 for unknown.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub async fn intervals(&self) -> Result<Vec<(NodeBytes, u32)>> {
        self.ask(Command::Intervals).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let stopping = || ControlError::Unavailable("the daemon is stopping".into());
        self.commands.send(command(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }
}
