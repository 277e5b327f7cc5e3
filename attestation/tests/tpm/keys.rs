//! Keys, evidence and counters on a TPM that behaves.

use std::time::{SystemTime, UNIX_EPOCH};

use attestation::activation::{CredentialBlob, make_credential};
use attestation::endorsement::Anchor;
use attestation::evidence::Evidence;
use attestation::pcr::PcrSelection;
use attestation::public::Public;
use attestation::template::EkKind;
use attestation::tpm::{IdentityInfo, Tpm, TpmError};
use attestation::{
    AttestationResult, Challenge, ClaimKind, Logs, Policy, Reason, Status, appraise,
};

use crate::swtpm::{Certificates, Swtpm, authority};

/// The CA of these tests is as old as the build folder.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn demo_policy() -> Policy {
    let (root, intermediate) = authority();
    Policy {
        anchors: vec![Anchor::from_der(&root).unwrap(), Anchor::from_der(&intermediate).unwrap()],
        allow_software_tpm: true,
        pcrs: PcrSelection::FIRMWARE,
        ..Policy::deny_all()
    }
}

pub(crate) fn challenge() -> Challenge {
    Challenge { qualifying_data: [0x51; 32], credential: [0xc3; 32], now: now(), judged: None }
}

pub(crate) fn credential_for(identity: &IdentityInfo, challenge: &Challenge) -> CredentialBlob {
    let ek = Public::parse(&identity.ek_public).unwrap();
    make_credential(&ek, &identity.ak_name, &challenge.credential, &[0xe7; 64]).unwrap()
}

pub(crate) fn evidence(tpm: &Tpm, identity: &IdentityInfo, challenge: &Challenge) -> Evidence {
    let blob = credential_for(identity, challenge);
    tpm.attest(challenge.qualifying_data, PcrSelection::FIRMWARE, blob).unwrap()
}

fn judge(identity: &IdentityInfo, evidence: &Evidence) -> AttestationResult {
    let none = Logs::none();
    appraise(evidence, &identity.endorsements, &none, &[], &demo_policy(), &challenge()).unwrap()
}

fn whole_chain(certificates: Certificates, kind: EkKind) {
    let swtpm = Swtpm::start(certificates);
    let tpm = swtpm.tpm();
    let identity = tpm.create_identity().unwrap();
    assert_eq!(identity.ek_kind, kind);
    assert!(identity.is_software, "{}", identity.manufacturer);
    let evidence = evidence(&tpm, &identity, &challenge());
    let result = judge(&identity, &evidence);
    for claim in result.claims() {
        let expected = match claim.kind {
            ClaimKind::Hardware | ClaimKind::Boot | ClaimKind::Ima => Status::Warning,
            _ => Status::Affirming,
        };
        assert_eq!(claim.status, expected, "{}: {}", claim.kind.as_str(), claim.reason);
    }
    assert!(result.is_accepted());
    assert_eq!(*result.identity(), identity.identity);
    assert_eq!(*result.ek_digest(), identity.ek_digest);
    assert!(result.clock().clock_ms > 0);
    let description = result.tpm().unwrap();
    assert_eq!(description.model, "swtpm");
}

#[test]
fn whole_chain_with_an_rsa_2048_endorsement_key() {
    whole_chain(Certificates::Rsa2048, EkKind::Rsa2048);
}

#[test]
fn whole_chain_with_a_p384_endorsement_key() {
    whole_chain(Certificates::P384, EkKind::P384);
}

#[test]
fn whole_chain_with_a_p256_endorsement_key() {
    whole_chain(Certificates::P256, EkKind::P256);
}

#[test]
fn without_certificate_the_endorsement_key_must_be_pinned() {
    let swtpm = Swtpm::start(Certificates::None);
    let tpm = swtpm.tpm();
    let identity = tpm.create_identity().unwrap();
    assert_eq!(identity.ek_kind, EkKind::P256);
    assert_eq!(identity.endorsements.ek_certificate, None);
    let evidence = evidence(&tpm, &identity, &challenge());
    let result = judge(&identity, &evidence);
    assert!(!result.is_accepted());
    let claim = result.claim(ClaimKind::Endorsement).unwrap();
    assert_eq!((claim.status, &claim.reason), (Status::Contraindicated, &Reason::NoCertificate));

    let mut policy = demo_policy();
    policy.pinned_eks.push(identity.ek_digest);
    let none = Logs::none();
    let result =
        appraise(&evidence, &identity.endorsements, &none, &[], &policy, &challenge()).unwrap();
    assert!(result.is_accepted());
    assert_eq!(result.claim(ClaimKind::Endorsement).unwrap().reason, Reason::Pinned);
}

