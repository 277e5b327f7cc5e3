//! `TPMT_PUBLIC`: the public area of a TPM object, its attributes and its Name (TPM 2.0 Library,
//! Part 2, 12.2.4; Part 1, 16). RSA and ECC keys only. It decides nothing about trust.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};

use crate::bytes::{ParseError, Reader};
use crate::crypto::{self, sha256};

pub(crate) const ALG_RSA: u16 = 0x0001;
pub(crate) const ALG_AES: u16 = 0x0006;
pub(crate) const ALG_SHA256: u16 = 0x000b;
pub(crate) const ALG_SHA384: u16 = 0x000c;
pub(crate) const ALG_NULL: u16 = 0x0010;
pub(crate) const ALG_RSASSA: u16 = 0x0014;
pub(crate) const ALG_RSAES: u16 = 0x0015;
pub(crate) const ALG_RSAPSS: u16 = 0x0016;
pub(crate) const ALG_OAEP: u16 = 0x0017;
pub(crate) const ALG_ECDSA: u16 = 0x0018;
pub(crate) const ALG_ECC: u16 = 0x0023;
pub(crate) const ALG_CFB: u16 = 0x0043;
pub(crate) const CURVE_P256: u16 = 0x0003;
pub(crate) const CURVE_P384: u16 = 0x0004;

/// Longest `TPMT_PUBLIC` that is looked at: an RSA-4096 key with a SHA-512 policy needs 606 bytes.
pub const MAX_PUBLIC_LEN: usize = 1024;

/// A hash algorithm that may name an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// SHA-256.
    Sha256,
    /// SHA-384: the Name of a P-384 EK.
    Sha384,
}

impl HashAlgorithm {
    /// Length of a digest in bytes.
    #[must_use]
    pub fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }

    pub(crate) fn id(self) -> u16 {
        match self {
            Self::Sha256 => ALG_SHA256,
            Self::Sha384 => ALG_SHA384,
        }
    }

    pub(crate) fn from_id(id: u16, field: &'static str) -> Result<Self, ParseError> {
        match id {
            ALG_SHA256 => Ok(Self::Sha256),
            ALG_SHA384 => Ok(Self::Sha384),
            other => Err(ParseError::Unsupported { field, value: other.into() }),
        }
    }
}

/// A TPM Name: hash algorithm identifier and digest of the public area.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name(Vec<u8>);

impl Name {
    /// Longest Name: identifier and a SHA-512 digest.
    pub const MAX_LEN: usize = 66;

    /// The bytes as the TPM writes them: 34 for SHA-256, 50 for SHA-384.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn of(algorithm: HashAlgorithm, parts: &[&[u8]]) -> Self {
        let mut name = algorithm.id().to_be_bytes().to_vec();
        name.extend_from_slice(crypto::hash(algorithm, parts).as_ref());
        Self(name)
    }

    pub(crate) fn from_wire(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

/// `TPMA_OBJECT` (Part 2, 8.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes(pub u32);

impl Attributes {
    /// The key never leaves this TPM.
    pub const FIXED_TPM: u32 = 1 << 1;
    /// Lost when the TPM resets.
    pub const ST_CLEAR: u32 = 1 << 2;
    /// The parent cannot change.
    pub const FIXED_PARENT: u32 = 1 << 4;
    /// The TPM made the secret.
    pub const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    /// An (empty) password authorises its use.
    pub const USER_WITH_AUTH: u32 = 1 << 6;
    /// Administration needs the policy.
    pub const ADMIN_WITH_POLICY: u32 = 1 << 7;
    /// Dictionary attack protection does not lock it.
    pub const NO_DA: u32 = 1 << 10;
    /// Duplicates are encrypted.
    pub const ENCRYPTED_DUPLICATION: u32 = 1 << 11;
    /// Signs only what the TPM itself made.
    pub const RESTRICTED: u32 = 1 << 16;
    /// May decrypt.
    pub const DECRYPT: u32 = 1 << 17;
    /// May sign.
    pub const SIGN: u32 = 1 << 18;

    /// Whether every bit of `mask` is set.
    #[must_use]
    pub fn all(self, mask: u32) -> bool {
        self.0 & mask == mask
    }

    /// Whether any bit of `mask` is set.
    #[must_use]
    pub fn any(self, mask: u32) -> bool {
        self.0 & mask != 0
    }
}

/// The public key inside a public area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// RSA: modulus without leading zeros, exponent (0 on the wire means 65537).
    Rsa {
        /// Big-endian modulus.
        modulus: Vec<u8>,
        /// Public exponent.
        exponent: u32,
        /// Announced size in bits.
        bits: u16,
    },
    /// A point on a NIST curve, coordinates padded to the size of the field.
    Ecc {
        /// The curve.
        curve: Curve,
        /// Big-endian x.
        x: Vec<u8>,
        /// Big-endian y.
        y: Vec<u8>,
    },
}

