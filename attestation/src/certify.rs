//! What a `TPM2_Certify` proves: a key with exactly this public area is in the TPM of the
//! attestation key that signed. Checks only; nothing is decided here.

use crate::attest::{Attest, Attested};
use crate::public::{Attributes, Public};
use crate::quote::signed_by;
use crate::result::Reason;

/// Attributes that an attestation key must have: it never leaves the TPM and signs nothing that
/// the TPM did not make.
const AK_REQUIRED: u32 = Attributes::FIXED_TPM
    | Attributes::FIXED_PARENT
    | Attributes::SENSITIVE_DATA_ORIGIN
    | Attributes::RESTRICTED
    | Attributes::SIGN;
const AK_FORBIDDEN: u32 = Attributes::DECRYPT | Attributes::ENCRYPTED_DUPLICATION;

/// Attributes that an identity key must have; it signs what it is given, so it is not restricted.
const IDENTITY_REQUIRED: u32 = Attributes::FIXED_TPM
    | Attributes::FIXED_PARENT
    | Attributes::SENSITIVE_DATA_ORIGIN
    | Attributes::SIGN;
const IDENTITY_FORBIDDEN: u32 = Attributes::RESTRICTED
    | Attributes::DECRYPT
    | Attributes::ST_CLEAR
    | Attributes::ENCRYPTED_DUPLICATION;

/// Whether a public area may be an attestation key: P-256, ECDSA with SHA-256, restricted, bound
/// to its TPM. An unrestricted key would sign a forged attestation for any software that asks.
///
/// # Errors
/// What is wrong with it.
pub fn check_ak(ak: &Public) -> Result<(), Reason> {
    let attributes = ak.attributes();
    if !ak.is_es256() {
        return Err(Reason::AkScheme);
    }
    if !attributes.all(AK_REQUIRED) || attributes.any(AK_FORBIDDEN) || has_policy(ak) {
        return Err(Reason::AkAttributes);
    }
    Ok(())
}

/// Checks a parsed certification: type, signature by `ak`, and that the certified Name is that of
/// `identity`, whose attributes bind it to the TPM.
///
/// # Errors
/// The first thing that does not hold.
pub fn check(
    certification: &Attest,
    signature: &[u8; 64],
    ak: &Public,
    identity: &Public,
) -> Result<(), Reason> {
    let Attested::Certify { name, .. } = certification.attested() else {
        return Err(Reason::NotACertification);
    };
    if !signed_by(ak, certification, signature) {
        return Err(Reason::CertificationSignature);
    }
    if *name != identity.name() {
        return Err(Reason::CertifiedName);
    }
    let attributes = identity.attributes();
    if !identity.is_es256() {
        return Err(Reason::IdentityScheme);
    }
    let refused = attributes.any(IDENTITY_FORBIDDEN) || has_policy(identity);
    if !attributes.all(IDENTITY_REQUIRED) || refused {
        return Err(Reason::IdentityAttributes);
    }
    Ok(())
}

/// `TPM2_LoadExternal` takes a public area alone, with any attributes. Such an object has no
/// authorisation value, but its policy is whatever its maker wrote: with one it might pass the
/// activation of a credential for a key that lies outside of the TPM. Our keys have none.
fn has_policy(key: &Public) -> bool {
    !key.auth_policy().is_empty() || key.attributes().any(Attributes::ADMIN_WITH_POLICY)
}