#[test]
fn evidence_for_another_challenge_is_not_fresh() {
    let swtpm = Swtpm::start(Certificates::P256);
    let tpm = swtpm.tpm();
    let identity = tpm.create_identity().unwrap();
    let mut old = challenge();
    old.qualifying_data = [0x52; 32];
    let evidence = evidence(&tpm, &identity, &old);
    let result = judge(&identity, &evidence);
    assert!(!result.is_accepted());
    assert_eq!(result.claim(ClaimKind::Freshness).unwrap().reason, Reason::QuoteNonce);
}

#[test]
fn a_tampered_quote_is_refused() {
    let swtpm = Swtpm::start(Certificates::P256);
    let tpm = swtpm.tpm();
    let identity = tpm.create_identity().unwrap();
    let good = evidence(&tpm, &identity, &challenge());
    let freshness = |evidence: &Evidence| {
        let result = judge(&identity, evidence);
        assert!(!result.is_accepted());
        result.claim(ClaimKind::Freshness).unwrap().reason.clone()
    };
    let mut digest = good.clone();
    *digest.quote.last_mut().unwrap() ^= 1;
    assert_eq!(freshness(&digest), Reason::QuoteSignature);
    let mut value = good.clone();
    value.pcr_values[3][0] ^= 1;
    assert_eq!(freshness(&value), Reason::PcrDigest);
    let mut fewer = good.clone();
    let some = PcrSelection::new(&[0, 1]).unwrap();
    let quoted = tpm.quote(challenge().qualifying_data, some).unwrap();
    fewer.quote = quoted.attest;
    fewer.quote_signature = quoted.signature;
    fewer.pcrs = some;
    fewer.pcr_values = quoted.values;
    assert_eq!(freshness(&fewer), Reason::PcrSelection);
}

/// The identity key signs whatever software asks, also bytes that look like a quote.
#[test]
fn an_attestation_by_the_identity_key_is_refused() {
    let swtpm = Swtpm::start(Certificates::P256);
    let tpm = swtpm.tpm();
    let identity = tpm.create_identity().unwrap();
    let mut forged = evidence(&tpm, &identity, &challenge());
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &forged.quote);
    let signature = tpm.sign_identity(digest.as_ref().try_into().unwrap()).unwrap();
    forged.quote_signature = [
        [0x00, 0x18, 0x00, 0x0b].as_slice(),
        &[0, 32],
        &signature[..32],
        &[0, 32],
        &signature[32..],
    ]
    .concat();
    let result = judge(&identity, &forged);
    assert_eq!(result.claim(ClaimKind::Freshness).unwrap().reason, Reason::QuoteSignature);
    // Claiming that the identity key is the attestation key does not help: it is unrestricted.
    forged.ak_public.clone_from(&forged.identity_public);
    let result = judge(&identity, &forged);
    for kind in [ClaimKind::AttestationKey, ClaimKind::Residency, ClaimKind::Freshness] {
        assert_eq!(result.claim(kind).unwrap().reason, Reason::AkAttributes);
    }
    assert!(!result.is_accepted());
}