/// A curve that an EK, AK or identity key may be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
}

impl Curve {
    /// Bytes of a coordinate.
    #[must_use]
    pub fn field_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }
}

impl PublicKey {
    /// The uncompressed SEC1 point of an ECC key: `04 ‖ x ‖ y`. `None` for RSA.
    #[must_use]
    pub fn sec1(&self) -> Option<Vec<u8>> {
        match self {
            Self::Rsa { .. } => None,
            Self::Ecc { x, y, .. } => Some([&[4], x.as_slice(), y.as_slice()].concat()),
        }
    }
}

/// A symmetric algorithm of a storage key: (algorithm, bits, mode), or `None`.
pub(crate) type Symmetric = Option<(u16, u16, u16)>;

/// A parsed public area. The bytes it came from are kept: Names are made over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Public {
    raw: Vec<u8>,
    name_algorithm: HashAlgorithm,
    attributes: Attributes,
    auth_policy: Vec<u8>,
    symmetric: Symmetric,
    scheme: u16,
    scheme_hash: Option<u16>,
    kdf: u16,
    key: PublicKey,
}

impl Public {
    /// Parses a `TPMT_PUBLIC` (without the size of a `TPM2B_PUBLIC`).
    ///
    /// # Errors
    /// Anything but one RSA or ECC public area over SHA-256 or SHA-384, with nothing after it.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() > MAX_PUBLIC_LEN {
            return Err(ParseError::TooLong {
                field: "TPMT_PUBLIC",
                len: bytes.len(),
                max: MAX_PUBLIC_LEN,
            });
        }
        let mut reader = Reader::new(bytes);
        let kind = reader.u16("public.type")?;
        let name_algorithm = HashAlgorithm::from_id(reader.u16("public.nameAlg")?, "nameAlg")?;
        let attributes = Attributes(reader.u32("public.objectAttributes")?);
        let auth_policy = reader.sized(64, "public.authPolicy")?.to_vec();
        let symmetric = read_symmetric(&mut reader)?;
        let (scheme, scheme_hash) = read_scheme(&mut reader)?;
        let (kdf, key) = match kind {
            ALG_RSA => (ALG_NULL, read_rsa(&mut reader)?),
            ALG_ECC => read_ecc(&mut reader)?,
            other => {
                return Err(ParseError::Unsupported { field: "public.type", value: other.into() });
            }
        };
        reader.finish("TPMT_PUBLIC")?;
        Ok(Self {
            raw: bytes.to_vec(),
            name_algorithm,
            attributes,
            auth_policy,
            symmetric,
            scheme,
            scheme_hash,
            kdf,
            key,
        })
    }

    /// The bytes that were parsed.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The object's Name: nameAlg ‖ H(public area).
    #[must_use]
    pub fn name(&self) -> Name {
        Name::of(self.name_algorithm, &[&self.raw])
    }

    /// SHA-256 of the public area: what a ledger may show of an EK.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        sha256(&[&self.raw])
    }

    /// The algorithm of the Name.
    #[must_use]
    pub fn name_algorithm(&self) -> HashAlgorithm {
        self.name_algorithm
    }

    /// The object's attributes.
    #[must_use]
    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// The public key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The authorisation policy digest; empty when there is none.
    #[must_use]
    pub fn auth_policy(&self) -> &[u8] {
        &self.auth_policy
    }

    pub(crate) fn symmetric(&self) -> Symmetric {
        self.symmetric
    }

    pub(crate) fn has_null_schemes(&self) -> bool {
        self.scheme == ALG_NULL && self.kdf == ALG_NULL
    }

    /// Whether this is a P-256 key whose only scheme is ECDSA with SHA-256.
    #[must_use]
    pub fn is_es256(&self) -> bool {
        let p256 = matches!(self.key, PublicKey::Ecc { curve: Curve::P256, .. });
        p256 && self.scheme == ALG_ECDSA
            && self.scheme_hash == Some(ALG_SHA256)
            && self.symmetric.is_none()
            && self.kdf == ALG_NULL
    }

    /// The P-256 point in SEC1 compressed form: the ledger's form of an identity.
    ///
    /// # Errors
    /// Another curve, an RSA key, or a point that is not on the curve.
    pub fn p256_compressed(&self) -> Result<[u8; 33], ParseError> {
        let invalid = ParseError::Invalid { field: "public.unique (a P-256 point)" };
        let PublicKey::Ecc { curve: Curve::P256, x, y } = &self.key else { return Err(invalid) };
        let point = [&[4], x.as_slice(), y.as_slice()].concat();
        if ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).is_err() {
            return Err(invalid);
        }
        let mut out = [0; 33];
        out[0] = 2 + (y[31] & 1);
        out[1..].copy_from_slice(x);
        Ok(out)
    }
}

