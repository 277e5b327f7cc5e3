//! The verifier (RFC 9334, 3.1): evidence in, attestation result out.
//!
//! [`appraise`] is a pure function. Malformed evidence is an error, distrust is a result, and
//! what no check has affirmed is contraindicated.

use crate::attest::Attest;
use crate::bytes::ParseError;
use crate::certify;
use crate::crypto::constant_time_eq;
use crate::endorsement::{self, Certificate, CertificateError, TpmModel};
use crate::evidence::{Endorsements, Evidence};
use crate::logs::{Judged, Logs};
use crate::measured;
use crate::policy::Policy;
use crate::public::{Name, Public};
use crate::quote;
use crate::reference_values::ReferenceValues;
use crate::result::{AttestationResult, Claim, ClaimKind, Reason, Status};
use crate::signature;
use crate::template::EkKind;

/// `TPM_RH_ENDORSEMENT`: the root of an EK's qualified Name.
const ENDORSEMENT_HIERARCHY: [u8; 4] = 0x4000_000b_u32.to_be_bytes();

/// What this verifier asked of this attester, and when it asks: never taken from the evidence.
#[derive(Debug, Clone)]
pub struct Challenge {
    /// What quote and certification must carry: a digest that binds nonce, channel and claims.
    pub qualifying_data: [u8; 32],
    /// The secret inside the credential that was made for the attester's EK and AK.
    pub credential: [u8; 32],
    /// The time of the appraisal, Unix seconds: certificates are judged at it.
    pub now: u64,
    /// What this verifier kept of an earlier appraisal of this attester, if anything:
    /// [`AttestationResult::judged`].
    pub judged: Option<Judged>,
}

/// Evidence that is not even well-formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// A structure of the TPM does not parse.
    #[error("malformed evidence, {part}: {error}")]
    Part {
        /// Which part of the evidence.
        part: &'static str,
        /// What is wrong.
        error: ParseError,
    },
    /// A certificate does not parse.
    #[error("malformed endorsement, {part}: {error}")]
    Certificate {
        /// Which certificate.
        part: &'static str,
        /// What is wrong.
        error: CertificateError,
    },
}

/// The evidence after parsing: from here on nothing can be malformed.
struct Parsed {
    ek: Public,
    ak: Public,
    identity: Public,
    identity_point: [u8; 33],
    certification: Attest,
    certification_signature: [u8; 64],
    quote: Attest,
    quote_signature: [u8; 64],
    ek_certificate: Option<Certificate>,
    intermediates: Vec<Certificate>,
}

/// Appraises evidence under a policy.
///
/// # Errors
/// The evidence or an endorsement is malformed. (A log that cannot be read is distrust: some
/// firmware writes such.) Distrust is not an error: it is a claim of the
/// result that is contraindicated.
pub fn appraise(
    evidence: &Evidence,
    endorsements: &Endorsements,
    logs: &Logs,
    reference_values: &[ReferenceValues],
    policy: &Policy,
    challenge: &Challenge,
) -> Result<AttestationResult, EvidenceError> {
    let parsed = parse(evidence, endorsements)?;
    let freshness = judge_freshness(evidence, &parsed, policy, challenge);
    let (clock, ak_name) = (parsed.quote.clock(), parsed.ak.name());
    let attestation_key = judge_attestation_key(evidence, &parsed, challenge);
    // Logs are long, and explain nothing unless this TPM quoted the registers just now.
    let quoted = freshness.is_ok() && attestation_key.is_ok();
    let registers = quoted.then_some(evidence.pcr_values.as_slice());
    let measured = measured::judge(&measured::Case {
        policy,
        registers,
        logs,
        references: reference_values,
        earlier: challenge.judged.as_ref(),
        clock,
        ak_name: &ak_name,
    });
    let claims = ClaimKind::ALL
        .map(|kind| {
            let verdict = match kind {
                ClaimKind::Endorsement => judge_endorsement(&parsed, policy, challenge),
                ClaimKind::Hardware => judge_hardware(evidence, &parsed, policy),
                ClaimKind::AttestationKey => attestation_key.clone(),
                ClaimKind::Residency => judge_residency(&parsed),
                ClaimKind::Freshness => freshness.clone(),
                ClaimKind::Boot => measured.boot.clone(),
                ClaimKind::Ima => measured.ima.clone(),
            };
            let (status, reason) = match verdict {
                Ok(verdict) => verdict,
                Err(reason) => (Status::Contraindicated, reason),
            };
            Claim { kind, status, reason }
        })
        .to_vec();
    Ok(AttestationResult {
        claims,
        identity: parsed.identity_point,
        ek_digest: parsed.ek.digest(),
        ak_name,
        clock,
        firmware_version: parsed.quote.firmware_version(),
        tpm: parsed.ek_certificate.as_ref().map(|found| found.description().clone()),
        ek_kind: EkKind::of(&parsed.ek),
        model: TpmModel::of(parsed.ek_certificate.as_ref(), evidence.manufacturer),
        judged: measured.judged,
    })
}

