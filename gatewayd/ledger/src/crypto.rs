//! SHA-256 and ES256 (ECDSA over P-256 with SHA-256, FIPS 186-5), always domain-separated.
//!
//! What is signed is SHA-256(length of domain ‖ domain ‖ message). Signatures are 64 bytes r ‖ s
//! and must have a low s: one message and nonce have one valid signature, so bytes that were
//! verified cannot be altered by a third party and still verify. With the feature `full`
//! verification uses aws-lc-rs, without it p256; both take the same signatures. No randomness
//! here: signing is deterministic (RFC 6979).

use core::fmt;

use p256::ecdsa::signature::hazmat::PrehashSigner;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder},
    ids::Hash,
};

/// Why a key or a signature is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CryptoError {
    /// The bytes are not a point of P-256 in SEC1 form.
    #[error("not a P-256 public key")]
    PublicKey,
    /// The bytes are not a secret key: zero, or not below the group order.
    #[error("not a P-256 secret key")]
    SecretKey,
    /// The signature does not belong to this key and message, or is not in canonical form.
    #[error("the signature is not valid")]
    Signature,
}

/// What a signature is about; no two purposes share a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain(&'static str);

impl Domain {
    /// Head of a transaction, signed by its author.
    pub const TRANSACTION: Self = Self("gatewayd/transaction/1");
    /// Votes for a block: the finality certificate is made of these.
    pub const VOTE: Self = Self("gatewayd/vote/1");
    /// A proposal of a block in one round of consensus.
    pub const PROPOSAL: Self = Self("gatewayd/proposal/1");
    /// Identity key's statement: this is my vote key.
    pub const VOTE_KEY: Self = Self("gatewayd/vote-key/1");
    /// Vote key's statement: my holder asked for this identity.
    pub const VOTE_POSSESSION: Self = Self("gatewayd/vote-possession/1");
    /// New operator key's statement that it is held.
    pub const OPERATOR_POSSESSION: Self = Self("gatewayd/operator-possession/1");
    /// A pairing ticket.
    pub const TICKET: Self = Self("gatewayd/ticket/1");
    /// A holder's statement that it holds the sessions of an assignment.
    pub const HOLDER: Self = Self("gatewayd/holder/1");
    /// A receipt: the holder has the payloads of a batch on disk.
    pub const RECEIPT: Self = Self("gatewayd/receipt/1");
    /// A verifier's endorsement of what it found out about a gateway.
    pub const ENDORSEMENT: Self = Self("gatewayd/endorsement/1");
    /// A member's statement that it follows the ledger and is ready to vote.
    pub const READY: Self = Self("gatewayd/ready/1");
    /// A voter's statement that it has heard ready members for long enough.
    pub const ACTIVATE: Self = Self("gatewayd/activate/1");
    /// A voter's statement that it does not hear a gateway.
    pub const OFFLINE: Self = Self("gatewayd/offline/1");
    /// A challenge signed in the handshake between gateways.
    pub const PEER: Self = Self("gatewayd/peer/1");

    /// The text of the domain.
    pub const fn name(self) -> &'static str {
        self.0
    }

    /// SHA-256(length of domain ‖ domain ‖ parts): what is signed in this domain.
    ///
    /// The parts are joined as they are: each must have a fixed length or delimit itself.
    pub fn digest(self, parts: &[&[u8]]) -> Hash {
        let mut hasher = Sha256::new();
        hasher.update([self.0.len() as u8]);
        hasher.update(self.0.as_bytes());
        for part in parts {
            hasher.update(part);
        }
        Hash(hasher.finalize().into())
    }
}

/// SHA-256 of the joined parts (FIPS 180-4).
pub fn sha256(parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    Hash(hasher.finalize().into())
}

/// A P-256 public key in compressed SEC1 form.
///
/// [`PublicKey::from_sec1`] checks that it is a point; decoding checks the form alone, and a
/// key that is no point fails every [`verify`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 33]);

impl PublicKey {
    /// Takes a point in compressed (33 bytes) or uncompressed (65 bytes) SEC1 form.
    ///
    /// # Errors
    /// [`CryptoError::PublicKey`] when it is not a point of the curve.
    pub fn from_sec1(bytes: &[u8]) -> Result<Self, CryptoError> {
        let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(bytes)
            .map_err(|_| CryptoError::PublicKey)?;
        let point = key.to_sec1_point(true);
        Ok(Self(point.as_bytes().try_into().map_err(|_| CryptoError::PublicKey)?))
    }

    /// The compressed SEC1 form.
    pub fn as_bytes(&self) -> &[u8; 33] {
        &self.0
    }

