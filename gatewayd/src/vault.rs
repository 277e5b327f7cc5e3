//! Secrets at rest: one storage key, itself sealed to the TPM, encrypts vote key, root keys and
//! sessions (design §4 "Keys"). AES-256-GCM with random nonces; the purpose is authenticated, so
//! that a record cannot be put in another's place.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

/// Length of the storage key, bytes.
pub const KEY_LEN: usize = 32;

/// A sealed record cannot be opened: wrong key, wrong purpose, or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sealed record cannot be opened: it is damaged or was sealed under another storage key")]
pub struct OpenError;

/// Holds the storage key while the daemon runs.
pub struct Vault {
    key: Option<LessSafeKey>,
}

impl Vault {
    /// From the unsealed storage key.
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("the length is right");
        Self { key: Some(LessSafeKey::new(key)) }
    }

    /// While the storage key cannot be had: seals and opens nothing.
    pub fn locked() -> Self {
        Self { key: None }
    }

    /// Whether it has no key.
    pub fn is_locked(&self) -> bool {
        self.key.is_none()
    }

    /// Seals a secret for a purpose such as `session ‖ node`. Output: nonce ‖ ciphertext ‖ tag.
    /// Errors: only when the system's random source fails.
    pub fn seal(&self, purpose: &[&[u8]], secret: &[u8]) -> Result<Vec<u8>, OpenError> {
        let nonce = random::<NONCE_LEN>()?;
        let mut sealed = secret.to_vec();
        let key = self.key.as_ref().ok_or(OpenError)?;
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(bound(purpose)),
            &mut sealed,
        )
        .map_err(|_| OpenError)?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// Opens what [`Vault::seal`] made for the same purpose.
    pub fn open(&self, purpose: &[&[u8]], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(OpenError)?;
        let mut text = Zeroizing::new(ciphertext.to_vec());
        let key = self.key.as_ref().ok_or(OpenError)?;
        let length = key
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(bound(purpose)),
                &mut text,
            )
            .map_err(|_| OpenError)?
            .len();
        text.truncate(length);
        Ok(text)
    }
}

/// Fresh random bytes from the system.
pub fn random<const N: usize>() -> Result<[u8; N], OpenError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| OpenError)?;
    Ok(bytes)
}

/// Each part with its length, so that parts cannot run into each other.
fn bound(purpose: &[&[u8]]) -> Vec<u8> {
    let mut aad = b"gatewayd/vault/1".to_vec();
    for part in purpose {
        aad.extend_from_slice(&(part.len() as u64).to_be_bytes());
        aad.extend_from_slice(part);
    }
    aad
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_and_purpose_open() {
        let vault = Vault::new(&[1; 32]);
        let sealed = vault.seal(&[b"session", b"n1"], b"keys").unwrap();
        assert_eq!(&*vault.open(&[b"session", b"n1"], &sealed).unwrap(), b"keys");
        assert_eq!(vault.open(&[b"session", b"n2"], &sealed).err(), Some(OpenError));
        assert_eq!(vault.open(&[b"sessionn1"], &sealed).err(), Some(OpenError));
        assert_eq!(Vault::new(&[2; 32]).open(&[b"session", b"n1"], &sealed).err(), Some(OpenError));
        for byte in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[byte] ^= 1;
            assert!(vault.open(&[b"session", b"n1"], &flipped).is_err(), "byte {byte}");
        }
        assert!(vault.open(&[b"session", b"n1"], &sealed[..11]).is_err());
    }
}
