//! The TPM thread and the handle to it. The thread owns the only connection to the TPM; callers
//! wait for an answer or for their deadline, whichever comes first.
//!
//! Signing goes before attestation: a handshake must not wait for an RSA endorsement key. When a
//! queue is full the caller is told so at once.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::activation::CredentialBlob;
use crate::evidence::Evidence;
use crate::pcr::PcrSelection;
use crate::pcr_policy::{Approval, OperatorKey};
use crate::tpm::blob::KeyStore;
use crate::tpm::connection::Engine;
use crate::tpm::keys::{Certified, IdentityInfo, Quoted, TpmInfo};
use crate::tpm::{Tcti, TpmError};

/// How long callers wait. A chip signs in tens to hundreds of milliseconds and may take many
/// seconds to make an RSA endorsement key.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For a signature by the identity key.
    pub sign: Duration,
    /// For everything else.
    pub attest: Duration,
    /// A command that runs for longer than this means that the TPM hangs: nothing more is queued.
    pub hung: Duration,
    /// How long [`Tpm::shutdown`] waits for the command that runs.
    pub shutdown: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            sign: Duration::from_secs(5),
            attest: Duration::from_secs(60),
            hung: Duration::from_secs(90),
            shutdown: Duration::from_secs(5),
        }
    }
}

/// Requests that may wait for a signature: as many as there may be handshakes under way.
const MAX_SIGNING: usize = 256;
/// Requests of other kinds that may wait.
const MAX_ATTESTATION: usize = 32;
/// Signatures in a row after which one other request is served, so that none starves.
const MAX_STREAK: u32 = 64;

/// A handle to the TPM thread. Clones share the thread; the last one to go ends it.
///
/// All calls block for at most their deadline. From async code call them on a blocking thread.
#[derive(Debug, Clone)]
pub struct Tpm {
    owner: Arc<Owner>,
}

impl Tpm {
    /// Starts the thread. `tcti` says where the TPM is (`device:/dev/tpmrm0`,
    /// `swtpm:host=127.0.0.1,port=2321`), `key_dir` where the key blobs are. The TPM is not
    /// touched before the first call, so a missing one is no error here.
    ///
    /// # Errors
    /// The address is not one; the system gives no thread.
    pub fn spawn(tcti: &str, key_dir: PathBuf) -> Result<Self, TpmError> {
        Self::spawn_with(tcti, key_dir, Deadlines::default())
    }

    /// [`Tpm::spawn`] with deadlines of the caller's.
    ///
    /// # Errors
    /// As [`Tpm::spawn`].
    pub fn spawn_with(
        tcti: &str,
        key_dir: PathBuf,
        deadlines: Deadlines,
    ) -> Result<Self, TpmError> {
        let tcti: Tcti = tcti.parse()?;
        let shared = Arc::new(Shared::default());
        let (finished_sender, finished) = mpsc::channel();
        let inside = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("tpm".to_owned())
            .spawn(move || {
                let _guard = EndGuard { shared: Arc::clone(&inside), _finished: finished_sender };
                serve(&inside, Engine::new(tcti, KeyStore::new(key_dir)));
            })
            .map_err(|error| TpmError::Thread { error })?;
        let running = Mutex::new(Some((thread, finished)));
        Ok(Self { owner: Arc::new(Owner { shared, deadlines, running }) })
    }

    /// What the TPM says of itself.
    ///
    /// # Errors
    /// See [`TpmError`].
    pub fn info(&self) -> Result<TpmInfo, TpmError> {
        self.attestation("reading the TPM's properties", Engine::info)
    }

    /// The public side of the identity, with the EK certificate and its chain from NV.
    ///
    /// # Errors
    /// [`TpmError::NoIdentity`] before [`Tpm::create_identity`]; see [`TpmError`].
    pub fn identity(&self) -> Result<IdentityInfo, TpmError> {
        self.attestation("reading the identity", Engine::identity)
    }

