//! The attester (RFC 9334, 3.1): this gateway proves itself to a verifier. The same for joining,
//! for renewal and for the founder who is attested by its second gateway.
//!
//! It answers what it is asked and judges nothing. The TPM works on its own thread; waiting for it
//! is done on blocking threads.

use std::sync::Arc;

use attestation::activation::CredentialBlob;
use attestation::ima::{IMA_PCR, leads_to};
use attestation::pcr::PcrSelection;
use attestation::tpm::{IdentityInfo, Tpm, TpmError};
use attestation::{Evidence, ParseError};
use ledger::codec::{DecodeError, Text};
use ledger::crypto::{PublicKey, SigningKey};
use ledger::ids::{ChainId, Height};
use ledger::transaction::{VoteKeyProof, vote_key_digest, vote_possession_digest};

use super::logs::{LogError, MachineLogs};
use super::messages::{
    Bound, Bytes, Challenge, EvidenceRequest, Introduction, Label, LogPart, MAX_LOG_PART,
    qualifying_data,
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

/// The answer to a challenge: parts of long logs first, in order, then the evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// To be sent before, each as a request of its own.
    pub parts: Vec<LogPart>,
    /// The evidence, with the last part of each log.
    pub evidence: EvidenceRequest,
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
    /// # Errors
    /// [`AttesterError`]; a credential for another TPM is an error of the TPM's.
    pub async fn answer(
        &self,
        challenge: &Challenge,
        exporter: &[u8; 32],
    ) -> Result<Answer, AttesterError> {
        let blob = CredentialBlob::from_bytes(&challenge.credential)?;
        let pcrs = PcrSelection::from_bits(challenge.pcrs)?;
        let mut attested = self.attest(challenge, exporter, pcrs, blob.clone()).await?;
        for _ in 1..QUOTE_ATTEMPTS {
            let (logs, from) = (self.logs.clone(), challenge.logs.ima_from);
            let (explained, same) =
                blocking(move || Ok((explains(&logs, from, &attested), attested))).await?;
            attested = same;
            if explained {
                break;
            }
            attested = self.attest(challenge, exporter, pcrs, blob.clone()).await?;
        }
        let Attested { event_log, ima, evidence } = attested;
        let nonce = challenge.nonce;
        let mut parts = Vec::new();
        let mut last = |log: Option<Vec<u8>>, ima| {
            log.map(|log| split(&mut parts, &log, |bytes| LogPart { nonce, ima, bytes }))
                .transpose()
        };
        let event_log = last(event_log, false)?;
        let ima = last(ima, true)?;
        let evidence = Bytes::new(evidence.to_bytes())?;
        Ok(Answer { parts, evidence: EvidenceRequest { nonce, evidence, event_log, ima } })
    }

    /// Reads the logs that are asked for, and has the TPM attest over their digests.
    async fn attest(
        &self,
        challenge: &Challenge,
        exporter: &[u8; 32],
        pcrs: PcrSelection,
        blob: CredentialBlob,
    ) -> Result<Attested, AttesterError> {
        let (wanted, logs) = (challenge.logs, self.logs.clone());
        let read = move || {
            let event_log = wanted.event.then(|| logs.event_log()).transpose()?;
            let ima = wanted.ima_from.map(|from| logs.ima(from)).transpose()?;
            Ok::<_, AttesterError>((event_log, ima))
        };
        let (event_log, ima) = blocking(read).await?;
        let qualifying = qualifying_data(&Bound {
            nonce: challenge.nonce,
            exporter,
            identity: &self.identity,
            vote_key: &self.vote.vote_key,
            label: self.label,
            event_log: event_log.as_deref(),
            ima: ima.as_deref(),
        });
        let tpm = self.tpm.clone();
        let evidence = blocking(move || Ok(tpm.attest(qualifying, pcrs, blob)?)).await?;
        Ok(Attested { event_log, ima, evidence })
    }
}

