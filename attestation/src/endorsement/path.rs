//! The path from an EK certificate to an anchor (RFC 5280, 6, as far as EK certificates use it).

use x509_cert::certificate::Version;
use x509_cert::der::asn1::ObjectIdentifier;

use crate::endorsement::Anchor;
use crate::endorsement::certificate::Certificate;
use crate::endorsement::signature_algorithm::verifies;

/// Most certificates in the untrusted pool that comes with evidence.
pub const MAX_INTERMEDIATES: usize = 8;

/// Most signatures that one validation checks: the pool is made by a stranger, who may have
/// crossed its certificates to make the search long.
const MAX_SIGNATURES: usize = 32;

/// Why an EK certificate is not trusted. The subjects are outside data, bounded and printable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// Nobody whom the site trusts issued it.
    #[error("no anchor of the site issued it: the certificate of \"{issuer}\" is missing")]
    NoPath {
        /// The issuer at which the search ended.
        issuer: String,
    },
    /// A certificate names an issuer whose key did not sign it.
    #[error("the signature on the certificate \"{subject}\" is wrong")]
    Signature {
        /// The certificate.
        subject: String,
    },
    /// SHA-1, a short RSA key, an unknown algorithm or curve.
    #[error(
        "the certificate \"{subject}\" is signed with an algorithm that is not accepted ({oid})"
    )]
    SignatureAlgorithm {
        /// The certificate.
        subject: String,
        /// The algorithm.
        oid: ObjectIdentifier,
    },
    /// The time is after the end of its validity.
    #[error("the certificate \"{subject}\" has expired")]
    Expired {
        /// The certificate.
        subject: String,
    },
    /// The time is before its validity (or the gateway's clock is wrong).
    #[error("the certificate \"{subject}\" is not valid yet; is the clock right?")]
    NotYetValid {
        /// The certificate.
        subject: String,
    },
    /// A critical extension that is not processed here.
    #[error("the certificate \"{subject}\" has the unknown critical extension {oid}")]
    CriticalExtension {
        /// The certificate.
        subject: String,
        /// The extension.
        oid: ObjectIdentifier,
    },
    /// An issuer that may not issue.
    #[error("\"{subject}\" is not a certificate authority")]
    NotAnAuthority {
        /// The certificate.
        subject: String,
    },
    /// An issuer with more certificates under it than it allows.
    #[error("the path under \"{subject}\" is longer than it allows")]
    PathLength {
        /// The certificate.
        subject: String,
    },
    /// The EK certificate is a CA certificate.
    #[error("the certificate is that of an authority, not of an endorsement key")]
    EkIsAuthority,
    /// No tcg-kp-EKCertificate where it is needed.
    #[error("the certificate \"{subject}\" is not meant for endorsement keys")]
    KeyPurpose {
        /// The certificate.
        subject: String,
    },
    /// The pool makes the search too long.
    #[error("the intermediate certificates are too many or too entangled")]
    TooLong,
}

/// Finds a path from the EK certificate `leaf` over the untrusted `pool` to one of `anchors`, all
/// valid at `now` (Unix seconds), and gives the anchor.
///
/// # Errors
/// When there is no path: the first defect that was met on the way, else where the way ended.
pub fn validate<'a>(
    leaf: &Certificate,
    pool: &[Certificate],
    anchors: &'a [Anchor],
    now: u64,
) -> Result<&'a Anchor, PathError> {
    if pool.len() > MAX_INTERMEDIATES {
        return Err(PathError::TooLong);
    }
    check_common(leaf, now)?;
    if leaf.basic_constraints.as_ref().is_some_and(|constraints| constraints.ca) {
        return Err(PathError::EkIsAuthority);
    }
    if !leaf.permits_ek(false, false) {
        return Err(PathError::KeyPurpose { subject: leaf.subject() });
    }
    let mut search = Search { pool, anchors, now, signatures: 0, defect: None };
    match search.climb(leaf, 0, 0) {
        Some(anchor) => Ok(anchor),
        None => Err(search
            .defect
            .unwrap_or_else(|| PathError::NoPath { issuer: search_end(leaf, pool) })),
    }
}

struct Search<'p, 'a> {
    pool: &'p [Certificate],
    anchors: &'a [Anchor],
    now: u64,
    signatures: usize,
    defect: Option<PathError>,
}

