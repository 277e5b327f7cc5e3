//! A TPM made of software that says it is a chip: what a forger can build, and what stands for an
//! honest chip where a test gives its EK a certificate. Keys follow from a seed.

use attestation::activation::CredentialBlob;
use attestation::manufacturer::Manufacturer;
use attestation::pcr::{PcrSelection, composite};
use attestation::public::{Attributes, Curve, Public, PublicKey as TpmKey};
use attestation::template::EkKind;
use attestation::{Endorsements, Evidence};
use aws_lc_rs::agreement::{self, ECDH_P256, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::cipher::{AES_128, DecryptionContext, StreamingDecryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{digest, hmac};
use ledger::codec::Text;
use ledger::crypto::{PublicKey, SigningKey, sha256};
use ledger::ids::{ChainId, Hash, Height};
use ledger::transaction::{Label, VoteKeyProof, vote_key_digest, vote_possession_digest};

use crate::admission::handing::Logs;
use crate::admission::messages::{
    Bound, Bytes, Challenge, EvidenceRequest, Introduction, qualifying_data,
};

pub(in crate::admission) const BOUND: u32 = Attributes::FIXED_TPM
    | Attributes::FIXED_PARENT
    | Attributes::SENSITIVE_DATA_ORIGIN
    | Attributes::USER_WITH_AUTH
    | Attributes::NO_DA
    | Attributes::SIGN;

/// One TPM and the keys of the gateway in it.
pub(in crate::admission) struct Chip {
    pub(in crate::admission) ek: SigningKey,
    pub(in crate::admission) ak: SigningKey,
    pub(in crate::admission) identity: SigningKey,
    pub(in crate::admission) vote: SigningKey,
    pub(in crate::admission) ak_attributes: u32,
    pub(in crate::admission) ek_certificate: Option<Vec<u8>>,
    pub(in crate::admission) manufacturer: u32,
    pub(in crate::admission) label: Label,
    /// Registers that it quotes, whatever it is asked for.
    pub(in crate::admission) quotes: Option<PcrSelection>,
    /// Signs quotes and certifications with the identity key.
    pub(in crate::admission) identity_attests: bool,
    /// The event log of its machine.
    pub(in crate::admission) log: Option<Vec<u8>>,
    /// Hands the credential back as it came.
    pub(in crate::admission) keeps_credential_shut: bool,
}

impl Chip {
    pub(in crate::admission) fn new(seed: u8) -> Self {
        let key = |kind: u8| SigningKey::from_bytes(&sha256(&[&[seed, kind]]).0).unwrap();
        Self {
            ek: key(0),
            ak: key(1),
            identity: key(2),
            vote: key(3),
            ak_attributes: BOUND | Attributes::RESTRICTED,
            ek_certificate: None,
            manufacturer: u32::from_be_bytes(*b"IFX\0"),
            label: Label { full: true, coordinator: true },
            quotes: None,
            identity_attests: false,
            log: None,
            keeps_credential_shut: false,
        }
    }

    pub(in crate::admission) fn ek_public(&self) -> Vec<u8> {
        let point = self.ek.public_key().to_uncompressed().unwrap();
        let (x, y) = (point[1..33].to_vec(), point[33..].to_vec());
        EkKind::P256.public_area(&TpmKey::Ecc { curve: Curve::P256, x, y })
    }

    pub(in crate::admission) fn ek_digest(&self) -> Hash {
        Hash(Public::parse(&self.ek_public()).unwrap().digest())
    }

    pub(in crate::admission) fn ak_public(&self) -> Vec<u8> {
        public_area(self.ak_attributes, &self.ak.public_key())
    }

    pub(in crate::admission) fn ak_name(&self) -> [u8; 34] {
        name(&[&self.ak_public()]).try_into().unwrap()
    }

    pub(in crate::admission) fn vote_proof(&self, chain_id: ChainId) -> VoteKeyProof {
        let (identity, vote_key) = (self.identity.public_key(), self.vote.public_key());
        let certified = vote_key_digest(&chain_id.0, &identity, &vote_key);
        let held = vote_possession_digest(&chain_id.0, &identity, &vote_key);
        VoteKeyProof {
            vote_key,
            certificate: self.identity.sign_digest(&certified),
            possession: self.vote.sign_digest(&held),
        }
    }

    pub(in crate::admission) fn introduction(
        &self,
        chain_id: ChainId,
        base_height: Height,
    ) -> Introduction {
        let intermediates = vec![];
        let ek_certificate = self.ek_certificate.clone();
        let endorsements = Endorsements { ek_certificate, intermediates };
        Introduction {
            label: self.label,
            measurements: Text::new("4 cores").unwrap(),
            base_height,
            endorsements: Bytes::new(endorsements.to_bytes()).unwrap(),
            ek_public: Bytes::new(self.ek_public()).unwrap(),
            ak_public: Bytes::new(self.ak_public()).unwrap(),
            identity_public: Bytes::new(public_area(BOUND, &self.identity.public_key())).unwrap(),
            vote: self.vote_proof(chain_id),
            manufacturer: self.manufacturer,
        }
    }

    /// Answers a challenge in a session with this exporter.
    pub(in crate::admission) fn answer(
        &self,
        challenge: &Challenge,
        exporter: &[u8; 32],
    ) -> EvidenceRequest {
        let evidence = self.evidence(challenge, exporter);
        EvidenceRequest {
            nonce: challenge.nonce,
            evidence: Bytes::new(evidence.to_bytes()).unwrap(),
            event_log: self.logs().event_log_head(),
            ima: None,
        }
    }

    /// What it hands over.
    pub(in crate::admission) fn logs(&self) -> Logs {
        Logs { event_log: self.log.clone(), ima: None }
    }

    pub(in crate::admission) fn evidence(
        &self,
        challenge: &Challenge,
        exporter: &[u8; 32],
    ) -> Evidence {
        let identity = self.identity.public_key();
        let data = qualifying_data(&Bound {
            nonce: challenge.nonce,
            exporter,
            identity: &identity,
            vote_key: &self.vote.public_key(),
            label: self.label,
            event_log: self.logs().event_log_head().map(|head| head.digest),
        });
        let asked = PcrSelection::from_bits(challenge.pcrs).unwrap();
        let pcrs = self.quotes.unwrap_or(asked);
        let identity_public = public_area(BOUND, &identity);
        let ek_name = Public::parse(&self.ek_public()).unwrap().name();
        let hierarchy = 0x4000_000b_u32.to_be_bytes();
        let ek_qualified = name(&[&hierarchy, ek_name.as_bytes()]);
        let signer = name(&[&ek_qualified, &self.ak_name()]);
        let certified = sized(&name(&[&identity_public]));
        let certification =
            attest(0x8017, &signer, &data, &[certified.clone(), certified].concat());
        let values = vec![[7; 32]; pcrs.count()];
        let [a, b, c] = pcrs.bitmap();
        let selection = vec![0, 0, 0, 1, 0, 0x0b, 3, a, b, c];
        let quoted = [selection, sized(&composite(&values))].concat();
        let quote = attest(0x8018, &signer, &data, &quoted);
        let attester = if self.identity_attests { &self.identity } else { &self.ak };
        Evidence {
            manufacturer: Manufacturer(self.manufacturer),
            ek_public: self.ek_public(),
            ak_public: self.ak_public(),
            identity_public,
            activated: self.activate(challenge),
            certification_signature: sign(attester, &certification),
            certification,
            quote_signature: sign(attester, &quote),
            quote,
            pcrs,
            pcr_values: values,
        }
    }

    /// `TPM2_ActivateCredential` (TPM 2.0 Library, Part 1, 24 and C.6.4).
    fn activate(&self, challenge: &Challenge) -> [u8; 32] {
        let blob = CredentialBlob::from_bytes(&challenge.credential).unwrap();
        if self.keeps_credential_shut {
            return blob.id_object[..32].try_into().unwrap();
        }
        let coordinate = |at: usize| &blob.secret[at + 2..at + 34];
        let (x, y) = (coordinate(0), coordinate(34));
        let point = [&[4], x, y].concat();
        let key = PrivateKey::from_private_key(&ECDH_P256, &self.ek.to_bytes()).unwrap();
        let own = self.ek.public_key().to_uncompressed().unwrap();
        let seed = agreement::agree(&key, UnparsedPublicKey::new(&ECDH_P256, point), (), |z| {
            let parts = [&1u32.to_be_bytes(), z, b"IDENTITY\0", x, &own[1..33]].concat();
            Ok(digest::digest(&digest::SHA256, &parts).as_ref().to_vec())
        });
        let hmac_key = hmac::Key::new(hmac::HMAC_SHA256, &seed.unwrap());
        let (counter, bits) = (1u32.to_be_bytes(), 128u32.to_be_bytes());
        let parts = [&counter, &b"STORAGE\0"[..], &self.ak_name(), &bits].concat();
        let aes = hmac::sign(&hmac_key, &parts);
        let encrypted = &blob.id_object[34..];
        let plain = decrypt(&aes.as_ref()[..16], encrypted);
        plain[2..34].try_into().unwrap()
    }
}

fn decrypt(key: &[u8], encrypted: &[u8]) -> Vec<u8> {
    let key = UnboundCipherKey::new(&AES_128, key).unwrap();
    let context = DecryptionContext::Iv128(FixedLength::from([0; 16]));
    let mut cipher = StreamingDecryptingKey::cfb128(key, context).unwrap();
    let mut out = vec![0; encrypted.len() + 16];
    let written = cipher.update(encrypted, &mut out).unwrap().written().len();
    let rest = cipher.finish(&mut out[written..]).unwrap().written().len();
    out.truncate(written + rest);
    out
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn name(parts: &[&[u8]]) -> Vec<u8> {
    [&[0, 0x0b][..], &sha256(parts).0].concat()
}

/// `TPMT_PUBLIC` of a P-256 key that signs with ECDSA and SHA-256.
fn public_area(attributes: u32, key: &PublicKey) -> Vec<u8> {
    let point = key.to_uncompressed().unwrap();
    [
        [0, 0x23, 0, 0x0b].as_slice(),
        &attributes.to_be_bytes(),
        &[0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10],
        &sized(&point[1..33]),
        &sized(&point[33..]),
    ]
    .concat()
}

fn attest(kind: u16, signer: &[u8], data: &[u8], attested: &[u8]) -> Vec<u8> {
    [
        0xff54_4347_u32.to_be_bytes().as_slice(),
        &kind.to_be_bytes(),
        &sized(signer),
        &sized(data),
        &[0; 16],
        &[1],
        &[0; 8],
        attested,
    ]
    .concat()
}

fn sign(key: &SigningKey, message: &[u8]) -> Vec<u8> {
    let signature = key.sign_digest(&sha256(&[message]));
    let (r, s) = signature.as_bytes().split_at(32);
    [[0, 0x18, 0, 0x0b].as_slice(), &sized(r), &sized(s)].concat()
}
