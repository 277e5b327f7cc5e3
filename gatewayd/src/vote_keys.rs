//! New vote keys for a gateway that runs (design §4 "Keys"): the identity key certifies the
//! successor in a `RotateKey`, the ledger's thread takes it when the record names it, and the old
//! one is destroyed then. A crash at any point leaves both on the disk, and the record says which.

use attestation::tpm::Tpm;
use ledger::crypto::SigningKey;
use ledger::ids::NodeId;
use ledger::store::Reader;
use ledger::transaction::{Body, Draft, RotateKey, Transaction};

use crate::control::{ControlError, Result};
use crate::identity::{Folder, IdentityError, Unlocked, identity_key, normalized};
use crate::ledger_task::{self, Done};
use crate::site::Running;

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

/// Gives this gateway a new vote key; returns when it is on the record and the old one is gone.
///
/// # Errors
/// The gateway is no member, the TPM does not sign, the disk is full, no block in time: then the
/// old key goes on, and the same successor is used at the next try.
pub(crate) async fn rotate(running: &Running, tpm: &Tpm, folder: Folder) -> Result<Done> {
    if running.vote_key.is_none() {
        let why = "this gateway has no vote key: an older copy of its disk was put back";
        return Err(ControlError::Unavailable(why.into()));
    }
    let next = successor(running, folder).await?;
    running.ledger.next_vote_key(next.clone()).await?;
    record(running, tpm, &next).await
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
    data_dir: &std::path::Path,
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
