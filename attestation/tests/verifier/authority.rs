//! A certificate authority for tests, which also issues what no authority should.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaKeyPair,
};

pub(crate) const NOW: u64 = 1_800_000_000;

/// Contents of the object identifiers that certificates are made of.
pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
pub(crate) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
pub(crate) const CERTIFICATE_POLICIES: &[u8] = &[0x55, 0x1d, 32];
pub(crate) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
pub(crate) const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 30];
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const EK_PURPOSE: &[u8] = &[0x67, 0x81, 5, 8, 1];
const ANY_PURPOSE: &[u8] = &[0x55, 0x1d, 37, 0];
const SERVER_PURPOSE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const P384: &[u8] = &[0x2b, 0x81, 4, 0, 34];

pub(crate) enum Key {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl Key {
    pub(crate) fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
    }

    pub(crate) fn p384() -> Self {
        Self::P384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap())
    }

    pub(crate) fn rsa() -> Self {
        let size = aws_lc_rs::rsa::KeySize::Rsa2048;
        Self::Rsa(Box::new(RsaKeyPair::generate(size).unwrap()))
    }

    fn info(&self) -> Vec<u8> {
        let (algorithm, bits) = match self {
            Self::P256(key) => ([oid(EC), oid(P256)].concat(), key.public_key().as_ref().to_vec()),
            Self::P384(key) => ([oid(EC), oid(P384)].concat(), key.public_key().as_ref().to_vec()),
            Self::Rsa(key) => ([oid(RSA), vec![5, 0]].concat(), key.public_key().as_ref().to_vec()),
        };
        sequence(&[sequence(&[algorithm]), bit_string(&bits)])
    }

    /// The algorithm that the key signs with unless told otherwise.
    fn default_algorithm(&self) -> Algorithm {
        match self {
            Self::P256(_) => Algorithm::EcdsaSha256,
            Self::P384(_) => Algorithm::EcdsaSha384,
            Self::Rsa(_) => Algorithm::Pkcs1(256),
        }
    }

    fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::P256(key) | Self::P384(key) => {
                key.sign(&random, message).unwrap().as_ref().to_vec()
            }
            Self::Rsa(key) => {
                let encoding: &dyn aws_lc_rs::signature::RsaEncoding = match algorithm {
                    Algorithm::Pkcs1(384) => &RSA_PKCS1_SHA384,
                    Algorithm::Pkcs1(512) => &RSA_PKCS1_SHA512,
                    Algorithm::Pss(256) => &RSA_PSS_SHA256,
                    Algorithm::Pss(384) => &RSA_PSS_SHA384,
                    Algorithm::Pss(512) => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut out = vec![0; key.public_modulus_len()];
                key.sign(encoding, &random, message, &mut out).unwrap();
                out
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    EcdsaSha256,
    EcdsaSha384,
    Pkcs1(u32),
    Pss(u32),
    /// Named, not computed: it must be refused before that.
    Sha1WithRsa,
    EcdsaSha1,
    /// PSS with its default parameters, which mean SHA-1.
    PssDefaults,
}

impl Algorithm {
    fn identifier(self) -> Vec<u8> {
        let pkcs1 = |last| vec![0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, last];
        let null = vec![5, 0];
        match self {
            Self::EcdsaSha256 => sequence(&[oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2])]),
            Self::EcdsaSha384 => sequence(&[oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3])]),
            Self::EcdsaSha1 => sequence(&[oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1])]),
            Self::Pkcs1(bits) => {
                let last = match bits {
                    256 => 11,
                    384 => 12,
                    _ => 13,
                };
                sequence(&[oid(&pkcs1(last)), null])
            }
            Self::Sha1WithRsa => sequence(&[oid(&pkcs1(5)), null]),
            Self::PssDefaults => sequence(&[oid(&pkcs1(10)), sequence(&[])]),
            Self::Pss(bits) => {
                let (arc, salt) = match bits {
                    256 => (1, 32),
                    384 => (2, 48),
                    _ => (3, 64),
                };
                let hash = sequence(&[oid(&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, arc]), null]);
                let mgf = sequence(&[oid(&pkcs1(8)), hash.clone()]);
                let parameters =
                    sequence(&[tlv(0xa0, &hash), tlv(0xa1, &mgf), tlv(0xa2, &[2, 1, salt])]);
                sequence(&[oid(&pkcs1(10)), parameters])
            }
        }
    }
}

/// A certificate to be issued; every field may be set to something wrong.
pub(crate) struct Request<'a> {
    pub(crate) subject: &'a str,
    pub(crate) issuer: &'a str,
    pub(crate) key: &'a Key,
    pub(crate) signer: &'a Key,
    pub(crate) algorithm: Option<Algorithm>,
    /// The algorithm named outside the signed part, if another.
    pub(crate) outer_algorithm: Option<Algorithm>,
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
    pub(crate) version_1: bool,
    /// Object identifier, critical, value.
    pub(crate) extensions: Vec<(&'a [u8], bool, Vec<u8>)>,
}

