//! The life of this gateway's site: none yet, its TPM missing, running. One task owns it; it opens
//! the identity, checks the disk for rollback, starts ledger, buffer and sensors, and keeps the
//! status that everybody reads.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use attestation::tpm::{IdentityInfo, Tpm, TpmError};
use ledger::crypto::PublicKey;
use ledger::genesis::Genesis;
use ledger::host::Host;
use ledger::ids::NodeId;
use ledger::store::{Founding, StartCheck, Store, check_start};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::clock;
use crate::config::Settings;
use crate::control::{ControlError, DaemonState, Event, InitSite, PairingStatus, Result, Status};
use crate::identity::{self, Folder, IdentityError, Unlocked};
use crate::sensors::shared::Shared;
use crate::status::{self, TpmView};
use crate::vault::Vault;
use crate::{ingest, ledger_task, sensors};

/// How often a TPM that does not answer is asked again, and one that does is looked at.
const TPM_RETRY: Duration = Duration::from_secs(2);
const TPM_LOOK: Duration = Duration::from_secs(15);

/// How often status is composed when nothing happens.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// Longest wait for the threads at exit.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// What runs once there is a site and its identity is open. Cheap to clone.
#[derive(Clone)]
pub struct Running {
    /// The site's genesis record.
    pub genesis: Arc<Genesis>,
    /// This gateway.
    pub gateway: NodeId,
    /// Public side of the identity.
    pub identity: Arc<IdentityInfo>,
    /// Vote key, public; none after a rollback.
    pub vote_key: Option<PublicKey>,
    /// Start counter in the TPM.
    pub counter: u64,
    /// An older copy of the disk was put back.
    pub rolled_back: bool,
    /// The ledger's thread.
    pub ledger: ledger_task::Handle,
    /// The buffer's thread.
    pub ingest: ingest::Handle,
    /// The sensors' task.
    pub sensors: sensors::Handle,
    /// Storage key at work.
    pub vault: Arc<Vault>,
}

/// What is asked of the site's task.
pub enum Request {
    /// Found a site.
    Init(Box<InitSite>, oneshot::Sender<Result<()>>),
    /// A recovery was committed: take the new vote key and start anew.
    Restart,
    /// Proof of life for the watchdog.
    Alive(oneshot::Sender<()>),
}

/// What the task is made of.
pub struct Site {
    /// Configuration.
    pub settings: Settings,
    /// The TPM's thread.
    pub tpm: Tpm,
    /// Requests.
    pub requests: mpsc::Receiver<Request>,
    /// Where status is shown.
    pub status: watch::Sender<Arc<Status>>,
    /// Where the pairing window is shown.
    pub pairing: watch::Sender<PairingStatus>,
    /// Where the running parts are shown.
    pub running: watch::Sender<Option<Running>>,
    /// For `monitor`.
    pub events: broadcast::Sender<Event>,
    /// Told when the daemon has to end: the ledger stopped, or it is to start anew.
    pub ended: mpsc::Sender<String>,
}

/// Threads that are joined at exit.
struct Threads(Vec<JoinHandle<()>>);