    /// The uncompressed SEC1 form, 65 bytes.
    ///
    /// # Errors
    /// [`CryptoError::PublicKey`] when the key is no point of the curve.
    pub fn to_uncompressed(&self) -> Result<[u8; 65], CryptoError> {
        let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&self.0)
            .map_err(|_| CryptoError::PublicKey)?;
        key.to_sec1_point(false).as_bytes().try_into().map_err(|_| CryptoError::PublicKey)
    }

    /// Checks that the key is a point of the curve.
    ///
    /// # Errors
    /// [`CryptoError::PublicKey`].
    pub fn validate(&self) -> Result<(), CryptoError> {
        Self::from_sec1(&self.0).map(drop)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublicKey(")?;
        self.0.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…)")
    }
}

impl Encode for PublicKey {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.bytes(&self.0);
    }
}

impl Decode for PublicKey {
    const MAX_BYTES: usize = 35;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let bytes = decoder.fixed::<33>("public key")?;
        match bytes[0] {
            2 | 3 => Ok(Self(bytes)),
            _ => Err(DecodeError::Invalid("public key")),
        }
    }
}

/// An ES256 signature, r ‖ s, big-endian (RFC 7518 §3.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signature([u8; 64]);

impl Signature {
    /// Takes r ‖ s as it is; whether it verifies is asked later.
    pub fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// Takes r ‖ s from a signer that does not normalise (a TPM) and makes s low.
    ///
    /// # Errors
    /// [`CryptoError::Signature`] when r or s is zero or not below the group order.
    pub fn normalized(bytes: [u8; 64]) -> Result<Self, CryptoError> {
        let signature =
            p256::ecdsa::Signature::from_slice(&bytes).map_err(|_| CryptoError::Signature)?;
        Ok(Self(signature.normalize_s().to_bytes().into()))
    }

    /// r ‖ s.
    pub fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    fn is_low_s(&self) -> bool {
        self.0[32..] <= HALF_ORDER[..]
    }
}

/// (n − 1) / 2 of P-256 (SEC 2 §2.4.2): s above it is the other form of the same signature.
const HALF_ORDER: [u8; 32] = [
    0x7f, 0xff, 0xff, 0xff, 0x80, 0x00, 0x00, 0x00, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xde, 0x73, 0x7d, 0x56, 0xd3, 0x8b, 0xcf, 0x42, 0x79, 0xdc, 0xe5, 0x61, 0x7e, 0x31, 0x92, 0xa8,
];

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(")?;
        self.0.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…)")
    }
}

impl Encode for Signature {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.bytes(&self.0);
    }
}

impl Decode for Signature {
    const MAX_BYTES: usize = 66;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self(decoder.fixed::<64>("signature")?))
    }
}

/// Verifies a signature over the joined parts in a domain.
///
/// # Errors
/// [`CryptoError::Signature`] when it is not this key's, or has a high s.
pub fn verify(
    key: &PublicKey,
    domain: Domain,
    parts: &[&[u8]],
    signature: &Signature,
) -> Result<(), CryptoError> {
    verify_digest(key, &domain.digest(parts), signature)
}

/// Verifies a signature over a digest that a [`Domain`] made.
///
/// # Errors
/// [`CryptoError::Signature`] when it is not this key's, or has a high s.
pub fn verify_digest(
    key: &PublicKey,
    digest: &Hash,
    signature: &Signature,
) -> Result<(), CryptoError> {
    if !signature.is_low_s() {
        return Err(CryptoError::Signature);
    }
    backend::verify(key.as_bytes(), &digest.0, signature.as_bytes())
}

#[cfg(feature = "full")]
mod backend {
    use aws_lc_rs::{
        digest::{Digest, SHA256},
        signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey},
    };

    use super::CryptoError;

    pub(super) fn verify(
        key: &[u8; 33],
        digest: &[u8; 32],
        signature: &[u8; 64],
    ) -> Result<(), CryptoError> {
        let digest =
            Digest::import_less_safe(digest, &SHA256).map_err(|_| CryptoError::Signature)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key)
            .verify_digest(&digest, signature)
            .map_err(|_| CryptoError::Signature)
    }
}

#[cfg(not(feature = "full"))]
mod backend {
    pub(super) use super::portable::verify;
}

#[cfg(any(test, not(feature = "full")))]
mod portable {
    use p256::ecdsa::signature::hazmat::PrehashVerifier;

    use super::CryptoError;

    pub(super) fn verify(
        key: &[u8; 33],
        digest: &[u8; 32],
        signature: &[u8; 64],
    ) -> Result<(), CryptoError> {
        let key =
            p256::ecdsa::VerifyingKey::from_sec1_bytes(key).map_err(|_| CryptoError::PublicKey)?;
        let signature =
            p256::ecdsa::Signature::from_slice(signature).map_err(|_| CryptoError::Signature)?;
        key.verify_prehash(digest, &signature).map_err(|_| CryptoError::Signature)
    }
}

/// A software signing key (vote key, operator key); wiped from memory when dropped.
#[derive(Clone)]
pub struct SigningKey(p256::ecdsa::SigningKey);

