//! New vote keys for a gateway that runs (design §4 "Keys"): the identity key certifies the
//! successor in a `RotateKey`, the ledger's thread takes it when the record names it, and the old
//! one is destroyed then. A crash at any point leaves both on the disk, and the record says which.
//!
//! After an older copy of the disk was put back the old key is gone. A gateway that is not the only
//! voter follows until it has caught up, gets a new key by a `RotateKey`, and signs transactions
//! with it, but no vote until a quorum has attested it once more.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use attestation::tpm::Tpm;
use ledger::crypto::{PublicKey, SigningKey};
use ledger::ids::NodeId;
use ledger::store::Reader;
use ledger::transaction::{Body, Draft, RotateKey, Transaction};

use crate::control::{ControlError, Result};
use crate::identity::{Folder, IdentityError, Unlocked, identity_key, normalized};
use crate::ledger_task::{self, Done};
use crate::site::Running;
use crate::vault::Vault;

/// Signs a draft of this gateway with its identity key. Blocks.
///
/// # Errors
/// The TPM does not sign.
pub(crate) fn sign_with_identity(
    tpm: &Tpm,
    draft: Draft,
) -> std::result::Result<Transaction, IdentityError> {
    let signature = tpm.sign_identity(draft.signing_digest().0)?;
    Ok(draft.with_signature(normalized(signature)?))
}

/// Records a body that this gateway's identity key signs; returns when it is committed.
///
/// # Errors
/// The TPM does not sign, or the record refuses it.
pub(crate) async fn record_with_identity(
    ledger: &ledger_task::Handle,
    tpm: &Tpm,
    body: Body,
) -> Result<Done> {
    let draft = ledger.draft(move |_| Ok(body)).await?;
    let tpm = tpm.clone();
    let signed = tokio::task::spawn_blocking(move || sign_with_identity(&tpm, draft)).await;
    let broke = |error: tokio::task::JoinError| ControlError::Internal(error.to_string());
    ledger.submit(signed.map_err(broke)?.map_err(ControlError::from)?).await
}

/// Gives this gateway a new vote key; returns when it is on the record and the old one is gone,
/// with its public half.
///
/// # Errors
/// The gateway is no member, the TPM does not sign, the disk is full, no block in time: then the
/// old key goes on, and the same successor is used at the next try.
pub(crate) async fn rotate(
    running: &Running,
    tpm: &Tpm,
    folder: Folder,
) -> Result<(Done, PublicKey)> {
    if running.vote_key.is_none() {
        let why = "this gateway has no vote key: an older copy of its disk was put back";
        return Err(ControlError::Unavailable(why.into()));
    }
    let next = successor(running, folder).await?;
    running.ledger.next_vote_key(next.clone()).await?;
    let done = record(running, tpm, &next).await?;
    Ok((done, next.public_key()))
}

/// The next vote key, made or found on the disk.
pub(crate) async fn successor(running: &Running, folder: Folder) -> Result<SigningKey> {
    let gateway = running.gateway;
    let known = running.ledger.view(move |state| state.gateway(&gateway).map(|own| own.vote_key));
    let known = known.await?.ok_or_else(|| {
        ControlError::Unavailable("this gateway is not on the record as its disk has it".into())
    })?;
    let (vault, counter) = (running.vault.clone(), running.counter);
    let make = move || folder.next_vote_key(&vault, Some(&known), counter);
    let broke = |error: tokio::task::JoinError| ControlError::Internal(error.to_string());
    tokio::task::spawn_blocking(make).await.map_err(broke)?.map_err(ControlError::from)
}

/// Names a vote key on the record.
pub(crate) async fn record(running: &Running, tpm: &Tpm, next: &SigningKey) -> Result<Done> {
    let identity = identity_key(&running.identity).map_err(ControlError::from)?;
    let body = RotateKey::new(&running.genesis.chain_id().0, &identity, next);
    record_with_identity(&running.ledger, tpm, Body::RotateKey(body)).await
}

/// At the start: takes the next vote key if the record names it already, a crash having come
/// between. Blocks.
///
/// # Errors
/// Store or key file unreadable.
pub(crate) fn settle(
    folder: &Folder,
    data_dir: &Path,
    gateway: NodeId,
    unlocked: &mut Unlocked,
) -> anyhow::Result<()> {
    let Some(next) = &unlocked.next_vote else { return Ok(()) };
    let own = Reader::open(data_dir)?.gateway(&gateway)?;
    if own.map(|own| own.vote_key) == Some(next.public_key()) {
        folder.take_next_vote_key(&unlocked.vault)?;
        unlocked.vote = unlocked.next_vote.take();
    }
    Ok(())
}

/// What the ledger's thread changes of the keys on the disk.
pub struct Keeper {
    folder: Folder,
    vault: Arc<Vault>,
}

impl Keeper {
    /// Of the data folder.
    pub fn new(folder: Folder, vault: Arc<Vault>) -> Self {
        Self { folder, vault }
    }

    /// The record names the next vote key.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn take_next(&self) -> std::result::Result<(), IdentityError> {
        self.folder.take_next_vote_key(&self.vault)
    }

    /// This gateway was attested after its disk had been put back: it votes again.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn attested(&self) -> std::result::Result<(), IdentityError> {
        self.folder.attested_again()
    }
}

/// How often it is looked whether this gateway has caught up.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Looks in a row that must find it caught up: a peer may not have said yet how far it is.
const LOOKS: u32 = 3;

/// After a rollback: waits until this gateway has caught up with the others, and has it named a
/// new vote key. Returns when the disk holds that key; the parts are to be started anew then. A
/// sole voter waits for ever: only the operator's recovery gives it a vote.
pub(crate) async fn regain(running: Running, tpm: Tpm, data_dir: PathBuf) {
    loop {
        caught_up(&running).await;
        match regain_once(&running, &tpm, &data_dir).await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "no new vote key yet"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn caught_up(running: &Running) {
    let mut looks = 0;
    while looks < LOOKS {
        tokio::time::sleep(LOOK_EVERY).await;
        let (own, connected) = (running.gateway, !running.peers.peers().borrow().is_empty());
        let level = running.ledger.with_node(move |node| {
            let state = node.state();
            let alone = state.voters() == [own] || state.gateway(&own).is_none();
            !alone && node.progress().behind == 0
        });
        let level = level.await.unwrap_or(false);
        looks = if level && connected { looks + 1 } else { 0 };
    }
}

async fn regain_once(running: &Running, tpm: &Tpm, data_dir: &Path) -> Result<()> {
    let folder = Folder::at(data_dir).map_err(ControlError::from)?;
    let next = successor(running, folder.clone()).await?;
    let done = record(running, tpm, &next).await?;
    let (vault, tpm, dir) = (Arc::clone(&running.vault), tpm.clone(), data_dir.to_owned());
    let keep = move || {
        folder.take_next_vote_key(&vault)?;
        // Before the counter says that all is well again.
        folder.attest_again(done.height)?;
        crate::site::agree(&dir, &tpm)
    };
    let kept = tokio::task::spawn_blocking(keep).await;
    let storage = |error: anyhow::Error| ControlError::Storage(format!("{error:#}"));
    kept.map_err(|error| ControlError::Internal(error.to_string()))?.map_err(storage)
}
