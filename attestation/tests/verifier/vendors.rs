//! Certificates of real TPMs and their vendors: padding, critical policies, empty subjects, and
//! encodings that are not quite DER.

use attestation::endorsement::{Anchor, Certificate, PathError, certified_ek, trim_der, validate};
use attestation::template::EkKind;

/// 2026-11-23: before these endorsement certificates expire.
const NOW: u64 = 1_795_392_000;

fn vendor(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/vendors/");
    std::fs::read(format!("{folder}{name}")).unwrap()
}

fn certificate(name: &str) -> Certificate {
    Certificate::parse(trim_der(&vendor(name)).unwrap()).unwrap()
}

fn check_st(ek: &str, intermediate: &str, root: &str, kind: EkKind) {
    let leaf = certificate(ek);
    let anchors = [Anchor::from_der(&vendor(root)).unwrap()];
    let pool = [certificate(intermediate)];
    validate(&leaf, &pool, &anchors, NOW).unwrap();
    assert_eq!(EkKind::of(&certified_ek(&leaf).unwrap()), Some(kind));
    let description = leaf.description();
    assert_eq!(description.manufacturer.unwrap().to_string(), "STM");
    assert!(!description.manufacturer.unwrap().is_software());
    assert_eq!((&*description.model, &*description.version), ("ST33HTPHAHB4", "id:00490004"));
    // Ten years after its making it is refused, and without the intermediate too.
    let later = validate(&leaf, &pool, &anchors, NOW + 5 * 365 * 86_400).unwrap_err();
    assert!(matches!(later, PathError::Expired { .. }), "{later}");
    let alone = validate(&leaf, &[], &anchors, NOW).unwrap_err();
    assert!(matches!(alone, PathError::NoPath { .. }), "{alone}");
}

#[test]
fn chips_of_stmicroelectronics_are_endorsed() {
    let (intermediate, root) = ("st-rsa-intermediate-05.der", "st-rsa-root.der");
    check_st("st-rsa-ek-padded.der", intermediate, root, EkKind::Rsa2048);
    let (intermediate, root) = ("st-ecc-intermediate-01.der", "st-ecc-root-01.der");
    check_st("st-ecc-ek.der", intermediate, root, EkKind::P256);
}

#[test]
fn a_certificate_that_is_not_quite_der_may_be_an_anchor() {
    let root = Anchor::from_der(&vendor("nuvoton-root-2110.der")).unwrap();
    let subject = root.certificate().subject();
    assert!(subject.contains("Nuvoton TPM Root CA 2110"), "{subject}");
    // It endorses chips; it is none.
    let refused = validate(root.certificate(), &[], std::slice::from_ref(&root), NOW).unwrap_err();
    assert_eq!(refused, PathError::EkIsAuthority);
}

#[test]
fn an_intermediate_with_critical_purpose_and_policies_parses() {
    let intel = certificate("intel-intermediate.der");
    assert!(intel.subject().contains("TPM EK intermediate for SPTH_EPID_PROD"));
    // It may be an anchor itself; its own root is not asked for.
    Anchor::from_der(&vendor("intel-intermediate.der")).unwrap();
}