    /// Makes attestation and identity key, writes their blobs, synced, and gives the public side.
    ///
    /// # Errors
    /// [`TpmError::IdentityExists`] when there is one: none is ever overwritten. See [`TpmError`].
    pub fn create_identity(&self) -> Result<IdentityInfo, TpmError> {
        self.attestation("creating the identity", Engine::create_identity)
    }

    /// Reads the blobs and loads the identity key, which proves that it is of this TPM.
    ///
    /// # Errors
    /// [`TpmError::NoIdentity`], [`TpmError::AnotherTpm`], [`TpmError::Cleared`],
    /// [`TpmError::Damaged`]; see [`TpmError`].
    pub fn load_identity(&self) -> Result<IdentityInfo, TpmError> {
        self.attestation("loading the identity", Engine::load_identity)
    }

    /// Signs a SHA-256 digest with the identity key: ES256, r ‖ s. Goes before everything else.
    ///
    /// # Errors
    /// See [`TpmError`].
    pub fn sign_identity(&self, digest: [u8; 32]) -> Result<[u8; 64], TpmError> {
        let limit = self.owner.deadlines.sign;
        self.call(Kind::Signing, limit, "signing", move |engine| engine.sign_identity(digest))
    }

    /// Certifies the identity key by the attestation key over `qualifying`.
    ///
    /// # Errors
    /// See [`TpmError`].
    pub fn certify(&self, qualifying: [u8; 32]) -> Result<Certified, TpmError> {
        self.attestation("certifying the identity key", move |engine| engine.certify(qualifying))
    }

    /// Quotes registers of the SHA-256 bank over `qualifying`.
    ///
    /// # Errors
    /// [`TpmError::PcrBank`] when the TPM has no such bank; see [`TpmError`].
    pub fn quote(&self, qualifying: [u8; 32], pcrs: PcrSelection) -> Result<Quoted, TpmError> {
        self.attestation("quoting", move |engine| engine.quote(qualifying, pcrs))
    }

    /// Opens a verifier's credential.
    ///
    /// # Errors
    /// [`TpmError::ForeignCredential`] when it is for another TPM or another attestation key; see
    /// [`TpmError`].
    pub fn activate_credential(&self, blob: CredentialBlob) -> Result<Vec<u8>, TpmError> {
        self.attestation("opening a credential", move |engine| engine.activate_credential(&blob))
    }

    /// Answers a verifier's challenge in one go: activation, certification, quote.
    ///
    /// # Errors
    /// As [`Tpm::activate_credential`] and [`Tpm::quote`].
    pub fn attest(
        &self,
        qualifying: [u8; 32],
        pcrs: PcrSelection,
        blob: CredentialBlob,
    ) -> Result<Evidence, TpmError> {
        self.attestation("attesting", move |engine| engine.attest(qualifying, pcrs, &blob))
    }

    /// Seals a secret of 1 to 128 bytes to this TPM. The blob is the caller's to keep.
    ///
    /// # Errors
    /// [`TpmError::SecretTooLong`]; see [`TpmError`].
    pub fn seal(&self, secret: &[u8]) -> Result<Vec<u8>, TpmError> {
        let secret = Zeroizing::new(secret.to_vec());
        self.attestation("sealing", move |engine| engine.seal(&secret))
    }

    /// Opens a sealed blob. The secret is wiped when dropped.
    ///
    /// # Errors
    /// [`TpmError::AnotherTpm`], [`TpmError::Cleared`], [`TpmError::Damaged`]; see [`TpmError`].
    pub fn unseal(&self, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let blob = blob.to_vec();
        self.attestation("unsealing", move |engine| engine.unseal(&blob))
    }

