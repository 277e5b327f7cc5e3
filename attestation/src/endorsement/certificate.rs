//! One X.509 certificate: the parsed fields that the path validator asks for, and the raw bytes
//! that its issuer signed. Decoding is `x509-cert`'s; nothing is ever re-encoded here.

use x509_cert::TbsCertificate;
use x509_cert::der::asn1::{BitString, ObjectIdentifier, UintRef};
use x509_cert::der::{self, Decode, Encode, Reader, SliceReader};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};
use x509_cert::name::Name;
use x509_cert::spki::AlgorithmIdentifierOwned;

use crate::crypto::sha256;
use crate::endorsement::TpmDescription;
use crate::manufacturer::Manufacturer;
use crate::public::{Curve, PublicKey};

/// Longest certificate that is looked at, in bytes. TPM vendors' are 800 to 1,700.
pub const MAX_CERTIFICATE_LEN: usize = 4096;

/// Most extensions of one certificate.
const MAX_EXTENSIONS: usize = 32;

const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const CERTIFICATE_POLICIES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.32");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const ANY_EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");
/// tcg-kp-EKCertificate.
const EK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.1");
const TPM_MANUFACTURER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.1");
const TPM_MODEL: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.2");
const TPM_VERSION: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.2.3");

/// Why bytes are no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Longer than any TPM vendor's certificate.
    #[error("the certificate is {len} bytes long; {MAX_CERTIFICATE_LEN} is the most")]
    TooLong {
        /// Length in bytes.
        len: usize,
    },
    /// Not DER, or not a certificate.
    #[error("the certificate is malformed ({kind})")]
    Malformed {
        /// What the decoder says.
        kind: der::ErrorKind,
    },
    /// The same extension twice: RFC 5280, 4.2, forbids it, and which one counts is undefined.
    #[error("the certificate has the extension {oid} twice, or too many extensions")]
    Extensions {
        /// The extension.
        oid: ObjectIdentifier,
    },
    /// The signed and the unsigned statement of the signature algorithm differ.
    #[error("the certificate names two signature algorithms")]
    SignatureAlgorithms,
    /// Bytes other than padding follow the certificate.
    #[error("bytes that are no padding follow the certificate")]
    Trailing,
}

impl From<der::Error> for CertificateError {
    fn from(error: der::Error) -> Self {
        Self::Malformed { kind: error.kind() }
    }
}

/// A parsed certificate.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub(super) tbs_raw: Vec<u8>,
    pub(super) tbs: TbsCertificate,
    pub(super) signature: Vec<u8>,
    pub(super) public_key_info: Vec<u8>,
    pub(super) basic_constraints: Option<BasicConstraints>,
    pub(super) key_usage: Option<KeyUsage>,
    pub(super) extended_key_usage: Option<ExtendedKeyUsage>,
    /// A critical extension that this validator does not process: the path through this
    /// certificate is refused (RFC 5280, 4.2).
    pub(super) unknown_critical: Option<ObjectIdentifier>,
    description: TpmDescription,
    sha256: [u8; 32],
}

impl Certificate {
    /// Parses a DER certificate. NV padding after it must have been cut (see [`trim_der`]).
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, CertificateError> {
        if bytes.len() > MAX_CERTIFICATE_LEN {
            return Err(CertificateError::TooLong { len: bytes.len() });
        }
        let mut reader = SliceReader::new(bytes)?;
        let (tbs_raw, algorithm, signature) = reader.sequence(|reader| {
            let tbs_raw = reader.tlv_bytes()?;
            let algorithm = AlgorithmIdentifierOwned::decode(reader)?;
            Ok::<_, der::Error>((tbs_raw, algorithm, BitString::decode(reader)?))
        })?;
        reader.finish()?;
        let tbs = TbsCertificate::from_der(tbs_raw)?;
        if *tbs.signature() != algorithm {
            return Err(CertificateError::SignatureAlgorithms);
        }
        let signature = signature.as_bytes().unwrap_or_default().to_vec();
        let public_key_info = tbs.subject_public_key_info().to_der()?;
        let mut certificate = Self {
            tbs_raw: tbs_raw.to_vec(),
            tbs,
            signature,
            public_key_info,
            basic_constraints: None,
            key_usage: None,
            extended_key_usage: None,
            unknown_critical: None,
            description: TpmDescription::default(),
            sha256: sha256(&[bytes]),
        };
        certificate.read_extensions()?;
        Ok(certificate)
    }

    fn read_extensions(&mut self) -> Result<(), CertificateError> {
        let extensions = self.tbs.extensions().cloned().unwrap_or_default();
        for (index, extension) in extensions.iter().enumerate() {
            let oid = extension.extn_id;
            let again = extensions[..index].iter().any(|earlier| earlier.extn_id == oid);
            if again || index >= MAX_EXTENSIONS {
                return Err(CertificateError::Extensions { oid });
            }
            let value = extension.extn_value.as_bytes();
            match oid {
                BASIC_CONSTRAINTS => {
                    self.basic_constraints = Some(BasicConstraints::from_der(value)?);
                }
                KEY_USAGE => self.key_usage = Some(KeyUsage::from_der(value)?),
                EXTENDED_KEY_USAGE => {
                    self.extended_key_usage = Some(ExtendedKeyUsage::from_der(value)?);
                }
                SUBJECT_ALT_NAME => self.description = describe(&SubjectAltName::from_der(value)?),
                // Policies say how the vendor issues; the site's trust is in the anchor alone.
                CERTIFICATE_POLICIES => {}
                _ if extension.critical => self.unknown_critical = Some(oid),
                _ => {}
            }
        }
        Ok(())
    }