impl Site {
    /// Runs until `shutdown` says so; then the threads are joined and everything is on disk.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let threads = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => None,
            threads = self.begin() => Some(threads),
        };
        if let Some(mut threads) = threads {
            tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => {}
                () = self.serve() => {}
            }
            // Handles go first: a thread ends when nobody can ask it any more.
            self.running.send_replace(None);
            drop(self.requests);
            let joined = tokio::task::spawn_blocking(move || {
                for thread in threads.0.drain(..) {
                    if thread.join().is_err() {
                        tracing::error!("a thread ended with a panic");
                    }
                }
            });
            if !matches!(tokio::time::timeout(STOP_TIMEOUT, joined).await, Ok(Ok(()))) {
                // What they had acknowledged is on disk: nothing is lost by leaving.
                tracing::error!("the threads do not end; leaving without them");
            }
        }
        if let Err(error) = self.tpm.shutdown() {
            tracing::warn!(%error, "TPM thread");
        }
    }

    /// Waits for a site, its TPM and its disk, and starts the parts.
    async fn begin(&mut self) -> Threads {
        loop {
            let genesis = self.genesis().await;
            let unlocked = self.unlock().await;
            match self.start(genesis, unlocked).await {
                Ok((running, threads)) => {
                    self.running.send_replace(Some(running));
                    return threads;
                }
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "the site cannot be opened");
                    self.show(DaemonState::Degraded, vec![format!("{error:#}")], None);
                    self.wait(TPM_LOOK, false).await;
                }
            }
        }
    }

    async fn genesis(&mut self) -> Genesis {
        loop {
            let reason = match self.folder().and_then(|folder| folder.genesis()) {
                Ok(Some(genesis)) => return genesis,
                Ok(None) => {
                    let what = "no site yet: found one with `gatewayctl site init`";
                    self.show(DaemonState::Uninitialised, vec![what.into()], None);
                    self.wait(TPM_LOOK, true).await;
                    continue;
                }
                Err(error) => error.to_string(),
            };
            self.show(DaemonState::Degraded, vec![reason], None);
            self.wait(TPM_LOOK, false).await;
        }
    }

    async fn unlock(&mut self) -> Unlocked {
        loop {
            let (tpm, folder) = (self.tpm.clone(), self.folder());
            let opened = blocking(move || folder?.unlock(&tpm)).await;
            let error = match opened {
                Ok(unlocked) => return unlocked,
                Err(error) => error,
            };
            let state = match &error {
                IdentityError::Tpm(_) => DaemonState::NoTpm,
                _ => DaemonState::Degraded,
            };
            let told = TpmView::failed(error.to_string());
            self.show(state, vec![error.to_string()], Some(told));
            self.wait(TPM_RETRY, false).await;
        }
    }

    fn folder(&self) -> std::result::Result<Folder, IdentityError> {
        Folder::at(&self.settings.data_dir)
    }

    /// Waits, answering requests; `may_init` says whether a site may be founded now. Returns early
    /// when one was.
    async fn wait(&mut self, time: Duration, may_init: bool) {
        let deadline = tokio::time::Instant::now() + time;
        loop {
            let request = tokio::select! {
                request = self.requests.recv() => request,
                () = tokio::time::sleep_until(deadline) => return,
            };
            match request {
                Some(Request::Init(request, reply)) if may_init => {
                    let founded = self.init(*request).await;
                    let done = founded.is_ok();
                    // A caller that has gone away finds the site in `status`.
                    let _ = reply.send(founded);
                    if done {
                        return;
                    }
                }
                Some(other) => refuse(other, "an identity is being opened"),
                None => std::future::pending().await,
            }
        }
    }

    async fn init(&mut self, request: InitSite) -> Result<()> {
        let (tpm, folder) = (self.tpm.clone(), self.folder());
        let insecure = self.settings.insecure_software_tpm_sites;
        let made = blocking(move || folder?.create(&tpm, &request, clock::wall_ms(), insecure));
        let genesis = made.await.map_err(ControlError::from)?;
        tracing::info!(chain = %genesis.chain_id(), "site founded");
        Ok(())
    }

    async fn start(
        &mut self,
        genesis: Genesis,
        unlocked: Unlocked,
    ) -> anyhow::Result<(Running, Threads)> {
        let Unlocked { info, vault, vote, counter } = unlocked;
        let gateway = identity::node(&info)?;
        let genesis = Arc::new(genesis);
        let dir = self.settings.data_dir.clone();
        let (tpm, record) = (self.tpm.clone(), Arc::clone(&genesis));
        let (rolled_back, counter) =
            tokio::task::spawn_blocking(move || check_disk(&dir, &tpm, &record, counter)).await??;
        let vote = vote.filter(|_| !rolled_back);
        let vote_key = vote.as_ref().map(ledger::crypto::SigningKey::public_key);
        let host = Host::open(&self.settings.data_dir, gateway, vote.clone())?;

        let (ledger, inbox) = ledger_task::channel();
        let chain_id = genesis.chain_id();
        let limits = ingest::Limits {
            batch_interval_ms: self.settings.batch_interval_ms,
            budget_bytes: self.settings.disk_budget_bytes,
        };
        let buffer = self.settings.data_dir.join("buffer.db");
        let context = ingest::leaf::Context { chain_id, gateway };
        let opened = ingest::open(&buffer, context, limits, self.events.clone())?;
        let ingest::Opened { handle, thread, highest, sensors: rows, sessions, batches } = opened;
        let parts = ledger_task::Parts {
            host,
            gateway,
            vote_key: vote,
            batches,
            ingest: handle.clone(),
            events: self.events.clone(),
            stopped: self.ended.clone(),
        };
        let ledger_thread = ledger_task::start(inbox, parts)?;
        let shared = Shared {
            chain_id,
            ingest: handle.clone(),
            ledger: ledger.clone(),
            vault: Arc::clone(&vault),
            clock: ledger.clock(),
            events: self.events.clone(),
        };
        let sensors = sensors::start(sensors::Parts {
            shared,
            rows,
            sessions,
            highest,
            settings: self.settings.clone(),
            pairing: self.pairing.clone(),
            events: self.events.clone(),
            ledger: ledger.clone(),
        });
        let running = Running {
            genesis,
            gateway,
            identity: Arc::new(info),
            vote_key,
            counter,
            rolled_back,
            ledger,
            ingest: handle,
            sensors,
            vault,
        };
        Ok((running, Threads(vec![thread, ledger_thread])))
    }

    /// Keeps status and looks at the TPM while the site runs.
    async fn serve(&mut self) {
        let Some(running) = self.running.borrow().clone() else { return };
        let mut tip = running.ledger.tip();
        let mut tpm = TpmView::of(&running.identity);
        let mut look = tokio::time::interval(TPM_LOOK);
        let mut often = tokio::time::interval(STATUS_EVERY);
        loop {
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(Request::Restart) => {
                        let _ = self.ended.send("starting anew after a recovery".into()).await;
                    }
                    Some(other) => refuse(other, "this gateway belongs to a site"),
                    None => return,
                },
                _ = look.tick() => tpm = self.look_at_tpm(&running).await,
                _ = often.tick() => {}
                changed = tip.changed() => if changed.is_err() { return },
            }
            let status = status::compose(&running, &tpm, &self.settings).await;
            self.publish(status);
        }
    }

    async fn look_at_tpm(&self, running: &Running) -> TpmView {
        let (tpm, was) = (self.tpm.clone(), running.identity.identity);
        let looked = tokio::task::spawn_blocking(move || match tpm.load_identity() {
            Ok(info) if info.identity == was => Ok(info),
            Ok(_) => Err("this is not the TPM of this gateway's identity".to_owned()),
            Err(error) => Err(error.to_string()),
        });
        match looked.await {
            Ok(Ok(info)) => TpmView::of(&info),
            Ok(Err(why)) => TpmView::failed(why),
            Err(error) => TpmView::failed(error.to_string()),
        }
    }

    fn show(&self, state: DaemonState, reasons: Vec<String>, tpm: Option<TpmView>) {
        self.publish(status::without_site(state, reasons, tpm, &self.settings));
    }

    fn publish(&self, status: Status) {
        let before = self.status.borrow().clone();
        if before.state != status.state || before.reasons != status.reasons {
            tracing::info!(state = ?status.state, reasons = ?status.reasons, "state");
            let (state, reasons) = (status.state, status.reasons.clone());
            // Nobody listening is no error.
            let _ = self.events.send(Event::State { state, reasons });
        }
        self.status.send_replace(Arc::new(status));
    }
}