    /// Seals a secret of 1 to 128 bytes to this TPM and to boots that the operator approves, with
    /// signatures of the given epoch: see [`crate::pcr_policy`].
    ///
    /// # Errors
    /// [`TpmError::SecretTooLong`]; see [`TpmError`].
    pub fn seal_authorized(
        &self,
        secret: &[u8],
        operator: &OperatorKey,
        epoch: u64,
    ) -> Result<Vec<u8>, TpmError> {
        let (secret, operator) = (Zeroizing::new(secret.to_vec()), *operator);
        self.attestation("sealing", move |engine| engine.seal_authorized(&secret, &operator, epoch))
    }

    /// Opens a blob of [`Tpm::seal_authorized`] if one of the approvals is for this boot.
    ///
    /// # Errors
    /// [`TpmError::NoApproval`], [`TpmError::BootNotApproved`], [`TpmError::AnotherTpm`],
    /// [`TpmError::Cleared`], [`TpmError::Damaged`]; see [`TpmError`].
    pub fn unseal_authorized(
        &self,
        blob: &[u8],
        approvals: &[Approval],
    ) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let (blob, approvals) = (blob.to_vec(), approvals.to_vec());
        self.attestation("unsealing", move |engine| engine.unseal_authorized(&blob, &approvals))
    }

    /// Values of registers of the SHA-256 bank, as they are now and proven by nothing: what an
    /// operator is asked to approve.
    ///
    /// # Errors
    /// [`TpmError::PcrBank`]; see [`TpmError`].
    pub fn registers(&self, pcrs: PcrSelection) -> Result<Vec<[u8; 32]>, TpmError> {
        self.attestation("reading registers", move |engine| engine.registers(pcrs))
    }

    /// Defines the NV start counter if it is not there, and gives its value.
    ///
    /// # Errors
    /// [`TpmError::CounterForeign`] when another program has the index; see [`TpmError`].
    pub fn counter_define(&self) -> Result<u64, TpmError> {
        self.attestation("defining the start counter", Engine::counter_define)
    }

    /// Increments the NV start counter and gives its new value. After an error it may or may not
    /// have been incremented; [`Tpm::counter_read`] tells.
    ///
    /// # Errors
    /// [`TpmError::CounterMissing`], [`TpmError::CounterForeign`]; see [`TpmError`].
    pub fn counter_increment(&self) -> Result<u64, TpmError> {
        self.attestation("incrementing the start counter", Engine::counter_increment)
    }

    /// The value of the NV start counter.
    ///
    /// # Errors
    /// [`TpmError::CounterMissing`], [`TpmError::CounterForeign`]; see [`TpmError`].
    pub fn counter_read(&self) -> Result<u64, TpmError> {
        self.attestation("reading the start counter", Engine::counter_read)
    }

    /// Goes over to another TPM, with keys of another folder; all clones follow. What is loaded in
    /// the one before is flushed, and the new one is not touched yet.
    ///
    /// # Errors
    /// The address is not one; a command hangs in the TPM of before.
    pub fn move_to(&self, tcti: &str, key_dir: PathBuf) -> Result<(), TpmError> {
        let tcti: Tcti = tcti.parse()?;
        self.attestation("going over to another TPM", move |engine| {
            *engine = Engine::new(tcti, KeyStore::new(key_dir));
            Ok(())
        })
    }

    /// Ends the thread for all clones: what waits is answered with [`TpmError::ShutDown`], the
    /// running command is awaited, loaded keys are flushed, the thread is joined.
    ///
    /// # Errors
    /// [`TpmError::Hung`] when the running command does not end; the thread is then left behind
    /// (it holds nothing but the connection).
    pub fn shutdown(&self) -> Result<(), TpmError> {
        self.owner.stop()
    }

    fn attestation<T: Send + 'static>(
        &self,
        command: &'static str,
        run: impl FnOnce(&mut Engine) -> Result<T, TpmError> + Send + 'static,
    ) -> Result<T, TpmError> {
        self.call(Kind::Attestation, self.owner.deadlines.attest, command, run)
    }

    fn call<T: Send + 'static>(
        &self,
        kind: Kind,
        limit: Duration,
        command: &'static str,
        run: impl FnOnce(&mut Engine) -> Result<T, TpmError> + Send + 'static,
    ) -> Result<T, TpmError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let job = Job {
            deadline: Instant::now() + limit,
            run: Box::new(move |engine| {
                // A caller that has given up has dropped its end; its answer is nobody's.
                let _abandoned = sender.send(run(engine));
            }),
        };
        self.owner.submit(kind, job)?;
        match receiver.recv_timeout(limit) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => Err(TpmError::Timeout { command, after: limit }),
            // The job was dropped unserved: late, or at the end.
            Err(RecvTimeoutError::Disconnected) if self.owner.shared.lock().closed => {
                Err(TpmError::ShutDown)
            }
            Err(RecvTimeoutError::Disconnected) => Err(TpmError::Timeout { command, after: limit }),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Signing,
    Attestation,
}

