//! The attester (RFC 9334, 3.1): this gateway proves itself to a verifier. The same for joining,
//! for renewal and for the founder who is attested by its second gateway.
//!
//! It answers what it is asked and judges nothing. The TPM works on its own thread; waiting for it
//! is done on blocking threads.

use std::sync::Arc;

use attestation::ParseError;
use attestation::activation::CredentialBlob;
use attestation::pcr::PcrSelection;
use attestation::tpm::{IdentityInfo, Tpm, TpmError};
use ledger::codec::{DecodeError, Text};
use ledger::crypto::{PublicKey, SigningKey};
use ledger::ids::{ChainId, Height};
use ledger::transaction::{VoteKeyProof, vote_key_digest, vote_possession_digest};

use super::handing::Logs;
use super::logs::{LogError, MachineLogs};
use super::messages::{
    Bound, Bytes, Challenge, EvidenceRequest, Introduction, Label, qualifying_data,
};
use crate::identity::{IdentityError, identity_key, normalized};

/// Why this gateway cannot prove itself.
#[derive(Debug, thiserror::Error)]
pub enum AttesterError {
    /// The TPM does not answer, or is another one.
    #[error("TPM: {0}")]
    Tpm(#[from] TpmError),
    /// The identity is not usable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The verifier's challenge is not one.
    #[error("the verifier's challenge is malformed: {0}")]
    Challenge(#[from] ParseError),
    /// A log of this machine that the policy asks for cannot be had.
    #[error(transparent)]
    Logs(#[from] LogError),
    /// Something of ours is longer than messages may be.
    #[error("this gateway's evidence does not fit a message: {0}")]
    TooLong(#[from] DecodeError),
    /// A blocking task broke.
    #[error("a task of ours broke")]
    Broke,
}

/// What proves this gateway. Cheap to clone.
#[derive(Clone)]
pub struct Attester {
    tpm: Tpm,
    info: Arc<IdentityInfo>,
    identity: PublicKey,
    label: Label,
    vote: VoteKeyProof,
    logs: MachineLogs,
}

/// The answer to a challenge: the evidence, and the logs that it announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The evidence.
    pub evidence: EvidenceRequest,
    /// To be handed over when the verifier asks for them.
    pub logs: Logs,
}

impl Attester {
    /// With keys that are open: the vote key is certified by the identity key for this chain.
    ///
    /// # Errors
    /// [`AttesterError`]: the TPM does not sign.
    pub async fn new(
        tpm: Tpm,
        info: Arc<IdentityInfo>,
        vote: &SigningKey,
        chain_id: ChainId,
        label: Label,
        logs: MachineLogs,
    ) -> Result<Self, AttesterError> {
        let identity = identity_key(&info)?;
        let (signer, key) = (tpm.clone(), vote.clone());
        let certify = move || certify_vote_key(&signer, chain_id, &identity, &key);
        let vote = blocking(certify).await?;
        Ok(Self { tpm, info, identity, label, vote, logs })
    }

    /// The identity key.
    pub fn identity(&self) -> &PublicKey {
        &self.identity
    }

    /// The vote key with its certificate.
    pub fn vote(&self) -> &VoteKeyProof {
        &self.vote
    }

    /// Who this is, before anything is proven.
    ///
    /// # Errors
    /// [`AttesterError::TooLong`].
    pub fn introduce(&self, base_height: Height) -> Result<Introduction, AttesterError> {
        let info = &self.info;
        Ok(Introduction {
            label: self.label,
            measurements: Text::new(super::measure::in_words()).unwrap_or_default(),
            base_height,
            endorsements: Bytes::new(info.endorsements.to_bytes())?,
            ek_public: Bytes::new(info.ek_public.clone())?,
            ak_public: Bytes::new(info.ak_public.clone())?,
            identity_public: Bytes::new(info.identity_public.clone())?,
            vote: self.vote,
            manufacturer: info.manufacturer.0,
        })
    }

    /// Answers a challenge that was made in the session with this exporter.
    ///
    /// The event log is read before the quote, which binds it; the firmware writes nothing more
    /// into it. The IMA list is read afterwards: it grows with every new file, so only then does it
    /// hold all that the quoted register holds. The verifier stops where the register is reached.
    ///
    /// # Errors
    /// [`AttesterError`]; a credential for another TPM is an error of the TPM's.
    pub async fn answer(
        &self,
        challenge: &Challenge,
        exporter: &[u8; 32],
    ) -> Result<Answer, AttesterError> {
        let blob = CredentialBlob::from_bytes(&challenge.credential)?;
        let pcrs = PcrSelection::from_bits(challenge.pcrs)?;
        let (wanted, machine) = (challenge.logs, self.logs.clone());
        let read = move || wanted.event.then(|| machine.event_log()).transpose();
        let event_log = blocking(move || Ok(read()?)).await?;
        let mut logs = Logs { event_log, ima: None };
        let head = logs.event_log_head();
        let qualifying = qualifying_data(&Bound {
            nonce: challenge.nonce,
            exporter,
            identity: &self.identity,
            vote_key: &self.vote.vote_key,
            label: self.label,
            event_log: head.map(|head| head.digest),
        });
        let tpm = self.tpm.clone();
        let evidence = blocking(move || Ok(tpm.attest(qualifying, pcrs, blob)?)).await?;
        let machine = self.logs.clone();
        let read = move || wanted.ima_from.map(|from| machine.ima(from)).transpose();
        logs.ima = blocking(move || Ok(read()?)).await?;
        let evidence = EvidenceRequest {
            nonce: challenge.nonce,
            evidence: Bytes::new(evidence.to_bytes())?,
            event_log: head,
            ima: logs.ima.as_ref().map(|ima| ima.len() as u64),
        };
        Ok(Answer { evidence, logs })
    }
}

/// Certifies a vote key with the identity key, and proves that it is held. Blocks.
///
/// # Errors
/// The TPM does not sign.
pub fn certify_vote_key(
    tpm: &Tpm,
    chain_id: ChainId,
    identity: &PublicKey,
    vote: &SigningKey,
) -> Result<VoteKeyProof, AttesterError> {
    let vote_key = vote.public_key();
    let certificate = tpm.sign_identity(vote_key_digest(&chain_id.0, identity, &vote_key).0)?;
    let held = vote_possession_digest(&chain_id.0, identity, &vote_key);
    Ok(VoteKeyProof {
        vote_key,
        certificate: normalized(certificate)?,
        possession: vote.sign_digest(&held),
    })
}

/// Runs what waits for TPM or disk on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AttesterError> + Send + 'static,
) -> Result<T, AttesterError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| AttesterError::Broke)?
}
