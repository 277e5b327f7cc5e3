//! Software `TPM2_MakeCredential` (TPM 2.0 Library, Part 1, 24; Part 3, 12.6): a secret that only
//! the TPM which holds the EK can open, and only for the named attestation key.
//!
//! The verifier makes it; it knows no TPM. Entropy is an argument, so that ECC credentials are
//! reproducible; the padding of RSA-OAEP comes from the cryptographic library.

use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::encoding::AsBigEndian;
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey, PublicKeyComponents,
};

use crate::bytes::{ParseError, Reader, put_sized};
use crate::crypto::{aes_cfb, hmac, kdfa, kdfe};
use crate::public::{Curve, HashAlgorithm, Name, Public, PublicKey};
use crate::template::EkKind;

const LABEL_IDENTITY: &[u8] = b"IDENTITY\0";
const LABEL_STORAGE: &[u8] = b"STORAGE\0";
const LABEL_INTEGRITY: &[u8] = b"INTEGRITY\0";

/// Bytes of fresh entropy that a credential takes.
pub const ENTROPY_LEN: usize = 64;

/// Why no credential could be made for an EK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ActivationError {
    /// The public area is no TCG endorsement key template: it is not an EK at all.
    #[error("the endorsement key does not follow a TCG template")]
    NotAnEk,
    /// The key is no key: a point off the curve, an even modulus.
    #[error("the endorsement key is not a valid public key")]
    InvalidKey,
}

/// What goes to the attester: the two arguments of `TPM2_ActivateCredential`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialBlob {
    /// Contents of the `TPM2B_ID_OBJECT`: HMAC and encrypted credential.
    pub id_object: Vec<u8>,
    /// Contents of the `TPM2B_ENCRYPTED_SECRET`: the seed, encrypted to the EK.
    pub secret: Vec<u8>,
}

impl CredentialBlob {
    /// Longest blob on the wire.
    pub const MAX_LEN: usize = 4 + 132 + 512;

    /// `TPM2B_ID_OBJECT ‖ TPM2B_ENCRYPTED_SECRET`.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.id_object.len() + self.secret.len());
        put_sized(&mut out, &self.id_object);
        put_sized(&mut out, &self.secret);
        out
    }

    /// The other direction.
    ///
    /// # Errors
    /// A field longer than the TPM takes, trailing bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(bytes);
        let id_object = reader.sized(132, "credential.idObject")?.to_vec();
        let secret = reader.sized(512, "credential.secret")?.to_vec();
        reader.finish("credential")?;
        Ok(Self { id_object, secret })
    }
}

/// Encrypts `credential` so that only the TPM with the EK `ek` can recover it, and only if it also
/// holds the key named `ak_name`. `entropy` must be fresh and unpredictable for every call.
///
/// # Errors
/// The EK is no TCG template or no valid key.
pub fn make_credential(
    ek: &Public,
    ak_name: &Name,
    credential: &[u8; 32],
    entropy: &[u8; ENTROPY_LEN],
) -> Result<CredentialBlob, ActivationError> {
    let kind = EkKind::of(ek).ok_or(ActivationError::NotAnEk)?;
    let (hash, aes_bits) = match kind {
        EkKind::Rsa2048 | EkKind::P256 => (HashAlgorithm::Sha256, 128),
        EkKind::P384 => (HashAlgorithm::Sha384, 256),
    };
    let (seed, secret) = match ek.key() {
        PublicKey::Rsa { modulus, exponent, .. } => rsa_seed(modulus, *exponent, entropy)?,
        PublicKey::Ecc { curve, x, .. } => {
            let point = ek.key().sec1().ok_or(ActivationError::InvalidKey)?;
            ecc_seed(*curve, &point, x, hash, entropy)?
        }
    };
    let mut plaintext = Vec::with_capacity(34);
    put_sized(&mut plaintext, credential);
    let key = kdfa(hash, &seed, LABEL_STORAGE, ak_name.as_bytes(), aes_bits);
    let encrypted = aes_cfb(&key, &plaintext).map_err(|_| ActivationError::InvalidKey)?;
    let bits = hash.digest_len() as u32 * 8;
    let integrity_key = kdfa(hash, &seed, LABEL_INTEGRITY, &[], bits);
    let tag = hmac(hash, &integrity_key, &[&encrypted, ak_name.as_bytes()]);
    let mut id_object = Vec::with_capacity(2 + 48 + encrypted.len());
    put_sized(&mut id_object, tag.as_ref());
    id_object.extend_from_slice(&encrypted);
    Ok(CredentialBlob { id_object, secret })
}