struct Job {
    deadline: Instant,
    run: Box<dyn FnOnce(&mut Engine) + Send>,
}

#[derive(Default)]
struct Queues {
    signing: VecDeque<Job>,
    attestation: VecDeque<Job>,
    streak: u32,
    running_since: Option<Instant>,
    closed: bool,
}

impl Queues {
    /// The next job: signing first, but not for ever.
    fn next(&mut self) -> Option<Job> {
        let attestation_due = self.streak >= MAX_STREAK && !self.attestation.is_empty();
        if !attestation_due && let Some(job) = self.signing.pop_front() {
            self.streak = self.streak.saturating_add(1);
            return Some(job);
        }
        self.streak = 0;
        self.attestation.pop_front()
    }
}

#[derive(Default)]
struct Shared {
    queues: Mutex<Queues>,
    wake: Condvar,
}

impl Shared {
    /// No code panics while it holds the lock, and the queues are whole at any moment.
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    deadlines: Deadlines,
    running: Mutex<Option<(JoinHandle<()>, Receiver<()>)>>,
}

impl Owner {
    fn submit(&self, kind: Kind, job: Job) -> Result<(), TpmError> {
        let mut queues = self.shared.lock();
        if queues.closed {
            return Err(TpmError::ShutDown);
        }
        if let Some(since) = queues.running_since.map(|start| start.elapsed())
            && since > self.deadlines.hung
        {
            return Err(TpmError::Hung { since });
        }
        let (queue, max) = match kind {
            Kind::Signing => (&mut queues.signing, MAX_SIGNING),
            Kind::Attestation => (&mut queues.attestation, MAX_ATTESTATION),
        };
        if queue.len() >= max {
            return Err(TpmError::Busy);
        }
        queue.push_back(job);
        drop(queues);
        self.shared.wake.notify_one();
        Ok(())
    }

    fn stop(&self) -> Result<(), TpmError> {
        let since = {
            let mut queues = self.shared.lock();
            queues.closed = true;
            queues.running_since
        };
        self.shared.wake.notify_one();
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((thread, finished)) = running.take() else { return Ok(()) };
        // The thread drops its sender as the last thing it does.
        if finished.recv_timeout(self.deadlines.shutdown) == Err(RecvTimeoutError::Timeout) {
            let since = since.map_or(self.deadlines.shutdown, |start| start.elapsed());
            return Err(TpmError::Hung { since });
        }
        if thread.join().is_err() {
            tracing::error!("the TPM thread panicked");
        }
        Ok(())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::warn!(%error, "the TPM thread is left behind");
        }
    }
}

/// Runs when the thread ends, however it ends: nobody may wait for a thread that is gone.
struct EndGuard {
    shared: Arc<Shared>,
    _finished: mpsc::Sender<()>,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        let mut queues = self.shared.lock();
        queues.closed = true;
        let dropped =
            (std::mem::take(&mut queues.signing), std::mem::take(&mut queues.attestation));
        drop(queues);
        drop(dropped);
    }
}

