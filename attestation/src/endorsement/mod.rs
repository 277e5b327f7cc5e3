//! Endorsement: who vouches for an endorsement key (TCG EK Credential Profile for TPM Family 2.0).
//!
//! A path validator of our own, for two reasons: generic web validators refuse real vendors'
//! chains (critical certificate policies, EKU rules), and signatures must be checked over the
//! bytes as they came, since some vendors' certificates do not survive re-encoding. It fetches
//! nothing and has no clock: anchors, intermediates and the time are arguments.

mod certificate;
mod path;
mod signature_algorithm;

use crate::crypto::sha256;
use crate::evidence::Endorsements;
use crate::manufacturer::Manufacturer;
use crate::public::{Public, PublicKey};
use crate::template::EkKind;

pub use certificate::{Certificate, CertificateError, MAX_CERTIFICATE_LEN, trim_der};
pub use path::{MAX_INTERMEDIATES, PathError, validate};

/// A certificate authority that the operator chose to trust.
#[derive(Debug, Clone)]
pub struct Anchor {
    certificate: Certificate,
}

impl Anchor {
    /// Takes a CA certificate (DER).
    ///
    /// # Errors
    /// The bytes are no certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        Ok(Self { certificate: Certificate::parse(der)? })
    }

    /// The certificate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }
}

/// What an EK certificate says about the TPM (EK Credential Profile, 3.1.2: the attributes in
/// the subject alternative name). Vouched for by the certificate's issuer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TpmDescription {
    /// `tpmManufacturer`, if it has the prescribed form.
    pub manufacturer: Option<Manufacturer>,
    /// `tpmModel`, at most 64 characters.
    pub model: String,
    /// `tpmVersion` (of the firmware at manufacture), at most 64 characters.
    pub version: String,
}

/// Maker and model of a TPM: what a site keeps to accept one kind of endorsement key per model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmModel {
    /// Who made it.
    pub manufacturer: Manufacturer,
    /// `tpmModel` of the EK certificate, at most 64 characters; empty without a certificate.
    pub model: String,
}

impl TpmModel {
    /// From the EK certificate where there is one, else from what the TPM reports.
    #[must_use]
    pub fn of(certificate: Option<&Certificate>, reported: Manufacturer) -> Self {
        let description = certificate.map(Certificate::description).cloned().unwrap_or_default();
        Self {
            manufacturer: description.manufacturer.unwrap_or(reported),
            model: description.model,
        }
    }

    /// [`TpmModel::of`] for endorsements as a TPM gave them; a certificate that does not parse
    /// counts as none.
    #[must_use]
    pub fn of_endorsements(endorsements: &Endorsements, reported: Manufacturer) -> Self {
        let der = endorsements.ek_certificate.as_deref().and_then(|bytes| trim_der(bytes).ok());
        let certificate = der.and_then(|der| Certificate::parse(der).ok());
        Self::of(certificate.as_ref(), reported)
    }

    /// SHA-256 of the manufacturer's number (big-endian), a zero byte and the model.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        sha256(&[&self.manufacturer.0.to_be_bytes(), &[0], self.model.as_bytes()])
    }
}

/// The EK's public area as it follows from its certificate: the certified key in the template of
/// its kind. `None` when the certificate is for a key that no template of ours takes.
#[must_use]
pub fn certified_ek(certificate: &Certificate) -> Option<Public> {
    let key = certificate.key()?;
    let kind = match &key {
        PublicKey::Rsa { bits: 2048, exponent: 65_537, .. } => EkKind::Rsa2048,
        PublicKey::Rsa { .. } => return None,
        PublicKey::Ecc { curve: crate::public::Curve::P256, .. } => EkKind::P256,
        PublicKey::Ecc { curve: crate::public::Curve::P384, .. } => EkKind::P384,
    };
    Public::parse(&kind.public_area(&key)).ok()
}
