//! The life of this gateway's site: none yet, joining one, lending to a member of one, its TPM
//! missing, running. One task owns
//! it; it opens the identity, checks the disk for rollback, starts ledger, buffer and sensors, and
//! keeps the status that everybody reads.

mod behind;
mod bridging;
mod counting;
mod disk;
mod joining;
mod keys;
mod look;
mod parts;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use attestation::tpm::{IdentityInfo, Tpm};
use ledger::crypto::PublicKey;
use ledger::genesis::Genesis;
use ledger::ids::NodeId;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::admission::logs::MachineLogs;
use crate::admission::member;
use crate::clock;
use crate::config::Settings;
use crate::control::{
    ControlError, DaemonState, Event, InitSite, JoinProgress, JoinSite, PairingStatus, Result,
    Status,
};
use crate::identity::{self, Folder, IdentityError, Unlocked};
use crate::status::{self, TpmView};
use crate::vault::Vault;
use crate::{bridge, coordination, ingest, ledger_task, peers, sensors, upgrade, vote_keys};

use behind::{Successor, fetched};
use counting::Counting;
pub(crate) use disk::agree;
use disk::{Counted, check_disk};
use look::{Look, not_answering};
use parts::Connected;
pub use parts::Parts;
use parts::VoteKeys;

/// How often a TPM that does not answer is asked again, and one that does is looked at.
const TPM_RETRY: Duration = Duration::from_secs(2);
const TPM_LOOK: Duration = Duration::from_secs(15);

/// After this long without an answer the TPM is said not to answer.
const TPM_SLOW: Duration = Duration::from_secs(5);

/// A record that could not be written is opened again after this long.
const RECORD_RETRY: Duration = Duration::from_secs(2);

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
    /// Connections to other gateways.
    pub peers: peers::Handle,
    /// What this gateway does for newcomers and other members.
    pub admission: member::Handle,
    /// Who is there.
    pub liveness: coordination::Handle,
    /// Its bridges.
    pub bridges: bridge::Handle,
    /// Storage key at work.
    pub vault: Arc<Vault>,
}

/// What is asked of the site's task.
pub enum Request {
    /// Found a site.
    Init(Box<InitSite>, oneshot::Sender<Result<()>>),
    /// Join a site.
    Join(Box<JoinSite>, oneshot::Sender<Result<()>>),
    /// Give up a join that is not done.
    AbandonJoin(oneshot::Sender<Result<()>>),
    /// The record names another vote key of this gateway: start anew with it.
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
    /// The TPM that the configuration names; the identity may have moved since.
    pub configured_tpm: String,
    /// Requests.
    pub requests: mpsc::Receiver<Request>,
    /// Where status is shown.
    pub status: watch::Sender<Arc<Status>>,
    /// Where the pairing window is shown.
    pub pairing: watch::Sender<PairingStatus>,
    /// Where a join is shown.
    pub join: watch::Sender<JoinProgress>,
    /// Where the running parts are shown.
    pub running: watch::Sender<Option<Running>>,
    /// For `monitor`.
    pub events: broadcast::Sender<Event>,
}

/// What was started.
struct Started {
    running: Running,
    /// To be joined.
    threads: Vec<JoinHandle<()>>,
    /// Why the ledger's thread ended, when it cannot go on.
    stopped: mpsc::Receiver<String>,
}

/// Why the parts are stopped.
enum Stop {
    /// The daemon ends.
    End,
    /// The record names another vote key: everything is opened anew.
    Recovered,
    /// The record could not be written: everything is opened anew from what is on disk.
    Failed(String),
    /// The record goes on from a snapshot.
    Behind(Successor),
}

