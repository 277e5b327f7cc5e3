//! The vectors of `testdata`: what they are, and what must hold for every set of them. Shared by
//! the tests of the verifier, which read them, and the test that makes them with a software TPM.
//!
//! A folder holds the answer of one TPM to one challenge: `evidence.bin` (wire form), `ek.der`
//! (its certificate), `credential.bin` (the challenge as it was sent, opened by that TPM); beside
//! the folders are `root.der`, `intermediate.der` and `now.txt` (Unix seconds).

use std::fs;
use std::path::Path;

use attestation::activation::{CredentialBlob, make_credential};
use attestation::endorsement::Anchor;
use attestation::evidence::{Endorsements, Evidence};
use attestation::pcr::PcrSelection;
use attestation::public::Public;
use attestation::template::EkKind;
use attestation::{AttestationResult, Challenge, ClaimKind, Logs, Policy, Status, appraise};

/// What the verifier asked for.
pub(crate) const QUALIFYING_DATA: [u8; 32] = [0x51; 32];
/// The secret inside the credential.
pub(crate) const CREDENTIAL: [u8; 32] = [0xc3; 32];
/// The entropy that the credential was made with.
pub(crate) const ENTROPY: [u8; 64] = [0xe7; 64];

/// The sets of vectors.
pub(crate) const SETS: [(&str, EkKind); 3] =
    [("rsa2048", EkKind::Rsa2048), ("p256", EkKind::P256), ("p384", EkKind::P384)];

/// One set, with a policy that accepts it.
#[derive(Clone)]
pub(crate) struct Vectors {
    pub(crate) evidence: Evidence,
    pub(crate) endorsements: Endorsements,
    pub(crate) credential: CredentialBlob,
    pub(crate) policy: Policy,
    pub(crate) challenge: Challenge,
}

impl Vectors {
    pub(crate) fn read(testdata: &Path, set: &str) -> Self {
        let bytes = |name: &str| fs::read(testdata.join(name)).unwrap();
        let in_set = |name: &str| bytes(&format!("{set}/{name}"));
        let now = String::from_utf8(bytes("now.txt")).unwrap();
        Self {
            evidence: Evidence::from_bytes(&in_set("evidence.bin")).unwrap(),
            endorsements: Endorsements {
                ek_certificate: Some(in_set("ek.der")),
                intermediates: vec![bytes("intermediate.der")],
            },
            credential: CredentialBlob::from_bytes(&in_set("credential.bin")).unwrap(),
            policy: Policy {
                anchors: vec![Anchor::from_der(&bytes("root.der")).unwrap()],
                allow_software_tpm: true,
                pcrs: PcrSelection::FIRMWARE,
                ..Policy::deny_all()
            },
            challenge: Challenge {
                qualifying_data: QUALIFYING_DATA,
                credential: CREDENTIAL,
                now: now.trim().parse().unwrap(),
                judged: None,
            },
        }
    }

    pub(crate) fn appraise(&self) -> AttestationResult {
        let none = Logs::none();
        let (policy, challenge) = (&self.policy, &self.challenge);
        appraise(&self.evidence, &self.endorsements, &none, &[], policy, challenge).unwrap()
    }

    /// What must hold for every set.
    pub(crate) fn check(&self, kind: EkKind) {
        let ek = Public::parse(&self.evidence.ek_public).unwrap();
        assert_eq!(EkKind::of(&ek), Some(kind));
        assert_eq!(kind.public_area(ek.key()), self.evidence.ek_public, "the template is exact");
        let result = self.appraise();
        for claim in result.claims() {
            let expected = match claim.kind {
                ClaimKind::Hardware | ClaimKind::Boot | ClaimKind::Ima => Status::Warning,
                _ => Status::Affirming,
            };
            assert_eq!(claim.status, expected, "{}: {}", claim.kind.as_str(), claim.reason);
        }
        assert!(result.is_accepted());
        let ak_name = Public::parse(&self.evidence.ak_public).unwrap().name();
        let made = make_credential(&ek, &ak_name, &CREDENTIAL, &ENTROPY).unwrap();
        if kind == EkKind::Rsa2048 {
            // The padding of OAEP is random, the rest follows from the entropy.
            assert_eq!(made.id_object, self.credential.id_object);
            assert_eq!(made.secret.len(), self.credential.secret.len());
        } else {
            assert_eq!(made, self.credential);
        }
    }
}
