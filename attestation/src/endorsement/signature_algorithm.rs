//! Which certificate signatures are accepted: RSA PKCS#1 v1.5 and PSS with SHA-256, -384, -512
//! from 2,048 bits, ECDSA on P-256 and P-384 with the same. SHA-1 never.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1, ECDSA_P384_SHA256_ASN1,
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA512_ASN1, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
};
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Encode, Tag, Tagged};
use x509_cert::spki::AlgorithmIdentifierOwned;

use crate::endorsement::certificate::Certificate;
use crate::public::Curve;

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

const SHA256_WITH_RSA: ObjectIdentifier = oid("1.2.840.113549.1.1.11");
const SHA384_WITH_RSA: ObjectIdentifier = oid("1.2.840.113549.1.1.12");
const SHA512_WITH_RSA: ObjectIdentifier = oid("1.2.840.113549.1.1.13");
const RSASSA_PSS: ObjectIdentifier = oid("1.2.840.113549.1.1.10");
const ECDSA_WITH_SHA256: ObjectIdentifier = oid("1.2.840.10045.4.3.2");
const ECDSA_WITH_SHA384: ObjectIdentifier = oid("1.2.840.10045.4.3.3");
const ECDSA_WITH_SHA512: ObjectIdentifier = oid("1.2.840.10045.4.3.4");

/// Last byte of the arc 2.16.840.1.101.3.4.2 (SHA-2), salt length, algorithm.
const PSS: [(u8, u8, &dyn VerificationAlgorithm); 3] = [
    (1, 32, &RSA_PSS_2048_8192_SHA256),
    (2, 48, &RSA_PSS_2048_8192_SHA384),
    (3, 64, &RSA_PSS_2048_8192_SHA512),
];

/// Whether `issuer`'s key signed `certificate`. `None` when the algorithm is not accepted or does
/// not fit the key.
pub(super) fn verifies(certificate: &Certificate, issuer: &Certificate) -> Option<bool> {
    let algorithm = select(certificate.tbs.signature(), issuer)?;
    let key = UnparsedPublicKey::new(algorithm, &issuer.public_key_info);
    Some(key.verify(&certificate.tbs_raw, &certificate.signature).is_ok())
}

fn select(
    identifier: &AlgorithmIdentifierOwned,
    issuer: &Certificate,
) -> Option<&'static dyn VerificationAlgorithm> {
    let rsa: Option<&'static dyn VerificationAlgorithm> = match identifier.oid {
        SHA256_WITH_RSA => Some(&RSA_PKCS1_2048_8192_SHA256),
        SHA384_WITH_RSA => Some(&RSA_PKCS1_2048_8192_SHA384),
        SHA512_WITH_RSA => Some(&RSA_PKCS1_2048_8192_SHA512),
        _ => None,
    };
    let parameters = identifier.parameters.as_ref();
    if let Some(algorithm) = rsa {
        let null = parameters.is_none_or(|any| any.tag() == Tag::Null && any.value().is_empty());
        return (null && issuer.is_rsa()).then_some(algorithm);
    }
    if identifier.oid == RSASSA_PSS {
        let parameters = parameters?.to_der().ok()?;
        return issuer.is_rsa().then(|| select_pss(&parameters)).flatten();
    }
    if parameters.is_some() {
        return None;
    }
    Some(match (issuer.curve()?, identifier.oid) {
        (Curve::P256, ECDSA_WITH_SHA256) => &ECDSA_P256_SHA256_ASN1,
        (Curve::P256, ECDSA_WITH_SHA384) => &ECDSA_P256_SHA384_ASN1,
        (Curve::P256, ECDSA_WITH_SHA512) => &ECDSA_P256_SHA512_ASN1,
        (Curve::P384, ECDSA_WITH_SHA256) => &ECDSA_P384_SHA256_ASN1,
        (Curve::P384, ECDSA_WITH_SHA384) => &ECDSA_P384_SHA384_ASN1,
        (Curve::P384, ECDSA_WITH_SHA512) => &ECDSA_P384_SHA512_ASN1,
        _ => return None,
    })
}

/// PSS parameters (RFC 4055, 3.1) are accepted in exactly the forms that say: this hash, MGF1 with
/// the same hash, salt as long as the digest. All else, the SHA-1 defaults first, is refused.
fn select_pss(parameters: &[u8]) -> Option<&'static dyn VerificationAlgorithm> {
    PSS.into_iter()
        .find(|&(hash, salt, _)| {
            [true, false].into_iter().any(|null| parameters == pss_parameters(hash, salt, null))
        })
        .map(|(_, _, algorithm)| algorithm)
}

/// DER of `RSASSA-PSS-params`, the hash with or without the NULL parameter.
fn pss_parameters(hash: u8, salt: u8, null: bool) -> Vec<u8> {
    let sha2 = [0x06, 9, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, hash];
    let parameter: &[u8] = if null { &[0x05, 0] } else { &[] };
    let hash = tlv(0x30, &[&sha2, parameter]);
    let mgf1 = [0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08];
    let mgf1 = tlv(0x30, &[&mgf1, &hash]);
    let salt = [0x02, 1, salt];
    tlv(0x30, &[&tlv(0xa0, &[&hash]), &tlv(0xa1, &[&mgf1]), &tlv(0xa2, &[&salt])])
}

/// One short DER value; the parameters above are all below 128 bytes.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let value = parts.concat();
    assert!(value.len() < 128, "PSS parameters are short");
    [&[tag, value.len() as u8], value.as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names in this root are not in DER's order: a re-encoding of it has other bytes than
    /// were signed. It is self-signed, so its own key must verify it as it came.
    #[test]
    fn the_bytes_as_they_came_are_verified() {
        let der = include_bytes!("../../testdata/vendors/nuvoton-root-2110.der");
        let root = Certificate::parse(der).unwrap();
        assert_ne!(root.tbs.to_der().unwrap(), root.tbs_raw, "else this proves nothing");
        assert_eq!(verifies(&root, &root), Some(true));
        let mut other = root.clone();
        other.tbs_raw[60] ^= 1;
        assert_eq!(verifies(&other, &root), Some(false));
    }
}
