//! Credentials, opened here the way a TPM does (TPM 2.0 Library, Part 1, 24.4). That real TPMs
//! open them is tested where there is one.

use attestation::activation::{ActivationError, CredentialBlob, make_credential};
use attestation::public::{Public, PublicKey};
use attestation::template::EkKind;
use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::cipher::{
    AES_128, AES_256, DecryptionContext, StreamingDecryptingKey, UnboundCipherKey,
};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use aws_lc_rs::{digest, hmac};

use crate::stored;

/// What a TPM with the seed does: check the HMAC over the Name, then decrypt.
fn open(blob: &CredentialBlob, seed: &[u8], ak_name: &[u8], wide: bool) -> Option<Vec<u8>> {
    let (algorithm, key_len) = if wide { (hmac::HMAC_SHA384, 32) } else { (hmac::HMAC_SHA256, 16) };
    let kdfa = |label: &[u8], context: &[u8], len: usize| {
        let bits = (len as u32 * 8).to_be_bytes();
        let key = hmac::Key::new(algorithm, seed);
        let tag = hmac::sign(&key, &[&[0, 0, 0, 1], label, context, &bits].concat());
        tag.as_ref()[..len].to_vec()
    };
    let digest_len = algorithm.digest_algorithm().output_len;
    let (tag, encrypted) = blob.id_object[2..].split_at(digest_len);
    let integrity = hmac::Key::new(algorithm, &kdfa(b"INTEGRITY\0", &[], digest_len));
    hmac::verify(&integrity, &[encrypted, ak_name].concat(), tag).ok()?;
    let aes = if wide { &AES_256 } else { &AES_128 };
    let key = UnboundCipherKey::new(aes, &kdfa(b"STORAGE\0", ak_name, key_len)).unwrap();
    let iv = DecryptionContext::Iv128(FixedLength::from([0; 16]));
    let mut cipher = StreamingDecryptingKey::cfb128(key, iv).unwrap();
    let mut out = vec![0; encrypted.len() + 16];
    let len = cipher.update(encrypted, &mut out).unwrap().written().len();
    cipher.finish(&mut out[len..]).unwrap();
    assert_eq!(out[..2], [0, 32], "the credential is a TPM2B");
    Some(out[2..len].to_vec())
}

fn ak_name() -> attestation::public::Name {
    Public::parse(&stored("p256").evidence.ak_public).unwrap().name()
}

#[test]
fn the_holder_of_an_elliptic_key_opens_it_for_the_named_key_only() {
    for (kind, curve, len) in [(EkKind::P256, &ECDH_P256, 32), (EkKind::P384, &ECDH_P384, 48)] {
        let private = PrivateKey::generate(curve).unwrap();
        let public = private.compute_public_key().unwrap();
        let (x, y) = public.as_ref()[1..].split_at(len);
        let of_kind = stored(if len == 32 { "p256" } else { "p384" }).evidence.ek_public;
        let PublicKey::Ecc { curve: field, .. } = Public::parse(&of_kind).unwrap().key().clone()
        else {
            panic!("an elliptic key");
        };
        let key = PublicKey::Ecc { curve: field, x: x.to_vec(), y: y.to_vec() };
        let ek = Public::parse(&kind.public_area(&key)).unwrap();
        let blob = make_credential(&ek, &ak_name(), &[0x42; 32], &[9; 64]).unwrap();
        assert_eq!(CredentialBlob::from_bytes(&blob.to_bytes()), Ok(blob.clone()));

        let secret = &blob.secret;
        let (ephemeral_x, ephemeral_y) = (&secret[2..2 + len], &secret[4 + len..]);
        let point = [&[4], ephemeral_x, ephemeral_y].concat();
        let peer = UnparsedPublicKey::new(curve, point);
        let seed = agreement::agree(&private, peer, (), |z| {
            let parts = [&[0, 0, 0, 1], z, b"IDENTITY\0", ephemeral_x, x].concat();
            let hash = if len == 32 { &digest::SHA256 } else { &digest::SHA384 };
            Ok(digest::digest(hash, &parts).as_ref().to_vec())
        })
        .unwrap();
        let name = ak_name();
        assert_eq!(open(&blob, &seed, name.as_bytes(), len == 48), Some(vec![0x42; 32]));
        let mut other = name.as_bytes().to_vec();
        other[20] ^= 1;
        assert_eq!(open(&blob, &seed, &other, len == 48), None);
        let again = make_credential(&ek, &ak_name(), &[0x42; 32], &[9; 64]).unwrap();
        assert_eq!(again, blob, "the same entropy makes the same credential");
        let fresh = make_credential(&ek, &ak_name(), &[0x42; 32], &[8; 64]).unwrap();
        assert_ne!(fresh.secret, blob.secret);
        assert_ne!(fresh.id_object, blob.id_object);
    }
}

#[test]
fn the_holder_of_an_rsa_key_opens_it() {
    let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let stored_ek = Public::parse(&stored("rsa2048").evidence.ek_public).unwrap();
    let PublicKey::Rsa { bits, exponent, .. } = *stored_ek.key() else { panic!("an RSA key") };
    let components: PublicKeyX509Der<'_> = private.public_key().as_der().unwrap();
    let components = components.as_ref();
    // SubjectPublicKeyInfo of RSA-2048: the modulus is 256 bytes before the 5 of the exponent.
    let modulus = components[components.len() - 5 - 256..components.len() - 5].to_vec();
    let key = PublicKey::Rsa { modulus, exponent, bits };
    let ek = Public::parse(&EkKind::Rsa2048.public_area(&key)).unwrap();
    let blob = make_credential(&ek, &ak_name(), &[0x42; 32], &[9; 64]).unwrap();
    let private = OaepPrivateDecryptingKey::new(private).unwrap();
    let mut seed = vec![0; private.min_output_size()];
    let label = Some(b"IDENTITY\0".as_slice());
    let seed =
        private.decrypt(&OAEP_SHA256_MGF1SHA256, &blob.secret, &mut seed, label).unwrap().to_vec();
    assert_eq!(open(&blob, &seed, ak_name().as_bytes(), false), Some(vec![0x42; 32]));
}

#[test]
fn only_endorsement_keys_get_credentials() {
    let ak = Public::parse(&stored("p256").evidence.ak_public).unwrap();
    let refused = make_credential(&ak, &ak_name(), &[1; 32], &[2; 64]);
    assert_eq!(refused, Err(ActivationError::NotAnEk));
    let mut off_curve = stored("p256").evidence.ek_public;
    *off_curve.last_mut().unwrap() ^= 1;
    let ek = Public::parse(&off_curve).unwrap();
    let refused = make_credential(&ek, &ak_name(), &[1; 32], &[2; 64]);
    assert_eq!(refused, Err(ActivationError::InvalidKey));
}