impl<'a> Request<'a> {
    /// A CA certificate as it should be.
    pub(crate) fn authority(
        subject: &'a str,
        issuer: &'a str,
        key: &'a Key,
        signer: &'a Key,
    ) -> Self {
        let extensions = vec![
            (BASIC_CONSTRAINTS, true, constraints(true, None)),
            // keyCertSign, cRLSign.
            (KEY_USAGE, true, vec![3, 2, 1, 6]),
        ];
        Self::new(subject, issuer, key, signer, extensions)
    }

    /// An EK certificate as it should be.
    pub(crate) fn ek(issuer: &'a str, key: &'a Key, signer: &'a Key) -> Self {
        let extensions = vec![
            (BASIC_CONSTRAINTS, true, constraints(false, None)),
            (EXTENDED_KEY_USAGE, false, purposes(&[EK_PURPOSE])),
        ];
        Self::new("EK", issuer, key, signer, extensions)
    }

    fn new(
        subject: &'a str,
        issuer: &'a str,
        key: &'a Key,
        signer: &'a Key,
        extensions: Vec<(&'a [u8], bool, Vec<u8>)>,
    ) -> Self {
        Self {
            subject,
            issuer,
            key,
            signer,
            algorithm: None,
            outer_algorithm: None,
            not_before: NOW - 1000,
            not_after: NOW + 1000,
            version_1: false,
            extensions,
        }
    }

    /// Replaces or adds an extension.
    pub(crate) fn with(mut self, id: &'a [u8], critical: bool, value: Vec<u8>) -> Self {
        self.extensions.retain(|&(found, ..)| found != id);
        self.extensions.push((id, critical, value));
        self
    }

    pub(crate) fn without(mut self, id: &[u8]) -> Self {
        self.extensions.retain(|&(found, ..)| found != id);
        self
    }

    pub(crate) fn issue(&self) -> Vec<u8> {
        let algorithm = self.algorithm.unwrap_or_else(|| self.signer.default_algorithm());
        let outer = self.outer_algorithm.unwrap_or(algorithm);
        let mut fields = Vec::new();
        if !self.version_1 {
            fields.push(tlv(0xa0, &[2, 1, 2]));
        }
        fields.extend([
            vec![2, 1, 7],
            algorithm.identifier(),
            name(self.issuer),
            sequence(&[time(self.not_before), time(self.not_after)]),
            name(self.subject),
            self.key.info(),
        ]);
        if !self.version_1 {
            let extensions: Vec<Vec<u8>> = self
                .extensions
                .iter()
                .map(|(id, critical, value)| {
                    let flag = if *critical { vec![1, 1, 0xff] } else { Vec::new() };
                    sequence(&[oid(id), flag, tlv(4, value)])
                })
                .collect();
            fields.push(tlv(0xa3, &sequence(&extensions)));
        }
        let tbs = sequence(&fields);
        let signature = self.signer.sign(algorithm, &tbs);
        sequence(&[tbs, outer.identifier(), bit_string(&signature)])
    }
}

pub(crate) fn constraints(ca: bool, path_len: Option<u8>) -> Vec<u8> {
    let ca = if ca { vec![1, 1, 0xff] } else { Vec::new() };
    sequence(&[ca, path_len.map_or_else(Vec::new, |longest| vec![2, 1, longest])])
}

pub(crate) fn ek_purpose() -> Vec<u8> {
    purposes(&[EK_PURPOSE])
}

pub(crate) fn any_purpose() -> Vec<u8> {
    purposes(&[ANY_PURPOSE])
}

pub(crate) fn server_purpose() -> Vec<u8> {
    purposes(&[SERVER_PURPOSE])
}

fn purposes(ids: &[&[u8]]) -> Vec<u8> {
    sequence(&ids.iter().map(|id| oid(id)).collect::<Vec<_>>())
}

fn name(common_name: &str) -> Vec<u8> {
    if common_name.is_empty() {
        return sequence(&[]);
    }
    let attribute = sequence(&[oid(COMMON_NAME), tlv(0x0c, common_name.as_bytes())]);
    sequence(&[tlv(0x31, &attribute)])
}

/// GeneralizedTime would be wrong before 2050 (RFC 5280, 4.1.2.5), and UTCTime after.
fn time(unix: u64) -> Vec<u8> {
    let (days, seconds) = ((unix / 86_400) as i64, unix % 86_400);
    // Days to civil date, after Howard Hinnant's algorithm.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let text = format!("{:02}{month:02}{day:02}{hour:02}{minute:02}{second:02}Z", year % 100);
    tlv(0x17, text.as_bytes())
}

fn oid(content: &[u8]) -> Vec<u8> {
    tlv(6, content)
}

fn bit_string(bits: &[u8]) -> Vec<u8> {
    tlv(3, &[&[0], bits].concat())
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match value.len() {
        len @ 0..=127 => out.push(len as u8),
        len @ 128..=255 => out.extend([0x81, len as u8]),
        len => out.extend([0x82, (len >> 8) as u8, len as u8]),
    }
    out.extend_from_slice(value);
    out
}