impl<'a> Search<'_, 'a> {
    /// Depth-first, so that cross-signed authorities work. `used` is the set of pool certificates
    /// on the way, `below` the number of authorities under the next one that count for its path
    /// length (self-issued ones do not).
    fn climb(&mut self, certificate: &Certificate, used: u32, below: u8) -> Option<&'a Anchor> {
        let anchors = self.anchors;
        for anchor in anchors {
            if self.issued(certificate, &anchor.certificate, below) {
                return Some(anchor);
            }
        }
        let pool = self.pool;
        for (index, issuer) in pool.iter().enumerate() {
            let bit = 1 << index;
            if used & bit != 0 || !self.issued(certificate, issuer, below) {
                continue;
            }
            let self_issued = issuer.tbs.issuer() == issuer.tbs.subject();
            let found = self.climb(issuer, used | bit, below + u8::from(!self_issued));
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Whether `issuer` issued `certificate` and was allowed to. A defect is remembered only where
    /// the names match: it is what the operator has to hear when no other way is found.
    fn issued(&mut self, certificate: &Certificate, issuer: &Certificate, below: u8) -> bool {
        let subject = issuer.tbs.subject();
        if subject.is_empty() || certificate.tbs.issuer() != subject {
            return false;
        }
        let outcome = self.check_issuer(certificate, issuer, below);
        if let Err(defect) = outcome {
            self.defect.get_or_insert(defect);
            return false;
        }
        true
    }

    fn check_issuer(
        &mut self,
        certificate: &Certificate,
        issuer: &Certificate,
        below: u8,
    ) -> Result<(), PathError> {
        check_common(issuer, self.now)?;
        check_authority(issuer, below)?;
        self.signatures += 1;
        if self.signatures > MAX_SIGNATURES {
            return Err(PathError::TooLong);
        }
        let subject = certificate.subject();
        match verifies(certificate, issuer) {
            Some(true) => Ok(()),
            Some(false) => Err(PathError::Signature { subject }),
            None => {
                Err(PathError::SignatureAlgorithm { subject, oid: certificate.tbs.signature().oid })
            }
        }
    }
}

/// What holds for every certificate of a path: validity, no unknown critical extension.
fn check_common(certificate: &Certificate, now: u64) -> Result<(), PathError> {
    let (not_before, not_after) = certificate.validity();
    if now < not_before {
        return Err(PathError::NotYetValid { subject: certificate.subject() });
    }
    if now > not_after {
        return Err(PathError::Expired { subject: certificate.subject() });
    }
    match certificate.unknown_critical {
        Some(oid) => Err(PathError::CriticalExtension { subject: certificate.subject(), oid }),
        None => Ok(()),
    }
}

/// What holds for every issuer. A version 1 certificate has no extensions and can say nothing of
/// itself; it is taken only as an anchor, where the operator has said it.
fn check_authority(issuer: &Certificate, below: u8) -> Result<(), PathError> {
    let subject = || issuer.subject();
    let self_issued = issuer.tbs.issuer() == issuer.tbs.subject();
    if issuer.tbs.version() != Version::V3 && self_issued {
        return Ok(());
    }
    let Some(constraints) = issuer.basic_constraints.as_ref().filter(|found| found.ca) else {
        return Err(PathError::NotAnAuthority { subject: subject() });
    };
    if issuer.key_usage.as_ref().is_some_and(|usage| !usage.key_cert_sign()) {
        return Err(PathError::NotAnAuthority { subject: subject() });
    }
    if constraints.path_len_constraint.is_some_and(|longest| below > longest) {
        return Err(PathError::PathLength { subject: subject() });
    }
    if !issuer.permits_ek(true, true) {
        return Err(PathError::KeyPurpose { subject: subject() });
    }
    Ok(())
}

/// The issuer whose certificate is missing, following names alone.
fn search_end(leaf: &Certificate, pool: &[Certificate]) -> String {
    let mut end = leaf;
    for _ in 0..pool.len() {
        match pool.iter().find(|next| next.tbs.subject() == end.tbs.issuer()) {
            Some(next) if next.tbs.issuer() != next.tbs.subject() => end = next,
            Some(_) | None => break,
        }
    }
    end.issuer()
}