impl SigningKey {
    /// Takes a secret scalar: 32 random bytes, big-endian.
    ///
    /// # Errors
    /// [`CryptoError::SecretKey`] when it is zero or not below the group order.
    pub fn from_bytes(secret: &[u8; 32]) -> Result<Self, CryptoError> {
        p256::ecdsa::SigningKey::from_slice(secret).map(Self).map_err(|_| CryptoError::SecretKey)
    }

    /// The secret scalar, for sealing; the caller wipes its copy.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes().into()
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        let point = self.0.verifying_key().to_sec1_point(true);
        PublicKey(point.as_bytes().try_into().expect("a compressed point has 33 bytes"))
    }

    /// Signs the joined parts in a domain.
    pub fn sign(&self, domain: Domain, parts: &[&[u8]]) -> Signature {
        self.sign_digest(&domain.digest(parts))
    }

    /// Signs a digest that a [`Domain`] made.
    pub fn sign_digest(&self, digest: &Hash) -> Signature {
        let signature: p256::ecdsa::Signature =
            self.0.sign_prehash(&digest.0).expect("a 32-byte digest can be signed");
        Signature(signature.normalize_s().to_bytes().into())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey of {:?}", self.public_key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SigningKey {
        SigningKey::from_bytes(&[byte; 32]).unwrap()
    }

    #[test]
    fn both_backends_take_the_same_signatures() {
        for byte in 1..20 {
            let key = key(byte);
            let digest = Domain::VOTE.digest(&[&[byte; 100]]);
            let signature = key.sign_digest(&digest);
            verify_digest(&key.public_key(), &digest, &signature).unwrap();
            let public = *key.public_key().as_bytes();
            portable::verify(&public, &digest.0, signature.as_bytes()).unwrap();
            let mut other = digest.0;
            other[0] ^= 1;
            let refused = Err(CryptoError::Signature);
            assert_eq!(verify_digest(&key.public_key(), &Hash(other), &signature), refused);
            assert_eq!(portable::verify(&public, &other, signature.as_bytes()), refused);
        }
    }

    #[test]
    fn a_signature_of_one_domain_is_none_of_another() {
        let key = key(3);
        let signature = key.sign(Domain::TICKET, &[b"x"]);
        let public = key.public_key();
        assert_eq!(verify(&public, Domain::TICKET, &[b"x"], &signature), Ok(()));
        let refused = Err(CryptoError::Signature);
        assert_eq!(verify(&public, Domain::HOLDER, &[b"x"], &signature), refused);
    }

    #[test]
    fn the_high_s_twin_of_a_signature_is_refused_and_can_be_normalised() {
        let key = key(5);
        let digest = Domain::RECEIPT.digest(&[b"payload"]);
        let low = key.sign_digest(&digest);
        let parsed = p256::ecdsa::Signature::from_slice(low.as_bytes()).unwrap();
        let twin = p256::ecdsa::Signature::from_scalars(parsed.r(), -parsed.s()).unwrap();
        let high = Signature::from_bytes(twin.to_bytes().into());
        let public = key.public_key();
        assert_eq!(verify_digest(&public, &digest, &high), Err(CryptoError::Signature));
        let normal = Signature::normalized(*high.as_bytes()).unwrap();
        assert_eq!(normal, low);
    }

    #[test]
    fn keys_that_are_no_points_are_refused() {
        let mut not_a_point = [5u8; 33];
        not_a_point[0] = 2;
        let refused = (0..=255).filter(|last| {
            not_a_point[32] = *last;
            PublicKey::from_sec1(&not_a_point).is_err()
        });
        assert!(refused.count() > 50, "about half of all x have no point");
        assert_eq!(SigningKey::from_bytes(&[0; 32]).err(), Some(CryptoError::SecretKey));
        assert_eq!(SigningKey::from_bytes(&[255; 32]).err(), Some(CryptoError::SecretKey));
    }

    #[test]
    fn a_decoded_key_that_is_no_point_verifies_nothing() {
        let mut bytes = [0xffu8; 33];
        bytes[0] = 2;
        let mut encoder = Encoder::new();
        encoder.bytes(&bytes);
        let decoded = PublicKey::from_bytes(&encoder.into_bytes()).unwrap();
        let signature = key(5).sign(Domain::VOTE, &[b"x"]);
        assert!(verify(&decoded, Domain::VOTE, &[b"x"], &signature).is_err());
        assert!(decoded.validate().is_err());
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let shown = alloc::format!("{:?}", key(7));
        assert!(!shown.contains("0707"));
    }

    /// RFC 6979 A.2.5, P-256, SHA-256, message "sample"; the s there is high, so the twin.
    #[test]
    fn signing_is_rfc_6979() {
        let secret = hex("C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721");
        let key = SigningKey::from_bytes(&secret).unwrap();
        let signature = key.sign_digest(&sha256(&[b"sample"]));
        let r = hex("EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716");
        let s = hex("F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8");
        let published = [r, s].concat().try_into().unwrap();
        assert_eq!(signature, Signature::normalized(published).unwrap());
    }

    fn hex(text: &str) -> [u8; 32] {
        core::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }
}
