//! The second gateway attests the founder (design §5 "Genesis"): the newcomer is the verifier, in
//! the session in which it checked the founder's record. Its signed result goes with its `Admit`.

use attestation::activation::{CredentialBlob, ENTROPY_LEN, make_credential};
use attestation::endorsement::{Anchor, TpmModel};
use attestation::manufacturer::Manufacturer;
use attestation::pcr::PcrSelection;
use attestation::public::Public;
use attestation::template::EkKind;
use attestation::{
    AttestationResult, Challenge as Asked, Evidence, ImaPart, Logs, Policy, Profile,
    ReferenceValues,
};
use aws_lc_rs::rand;
use ledger::crypto::{PublicKey, SigningKey, sha256};
use ledger::genesis::TpmName;
use ledger::ids::Hash;
use ledger::state::Attestation;
use ledger::transaction::{ClaimVerdict, FounderResult, Purpose, Statement};
use zeroize::Zeroizing;

use super::exchange::{Ask, AskError, fetch_logs};
use super::handing;
use super::head::KnownSite;
use super::messages::{
    Bound, Bytes, Challenge, EvidenceRequest, Introduction, LogsWanted, Request, Response,
    qualifying_data,
};

/// Why the founder is not attested by this gateway.
#[derive(Debug, thiserror::Error)]
pub enum FounderError {
    /// No usable answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// It says no.
    #[error("{0}")]
    Refused(String),
    /// Its keys or its evidence are malformed.
    #[error("the founder's {0} is malformed")]
    Malformed(&'static str),
    /// Its keys are not those of the record.
    #[error("the founder shows another {0} than the record")]
    Differs(&'static str),
    /// A document that the policy names is not what its hash says, or cannot be read.
    #[error("a document of the site's policy is not what the policy names")]
    Document,
    /// Its evidence is not accepted.
    #[error("the founder's TPM is not accepted")]
    NotAccepted(Box<AttestationResult>),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

/// Whether a newcomer must bring the founder's attestation with it.
pub fn is_needed(site: &KnownSite) -> bool {
    site.voters.count() == 1 && site.gateway.attestation == Attestation::Unverified
}

/// What an appraisal is made with: the policy's documents, read.
#[derive(Debug, Default)]
pub struct Documents {
    anchors: Vec<Anchor>,
    values: Vec<ReferenceValues>,
}

/// Attests the founder, and signs the result with this gateway's vote key.
///
/// # Errors
/// [`FounderError`].
pub async fn appraise(
    founder: &impl Ask,
    site: &KnownSite,
    vote: &SigningKey,
) -> Result<FounderResult, FounderError> {
    let documents = documents(founder, site).await?;
    let (introduction, exporter) = match founder.ask(&Request::Introduce).await? {
        (Response::Introduction(introduction), exporter) => (introduction, exporter),
        (other, _) => return Err(refusal(other)),
    };
    let keys = Keys::of(&introduction, site)?;
    let secret = Zeroizing::new(random::<32>()?);
    let nonce = Hash(random()?);
    let entropy = Zeroizing::new(random::<ENTROPY_LEN>()?);
    let blob = make_credential(&keys.ek, &keys.ak.name(), &secret, &entropy)
        .map_err(|_| FounderError::Malformed("endorsement key"))?;
    let policy = policy(site, &documents)?;
    let challenge = challenge(site, &policy, nonce, &blob)?;
    let wanted = challenge.logs;
    let evidence = match founder.ask(&Request::Prove(Box::new(challenge))).await? {
        // Another session has another exporter: its evidence would not be for this challenge.
        (Response::Evidence(evidence), same) if same == exporter => evidence,
        (Response::Evidence(_), _) => return Err(FounderError::Differs("session")),
        (other, _) => return Err(refusal(other)),
    };
    let logs = fetch_logs(founder, &evidence, wanted).await?;
    let bound = Bound {
        nonce,
        exporter: &exporter,
        identity: &site.gateway.identity,
        vote_key: &introduction.vote.vote_key,
        label: introduction.label,
        event_log: evidence.event_log.map(|head| head.digest),
    };
    let asked = Asked {
        qualifying_data: qualifying_data(&bound),
        credential: *secret,
        // The site's time: this gateway's own clock may be anything.
        now: site.header.time_ms / 1_000,
        judged: None,
    };
    let result = judge(&evidence, logs, &introduction, &documents, &policy, &asked)?;
    if !result.is_accepted() {
        return Err(FounderError::NotAccepted(Box::new(result)));
    }
    let statement = keys.statement(site, &introduction, &result);
    let signature = vote.sign_digest(&statement.digest());
    Ok(FounderResult { statement, signature })
}

fn judge(
    evidence: &EvidenceRequest,
    logs: handing::Logs,
    introduction: &Introduction,
    documents: &Documents,
    policy: &Policy,
    asked: &Asked,
) -> Result<AttestationResult, FounderError> {
    let malformed = |what| move |_| FounderError::Malformed(what);
    let parsed = Evidence::from_bytes(&evidence.evidence).map_err(malformed("evidence"))?;
    let same = parsed.ek_public == *introduction.ek_public
        && parsed.ak_public == *introduction.ak_public
        && parsed.identity_public == *introduction.identity_public;
    if !same {
        return Err(FounderError::Differs("key in its evidence"));
    }
    let endorsements = attestation::Endorsements::from_bytes(&introduction.endorsements)
        .map_err(malformed("EK certificate"))?;
    let ima = logs.ima.map(|bytes| ImaPart { from_offset: 0, bytes });
    let logs = Logs { event_log: logs.event_log, ima };
    attestation::appraise(&parsed, &endorsements, &logs, &documents.values, policy, asked)
        .map_err(|_| FounderError::Malformed("evidence"))
}

/// Anchors and reference values that the policy names, from the founder; each is what its hash
/// says.
async fn documents(founder: &impl Ask, site: &KnownSite) -> Result<Documents, FounderError> {
    let mut documents = Documents::default();
    for hash in &site.policy.ek_anchors {
        let bytes = document(founder, hash).await?;
        let anchor = Anchor::from_der(&bytes).map_err(|_| FounderError::Document)?;
        documents.anchors.push(anchor);
    }
    let now = site.header.time_ms;
    let windows = site.policy.reference_values.iter();
    for window in windows.filter(|window| window.until_ms == 0 || now <= window.until_ms) {
        let bytes = document(founder, &window.document).await?;
        let values = ReferenceValues::from_bytes(&bytes).map_err(|_| FounderError::Document)?;
        documents.values.push(values);
    }
    Ok(documents)
}

async fn document(founder: &impl Ask, hash: &Hash) -> Result<Vec<u8>, FounderError> {
    match founder.ask(&Request::Document(*hash)).await?.0 {
        Response::Document(bytes) if sha256(&[&bytes]) == *hash => Ok(bytes.into_vec()),
        Response::Document(_) => Err(FounderError::Document),
        other => Err(refusal(other)),
    }
}

fn policy(site: &KnownSite, documents: &Documents) -> Result<Policy, FounderError> {
    let profile = Profile::from_number(site.policy.profile as u8);
    let pcrs = PcrSelection::from_bits(site.policy.pcrs);
    let (Some(profile), Ok(pcrs)) = (profile, pcrs) else {
        return Err(FounderError::Malformed("policy"));
    };
    Ok(Policy {
        profile,
        pcrs,
        anchors: documents.anchors.clone(),
        pinned_eks: site.pinned_ek.iter().map(|digest| digest.0).collect(),
        allow_software_tpm: site.policy.insecure_software_tpm_sites,
    })
}

fn challenge(
    site: &KnownSite,
    policy: &Policy,
    nonce: Hash,
    blob: &CredentialBlob,
) -> Result<Challenge, FounderError> {
    Ok(Challenge {
        nonce,
        credential: Bytes::new(blob.to_bytes()).map_err(AskError::from)?,
        pcrs: site.policy.pcrs,
        profile: site.policy.profile,
        policy_hash: site.policy.attestation_hash(),
        logs: LogsWanted {
            event: policy.profile.wants_event_log(),
            ima_from: policy.profile.wants_ima().then_some(0),
        },
    })
}

/// The founder's keys after parsing, which are those of the record.
struct Keys {
    ek: Public,
    ek_kind: EkKind,
    ak: Public,
    ak_name: TpmName,
}

impl Keys {
    fn of(introduction: &Introduction, site: &KnownSite) -> Result<Self, FounderError> {
        let malformed = |what| move |_| FounderError::Malformed(what);
        let ek = Public::parse(&introduction.ek_public).map_err(malformed("endorsement key"))?;
        let ek_kind = EkKind::of(&ek).ok_or(FounderError::Malformed("endorsement key"))?;
        let ak = Public::parse(&introduction.ak_public).map_err(malformed("attestation key"))?;
        let ak_name = ak.name().as_bytes().try_into();
        let ak_name = TpmName(ak_name.map_err(|_| FounderError::Malformed("attestation key"))?);
        let identity = Public::parse(&introduction.identity_public)
            .and_then(|public| public.p256_compressed())
            .map_err(malformed("identity key"))?;
        let identity =
            PublicKey::from_sec1(&identity).map_err(|_| FounderError::Malformed("identity key"))?;
        if identity != site.gateway.identity {
            return Err(FounderError::Differs("identity key"));
        }
        if introduction.vote.vote_key != site.gateway.vote_key {
            return Err(FounderError::Differs("vote key"));
        }
        let founder = &site.genesis.founder;
        if founder.identity == identity && Hash(ek.digest()) != founder.ek_digest {
            return Err(FounderError::Differs("endorsement key"));
        }
        if founder.identity == identity && ak_name != founder.ak_name {
            return Err(FounderError::Differs("attestation key"));
        }
        Ok(Self { ek, ek_kind, ak, ak_name })
    }

    fn statement(
        &self,
        site: &KnownSite,
        introduction: &Introduction,
        result: &AttestationResult,
    ) -> Statement {
        let manufacturer = Manufacturer(introduction.manufacturer);
        let endorsements =
            attestation::Endorsements::from_bytes(&introduction.endorsements).unwrap_or_default();
        let verdict = |claim: &attestation::Claim| ClaimVerdict {
            claim: claim.kind as u8,
            status: claim.status as u8,
        };
        Statement {
            chain_id: site.chain_id,
            era: site.header.era,
            purpose: Purpose::Attest,
            identity: site.gateway.identity,
            vote_key: site.gateway.vote_key,
            ek_digest: Hash(self.ek.digest()),
            ak_name: self.ak_name,
            ek_kind: self.ek_kind.number(),
            tpm_model: Hash(TpmModel::of_endorsements(&endorsements, manufacturer).digest()),
            label: site.gateway.label(),
            policy_hash: site.policy.attestation_hash(),
            claims: result.claims().iter().map(verdict).collect(),
            base_height: site.header.height,
        }
    }
}

fn refusal(response: Response) -> FounderError {
    match response {
        Response::Refused(refused) => FounderError::Refused(refused.reason.as_str().into()),
        Response::Wait(wait) => FounderError::Refused(wait.reason.as_str().into()),
        _ => AskError::Unexpected.into(),
    }
}

fn random<const N: usize>() -> Result<[u8; N], FounderError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| FounderError::Random)?;
    Ok(bytes)
}