impl Site {
    /// Runs until `shutdown` says so; then the threads are joined and everything is on disk.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let (mut counted, mut listening) = (None, None);
        let mut stop = Stop::Recovered;
        while !matches!(stop, Stop::End) {
            let started = tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => break,
                started = self.begin(&mut counted, &mut listening, stop) => started,
            };
            let Started { running, threads, stopped } = started;
            let rolled_back = running.rolled_back;
            self.running.send_replace(Some(running.clone()));
            stop = tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => Stop::End,
                stop = self.serve(running, stopped) => stop,
            };
            // Handles go first: a thread ends when nobody can ask it any more.
            self.running.send_replace(None);
            let joined = self.join(threads).await;
            if joined && matches!(stop, Stop::End) && !rolled_back {
                self.count_stop().await;
            }
        }
        self.end(listening).await;
        // Whoever waits for an answer of this task is told that there is none.
        self.requests.close();
        if let Err(error) = self.tpm.shutdown() {
            tracing::warn!(%error, "TPM thread");
        }
    }

    /// Waits for the end of threads, answering requests; whether all ended as they should.
    async fn join(&mut self, threads: Vec<JoinHandle<()>>) -> bool {
        let joined = self.attended("the daemon is stopping", move || {
            let broken = threads.into_iter().filter_map(|thread| thread.join().err()).count();
            if broken > 0 {
                tracing::error!(broken, "threads ended with a panic");
            }
            broken == 0
        });
        let joined = tokio::time::timeout(STOP_TIMEOUT, joined).await;
        if !matches!(joined, Ok(Some(_))) {
            // What they had acknowledged is on disk: nothing is lost by leaving.
            tracing::error!("the threads do not end; going on without them");
        }
        matches!(joined, Ok(Some(true)))
    }

    /// Waits for a site, its TPM and its disk, and starts the parts.
    async fn begin(
        &mut self,
        counted: &mut Option<Counted>,
        listening: &mut Option<Parts>,
        after: Stop,
    ) -> Started {
        match after {
            Stop::End => {}
            // What was counted counts no more: the disk and the TPM were made to agree.
            Stop::Recovered => *counted = None,
            Stop::Behind(successor) => self.succeed(successor).await,
            Stop::Failed(why) => {
                self.show(DaemonState::Degraded, vec![why], None);
                self.wait(RECORD_RETRY, false).await;
            }
        }
        loop {
            let genesis = self.genesis().await;
            if let Err(error) = self.follow_identity().await {
                tracing::error!(error = format!("{error:#}"), "the identity cannot be moved");
                self.show(DaemonState::Degraded, vec![format!("{error:#}")], None);
                self.wait(TPM_RETRY, false).await;
                continue;
            }
            let unlocked = self.unlock(&genesis, listening).await;
            self.end(listening.take()).await;
            match self.start(genesis, unlocked, counted).await {
                Ok(started) => return started,
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
            let found =
                |folder: Folder| Ok((folder.genesis()?, folder.joining()?, folder.bridging()?));
            let reason = match self.folder().and_then(found) {
                Ok((Some(genesis), ..)) => return genesis,
                Ok((None, None, Some(order))) => {
                    self.bridging(order).await;
                    continue;
                }
                Ok((None, Some(order), _)) => {
                    self.joining(order).await;
                    continue;
                }
                Ok((None, None, None)) => {
                    let what = "no site yet: found one with `gatewayctl site init`, or join one \
                                with `gatewayctl gateway join`";
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

    /// Waits for the TPM of the identity. Meanwhile what needs no key is heard.
    async fn unlock(&mut self, genesis: &Genesis, listening: &mut Option<Parts>) -> Unlocked {
        loop {
            let (tpm, folder) = (self.tpm.clone(), self.folder());
            let mut work = tokio::task::spawn_blocking(move || folder?.unlock(&tpm));
            let mut slow = Some(TPM_SLOW);
            let opened = loop {
                match self.attend(&mut work, "an identity is being opened", slow.take()).await {
                    Some(opened) => break opened.unwrap_or(Err(BROKEN)),
                    None => {
                        let reason = not_answering(&self.settings, TPM_SLOW);
                        self.listen(genesis, listening, DaemonState::NoTpm, reason).await;
                    }
                }
            };
            let error = match opened {
                Ok(unlocked) => return unlocked,
                Err(error) => error,
            };
            let state = match &error {
                IdentityError::Tpm(error) if error.is_absence() => DaemonState::NoTpm,
                _ => DaemonState::Degraded,
            };
            let reason = keys::reason(&error);
            self.listen(genesis, listening, state, reason).await;
            self.wait(TPM_RETRY, false).await;
        }
    }

    /// Shows why the identity is not open. Line sources have no keys: they are buffered all the
    /// same. Nothing is signed, and nothing that is sealed is touched.
    async fn listen(
        &mut self,
        genesis: &Genesis,
        listening: &mut Option<Parts>,
        state: DaemonState,
        reason: String,
    ) {
        let mut reasons = vec![reason.clone()];
        if listening.is_none() {
            match self.open_locked(genesis) {
                Ok(parts) => *listening = parts,
                Err(error) => reasons.push(format!("{error:#}")),
            }
        }
        let told = Some(TpmView::failed(reason));
        let mut status = status::without_site(state, reasons, told, &self.settings);
        let own = self.folder().ok().and_then(|folder| folder.identity().ok().flatten());
        status::name_site(&mut status, genesis, own.as_ref());
        if let Some(parts) = listening {
            status::listening(&mut status, parts).await;
        }
        self.publish(status);
    }

    /// The parts without any key; none while the site is only being founded.
    fn open_locked(&self, genesis: &Genesis) -> anyhow::Result<Option<Parts>> {
        if self.folder()?.founding_counter()?.is_some() {
            return Ok(None);
        }
        let Some(identity) = self.folder()?.identity()? else { return Ok(None) };
        let gateway = NodeId::of_key(&identity);
        let locked = Arc::new(Vault::locked());
        self.open(genesis.chain_id(), gateway, VoteKeys::default(), locked, None, None).map(Some)
    }

    /// Stops parts and waits for their threads.
    async fn end(&mut self, parts: Option<Parts>) {
        let Some(Parts { ledger, ingest, sensors, threads, stopped }) = parts else { return };
        // Handles go first: a thread ends when nobody can ask it any more.
        drop((ledger, ingest, sensors, stopped));
        self.join(threads).await;
    }

    fn folder(&self) -> std::result::Result<Folder, IdentityError> {
        Folder::at(&self.settings.data_dir)
    }

    /// Waits, answering requests; `may_begin` says whether a site may be founded or joined now.
    /// Returns early when that was done, or a join was given up.
    async fn wait(&mut self, time: Duration, may_begin: bool) {
        let deadline = tokio::time::Instant::now() + time;
        loop {
            let request = tokio::select! {
                request = self.requests.recv() => request,
                () = tokio::time::sleep_until(deadline) => return,
            };
            match request {
                Some(request @ (Request::Join(..) | Request::AbandonJoin(_))) if may_begin => {
                    return self.answer(request).await;
                }
                Some(Request::Init(request, reply)) if may_begin => {
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

    /// Does blocking work on another thread; requests are answered meanwhile, so that a slow TPM
    /// is not taken for a daemon that hangs. `None` when the work broke.
    async fn attended<T: Send + 'static>(
        &mut self,
        why: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let mut work = tokio::task::spawn_blocking(work);
        self.attend(&mut work, why, None).await.flatten()
    }

    /// Waits for work as [`Site::attended`]; `None` when it takes longer than `limit`.
    async fn attend<T>(
        &mut self,
        work: &mut tokio::task::JoinHandle<T>,
        why: &str,
        limit: Option<Duration>,
    ) -> Option<Option<T>> {
        let late = limit.map(|limit| tokio::time::Instant::now() + limit);
        loop {
            tokio::select! {
                done = &mut *work => return Some(done.ok()),
                Some(request) = self.requests.recv() => refuse(request, why),
                () = at(late) => return None,
            }
        }
    }

    async fn init(&mut self, request: InitSite) -> Result<()> {
        let (tpm, folder) = (self.tpm.clone(), self.folder());
        let insecure = self.settings.insecure_software_tpm_sites;
        let make = move || folder?.create(&tpm, &request, clock::wall_ms(), insecure);
        let made = self.attended("a site is being founded", make).await;
        let genesis = made.unwrap_or(Err(BROKEN)).map_err(ControlError::from)?;
        tracing::info!(chain = %genesis.chain_id(), "site founded");
        Ok(())
    }

    async fn start(
        &mut self,
        genesis: Genesis,
        unlocked: Unlocked,
        counted: &mut Option<Counted>,
    ) -> anyhow::Result<Started> {
        let gateway = identity::node(&unlocked.info)?;
        let genesis = Arc::new(genesis);
        let before = *counted;
        let (tpm, record) = (self.tpm.clone(), Arc::clone(&genesis));
        let (dir, folder) = (self.settings.data_dir.clone(), self.folder()?);
        let check = move || {
            let mut unlocked = unlocked;
            let counted = match before {
                Some(before) => before,
                None => check_disk(&dir, &tpm, &record)?,
            };
            match counted.rolled_back {
                true => (unlocked.vote, unlocked.next_vote) = (None, None),
                false => vote_keys::settle(&folder, &dir, gateway, &mut unlocked)?,
            }
            Ok((counted, unlocked))
        };
        let checked = self.attended("the disk is being looked at", check).await;
        let (counts, unlocked) = checked.unwrap_or_else(|| anyhow::bail!(BROKEN))?;
        let Counted { rolled_back, doubtful, counter } = *counted.insert(counts);
        let Unlocked { info, vault, vote, next_vote, silent_from } = unlocked;
        let vote_key = vote.as_ref().map(ledger::crypto::SigningKey::public_key);
        let Connected { links, incoming, beats, bridges: connecting } = self.connect(&info)?;
        let peers = links.peers.clone();
        let votes = VoteKeys { vote: vote.clone(), next: next_vote, silent_from, doubtful };
        let (chain_id, opened) = (genesis.chain_id(), Arc::clone(&vault));
        let (bridges, bridges_asks, radio) = bridge::channel();
        let lent = Some((bridges.clone(), radio));
        let parts = self.open(chain_id, gateway, votes, opened, Some(links), lent)?;
        let Parts { ledger, ingest, sensors, threads, stopped } = parts;
        let (admission, asks) = member::channel();
        let liveness = self.watch(gateway, &ledger, &peers, beats);
        let identity = Arc::new(info);
        let served = member::Parts {
            genesis: Arc::clone(&genesis),
            gateway,
            identity: Arc::clone(&identity),
            tpm: self.tpm.clone(),
            vote_key: vote,
            logs: MachineLogs::by_helper(&self.settings.logs_socket),
            ledger: ledger.clone(),
            peers: peers.clone(),
            liveness: liveness.clone(),
            incoming,
            data_dir: self.settings.data_dir.clone(),
            events: self.events.clone(),
        };
        member::start(asks, served);
        let site = genesis.site_name.clone();
        self.serve_bridges(bridges_asks, gateway, site, peers.clone(), connecting)?;
        let running = Running {
            genesis,
            gateway,
            identity,
            vote_key,
            counter,
            rolled_back,
            ledger,
            ingest,
            sensors,
            peers,
            admission,
            liveness,
            bridges,
            vault,
        };
        Ok(Started { running, threads, stopped })
    }

    /// Keeps status and looks at the TPM while the site runs.
    async fn serve(&mut self, running: Running, mut stopped: mpsc::Receiver<String>) -> Stop {
        let mut tip = running.ledger.tip();
        let mut tpm = TpmView::of(&running.identity);
        let mut look = Look::Later(tokio::time::Instant::now() + TPM_LOOK);
        let mut often = tokio::time::interval(STATUS_EVERY);
        let (mut fetching, mut counting) = (None, Counting::new(&running));
        let mut behind = running.ledger.behind();
        let mut regained = std::pin::pin!(self.regained(&running));
        let adopting = upgrade::adopt(running.ledger.clone(), self.tpm.clone(), running.gateway);
        let mut adopting = std::pin::pin!(adopting);
        loop {
            tokio::select! {
                () = &mut regained => {
                    tracing::info!("starting anew with a new vote key");
                    return Stop::Recovered;
                }
                request = self.requests.recv() => match request {
                    Some(Request::Restart) => {
                        tracing::info!("starting anew with another vote key");
                        return Stop::Recovered;
                    }
                    Some(other) => refuse(other, "this gateway belongs to a site"),
                    None => return Stop::End,
                },
                why = stopped.recv() => {
                    let broke = || "a thread of the record or the buffer broke".into();
                    return Stop::Failed(why.unwrap_or_else(broke));
                }
                never = &mut adopting => match never {},
                seen = look.next(&self.tpm, &running.identity) => tpm = seen,
                Some(snapshot) = fetched(&mut fetching) => {
                    if let Some(successor) = Successor::of(snapshot, &running).await {
                        return Stop::Behind(successor);
                    }
                }
                _ = often.tick() => {}
                Ok(()) = behind.changed() => {}
                // Its last word comes over the other channel.
                Ok(()) = tip.changed() => {}
            }
            if let Some(time) = look.silent().filter(|time| *time > TPM_SLOW) {
                tpm = TpmView::failed(not_answering(&self.settings, time));
            }
            behind::look(&mut fetching, &running);
            counting.look(&self.settings.data_dir, &self.tpm, tip.borrow().voters);
            let mut status = status::compose(&running, &tpm, &self.settings).await;
            behind::describe(fetching.as_ref(), &mut status);
            status.warnings.extend(self.key_warnings(&running).await);
            self.publish(status);
        }
    }

    /// Ends when this gateway, whose disk was put back, has a new vote key.
    fn regained(&self, running: &Running) -> impl Future<Output = ()> + use<> {
        let (running, tpm) = (running.clone(), self.tpm.clone());
        let dir = self.settings.data_dir.clone();
        async move {
            match running.rolled_back {
                true => vote_keys::regain(running, tpm, dir).await,
                false => std::future::pending().await,
            }
        }
    }

    fn show(&self, state: DaemonState, reasons: Vec<String>, tpm: Option<TpmView>) {
        self.publish(status::without_site(state, reasons, tpm, &self.settings));
    }

    fn publish(&self, mut status: Status) {
        if status.state == DaemonState::Joining {
            status.join = Some(self.join.borrow().clone());
        }
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

async fn at(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// A task of ours broke: it panicked.
const BROKEN: IdentityError = IdentityError::Invalid("a task of ours broke");

fn refuse(request: Request, why: &str) {
    match request {
        Request::Init(_, reply) | Request::Join(_, reply) => {
            // A caller that has gone away is not told.
            let _ = reply.send(Err(ControlError::AlreadyInitialised(why.into())));
        }
        Request::AbandonJoin(reply) => {
            let why = "nothing is being joined";
            // A caller that has gone away is not told.
            let _ = reply.send(Err(ControlError::Unavailable(why.into())));
        }
        Request::Alive(reply) => {
            let _ = reply.send(());
        }
        Request::Restart => {}
    }
}
