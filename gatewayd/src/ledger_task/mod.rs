//! The thread that owns the ledger: node, store and write-ahead log. Everybody else sends it what
//! is to be recorded and looks at its state through closures or the store's snapshots.
//!
//! Full is answered thus: the command queue makes callers wait; the mempool's refusals come back
//! as errors (a person is told) or as *later* (a batch is handed over again).

mod again;
mod batches;
mod links;
mod owner;
mod registry;

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use ledger::crypto::SigningKey;
use ledger::header::Header;
use ledger::host::Host;
use ledger::ids::{ChainId, Era, Hash, NodeId};
use ledger::node::{Behind, Node};
use ledger::state::State;
use ledger::transaction::{Body, Draft, Transaction};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::clock::SiteClock;
use crate::control::{CommittedInfo, ControlError, Event, Result};
use crate::ingest;
use crate::store::{NodeBytes, StoredBatch};

pub use crate::vote_keys::Keeper;
pub use links::Links;
pub use owner::StartError;
pub use registry::Registration;

/// Commands that may wait; callers block beyond it.
const QUEUE: usize = 256;

/// Longest wait for a block that holds somebody's transaction.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes a body from the state of this instant, or says why not.
type Make = Box<dyn FnOnce(&Here<'_>) -> Result<Body> + Send>;

/// Does something with the vote key, or learns that there is none.
type Act = Box<dyn FnOnce(Result<Here<'_>>) + Send>;

/// Makes a body that another key than the vote key signs.
type MakeUnsigned = Box<dyn FnOnce(&State) -> Result<Body> + Send>;

/// What a body is made from.
pub struct Here<'a> {
    /// State after the newest block.
    pub state: &'a State,
    /// This gateway.
    pub gateway: NodeId,
    /// Chain of this site.
    pub chain_id: ChainId,
    /// Era.
    pub era: Era,
    /// Time for tickets and blocks, Unix ms.
    pub time_ms: u64,
    /// This gateway's vote key.
    pub key: &'a SigningKey,
    /// Newest block.
    pub tip: &'a Header,
}

/// What is to be recorded, or asked.
enum Command {
    Propose { make: Make, reply: oneshot::Sender<Result<Done>> },
    OpenSession { node: NodeBytes, epoch: u32, digest: [u8; 32] },
    Submit { transaction: Box<Transaction>, reply: oneshot::Sender<Result<Done>> },
    View(Box<dyn FnOnce(&Node) + Send>),
    WithKey(Act),
    Draft { make: MakeUnsigned, reply: oneshot::Sender<Result<Draft>> },
    NextVoteKey(SigningKey),
}

/// A committed transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Block.
    pub height: u64,
    /// Transaction.
    pub hash: Hash,
}

impl Done {
    /// For management.
    pub fn info(self, summary: String) -> CommittedInfo {
        let transaction = self.hash.to_string();
        CommittedInfo { height: self.height, transaction, summary }
    }
}

/// What is known about the newest block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tip {
    /// Height.
    pub height: u64,
    /// Its time, Unix ms.
    pub time_ms: u64,
    /// Era.
    pub era: u32,
    /// Members.
    pub members: u32,
    /// Voters.
    pub voters: u32,
    /// A decided block waits for room on the disk.
    pub disk_full: bool,
}

/// Handle of the ledger's thread.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    tip: watch::Receiver<Tip>,
    clock: watch::Receiver<SiteClock>,
    behind: watch::Receiver<Option<Behind>>,
}

/// What the thread holds of the channels; made before the thread, since keys come later.
pub struct Inbox {
    commands: mpsc::Receiver<Command>,
    tip: watch::Sender<Tip>,
    clock: watch::Sender<SiteClock>,
    behind: watch::Sender<Option<Behind>>,
}

/// Handle and inbox. Until the thread runs, commands wait.
pub fn channel() -> (Handle, Inbox) {
    let (sender, commands) = mpsc::channel(QUEUE);
    let (tip_in, tip) = watch::channel(Tip::default());
    let (clock_in, clock) = watch::channel(SiteClock::default());
    let (behind_in, behind) = watch::channel(None);
    let inbox = Inbox { commands, tip: tip_in, clock: clock_in, behind: behind_in };
    (Handle { commands: sender, tip, clock, behind }, inbox)
}

/// What the thread is started with.
pub struct Parts {
    /// The opened ledger.
    pub host: Host,
    /// Where it is, and those that were set aside.
    pub data_dir: PathBuf,
    /// This gateway.
    pub gateway: NodeId,
    /// Vote key; none: it follows.
    pub vote_key: Option<SigningKey>,
    /// Its successor, taken when the record names it.
    pub next_vote_key: Option<SigningKey>,
    /// It votes only when it was attested above this height.
    pub silent_from: Option<u64>,
    /// The keys on the disk.
    pub keeper: Keeper,
    /// Cut batches, in order.
    pub batches: mpsc::Receiver<StoredBatch>,
    /// Where the fate of batches is told.
    pub ingest: ingest::Handle,
    /// Connections to other members; none while the identity is not open.
    pub links: Option<Links>,
    /// For `monitor`.
    pub events: broadcast::Sender<Event>,
    /// Told why, when the ledger cannot go on.
    pub stopped: mpsc::Sender<String>,
}

