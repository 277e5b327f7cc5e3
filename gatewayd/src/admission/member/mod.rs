//! What a member does for newcomers and for the other members: one task that owns the verifier's
//! state, answers requests, and drives renewal and the growth of the voters.
//!
//! ```text
//! peers ── Incoming ──> serving ──> Verifier::step ──> Effects ──> answer │ ledger (sign, record)
//!                          │
//! every second ──> growing (Ready, Activate) · renewing (Attest) · failing (Suspend)
//! ```
//!
//! Requests come from strangers: what takes long runs beside the task, a few at a time, and a full
//! queue is answered *busy* by the transport.

mod asking;
mod calling;
mod failing;
mod growing;
mod renewing;
mod serving;
mod showing;
mod snapshots;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use attestation::tpm::{IdentityInfo, Tpm};
use ledger::codec::Encode;
use ledger::crypto::{PublicKey, SigningKey};
use ledger::genesis::Genesis;
use ledger::ids::{ChainId, Hash, NodeId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot};
use tokio::task::JoinSet;

use super::attester::Attester;
use super::founder::Shown;
use super::handing::HandedOut;
use super::logs::MachineLogs;
use super::membership::Readiness;
use super::messages::Label;
use super::verifier::{Introduced, Now, Trust, Verifier};
use crate::clock;
use crate::control::{AdmissionInfo, AttestationInfo, CommittedInfo, ControlError, Event, Result};
use crate::peers::{self, Incoming, Session};
use crate::{coordination, ledger_task};

/// How often the task looks at what is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Questions of management that may wait.
const ASKS: usize = 16;

/// Requests that this gateway makes of itself and may wait: a renewal and a call, one at a time.
const OWN: usize = 4;

/// Long jobs for members at a time: proofs from the store, transactions, evidence of the TPM.
const JOBS: usize = 8;

/// The same for guests: whatever they send, members find a place.
const JOBS_OF_GUESTS: usize = 2;

/// Longest wait for an answer of management's; a renewal takes some seconds.
const ASK_TIMEOUT: Duration = Duration::from_secs(60);

/// A TPM that does not sign is asked again after this long, ms.
const TPM_AGAIN_MS: u64 = 30_000;

/// What the task is started with.
pub struct Parts {
    /// The site's genesis record.
    pub genesis: Arc<Genesis>,
    /// This gateway.
    pub gateway: NodeId,
    /// Public side of its identity.
    pub identity: Arc<IdentityInfo>,
    /// The TPM, for evidence about this gateway.
    pub tpm: Tpm,
    /// The vote key; none: nothing is endorsed or renewed, newcomers are shown the way alone.
    pub vote_key: Option<SigningKey>,
    /// Where this machine's measurement logs are.
    pub logs: MachineLogs,
    /// The ledger's thread.
    pub ledger: ledger_task::Handle,
    /// Connections to other members.
    pub peers: peers::Handle,
    /// Who is there: signs that a gateway is silent.
    pub liveness: coordination::Handle,
    /// Requests of members and guests.
    pub incoming: mpsc::Receiver<Incoming>,
    /// Data folder: proofs are made from the store.
    pub data_dir: PathBuf,
    /// For `monitor`.
    pub events: broadcast::Sender<Event>,
}

/// Handle of the task.
#[derive(Clone)]
pub struct Handle(mpsc::Sender<Ask>);

/// What management asks.
enum Ask {
    Pending(oneshot::Sender<Result<Vec<AdmissionInfo>>>),
    Introduced(NodeId, oneshot::Sender<Result<Option<Introduced>>>),
    Attestation(NodeId, oneshot::Sender<Result<AttestationInfo>>),
    Renew(oneshot::Sender<Result<CommittedInfo>>),
}

impl Handle {
    /// Newcomers that are no members yet.
    ///
    /// # Errors
    /// The ledger is not running.
    pub async fn pending(&self) -> Result<Vec<AdmissionInfo>> {
        self.ask(Ask::Pending).await
    }

