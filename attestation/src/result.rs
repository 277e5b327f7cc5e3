//! The attestation result (RFC 9334, 8.4): a verdict per claim, each with its reason. Only the
//! verifier can make one; who holds an [`AttestationResult`] knows that evidence was appraised.

use std::fmt;

use crate::attest::Clock;
use crate::boot::BootReason;
use crate::endorsement::{PathError, TpmDescription, TpmModel};
use crate::ima::ImaReason;
use crate::logs::Judged;
use crate::manufacturer::Manufacturer;
use crate::public::Name;
use crate::template::EkKind;

/// What is claimed of an attester. Every result holds each of them once, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ClaimKind {
    /// Somebody the site trusts vouches for the endorsement key.
    Endorsement = 0,
    /// The TPM is a chip (or firmware), not a program on somebody's disk.
    Hardware = 1,
    /// The attestation key is restricted and sits under that endorsement key in that TPM.
    AttestationKey = 2,
    /// The identity key is in the same TPM and cannot leave it.
    Residency = 3,
    /// The evidence was made for this verifier, now.
    Freshness = 4,
    /// What the machine booted.
    Boot = 5,
    /// Which files the machine opened since.
    Ima = 6,
}

impl ClaimKind {
    /// All claims, in the order in which results list them.
    pub const ALL: [Self; 7] = [
        Self::Endorsement,
        Self::Hardware,
        Self::AttestationKey,
        Self::Residency,
        Self::Freshness,
        Self::Boot,
        Self::Ima,
    ];

    /// The word for it in interfaces.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Endorsement => "endorsement",
            Self::Hardware => "hardware",
            Self::AttestationKey => "attestation-key",
            Self::Residency => "residency",
            Self::Freshness => "freshness",
            Self::Boot => "boot",
            Self::Ima => "ima",
        }
    }
}

/// A verdict on one claim, in the tiers of AR4SI (draft-ietf-rats-ar4si).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Status {
    /// The claim holds.
    Affirming = 0,
    /// The claim is not proven, and the policy accepts that. It is shown.
    Warning = 1,
    /// The claim does not hold, or was not proven where the policy asks for it.
    Contraindicated = 2,
}

impl Status {
    /// The word for it in interfaces.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Affirming => "affirming",
            Self::Warning => "warning",
            Self::Contraindicated => "contraindicated",
        }
    }
}

/// One verdict and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What is claimed.
    pub kind: ClaimKind,
    /// The verdict.
    pub status: Status,
    /// Why.
    pub reason: Reason,
}

/// Why a claim got its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The EK certificate leads to the anchor with this subject.
    Chain {
        /// Subject of the anchor.
        anchor: String,
    },
    /// The operator pinned this very EK.
    Pinned,
    /// The TPM has no EK certificate and the EK is not pinned.
    NoCertificate,
    /// No path from the EK certificate to an anchor.
    Path(PathError),
    /// The certified key is not the EK that was shown.
    CertifiedKeyDiffers,
    /// The EK is not a TCG template.
    EkTemplate,
    /// A manufacturer of chips.
    HardwareTpm(Manufacturer),
    /// A software TPM.
    SoftwareTpm(Manufacturer),
    /// The attestation key is the EK's child and opened the credential.
    AkUnderEk,
    /// The attestation key is no P-256 key that signs with ECDSA and SHA-256 alone.
    AkScheme,
    /// The attestation key's attributes allow what they must not.
    AkAttributes,
    /// The signer of the quote or the certification is not the child of that EK.
    QualifiedSigner,
    /// The secret of the credential did not come back.
    Credential,
    /// The identity key is certified by the attestation key.
    Certified,
    /// The certification is an attestation of another type.
    NotACertification,
    /// The attestation key did not sign the certification.
    CertificationSignature,
    /// Another key was certified.
    CertifiedName,
    /// The identity key is no P-256 key that signs with ECDSA and SHA-256 alone.
    IdentityScheme,
    /// The identity key's attributes do not bind it to the TPM.
    IdentityAttributes,
    /// Quote and certification carry this verifier's qualifying data.
    Fresh,
    /// The quote carries other qualifying data: it was made for another challenge.
    QuoteNonce,
    /// The certification carries other qualifying data: it was made for another challenge.
    CertificationNonce,
    /// The quote is an attestation of another type.
    NotAQuote,
    /// The attestation key did not sign the quote.
    QuoteSignature,
    /// Other registers were quoted than the policy asks for.
    PcrSelection,
    /// The register values are not those that were quoted.
    PcrDigest,
    /// The profile does not judge the boot.
    BootNotMeasured,
    /// What was measured while the machine booted.
    Boot(BootReason),
    /// The profile does not judge the files.
    ImaNotMeasured,
    /// What the kernel measured of the files that it opened.
    Ima(ImaReason),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentence = match self {
            Self::Chain { anchor } => return write!(f, "the EK certificate leads to {anchor}"),
            Self::Path(error) => return error.fmt(f),
            Self::Boot(reason) => return reason.fmt(f),
            Self::Ima(reason) => return reason.fmt(f),
            Self::HardwareTpm(maker) => return write!(f, "a TPM made by {maker}"),
            Self::SoftwareTpm(maker) => {
                return write!(f, "a software TPM ({maker}): it proves nothing about a machine");
            }
            Self::Pinned => "the operator pinned this endorsement key",
            Self::NoCertificate => {
                "the TPM has no EK certificate and the operator has not pinned its endorsement key"
            }
            Self::CertifiedKeyDiffers => "the EK certificate is for another key",
            Self::EkTemplate => "the endorsement key does not follow a TCG template",
            Self::AkUnderEk => "the attestation key sits under this endorsement key",
            Self::AkScheme => "the attestation key does not sign with ECDSA P-256 and SHA-256",
            Self::AkAttributes => "the attestation key is not restricted and bound to its TPM",
            Self::QualifiedSigner => "the signer does not sit under this endorsement key",
            Self::Credential => "the TPM did not open the verifier's credential",
            Self::Certified => "the identity key is in this TPM and cannot leave it",
            Self::NotACertification => "the certification is another kind of attestation",
            Self::CertificationSignature => "the attestation key did not sign the certification",
            Self::CertifiedName => "another key than the identity key was certified",
            Self::IdentityScheme => "the identity key does not sign with ECDSA P-256 and SHA-256",
            Self::IdentityAttributes => "the identity key may leave its TPM",
            Self::Fresh => "made for this challenge",
            Self::QuoteNonce => "the quote was made for another challenge",
            Self::CertificationNonce => "the certification was made for another challenge",
            Self::NotAQuote => "the quote is another kind of attestation",
            Self::QuoteSignature => "the attestation key did not sign the quote",
            Self::PcrSelection => "other registers were quoted than the policy asks for",
            Self::PcrDigest => "the register values are not those that were quoted",
            Self::BootNotMeasured => "not measured: the profile tpm-only does not judge the boot",
            Self::ImaNotMeasured => "not measured: the profile does not judge the files opened",
        };
        f.write_str(sentence)
    }
}

