//! Evidence made by software with keys of its own: what a forger can make, and every statement
//! that a real TPM would refuse to sign.

use attestation::evidence::Evidence;
use attestation::manufacturer::Manufacturer;
use attestation::pcr::{PcrSelection, composite};
use attestation::public::{Attributes, Public};
use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

use crate::stored;
use crate::vectors::{CREDENTIAL, QUALIFYING_DATA};

const BOUND: u32 = Attributes::FIXED_TPM
    | Attributes::FIXED_PARENT
    | Attributes::SENSITIVE_DATA_ORIGIN
    | Attributes::USER_WITH_AUTH
    | Attributes::NO_DA
    | Attributes::SIGN;

/// What a forger may set; the default is evidence that is right in every check but the chain.
pub(crate) struct Forge {
    pub(crate) ak_attributes: u32,
    pub(crate) ak_hash: u16,
    pub(crate) identity_attributes: u32,
    pub(crate) identity_hash: u16,
    pub(crate) quote_data: Vec<u8>,
    pub(crate) certification_data: Vec<u8>,
    pub(crate) pcrs: PcrSelection,
    /// `TPML_PCR_SELECTION` in place of that of `pcrs`.
    pub(crate) selection: Option<Vec<u8>>,
    /// The hierarchy that the qualified Name starts from.
    pub(crate) hierarchy: u32,
    pub(crate) certified_name: Option<Vec<u8>>,
    /// Values of the registers; all sevens when there are none.
    pub(crate) values: Option<Vec<[u8; 32]>>,
    /// Which boot it is.
    pub(crate) reset_count: u32,
    /// The attestation key (PKCS #8); a new one when there is none.
    pub(crate) ak: Option<Vec<u8>>,
}

impl Default for Forge {
    fn default() -> Self {
        Self {
            ak_attributes: BOUND | Attributes::RESTRICTED,
            ak_hash: 0x0b,
            identity_attributes: BOUND,
            identity_hash: 0x0b,
            quote_data: QUALIFYING_DATA.to_vec(),
            certification_data: QUALIFYING_DATA.to_vec(),
            pcrs: PcrSelection::FIRMWARE,
            selection: None,
            hierarchy: 0x4000_000b,
            certified_name: None,
            values: None,
            reset_count: 0,
            ak: None,
        }
    }
}

impl Forge {
    pub(crate) fn evidence(&self) -> Evidence {
        let ek_public = stored("p256").evidence.ek_public;
        let ek_name = Public::parse(&ek_public).unwrap().name();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let ak = match &self.ak {
            Some(ak) => EcdsaKeyPair::from_pkcs8(algorithm, ak).unwrap(),
            None => EcdsaKeyPair::generate(algorithm).unwrap(),
        };
        let identity = EcdsaKeyPair::generate(algorithm).unwrap();
        let ak_public = public_area(self.ak_attributes, self.ak_hash, &ak);
        let identity_public = public_area(self.identity_attributes, self.identity_hash, &identity);
        let hierarchy = self.hierarchy.to_be_bytes();
        let ek_qualified = name(&[&hierarchy, ek_name.as_bytes()]);
        let signer = name(&[&ek_qualified, &name(&[&ak_public])]);
        let values = self.values.clone().unwrap_or_else(|| vec![[7; 32]; self.pcrs.count()]);
        let certified = self.certified_name.clone().unwrap_or_else(|| name(&[&identity_public]));
        let certification = attest(
            0x8017,
            &signer,
            &self.certification_data,
            self.reset_count,
            &[sized(&certified), sized(&certified)].concat(),
        );
        let [a, b, c] = self.pcrs.bitmap();
        let selection =
            self.selection.clone().unwrap_or_else(|| vec![0, 0, 0, 1, 0, 0x0b, 3, a, b, c]);
        let quoted = [selection, sized(&composite(&values))].concat();
        let quote = attest(0x8018, &signer, &self.quote_data, self.reset_count, &quoted);
        Evidence {
            manufacturer: Manufacturer(u32::from_be_bytes(*b"IFX\0")),
            ek_public,
            ak_public,
            identity_public,
            activated: CREDENTIAL,
            certification_signature: sign(&ak, &certification),
            certification,
            quote_signature: sign(&ak, &quote),
            quote,
            pcrs: self.pcrs,
            pcr_values: values,
        }
    }
}

/// A key for [`Forge::ak`].
pub(crate) fn new_key() -> Vec<u8> {
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap().as_ref().to_vec()
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn name(parts: &[&[u8]]) -> Vec<u8> {
    let hash = digest::digest(&digest::SHA256, &parts.concat());
    [&[0, 0x0b], hash.as_ref()].concat()
}

fn public_area(attributes: u32, hash: u16, key: &EcdsaKeyPair) -> Vec<u8> {
    let point = key.public_key().as_ref();
    [
        [0, 0x23, 0, 0x0b].as_slice(),
        &attributes.to_be_bytes(),
        &[0, 0, 0, 0x10, 0, 0x18],
        &hash.to_be_bytes(),
        &[0, 3, 0, 0x10],
        &sized(&point[1..33]),
        &sized(&point[33..]),
    ]
    .concat()
}

fn attest(kind: u16, signer: &[u8], data: &[u8], resets: u32, attested: &[u8]) -> Vec<u8> {
    [
        0xff54_4347_u32.to_be_bytes().as_slice(),
        &kind.to_be_bytes(),
        &sized(signer),
        &sized(data),
        &[0; 8],
        &resets.to_be_bytes(),
        &[0; 4],
        &[1],
        &[0; 8],
        attested,
    ]
    .concat()
}

fn sign(key: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
    let signature = key.sign(&SystemRandom::new(), message).unwrap();
    let (r, s) = signature.as_ref().split_at(32);
    [[0, 0x18, 0, 0x0b].as_slice(), &sized(r), &sized(s)].concat()
}