    /// The keys of a newcomer that asked here: what an act of the operator names.
    ///
    /// # Errors
    /// The task is not running.
    pub async fn introduced(&self, node: NodeId) -> Result<Option<Introduced>> {
        self.ask(|reply| Ask::Introduced(node, reply)).await
    }

    /// How a member stands with its attestation.
    ///
    /// # Errors
    /// No such member.
    pub async fn attestation_of(&self, node: NodeId) -> Result<AttestationInfo> {
        self.ask(|reply| Ask::Attestation(node, reply)).await
    }

    /// Renews this gateway's attestation now.
    ///
    /// # Errors
    /// What stands against it, in words.
    pub async fn renew(&self) -> Result<CommittedInfo> {
        self.ask(Ask::Renew).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<Result<T>>) -> Ask) -> Result<T> {
        let gone = || ControlError::Unavailable("this gateway is stopping".into());
        let (reply, answer) = oneshot::channel();
        self.0.send(ask(reply)).await.map_err(|_| gone())?;
        match tokio::time::timeout(ASK_TIMEOUT, answer).await {
            Ok(answer) => answer.map_err(|_| gone())?,
            Err(_) => Err(ControlError::Timeout("no answer within 60 s".into())),
        }
    }
}

/// What the task holds of the channel; made before the task, since connections come later.
pub struct Asks(mpsc::Receiver<Ask>);

/// Handle, and what the task is started with. Until it runs, questions wait.
pub fn channel() -> (Handle, Asks) {
    let (sender, asks) = mpsc::channel(ASKS);
    (Handle(sender), Asks(asks))
}

/// Starts the task. It ends when its handles are gone.
pub fn start(asks: Asks, parts: Parts) {
    let (own_in, own) = mpsc::channel(OWN);
    let Parts { genesis, gateway, identity, tpm, vote_key, logs, .. } = parts;
    let shared = Shared {
        chain_id: genesis.chain_id(),
        genesis: genesis.to_bytes().into(),
        gateway,
        // It was opened, so it is a point of the curve.
        identity: crate::identity::identity_key(&identity).ok(),
        ek_digest: Hash(identity.ek_digest),
        attester: None,
        ledger: parts.ledger,
        peers: parts.peers,
        data_dir: parts.data_dir.into(),
        events: parts.events,
        own: own_in,
        jobs: Jobs::default(),
        liveness: parts.liveness,
        snapshots: snapshots::Snapshots::default(),
        handed: Arc::default(),
    };
    let keys = Keys { tpm, identity, vote_key, logs, label: None, next_ms: 0 };
    tokio::spawn(Member::new(shared, keys).run(asks.0, parts.incoming, own));
}

/// What this gateway proves itself with.
struct Keys {
    tpm: Tpm,
    identity: Arc<IdentityInfo>,
    vote_key: Option<SigningKey>,
    logs: MachineLogs,
    /// The label that the attester was made for.
    label: Option<Label>,
    /// When the TPM is asked again, boot time in ms.
    next_ms: u64,
}

/// Places for long jobs, those of guests apart.
#[derive(Clone)]
struct Jobs {
    members: Arc<Semaphore>,
    guests: Arc<Semaphore>,
}

impl Default for Jobs {
    fn default() -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { members: places(JOBS), guests: places(JOBS_OF_GUESTS) }
    }
}

impl Jobs {
    /// A place for a job of this session; none: too much runs already.
    fn place(&self, session: &Session) -> Option<OwnedSemaphorePermit> {
        let places = if session.member { &self.members } else { &self.guests };
        Arc::clone(places).try_acquire_owned().ok()
    }
}

/// What jobs beside the task use; cheap to clone.
#[derive(Clone)]
struct Shared {
    chain_id: ChainId,
    genesis: Arc<[u8]>,
    gateway: NodeId,
    identity: Option<PublicKey>,
    ek_digest: Hash,
    attester: Option<Arc<Attester>>,
    ledger: ledger_task::Handle,
    peers: peers::Handle,
    data_dir: Arc<std::path::Path>,
    events: broadcast::Sender<Event>,
    /// This gateway asks itself like everybody else, where it is one of the voters.
    own: mpsc::Sender<Incoming>,
    jobs: Jobs,
    liveness: coordination::Handle,
    snapshots: snapshots::Snapshots,
    /// Logs of this gateway that who challenged it may fetch.
    handed: Arc<Mutex<HandedOut>>,
}

