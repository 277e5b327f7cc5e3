//! The public areas that the TCG prescribes for endorsement keys (TCG EK Credential Profile for
//! TPM Family 2.0, Annex B): L-1 RSA-2048, L-2 P-256, H-2 P-384.
//!
//! An EK is accepted only if it is the template with the certified key in it. Anything else (an EK
//! that may sign, a policy of somebody's own) would void what the certificate vouches for.

use crate::bytes::put_sized;
use crate::public::{
    ALG_AES, ALG_CFB, ALG_ECC, ALG_NULL, ALG_RSA, Attributes, CURVE_P256, CURVE_P384, Curve,
    HashAlgorithm, Public, PublicKey,
};

/// PolicySecret(endorsement hierarchy), SHA-256 (Annex B.6.2, PolicyA).
const POLICY_A_SHA256: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24,
    0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];

/// PolicyOR(PolicyA, PolicyC), SHA-384 (Annex B.6.4, PolicyB).
const POLICY_B_SHA384: [u8; 48] = [
    0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a,
    0x07, 0x41, 0x48, 0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca,
    0xcb, 0x47, 0xba, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12,
];

const EK_ATTRIBUTES: u32 = Attributes::FIXED_TPM
    | Attributes::FIXED_PARENT
    | Attributes::SENSITIVE_DATA_ORIGIN
    | Attributes::ADMIN_WITH_POLICY
    | Attributes::RESTRICTED
    | Attributes::DECRYPT;

/// The endorsement keys that this crate knows. The numbers are those of a site's ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EkKind {
    /// Template L-1.
    Rsa2048 = 1,
    /// Template L-2.
    P256 = 2,
    /// Template H-2.
    P384 = 3,
}

impl EkKind {
    /// Its number on a ledger.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The kind of that number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Rsa2048, Self::P256, Self::P384].into_iter().find(|kind| *kind as u8 == number)
    }

    /// The NV index where the manufacturer puts the certificate (EK Credential Profile, 2.2.1.4
    /// and 2.2.1.5).
    #[must_use]
    pub fn certificate_index(self) -> u32 {
        match self {
            Self::Rsa2048 => 0x01c0_0002,
            Self::P256 => 0x01c0_000a,
            Self::P384 => 0x01c0_0016,
        }
    }

    /// The name that people use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rsa2048 => "RSA-2048",
            Self::P256 => "P-256",
            Self::P384 => "P-384",
        }
    }

    /// The kind of an EK public area, if the area is a TCG template with a key in it: same
    /// attributes, policy, parameters and Name algorithm, nothing else.
    #[must_use]
    pub fn of(ek: &Public) -> Option<Self> {
        let kind = match ek.key() {
            PublicKey::Rsa { bits: 2048, exponent: 65_537, .. } => Self::Rsa2048,
            PublicKey::Rsa { .. } => return None,
            PublicKey::Ecc { curve: Curve::P256, .. } => Self::P256,
            PublicKey::Ecc { curve: Curve::P384, .. } => Self::P384,
        };
        let (hash, attributes, policy, symmetric_bits) = kind.parameters();
        let fits = ek.name_algorithm() == hash
            && ek.attributes() == Attributes(attributes)
            && ek.auth_policy() == policy
            && ek.symmetric() == Some((ALG_AES, symmetric_bits, ALG_CFB))
            && ek.has_null_schemes();
        fits.then_some(kind)
    }

    /// Name algorithm, attributes, policy and AES key size of the template.
    fn parameters(self) -> (HashAlgorithm, u32, &'static [u8], u16) {
        match self {
            Self::Rsa2048 | Self::P256 => {
                (HashAlgorithm::Sha256, EK_ATTRIBUTES, &POLICY_A_SHA256, 128)
            }
            Self::P384 => (
                HashAlgorithm::Sha384,
                EK_ATTRIBUTES | Attributes::USER_WITH_AUTH,
                &POLICY_B_SHA384,
                256,
            ),
        }
    }

    /// Writes the template with `key` in it as a `TPMT_PUBLIC`: the EK's public area, as it
    /// follows from its certificate.
    #[must_use]
    pub fn public_area(self, key: &PublicKey) -> Vec<u8> {
        let (hash, attributes, policy, symmetric_bits) = self.parameters();
        let mut out = Vec::with_capacity(320);
        let u16 = |out: &mut Vec<u8>, value: u16| out.extend_from_slice(&value.to_be_bytes());
        u16(&mut out, if self == Self::Rsa2048 { ALG_RSA } else { ALG_ECC });
        u16(&mut out, hash.id());
        out.extend_from_slice(&attributes.to_be_bytes());
        put_sized(&mut out, policy);
        for value in [ALG_AES, symmetric_bits, ALG_CFB, ALG_NULL] {
            u16(&mut out, value);
        }
        match key {
            PublicKey::Rsa { modulus, bits, .. } => {
                u16(&mut out, *bits);
                out.extend_from_slice(&[0; 4]);
                put_sized(&mut out, modulus);
            }
            PublicKey::Ecc { curve, x, y } => {
                u16(&mut out, if *curve == Curve::P256 { CURVE_P256 } else { CURVE_P384 });
                u16(&mut out, ALG_NULL);
                put_sized(&mut out, x);
                put_sized(&mut out, y);
            }
        }
        out
    }
}