/// Logs, and the evidence that was made over their digests.
struct Attested {
    event_log: Option<Vec<u8>>,
    ima: Option<Vec<u8>>,
    evidence: Evidence,
}

/// Whether the IMA log that was sent from a byte on explains the quote: its digest is in the quote,
/// so it was read before, and files may have been opened in between. A log that cannot be read in
/// whole is the verifier's to judge. Blocks.
fn explains(logs: &MachineLogs, from: Option<u64>, attested: &Attested) -> bool {
    let evidence = &attested.evidence;
    let place = evidence.pcrs.iter().position(|pcr| pcr == IMA_PCR);
    let register = place.and_then(|place| evidence.pcr_values.get(place));
    let (Some(from), Some(sent), Some(register)) = (from, &attested.ima, register) else {
        return true;
    };
    let Ok(whole) = logs.ima(0) else { return true };
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let end = from.saturating_add(sent.len()).min(whole.len());
    leads_to(&whole[..end], register)
}

/// How often the IMA log is read and quoted again when files were opened in between. A file is
/// measured when it is opened for the first time, so a machine soon comes to rest.
const QUOTE_ATTEMPTS: usize = 4;

/// Cuts a log into parts; the last of them is returned.
fn split(
    parts: &mut Vec<LogPart>,
    log: &[u8],
    part: impl Fn(Bytes<MAX_LOG_PART>) -> LogPart,
) -> Result<Bytes<MAX_LOG_PART>, DecodeError> {
    let mut rest = log;
    while rest.len() > MAX_LOG_PART {
        let (first, after) = rest.split_at(MAX_LOG_PART);
        parts.push(part(Bytes::new(first.to_vec())?));
        rest = after;
    }
    Bytes::new(rest.to_vec())
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

#[cfg(test)]
mod tests {
    use attestation::ima::Entries;
    use attestation::manufacturer::Manufacturer;

    use super::*;

    fn attested(ima: &[u8], register: [u8; 32]) -> Attested {
        let evidence = Evidence {
            manufacturer: Manufacturer(0),
            ek_public: Vec::new(),
            ak_public: Vec::new(),
            identity_public: Vec::new(),
            activated: [0; 32],
            certification: Vec::new(),
            certification_signature: Vec::new(),
            quote: Vec::new(),
            quote_signature: Vec::new(),
            pcrs: PcrSelection::new(&[7, IMA_PCR]).expect("registers"),
            pcr_values: vec![[7; 32], register],
        };
        Attested { event_log: None, ima: Some(ima.to_vec()), evidence }
    }

    /// Three entries of a real machine; the quote may come after any of them.
    #[test]
    fn a_quote_that_overtook_the_log_is_noticed() {
        let sample =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../attestation/testdata/logs/ima-ng.entries");
        let whole = std::fs::read(sample).expect("test data");
        let mut entries = Entries::new(&whole);
        let mut register = [0; 32];
        let places: Vec<(usize, [u8; 32])> = std::iter::from_fn(|| {
            register = entries.next()?.expect("an entry").extend(&register);
            Some((whole.len() - entries.rest().len(), register))
        })
        .collect();
        let logs = MachineLogs::at("/nonexistent".as_ref(), sample.as_ref());
        let [(first, _), (second, at_second), (_, at_end)] = places[..] else {
            panic!("three entries")
        };
        for (from, end, register, explained) in [
            (0, second, at_second, true),
            (0, second, at_end, false),
            (0, whole.len(), at_second, true),
            (first, second, at_end, false),
            (first, whole.len(), at_end, true),
            (whole.len(), whole.len(), at_end, true),
        ] {
            let sent = attested(&whole[from..end], register);
            assert_eq!(explains(&logs, Some(from as u64), &sent), explained, "{from}..{end}");
        }
        let overtaken = attested(&[], at_end);
        assert!(explains(&logs, None, &overtaken), "no log was asked for");
        assert!(!explains(&logs, Some(0), &overtaken));
        assert!(
            explains(&logs, Some(u64::MAX), &overtaken),
            "shorter than it was: not ours to say"
        );
    }
}