/// Starts the thread.
///
/// # Errors
/// The store or the log cannot be read.
pub fn start(inbox: Inbox, parts: Parts) -> std::result::Result<JoinHandle<()>, StartError> {
    let owner = owner::Owner::new(inbox, parts)?;
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name("ledger".into())
        .spawn(move || runtime.block_on(owner.run()))
        .map_err(StartError::Thread)
}

impl Handle {
    /// Newest block.
    pub fn tip(&self) -> watch::Receiver<Tip> {
        self.tip.clone()
    }

    /// Why blocks alone do not lead on from the record here, once that is so.
    pub fn behind(&self) -> watch::Receiver<Option<Behind>> {
        self.behind.clone()
    }

    /// The record's time.
    pub fn clock(&self) -> watch::Receiver<SiteClock> {
        self.clock.clone()
    }

    /// Records a body made from the state; returns when it is committed.
    ///
    /// # Errors
    /// Refused by the rules, no key, not in time.
    pub async fn propose(
        &self,
        make: impl FnOnce(&Here<'_>) -> Result<Body> + Send + 'static,
    ) -> Result<Done> {
        let make = Box::new(make);
        self.wait(|reply| Command::Propose { make, reply }).await
    }

    /// Records a signed transaction; returns when it is committed.
    ///
    /// # Errors
    /// As [`Handle::propose`].
    pub async fn submit(&self, transaction: Transaction) -> Result<Done> {
        self.wait(|reply| Command::Submit { transaction: Box::new(transaction), reply }).await
    }

    /// A draft of this gateway with its next nonce, for its identity key (or a new vote key) to
    /// sign and [`Handle::submit`] to record.
    ///
    /// # Errors
    /// Refused by `make`; the ledger is not running.
    pub async fn draft(
        &self,
        make: impl FnOnce(&State) -> Result<Body> + Send + 'static,
    ) -> Result<Draft> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Draft { make: Box::new(make), reply }).await?;
        let waited = tokio::time::timeout(COMMIT_TIMEOUT, answer).await;
        waited.map_err(|_| not_running())?.map_err(|_| not_running())?
    }

    /// The vote key that is taken as soon as the record names it.
    ///
    /// # Errors
    /// The ledger is not running.
    pub async fn next_vote_key(&self, key: SigningKey) -> Result<()> {
        self.send(Command::NextVoteKey(key)).await
    }

    /// Opens a session epoch; what follows of it in batches comes after it.
    pub async fn open_session(&self, node: NodeBytes, epoch: u32, digest: [u8; 32]) {
        // A thread that has ended records nothing more; the session opens again after the start.
        let _ = self.commands.send(Command::OpenSession { node, epoch, digest }).await;
    }

    /// Looks at the state on the ledger's thread.
    ///
    /// # Errors
    /// The ledger is not running (yet).
    pub async fn view<R: Send + 'static>(
        &self,
        look: impl FnOnce(&State) -> R + Send + 'static,
    ) -> Result<R> {
        self.with_node(move |node| look(node.state())).await
    }

    /// Does something with the node on the ledger's thread.
    ///
    /// # Errors
    /// As [`Handle::view`].
    pub async fn with_node<R: Send + 'static>(
        &self,
        act: impl FnOnce(&Node) -> R + Send + 'static,
    ) -> Result<R> {
        let (reply, answer) = oneshot::channel();
        let run = move |node: &Node| {
            // A caller that has gone away wants no answer.
            let _ = reply.send(act(node));
        };
        self.send(Command::View(Box::new(run))).await?;
        let waited = tokio::time::timeout(COMMIT_TIMEOUT, answer).await;
        waited.map_err(|_| not_running())?.map_err(|_| not_running())
    }

    /// Does something with the vote key on the ledger's thread, against the state of that instant:
    /// what is signed so is right when it is signed.
    ///
    /// # Errors
    /// As [`Handle::view`]; this gateway has no vote key now.
    pub async fn with_key<R: Send + 'static>(
        &self,
        act: impl FnOnce(&Here<'_>) -> R + Send + 'static,
    ) -> Result<R> {
        let (reply, answer) = oneshot::channel();
        let run = move |here: Result<Here<'_>>| {
            // A caller that has gone away wants no answer.
            let _ = reply.send(here.map(|here| act(&here)));
        };
        self.send(Command::WithKey(Box::new(run))).await?;
        let waited = tokio::time::timeout(COMMIT_TIMEOUT, answer).await;
        waited.map_err(|_| not_running())?.map_err(|_| not_running())?
    }

    async fn wait(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<Done>>) -> Command,
    ) -> Result<Done> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        match tokio::time::timeout(COMMIT_TIMEOUT, answer).await {
            Ok(answer) => answer.map_err(|_| not_running())?,
            Err(_) => Err(ControlError::Timeout(
                "no block took it within 30 s; it may still be recorded".into(),
            )),
        }
    }

    async fn send(&self, command: Command) -> Result<()> {
        let sent = self.commands.send_timeout(command, COMMIT_TIMEOUT).await;
        sent.map_err(|_| not_running())
    }
}

fn not_running() -> ControlError {
    ControlError::Unavailable("the record is not being written now; `gatewayctl status`".into())
}
