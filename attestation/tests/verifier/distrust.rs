//! Distrust is a result: each way to be distrusted, with the claim that says so.

use attestation::attest::Attest;
use attestation::evidence::Evidence;
use attestation::pcr::PcrSelection;
use attestation::public::Attributes;
use attestation::{ClaimKind, Policy, Reason, Status};

use crate::forge::Forge;
use crate::stored;
use crate::vectors::Vectors;

/// The stored P-256 vectors with other evidence, and its EK pinned.
fn with_evidence(evidence: Evidence) -> Vectors {
    let mut vectors = stored("p256");
    vectors.policy.pinned_eks.push(vectors.appraise().ek_digest().to_owned());
    vectors.policy.allow_software_tpm = false;
    vectors.endorsements.ek_certificate = None;
    vectors.evidence = evidence;
    vectors
}

fn assert_distrust(what: &str, vectors: &Vectors, kind: ClaimKind, reason: &Reason) {
    let result = vectors.appraise();
    let claim = result.claim(kind).unwrap();
    assert_eq!((claim.status, &claim.reason), (Status::Contraindicated, reason), "{what}");
    assert!(!result.is_accepted(), "{what}");
    assert!(!claim.reason.to_string().is_empty());
}

#[test]
fn a_forger_who_has_everything_but_the_chip_is_stopped_by_the_credential_alone() {
    let vectors = with_evidence(Forge::default().evidence());
    assert!(vectors.appraise().is_accepted(), "the forge makes evidence that passes every check");
    let mut vectors = vectors;
    vectors.evidence.activated = [0; 32];
    let what = "no TPM opened it";
    assert_distrust(what, &vectors, ClaimKind::AttestationKey, &Reason::Credential);
}