impl Shared {
    fn handed(&self) -> MutexGuard<'_, HandedOut> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task's state.
struct Member {
    shared: Shared,
    keys: Keys,
    verifier: Verifier,
    trust: Trust,
    readiness: Readiness,
    shown: Shown,
    growing: growing::Growing,
    renewing: renewing::Renewing,
    failing: failing::Failing,
    calling: calling::Calling,
    /// Jobs beside this task; they end with it, and with them their hold on the ledger.
    tasks: JoinSet<()>,
}

impl Member {
    fn new(shared: Shared, keys: Keys) -> Self {
        let renewing = renewing::Renewing::new(&shared.gateway, clock::boot_ms());
        Self {
            shared,
            keys,
            verifier: Verifier::default(),
            trust: Trust::default(),
            readiness: Readiness::default(),
            shown: Shown::default(),
            growing: growing::Growing::default(),
            renewing,
            failing: failing::Failing::default(),
            calling: calling::Calling::default(),
            tasks: JoinSet::new(),
        }
    }

    async fn run(
        mut self,
        mut asks: mpsc::Receiver<Ask>,
        mut incoming: mpsc::Receiver<Incoming>,
        mut own: mpsc::Receiver<Incoming>,
    ) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut connected = true;
        loop {
            tokio::select! {
                biased;
                ask = asks.recv() => match ask {
                    Some(ask) => self.answer(ask).await,
                    None => return,
                },
                _ = look.tick() => self.look().await,
                Some(request) = own.recv() => self.serve(request).await,
                request = incoming.recv(), if connected => match request {
                    Some(request) => self.serve(request).await,
                    // The transport has ended; management may still ask.
                    None => connected = false,
                },
            }
        }
    }

    async fn look(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        self.close_idle_snapshot();
        if let Err(error) = self.make_attester().await {
            tracing::debug!(%error, "keys");
        }
        if let Err(error) = self.grow().await {
            tracing::debug!(%error, "voters");
        }
        if let Err(error) = self.renew_when_due().await {
            tracing::debug!(%error, "renewal");
        }
        if let Err(error) = self.fail().await {
            tracing::debug!(%error, "failed attestations");
        }
        if let Err(error) = self.call().await {
            tracing::debug!(%error, "members that were away");
        }
    }
}

impl Member {
    /// Makes what proves this gateway, once the record says under which label: a newcomer reads it
    /// there after its start. None without a vote key.
    async fn make_attester(&mut self) -> Result<()> {
        let (gateway, now_ms) = (self.shared.gateway, clock::boot_ms());
        let Some(vote) = self.keys.vote_key.as_ref().filter(|_| now_ms >= self.keys.next_ms) else {
            return Ok(());
        };
        let view = move |state: &ledger::state::State| state.gateway(&gateway).map(|it| it.label());
        let label = self.shared.ledger.view(view).await?;
        let Some(label) = label.filter(|label| self.keys.label != Some(*label)) else {
            return Ok(());
        };
        let Keys { tpm, identity, logs, .. } = &self.keys;
        let (tpm, info, logs) = (tpm.clone(), Arc::clone(identity), logs.clone());
        let chain_id = self.shared.chain_id;
        match Attester::new(tpm, info, vote, chain_id, label, logs).await {
            Ok(attester) => {
                self.shared.attester = Some(Arc::new(attester));
                self.keys.label = Some(label);
            }
            Err(error) => {
                self.keys.next_ms = now_ms.saturating_add(TPM_AGAIN_MS);
                tracing::warn!(%error, "this gateway cannot prove itself now");
            }
        }
        Ok(())
    }
}

fn now() -> Now {
    Now { mono_ms: clock::boot_ms(), wall_ms: clock::wall_ms() }
}