/// The result of an appraisal. Made by [`crate::verifier::appraise`] and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestationResult {
    pub(crate) claims: Vec<Claim>,
    pub(crate) identity: [u8; 33],
    pub(crate) ek_digest: [u8; 32],
    pub(crate) ak_name: Name,
    pub(crate) clock: Clock,
    pub(crate) firmware_version: u64,
    pub(crate) tpm: Option<TpmDescription>,
    pub(crate) ek_kind: Option<EkKind>,
    pub(crate) model: TpmModel,
    pub(crate) judged: Option<Judged>,
}

impl AttestationResult {
    /// Whether the attester may be trusted under the policy: every claim was judged and none is
    /// contraindicated.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        let kinds = self.claims.iter().map(|claim| claim.kind);
        kinds.eq(ClaimKind::ALL)
            && self.claims.iter().all(|claim| claim.status != Status::Contraindicated)
    }

    /// The verdicts, one for each of [`ClaimKind::ALL`].
    #[must_use]
    pub fn claims(&self) -> &[Claim] {
        &self.claims
    }

    /// The verdict on one claim.
    #[must_use]
    pub fn claim(&self, kind: ClaimKind) -> Option<&Claim> {
        self.claims.iter().find(|claim| claim.kind == kind)
    }

    /// The identity key, SEC1 compressed.
    #[must_use]
    pub fn identity(&self) -> &[u8; 33] {
        &self.identity
    }

    /// SHA-256 of the EK's public area.
    #[must_use]
    pub fn ek_digest(&self) -> &[u8; 32] {
        &self.ek_digest
    }

    /// Name of the attestation key.
    #[must_use]
    pub fn ak_name(&self) -> &Name {
        &self.ak_name
    }

    /// The TPM's clock and boot counters at the quote.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The TPM's firmware version at the quote, as the vendor numbers it.
    #[must_use]
    pub fn firmware_version(&self) -> u64 {
        self.firmware_version
    }

    /// What the EK certificate says of the TPM, if there is one.
    #[must_use]
    pub fn tpm(&self) -> Option<&TpmDescription> {
        self.tpm.as_ref()
    }

    /// The kind of the endorsement key; `None` when it follows no template (then the result is not
    /// accepted).
    #[must_use]
    pub fn ek_kind(&self) -> Option<EkKind> {
        self.ek_kind
    }

    /// Maker and model of the TPM: of the EK certificate, or what the TPM says of itself.
    #[must_use]
    pub fn tpm_model(&self) -> &TpmModel {
        &self.model
    }

    /// What the verifier may keep, so that the next appraisal of the same attester needs only what
    /// the logs have grown by. `None` unless boot (and files, where the profile judges them) were
    /// affirmed.
    #[must_use]
    pub fn judged(&self) -> Option<&Judged> {
        self.judged.as_ref()
    }

    /// Whether the logs were asked for in part and have to be asked for in whole: the machine has
    /// restarted since, or its log does not go on where it was read last. No reason to distrust.
    #[must_use]
    pub fn wants_whole_logs(&self) -> bool {
        self.claims.iter().any(|claim| {
            matches!(
                claim.reason,
                Reason::Boot(BootReason::WholeLogNeeded) | Reason::Ima(ImaReason::WholeLogNeeded)
            )
        })
    }
}