fn read_symmetric(reader: &mut Reader<'_>) -> Result<Symmetric, ParseError> {
    match reader.u16("public.symmetric")? {
        ALG_NULL => Ok(None),
        ALG_AES => {
            let bits = reader.u16("public.symmetric.keyBits")?;
            Ok(Some((ALG_AES, bits, reader.u16("public.symmetric.mode")?)))
        }
        other => Err(ParseError::Unsupported { field: "public.symmetric", value: other.into() }),
    }
}

/// The asymmetric scheme and its hash. The identifiers of RSA and ECC schemes do not overlap, and
/// a scheme that does not fit the key type is refused by the checks on the key's use.
fn read_scheme(reader: &mut Reader<'_>) -> Result<(u16, Option<u16>), ParseError> {
    match reader.u16("public.scheme")? {
        scheme @ (ALG_NULL | ALG_RSAES) => Ok((scheme, None)),
        scheme @ (ALG_RSASSA | ALG_RSAPSS | ALG_OAEP | ALG_ECDSA) => {
            Ok((scheme, Some(reader.u16("public.scheme.hash")?)))
        }
        other => Err(ParseError::Unsupported { field: "public.scheme", value: other.into() }),
    }
}

fn read_rsa(reader: &mut Reader<'_>) -> Result<PublicKey, ParseError> {
    let bits = reader.u16("public.keyBits")?;
    let exponent = match reader.u32("public.exponent")? {
        0 => 65_537,
        other => other,
    };
    let modulus = reader.sized(512, "public.unique (an RSA modulus)")?;
    if modulus.len() != usize::from(bits / 8) || modulus.first().is_none_or(|&byte| byte < 0x80) {
        return Err(ParseError::Invalid { field: "public.unique (an RSA modulus)" });
    }
    Ok(PublicKey::Rsa { modulus: modulus.to_vec(), exponent, bits })
}

fn read_ecc(reader: &mut Reader<'_>) -> Result<(u16, PublicKey), ParseError> {
    let curve = match reader.u16("public.curveID")? {
        CURVE_P256 => Curve::P256,
        CURVE_P384 => Curve::P384,
        other => {
            return Err(ParseError::Unsupported { field: "public.curveID", value: other.into() });
        }
    };
    let kdf = reader.u16("public.kdf")?;
    if kdf != ALG_NULL {
        return Err(ParseError::Unsupported { field: "public.kdf", value: kdf.into() });
    }
    let x = read_coordinate(reader, curve, "public.unique.x")?;
    let y = read_coordinate(reader, curve, "public.unique.y")?;
    Ok((kdf, PublicKey::Ecc { curve, x, y }))
}

/// Some TPMs drop the leading zeros of a coordinate; the padded form is the one that is hashed by
/// KDFe and shown to others.
fn read_coordinate(
    reader: &mut Reader<'_>,
    curve: Curve,
    field: &'static str,
) -> Result<Vec<u8>, ParseError> {
    let bytes = reader.sized(curve.field_len(), field)?;
    if bytes.is_empty() {
        return Err(ParseError::Invalid { field });
    }
    let mut out = vec![0; curve.field_len() - bytes.len()];
    out.extend_from_slice(bytes);
    Ok(out)
}