/// A random seed, RSA-OAEP encrypted under the EK with the label `IDENTITY` (Part 1, B.10.4).
fn rsa_seed(
    modulus: &[u8],
    exponent: u32,
    entropy: &[u8; ENTROPY_LEN],
) -> Result<(Vec<u8>, Vec<u8>), ActivationError> {
    let seed = hmac(HashAlgorithm::Sha256, entropy, &[b"gatewayd/credential-seed/1"]);
    let exponent = exponent.to_be_bytes();
    let first = exponent.iter().position(|&byte| byte != 0).unwrap_or(exponent.len());
    let components = PublicKeyComponents { n: modulus, e: &exponent[first..] };
    let key: PublicEncryptingKey =
        components.try_into().map_err(|_| ActivationError::InvalidKey)?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| ActivationError::InvalidKey)?;
    let mut secret = vec![0; key.ciphertext_size()];
    let len = key
        .encrypt(&OAEP_SHA256_MGF1SHA256, seed.as_ref(), &mut secret, Some(LABEL_IDENTITY))
        .map_err(|_| ActivationError::InvalidKey)?
        .len();
    secret.truncate(len);
    Ok((seed.as_ref().to_vec(), secret))
}

/// An ephemeral key, ECDH with the EK, KDFe (Part 1, C.6.4). The "secret" is the ephemeral point.
fn ecc_seed(
    curve: Curve,
    ek_point: &[u8],
    ek_x: &[u8],
    hash: HashAlgorithm,
    entropy: &[u8; ENTROPY_LEN],
) -> Result<(Vec<u8>, Vec<u8>), ActivationError> {
    let ephemeral = ephemeral_key(curve, entropy)?;
    let public = ephemeral.compute_public_key().map_err(|_| ActivationError::InvalidKey)?;
    let point: aws_lc_rs::encoding::EcPublicKeyUncompressedBin<'_> =
        public.as_be_bytes().map_err(|_| ActivationError::InvalidKey)?;
    let (x, y) = point.as_ref()[1..].split_at(curve.field_len());
    let peer = UnparsedPublicKey::new(algorithm(curve), ek_point);
    let seed = agreement::agree(&ephemeral, peer, ActivationError::InvalidKey, |z| {
        Ok(kdfe(hash, z, LABEL_IDENTITY, x, ek_x))
    })?;
    let mut secret = Vec::with_capacity(4 + point.as_ref().len());
    put_sized(&mut secret, x);
    put_sized(&mut secret, y);
    Ok((seed, secret))
}

/// A scalar from the entropy, by rejection: nearly every first candidate is below the order.
fn ephemeral_key(curve: Curve, entropy: &[u8; ENTROPY_LEN]) -> Result<PrivateKey, ActivationError> {
    let hash = match curve {
        Curve::P256 => HashAlgorithm::Sha256,
        Curve::P384 => HashAlgorithm::Sha384,
    };
    (0..MAX_CANDIDATES)
        .find_map(|count: u8| {
            let candidate = hmac(hash, entropy, &[b"gatewayd/credential-ephemeral/1", &[count]]);
            PrivateKey::from_private_key(algorithm(curve), candidate.as_ref()).ok()
        })
        .ok_or(ActivationError::InvalidKey)
}

/// A candidate is refused with a chance of 2^-32 (P-256); eight in a row mean a broken library.
const MAX_CANDIDATES: u8 = 8;

fn algorithm(curve: Curve) -> &'static agreement::Algorithm {
    match curve {
        Curve::P256 => &ECDH_P256,
        Curve::P384 => &ECDH_P384,
    }
}