/// Makes the store where a founding has not yet, and compares the start counters: what the disk
/// says and what the TPM says differ when an older copy of the disk was put back.
fn check_disk(
    dir: &Path,
    tpm: &Tpm,
    genesis: &Genesis,
    counter: u64,
) -> anyhow::Result<(bool, u64)> {
    let folder = Folder::at(dir)?;
    let mut store = match folder.founding_counter()? {
        Some(founding) => {
            let mut store = match Store::found(dir, &Founding::new(genesis.clone())) {
                Err(ledger::store::StoreError::Exists) => Store::open(dir)?,
                other => other?,
            };
            if store.counter()?.is_none() {
                store.write_counter(founding)?;
            }
            folder.founded()?;
            store
        }
        None => Store::open(dir)?,
    };
    match check_start(store.counter()?, counter) {
        StartCheck::Clean { next } => {
            store.write_counter(next)?;
            let counter = tpm.counter_increment()?;
            anyhow::ensure!(
                counter == next,
                "the TPM's start counter went to {counter}, not {next}"
            );
            Ok((false, counter))
        }
        StartCheck::RolledBack { stored, nv } => {
            tracing::error!(?stored, nv, "an older copy of the disk was put back");
            folder.destroy_vote_key()?;
            Ok((true, counter))
        }
    }
}

fn refuse(request: Request, why: &str) {
    match request {
        Request::Init(_, reply) => {
            // A caller that has gone away is not told.
            let _ = reply.send(Err(ControlError::AlreadyInitialised(why.into())));
        }
        Request::Alive(reply) => {
            let _ = reply.send(());
        }
        Request::Restart => {}
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::result::Result<T, IdentityError> + Send + 'static,
) -> std::result::Result<T, IdentityError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(IdentityError::Invalid("a task of ours broke")))
}

impl From<IdentityError> for ControlError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Tpm(TpmError::IdentityExists { .. }) | IdentityError::Exists(_) => {
                Self::AlreadyInitialised(error.to_string())
            }
            IdentityError::Tpm(_) => Self::Tpm(error.to_string()),
            IdentityError::SoftwareTpm(_) => Self::Refused(error.to_string()),
            IdentityError::Invalid(_) => Self::InvalidArgument(error.to_string()),
            IdentityError::Io { .. } | IdentityError::Sealed { .. } | IdentityError::Genesis(_) => {
                Self::Storage(error.to_string())
            }
        }
    }
}