    /// SHA-256 of the whole certificate: its fingerprint.
    #[must_use]
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// Whether it may vouch for others (RFC 5280, 4.2.1.9).
    #[must_use]
    pub fn is_authority(&self) -> bool {
        self.basic_constraints.as_ref().is_some_and(|constraints| constraints.ca)
    }

    /// The subject as text, at most 120 characters, without control characters.
    #[must_use]
    pub fn subject(&self) -> String {
        name_text(self.tbs.subject())
    }

    /// The issuer as text, at most 120 characters, without control characters.
    #[must_use]
    pub fn issuer(&self) -> String {
        name_text(self.tbs.issuer())
    }

    /// First and last second of validity, as Unix time.
    #[must_use]
    pub fn validity(&self) -> (u64, u64) {
        let validity = self.tbs.validity();
        let seconds = |time: x509_cert::time::Time| time.to_unix_duration().as_secs();
        (seconds(validity.not_before), seconds(validity.not_after))
    }

    /// What the certificate says of the TPM.
    #[must_use]
    pub fn description(&self) -> &TpmDescription {
        &self.description
    }

    /// The certified key, if it is RSA, P-256 or P-384.
    #[must_use]
    pub fn key(&self) -> Option<PublicKey> {
        let info = self.tbs.subject_public_key_info();
        let bits = info.subject_public_key.as_bytes()?;
        if info.algorithm.oid == RSA_ENCRYPTION {
            return rsa_key(bits).ok();
        }
        let curve = self.curve()?;
        let (x, y) = bits.strip_prefix(&[4])?.split_at_checked(curve.field_len())?;
        let ecc = PublicKey::Ecc { curve, x: x.to_vec(), y: y.to_vec() };
        (y.len() == curve.field_len()).then_some(ecc)
    }

    /// The curve of the key, if it is on one that is known.
    pub(super) fn curve(&self) -> Option<Curve> {
        let algorithm = &self.tbs.subject_public_key_info().algorithm;
        if algorithm.oid != EC_PUBLIC_KEY {
            return None;
        }
        match algorithm.parameters.as_ref()?.decode_as::<ObjectIdentifier>().ok()? {
            SECP256R1 => Some(Curve::P256),
            SECP384R1 => Some(Curve::P384),
            _ => None,
        }
    }

    /// Whether the key is an RSA key for signing.
    pub(super) fn is_rsa(&self) -> bool {
        self.tbs.subject_public_key_info().algorithm.oid == RSA_ENCRYPTION
    }

    /// Whether an EK certificate may be (or be issued by) this one, as far as its extended key
    /// usage says.
    pub(super) fn permits_ek(&self, when_absent: bool, any_counts: bool) -> bool {
        self.extended_key_usage.as_ref().map_or(when_absent, |usage| {
            usage.0.contains(&EK_CERTIFICATE)
                || (any_counts && usage.0.contains(&ANY_EXTENDED_KEY_USAGE))
        })
    }
}

fn rsa_key(bits: &[u8]) -> der::Result<PublicKey> {
    let mut reader = SliceReader::new(bits)?;
    let (modulus, exponent) = reader.sequence(|reader| {
        Ok::<_, der::Error>((UintRef::decode(reader)?, UintRef::decode(reader)?))
    })?;
    reader.finish()?;
    let overlong = || der::Error::from(der::ErrorKind::Overlength);
    let mut value = 0u32;
    for &byte in exponent.as_bytes() {
        value = value.checked_mul(256).ok_or_else(overlong)? | u32::from(byte);
    }
    let modulus = modulus.as_bytes().to_vec();
    let bits = u16::try_from(modulus.len() * 8).map_err(|_| overlong())?;
    Ok(PublicKey::Rsa { modulus, exponent: value, bits })
}

fn describe(names: &SubjectAltName) -> TpmDescription {
    let mut description = TpmDescription::default();
    for name in &names.0 {
        let GeneralName::DirectoryName(name) = name else { continue };
        for attribute in name.iter() {
            let text = bounded(&String::from_utf8_lossy(attribute.value.value()), 64);
            match attribute.oid {
                TPM_MANUFACTURER => {
                    description.manufacturer = Manufacturer::from_certificate_text(&text);
                }
                TPM_MODEL => description.model = text,
                TPM_VERSION => description.version = text,
                _ => {}
            }
        }
    }
    description
}

fn name_text(name: &Name) -> String {
    bounded(&name.to_string(), 120)
}

/// Certificates are outside data: their texts reach terminals and logs.
fn bounded(text: &str, max: usize) -> String {
    text.chars().filter(|character| !character.is_control()).take(max).collect()
}

/// Cuts what vendors leave after a certificate in NV: one DER value, then only `FF` or only `00`.
///
/// # Errors
/// Not DER at all, or something else than padding behind it.
pub fn trim_der(bytes: &[u8]) -> Result<&[u8], CertificateError> {
    let mut reader = SliceReader::new(bytes)?;
    let der = reader.tlv_bytes()?;
    let padding = &bytes[der.len()..];
    let uniform = padding.first().is_none_or(|&first| {
        (first == 0 || first == 0xff) && padding.iter().all(|&byte| byte == first)
    });
    if uniform { Ok(der) } else { Err(CertificateError::Trailing) }
}
