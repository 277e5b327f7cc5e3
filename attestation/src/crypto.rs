//! The few primitives of the verifier, over `aws-lc-rs`: digests, the TPM's two key derivation
//! functions (TPM 2.0 Library, Part 1, 11.4.10), AES-CFB with a zero IV, ES256 verification.
//! No key is made or kept here.

use aws_lc_rs::cipher::{
    AES_128, AES_256, EncryptionContext, StreamingEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{digest, hmac, signature};

use crate::public::HashAlgorithm;

/// SHA-256.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(hash(HashAlgorithm::Sha256, parts).as_ref());
    out
}

/// The digest of the concatenation of `parts`.
pub(crate) fn hash(algorithm: HashAlgorithm, parts: &[&[u8]]) -> digest::Digest {
    let algorithm = match algorithm {
        HashAlgorithm::Sha256 => &digest::SHA256,
        HashAlgorithm::Sha384 => &digest::SHA384,
    };
    let mut context = digest::Context::new(algorithm);
    for part in parts {
        context.update(part);
    }
    context.finish()
}

/// HMAC over the concatenation of `parts`.
pub(crate) fn hmac(algorithm: HashAlgorithm, key: &[u8], parts: &[&[u8]]) -> hmac::Tag {
    let algorithm = match algorithm {
        HashAlgorithm::Sha256 => hmac::HMAC_SHA256,
        HashAlgorithm::Sha384 => hmac::HMAC_SHA384,
    };
    let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm, key));
    for part in parts {
        context.update(part);
    }
    context.sign()
}

/// KDFa (SP 800-108 counter mode, HMAC). `label` carries its terminating NUL. The output is one
/// HMAC block at most, which is all that the TPM's credential protection asks of it.
pub(crate) fn kdfa(
    algorithm: HashAlgorithm,
    key: &[u8],
    label: &[u8],
    context_u: &[u8],
    bits: u32,
) -> Vec<u8> {
    let len = bits as usize / 8;
    assert!(len <= algorithm.digest_len(), "one block of output is enough for every caller");
    let (counter, bits) = (1u32.to_be_bytes(), bits.to_be_bytes());
    let tag = hmac(algorithm, key, &[&counter, label, context_u, &bits]);
    tag.as_ref()[..len].to_vec()
}

/// KDFe (SP 800-56A one-step): the seed that both ends derive from the ECDH point `z`. The
/// coordinates are padded to the size of the field; `label` carries its terminating NUL.
pub(crate) fn kdfe(
    algorithm: HashAlgorithm,
    z: &[u8],
    label: &[u8],
    party_u: &[u8],
    party_v: &[u8],
) -> Vec<u8> {
    let counter = 1u32.to_be_bytes();
    hash(algorithm, &[&counter, z, label, party_u, party_v]).as_ref().to_vec()
}

/// AES-CFB128 with a zero IV: the key is fresh for every credential, so the IV need not be.
pub(crate) fn aes_cfb(key: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, Unspecified> {
    let algorithm = if key.len() == 16 { &AES_128 } else { &AES_256 };
    let context = EncryptionContext::Iv128(FixedLength::from([0; 16]));
    let key = UnboundCipherKey::new(algorithm, key)?;
    let mut cipher = StreamingEncryptingKey::less_safe_cfb128(key, context)?;
    let mut out = vec![0; plaintext.len() + algorithm.block_len()];
    let written = cipher.update(plaintext, &mut out)?.written().len();
    let rest = cipher.finish(&mut out[written..])?.1.written().len();
    out.truncate(written + rest);
    Ok(out)
}

/// Whether `signature` (r ‖ s) is an ES256 signature of `message` by the SEC1 `point`. A point off
/// the curve verifies nothing.
pub(crate) fn es256_verifies(point: &[u8], message: &[u8], signature: &[u8; 64]) -> bool {
    signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
        .verify(message, signature)
        .is_ok()
}

/// Equality that takes the same time wherever the first difference is.
pub(crate) fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NIST SP 800-38A, F.3.13 (CFB128-AES128) has a non-zero IV, so its first keystream block is
    /// the ECB encryption of that IV: here the zero IV is checked against FIPS 197's AES of zero.
    #[test]
    fn cfb_with_a_zero_iv_starts_with_the_encrypted_zero_block() {
        let out = aes_cfb(&[0; 16], &[0; 20]).unwrap();
        // AES-128 of the zero block under the zero key (NIST AESAVS, KAT of all-zero input).
        let expected = [
            0x66, 0xe9, 0x4b, 0xd4, 0xef, 0x8a, 0x2c, 0x3b, 0x88, 0x4c, 0xfa, 0x59, 0xca, 0x34,
            0x2b, 0x2e,
        ];
        assert_eq!(out.len(), 20);
        assert_eq!(out[..16], expected);
    }
}