fn parse(evidence: &Evidence, endorsements: &Endorsements) -> Result<Parsed, EvidenceError> {
    let part = |part| move |error| EvidenceError::Part { part, error };
    let certificate = |part| move |error| EvidenceError::Certificate { part, error };
    let identity = Public::parse(&evidence.identity_public).map_err(part("identity key"))?;
    let identity_point = identity.p256_compressed().map_err(part("identity key"))?;
    let ek_certificate = endorsements
        .ek_certificate
        .as_deref()
        .map(|bytes| endorsement::trim_der(bytes).and_then(Certificate::parse))
        .transpose()
        .map_err(certificate("EK certificate"))?;
    let intermediates = endorsements
        .intermediates
        .iter()
        .map(|bytes| endorsement::trim_der(bytes).and_then(Certificate::parse))
        .collect::<Result<Vec<_>, _>>()
        .map_err(certificate("intermediate certificate"))?;
    Ok(Parsed {
        ek: Public::parse(&evidence.ek_public).map_err(part("endorsement key"))?,
        ak: Public::parse(&evidence.ak_public).map_err(part("attestation key"))?,
        identity,
        identity_point,
        certification: Attest::parse(&evidence.certification).map_err(part("certification"))?,
        certification_signature: signature::parse(&evidence.certification_signature)
            .map_err(part("certification signature"))?,
        quote: Attest::parse(&evidence.quote).map_err(part("quote"))?,
        quote_signature: signature::parse(&evidence.quote_signature)
            .map_err(part("quote signature"))?,
        ek_certificate,
        intermediates,
    })
}

/// A verdict; a reason alone means contraindicated.
pub(crate) type Verdict = Result<(Status, Reason), Reason>;

/// A pinned EK needs no certificate; all others need a path to an anchor and the certified key.
fn judge_endorsement(parsed: &Parsed, policy: &Policy, challenge: &Challenge) -> Verdict {
    if EkKind::of(&parsed.ek).is_none() {
        return Err(Reason::EkTemplate);
    }
    if policy.pinned_eks.contains(&parsed.ek.digest()) {
        return Ok((Status::Affirming, Reason::Pinned));
    }
    let certificate = parsed.ek_certificate.as_ref().ok_or(Reason::NoCertificate)?;
    let pool = &parsed.intermediates;
    let anchor = endorsement::validate(certificate, pool, &policy.anchors, challenge.now)
        .map_err(Reason::Path)?;
    let certified = endorsement::certified_ek(certificate).ok_or(Reason::CertifiedKeyDiffers)?;
    if certified.key() != parsed.ek.key() {
        return Err(Reason::CertifiedKeyDiffers);
    }
    Ok((Status::Affirming, Reason::Chain { anchor: anchor.certificate().subject() }))
}

/// The certificate's word and the TPM's own: software in either is software.
fn judge_hardware(evidence: &Evidence, parsed: &Parsed, policy: &Policy) -> Verdict {
    let certificate = parsed.ek_certificate.as_ref();
    let certified = certificate.and_then(|found| found.description().manufacturer);
    let (claimed, maker) = (evidence.manufacturer, certified.unwrap_or(evidence.manufacturer));
    let software = [claimed, maker].into_iter().find(|manufacturer| manufacturer.is_software());
    match software {
        None => Ok((Status::Affirming, Reason::HardwareTpm(maker))),
        Some(maker) if policy.allow_software_tpm => {
            Ok((Status::Warning, Reason::SoftwareTpm(maker)))
        }
        Some(maker) => Err(Reason::SoftwareTpm(maker)),
    }
}

/// The AK is restricted, its qualified Name says that it is the child of this EK, and the TPM with
/// both opened the credential.
fn judge_attestation_key(evidence: &Evidence, parsed: &Parsed, challenge: &Challenge) -> Verdict {
    certify::check_ak(&parsed.ak)?;
    let expected = qualified_ak(&parsed.ek, &parsed.ak);
    for attest in [&parsed.quote, &parsed.certification] {
        if *attest.qualified_signer() != expected {
            return Err(Reason::QualifiedSigner);
        }
    }
    if !constant_time_eq(&evidence.activated, &challenge.credential) {
        return Err(Reason::Credential);
    }
    Ok((Status::Affirming, Reason::AkUnderEk))
}

/// The qualified Name of an AK that is a child of an EK: each step hashes with the Name algorithm
/// of the object that it qualifies (TPM 2.0 Library, Part 1, 16.3).
fn qualified_ak(ek: &Public, ak: &Public) -> Name {
    let ek_name = ek.name();
    let ek_qualified = Name::of(ek.name_algorithm(), &[&ENDORSEMENT_HIERARCHY, ek_name.as_bytes()]);
    Name::of(ak.name_algorithm(), &[ek_qualified.as_bytes(), ak.name().as_bytes()])
}

/// The identity key is certified by an attestation key that may attest at all.
fn judge_residency(parsed: &Parsed) -> Verdict {
    certify::check_ak(&parsed.ak)?;
    certify::check(
        &parsed.certification,
        &parsed.certification_signature,
        &parsed.ak,
        &parsed.identity,
    )?;
    Ok((Status::Affirming, Reason::Certified))
}

/// Quote and certification carry this challenge's qualifying data, under good signatures.
fn judge_freshness(
    evidence: &Evidence,
    parsed: &Parsed,
    policy: &Policy,
    challenge: &Challenge,
) -> Verdict {
    certify::check_ak(&parsed.ak)?;
    quote::check(
        &parsed.quote,
        &parsed.quote_signature,
        &parsed.ak,
        policy.pcrs,
        &evidence.pcr_values,
    )?;
    if !constant_time_eq(parsed.quote.extra_data(), &challenge.qualifying_data) {
        return Err(Reason::QuoteNonce);
    }
    if !quote::signed_by(&parsed.ak, &parsed.certification, &parsed.certification_signature) {
        return Err(Reason::CertificationSignature);
    }
    if !constant_time_eq(parsed.certification.extra_data(), &challenge.qualifying_data) {
        return Err(Reason::CertificationNonce);
    }
    Ok((Status::Affirming, Reason::Fresh))
}