#[test]
fn a_credential_for_another_attestation_key_is_not_opened() {
    let swtpm = Swtpm::start(Certificates::P256);
    let tpm = swtpm.tpm();
    let identity = tpm.create_identity().unwrap();
    let ek = Public::parse(&identity.ek_public).unwrap();
    let other = Public::parse(&identity.identity_public).unwrap().name();
    let blob = make_credential(&ek, &other, &[1; 32], &[2; 64]).unwrap();
    let refused = tpm.activate_credential(blob);
    assert!(matches!(refused, Err(TpmError::ForeignCredential)), "{refused:?}");

    // Nor one for another TPM, or for another kind of endorsement key.
    let other_tpm = Swtpm::start_fresh();
    let stranger = other_tpm.tpm().create_identity().unwrap();
    let blob = credential_for(&stranger, &challenge());
    let refused = tpm.activate_credential(blob);
    assert!(matches!(refused, Err(TpmError::ForeignCredential)), "{refused:?}");
    let rsa = Swtpm::start(Certificates::Rsa2048);
    let rsa_identity = rsa.tpm().create_identity().unwrap();
    let refused = tpm.activate_credential(credential_for(&rsa_identity, &challenge()));
    assert!(matches!(refused, Err(TpmError::ForeignCredential)), "{refused:?}");
    // The TPM is as usable as before.
    let blob = credential_for(&identity, &challenge());
    assert_eq!(tpm.activate_credential(blob).unwrap(), challenge().credential);
}

#[test]
fn an_identity_is_made_once_and_loaded_ever_after() {
    let swtpm = Swtpm::start(Certificates::P384);
    let tpm = swtpm.tpm();
    assert!(matches!(tpm.load_identity(), Err(TpmError::NoIdentity { .. })));
    assert!(matches!(tpm.sign_identity([1; 32]), Err(TpmError::NoIdentity { .. })));
    let made = tpm.create_identity().unwrap();
    assert!(matches!(tpm.create_identity(), Err(TpmError::IdentityExists { .. })));
    drop(tpm);
    let tpm = swtpm.tpm();
    assert!(matches!(tpm.create_identity(), Err(TpmError::IdentityExists { .. })));
    assert_eq!(tpm.load_identity().unwrap(), made);

    let signature = tpm.sign_identity([7; 32]).unwrap();
    let digest = aws_lc_rs::digest::Digest::import_less_safe(&[7; 32], &aws_lc_rs::digest::SHA256);
    let key = Public::parse(&made.identity_public).unwrap().key().sec1().unwrap();
    aws_lc_rs::signature::UnparsedPublicKey::new(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED,
        key,
    )
    .verify_digest(&digest.unwrap(), &signature)
    .unwrap();
}

#[test]
fn secrets_are_sealed_to_this_tpm() {
    let swtpm = Swtpm::start(Certificates::None);
    let tpm = swtpm.tpm();
    for len in [1, 32, 128] {
        let secret: Vec<u8> = (0..len).collect();
        let blob = tpm.seal(&secret).unwrap();
        assert_eq!(*tpm.unseal(&blob).unwrap(), secret);
        let hidden = blob.windows(secret.len()).all(|window| window != secret);
        assert!(hidden || len == 1, "the secret is in the blob");
    }
    let too_long = tpm.seal(&[0; 129]);
    assert!(matches!(too_long, Err(TpmError::SecretTooLong { len: 129, max: 128 })));
    assert!(matches!(tpm.seal(&[]), Err(TpmError::SecretTooLong { len: 0, .. })));

    let blob = tpm.seal(b"vote key").unwrap();
    let mut damaged = blob.clone();
    damaged[60] ^= 1;
    assert!(matches!(tpm.unseal(&damaged), Err(TpmError::Damaged { .. })));
    assert!(matches!(tpm.unseal(b"rubbish"), Err(TpmError::Damaged { .. })));
    let other = Swtpm::start_fresh();
    assert!(matches!(other.tpm().unseal(&blob), Err(TpmError::AnotherTpm)));
    // Attestation needs the slots that sealing used, and the other way round.
    let identity = tpm.create_identity().unwrap();
    evidence(&tpm, &identity, &challenge());
    assert_eq!(tpm.unseal(&blob).unwrap().as_slice(), b"vote key");
    tpm.certify([1; 32]).unwrap();
    tpm.sign_identity([1; 32]).unwrap();
}