fn serve(shared: &Shared, mut engine: Engine) {
    while let Some(job) = next_job(shared) {
        // Its caller has had its answer: a timeout.
        if job.deadline > Instant::now() {
            (job.run)(&mut engine);
        }
        shared.lock().running_since = None;
    }
    // Dropping the engine flushes what is loaded: without a resource manager it would fill the
    // TPM's slots for the next process.
}

/// Waits for a job; `None` at the end.
fn next_job(shared: &Shared) -> Option<Job> {
    let mut queues = shared.lock();
    loop {
        if queues.closed {
            return None;
        }
        if let Some(job) = queues.next() {
            queues.running_since = Some(Instant::now());
            return Some(job);
        }
        queues = shared.wake.wait(queues).unwrap_or_else(PoisonError::into_inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(log: &mpsc::Sender<u32>, number: u32) -> Job {
        let log = log.clone();
        Job {
            deadline: Instant::now() + Duration::from_secs(60),
            run: Box::new(move |_| log.send(number).unwrap()),
        }
    }

    #[test]
    fn signing_goes_first_and_attestation_never_starves() {
        let (log, order) = mpsc::channel();
        let mut queues = Queues::default();
        queues.attestation.push_back(job(&log, 1000));
        for number in 0..70 {
            queues.signing.push_back(job(&log, number));
        }
        let mut engine = Engine::new(
            "device:/nonexistent".parse().unwrap(),
            KeyStore::new("/nonexistent".into()),
        );
        while let Some(job) = queues.next() {
            (job.run)(&mut engine);
        }
        drop(log);
        let order: Vec<u32> = order.iter().collect();
        assert_eq!(order.len(), 71);
        assert_eq!(order.iter().position(|&number| number == 1000), Some(64));
    }

    #[test]
    fn an_absent_device_is_said_in_words_and_the_thread_ends() {
        let folder = tempfile::tempdir().unwrap();
        let tpm = Tpm::spawn("device:/dev/does-not-exist", folder.path().join("tpm")).unwrap();
        let error = tpm.info().unwrap_err();
        assert!(error.is_absence());
        for word in ["/dev/does-not-exist", "Raspberry Pi", "dtoverlay=tpm-slb9670"] {
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!(matches!(tpm.load_identity(), Err(TpmError::NoIdentity { .. })));
        let clone = tpm.clone();
        tpm.shutdown().unwrap();
        assert!(matches!(clone.info(), Err(TpmError::ShutDown)));
        tpm.shutdown().unwrap();
    }

    #[test]
    fn a_plain_file_is_no_tpm() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tpm0");
        std::fs::write(&file, b"").unwrap();
        let address = format!("device:{}", file.display());
        let tpm = Tpm::spawn(&address, folder.path().join("keys")).unwrap();
        assert!(matches!(tpm.info(), Err(TpmError::DeviceMissing { .. })));
    }

    #[test]
    fn a_wrong_address_is_refused_before_anything_runs() {
        let outcome = Tpm::spawn("swtpm:path=/run/tpm.sock", "/nonexistent".into());
        assert!(matches!(outcome, Err(TpmError::Address(_))));
    }

    #[test]
    fn a_full_queue_refuses_at_once() {
        let owner = Owner {
            shared: Arc::new(Shared::default()),
            deadlines: Deadlines::default(),
            running: Mutex::new(None),
        };
        let (log, _order) = mpsc::channel();
        for number in 0..MAX_ATTESTATION as u32 {
            owner.submit(Kind::Attestation, job(&log, number)).unwrap();
        }
        let refused = owner.submit(Kind::Attestation, job(&log, 0));
        assert!(matches!(refused, Err(TpmError::Busy)));
        owner.submit(Kind::Signing, job(&log, 0)).unwrap();
        owner.shared.lock().running_since = Instant::now().checked_sub(Duration::from_secs(91));
        let hung = owner.submit(Kind::Signing, job(&log, 0));
        assert!(matches!(hung, Err(TpmError::Hung { .. })));
    }
}