/// What is forged, how, and what is said of it.
type ForgeCase = (&'static str, Forge, Vec<(ClaimKind, Reason)>);

#[test]
fn keys_with_wrong_attributes_are_named() {
    use ClaimKind::{AttestationKey, Residency};
    let good = Forge::default();
    let (ak, identity) = (good.ak_attributes, good.identity_attributes);
    let ak_with = |ak_attributes| Forge { ak_attributes, ..Forge::default() };
    let identity_with = |identity_attributes| Forge { identity_attributes, ..Forge::default() };
    let ak_attributes = [(AttestationKey, Reason::AkAttributes), (Residency, Reason::AkAttributes)];
    let identity_attributes = [(Residency, Reason::IdentityAttributes)];
    let mut cases: Vec<ForgeCase> = Vec::new();
    for (what, missing) in [
        ("unrestricted", Attributes::RESTRICTED),
        ("may leave", Attributes::FIXED_TPM),
        ("may be moved", Attributes::FIXED_PARENT),
        ("imported", Attributes::SENSITIVE_DATA_ORIGIN),
        ("does not sign", Attributes::SIGN),
    ] {
        cases.push((what, ak_with(ak & !missing), ak_attributes.to_vec()));
        if missing != Attributes::RESTRICTED {
            cases.push((what, identity_with(identity & !missing), identity_attributes.to_vec()));
        }
    }
    for (what, added) in
        [("decrypts", Attributes::DECRYPT), ("duplicates", Attributes::ENCRYPTED_DUPLICATION)]
    {
        cases.push((what, ak_with(ak | added), ak_attributes.to_vec()));
        cases.push((what, identity_with(identity | added), identity_attributes.to_vec()));
    }
    for (what, added) in
        [("restricted", Attributes::RESTRICTED), ("volatile", Attributes::ST_CLEAR)]
    {
        cases.push((what, identity_with(identity | added), identity_attributes.to_vec()));
    }
    for (what, forge, expected) in cases {
        let vectors = with_evidence(forge.evidence());
        for (kind, reason) in expected {
            assert_distrust(what, &vectors, kind, &reason);
        }
    }
}

#[test]
fn evidence_about_something_else_is_named() {
    use ClaimKind::{AttestationKey, Freshness, Residency};
    let cases: [ForgeCase; 8] = [
        (
            "AK with SHA-384",
            Forge { ak_hash: 0x0c, ..Forge::default() },
            vec![(AttestationKey, Reason::AkScheme), (Freshness, Reason::AkScheme)],
        ),
        (
            "identity with SHA-384",
            Forge { identity_hash: 0x0c, ..Forge::default() },
            vec![(Residency, Reason::IdentityScheme)],
        ),
        (
            "AK under the owner hierarchy",
            Forge { hierarchy: 0x4000_0001, ..Forge::default() },
            vec![(AttestationKey, Reason::QualifiedSigner)],
        ),
        (
            "quote for another",
            Forge { quote_data: vec![1; 32], ..Forge::default() },
            vec![(Freshness, Reason::QuoteNonce)],
        ),
        (
            "quote for nobody",
            Forge { quote_data: Vec::new(), ..Forge::default() },
            vec![(Freshness, Reason::QuoteNonce)],
        ),
        (
            "certification for another",
            Forge { certification_data: vec![1; 32], ..Forge::default() },
            vec![(Freshness, Reason::CertificationNonce)],
        ),
        (
            "another key certified",
            Forge { certified_name: Some(vec![0x0b; 34]), ..Forge::default() },
            vec![(Residency, Reason::CertifiedName)],
        ),
        (
            "other registers",
            Forge { pcrs: PcrSelection::new(&[0, 1]).unwrap(), ..Forge::default() },
            vec![(Freshness, Reason::PcrSelection)],
        ),
    ];
    for (what, forge, expected) in cases {
        let vectors = with_evidence(forge.evidence());
        for (kind, reason) in expected {
            assert_distrust(what, &vectors, kind, &reason);
        }
    }
}

/// What is quoted must be exactly the asked registers of the SHA-256 bank.
#[test]
fn selections_that_are_not_what_was_asked_are_refused() {
    for (what, selection) in [
        ("the SHA-1 bank", vec![0, 0, 0, 1, 0, 4, 3, 0xff, 0, 0]),
        ("nothing", vec![0, 0, 0, 1, 0, 0x0b, 3, 0, 0, 0]),
        ("no bank", vec![0, 0, 0, 0]),
        ("two banks", vec![0, 0, 0, 2, 0, 4, 3, 1, 0, 0, 0, 0x0b, 3, 0xff, 0, 0]),
        ("one register more", vec![0, 0, 0, 1, 0, 0x0b, 3, 0xff, 1, 0]),
        ("a register that does not exist", vec![0, 0, 0, 1, 0, 0x0b, 4, 0xff, 0, 0, 1]),
    ] {
        let forge = Forge { selection: Some(selection), ..Forge::default() };
        let vectors = with_evidence(forge.evidence());
        assert_distrust(what, &vectors, ClaimKind::Freshness, &Reason::PcrSelection);
    }
}

type Change = fn(&mut Vectors);

fn assert_changes(cases: &[(&str, Change, ClaimKind, Reason)]) {
    for (what, change, kind, reason) in cases {
        let mut vectors = stored("p256");
        change(&mut vectors);
        assert_distrust(what, &vectors, *kind, reason);
    }
}

#[test]
fn changed_attestations_are_distrusted() {
    assert_changes(&[
        (
            "quote and certification exchanged",
            |vectors| {
                let evidence = &mut vectors.evidence;
                std::mem::swap(&mut evidence.quote, &mut evidence.certification);
            },
            ClaimKind::Freshness,
            Reason::NotAQuote,
        ),
        (
            "quote in place of the certification",
            |vectors| vectors.evidence.certification.clone_from(&vectors.evidence.quote),
            ClaimKind::Residency,
            Reason::NotACertification,
        ),
        (
            "bit of the quote",
            |vectors| *vectors.evidence.quote.last_mut().unwrap() ^= 1,
            ClaimKind::Freshness,
            Reason::QuoteSignature,
        ),
        (
            "bit of the certification",
            |vectors| *vectors.evidence.certification.last_mut().unwrap() ^= 1,
            ClaimKind::Residency,
            Reason::CertificationSignature,
        ),
        (
            "bit of a signature",
            |vectors| vectors.evidence.quote_signature[20] ^= 1,
            ClaimKind::Freshness,
            Reason::QuoteSignature,
        ),
        (
            "register value",
            |vectors| vectors.evidence.pcr_values[0] = [1; 32],
            ClaimKind::Freshness,
            Reason::PcrDigest,
        ),
        (
            "register value missing",
            |vectors| vectors.evidence.pcr_values.truncate(7),
            ClaimKind::Freshness,
            Reason::PcrSelection,
        ),
    ]);
}

#[test]
fn exchanged_keys_are_distrusted() {
    assert_changes(&[
        (
            "another identity",
            |vectors| vectors.evidence.identity_public = stored("p384").evidence.identity_public,
            ClaimKind::Residency,
            Reason::CertifiedName,
        ),
        (
            "another TPM's EK",
            |vectors| vectors.evidence.ek_public = stored("p384").evidence.ek_public,
            ClaimKind::AttestationKey,
            Reason::QualifiedSigner,
        ),
        (
            "an EK that may sign",
            |vectors| vectors.evidence.ek_public[5] |= 0x04,
            ClaimKind::Endorsement,
            Reason::EkTemplate,
        ),
        (
            "certificate of another EK",
            |vectors| vectors.endorsements = stored("p384").endorsements,
            ClaimKind::Endorsement,
            Reason::CertifiedKeyDiffers,
        ),
    ]);
}

#[test]
fn a_software_tpm_is_refused_unless_the_site_says_otherwise() {
    for set in ["rsa2048", "p256", "p384"] {
        let mut vectors = stored(set);
        vectors.policy.allow_software_tpm = false;
        let result = vectors.appraise();
        let claim = result.claim(ClaimKind::Hardware).unwrap();
        assert_eq!(claim.status, Status::Contraindicated);
        assert!(!result.is_accepted());
        // A lie about the maker does not help while the certificate knows better.
        vectors.evidence.manufacturer = Forge::default().evidence().manufacturer;
        let result = vectors.appraise();
        let claim = result.claim(ClaimKind::Hardware).unwrap();
        assert_eq!(claim.status, Status::Contraindicated, "{}", claim.reason);
    }
}

#[test]
fn the_empty_policy_trusts_nothing() {
    let mut vectors = stored("p256");
    vectors.policy = Policy::deny_all();
    let result = vectors.appraise();
    assert!(!result.is_accepted());
    assert_eq!(result.claims().len(), ClaimKind::ALL.len());
    vectors.policy.allow_software_tpm = true;
    assert!(!vectors.appraise().is_accepted(), "no anchor, no trust");
}

#[test]
fn the_boot_is_said_not_to_be_measured() {
    let result = stored("p256").appraise();
    let claim = result.claim(ClaimKind::Boot).unwrap();
    assert_eq!((claim.status, &claim.reason), (Status::Warning, &Reason::BootNotMeasured));
    assert!(claim.reason.to_string().contains("not measured"));
    let quote = Attest::parse(&stored("p256").evidence.quote).unwrap();
    assert_eq!(result.clock(), quote.clock());
    assert_eq!(result.firmware_version(), quote.firmware_version());
}