#[test]
fn the_start_counter_only_goes_up() {
    let mut swtpm = Swtpm::start(Certificates::None);
    let tpm = swtpm.tpm();
    assert!(matches!(tpm.counter_read(), Err(TpmError::CounterMissing { .. })));
    assert!(matches!(tpm.counter_increment(), Err(TpmError::CounterMissing { .. })));
    let first = tpm.counter_define().unwrap();
    assert_eq!(tpm.counter_define().unwrap(), first, "defining again changes nothing");
    assert_eq!(tpm.counter_read().unwrap(), first);
    assert_eq!(tpm.counter_increment().unwrap(), first + 1);
    assert_eq!(tpm.counter_increment().unwrap(), first + 2);
    swtpm.restart();
    assert_eq!(tpm.counter_read().unwrap(), first + 2, "it survives the TPM's restart");
    drop(tpm);
    let tpm = swtpm.tpm();
    assert_eq!(tpm.counter_increment().unwrap(), first + 3);
    drop(tpm);
    // Undefining and defining again does not set it back.
    swtpm.tool(&["tpm2_nvundefine", "-C", "o", "0x01804757"]);
    let tpm = swtpm.tpm();
    assert!(matches!(tpm.counter_read(), Err(TpmError::CounterMissing { .. })));
    assert!(tpm.counter_define().unwrap() > first + 3);
}

#[test]
fn another_programs_index_is_not_touched() {
    let swtpm = Swtpm::start(Certificates::None);
    let attributes = "ownerread|ownerwrite|authread|authwrite";
    swtpm.tool(&["tpm2_nvdefine", "0x01804757", "-C", "o", "-s", "8", "-a", attributes]);
    let tpm = swtpm.tpm();
    for outcome in [tpm.counter_define(), tpm.counter_increment(), tpm.counter_read()] {
        let error = outcome.unwrap_err();
        assert!(matches!(error, TpmError::CounterForeign { .. }), "{error}");
        assert!(error.to_string().contains("0x01804757"), "{error}");
    }
}

#[test]
fn a_chain_in_nv_comes_along_and_padding_is_cut() {
    let swtpm = Swtpm::start(Certificates::P256);
    let (root, intermediate) = authority();
    // Two certificates over two indices, split in the middle of one, with padding at the end.
    let joined = [intermediate.as_slice(), root.as_slice(), &[0xff; 40]].concat();
    crate::swtpm::define_and_write(&swtpm, 0x01c0_0100, &joined[..1500]);
    crate::swtpm::define_and_write(&swtpm, 0x01c0_0101, &joined[1500..]);
    let tpm = swtpm.tpm();
    let identity = tpm.create_identity().unwrap();
    assert_eq!(identity.endorsements.intermediates, [intermediate, root.clone()]);
    let evidence = evidence(&tpm, &identity, &challenge());
    // The root alone is trusted: the intermediate out of NV closes the path.
    let policy = Policy { anchors: vec![Anchor::from_der(&root).unwrap()], ..demo_policy() };
    let none = Logs::none();
    let result =
        appraise(&evidence, &identity.endorsements, &none, &[], &policy, &challenge()).unwrap();
    assert!(result.is_accepted(), "{:?}", result.claims());
}

#[test]
fn more_registers_than_one_read_gives_are_quoted() {
    let swtpm = Swtpm::start(Certificates::None);
    let tpm = swtpm.tpm();
    tpm.create_identity().unwrap();
    let all: Vec<u8> = (0..24).collect();
    let quoted = tpm.quote([1; 32], PcrSelection::new(&all).unwrap()).unwrap();
    assert_eq!(quoted.values.len(), 24);
    assert_eq!(quoted.values[17], [0xff; 32], "the D-RTM registers start at all ones");
    let info = tpm.info().unwrap();
    assert!(info.is_software && info.certified.is_empty() && info.firmware_version > 0);
}

/// Such devices exist: the certificate in NV is for another key than the template makes.
#[test]
fn a_certificate_for_another_key_endorses_nothing() {
    let chip = Swtpm::start(Certificates::P256);
    let certificate = chip.tpm().create_identity().unwrap().endorsements.ek_certificate.unwrap();
    let swtpm = Swtpm::start_fresh();
    crate::swtpm::install(&swtpm, EkKind::P256, &certificate);
    let tpm = swtpm.tpm();
    assert_eq!(tpm.info().unwrap().certified, [EkKind::P256]);
    let identity = tpm.create_identity().unwrap();
    let evidence = evidence(&tpm, &identity, &challenge());
    let result = judge(&identity, &evidence);
    assert!(!result.is_accepted());
    let claim = result.claim(ClaimKind::Endorsement).unwrap();
    assert_eq!(claim.reason, Reason::CertifiedKeyDiffers);
}
