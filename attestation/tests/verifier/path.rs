//! Certificate paths: those that hold, and one test row for each thing that may be wrong.

use attestation::endorsement::{
    Anchor, Certificate, CertificateError, MAX_INTERMEDIATES, PathError, certified_ek, validate,
};
use attestation::template::EkKind;

use crate::authority::{
    Algorithm, BASIC_CONSTRAINTS, CERTIFICATE_POLICIES, EXTENDED_KEY_USAGE, KEY_USAGE, Key,
    NAME_CONSTRAINTS, NOW, Request, any_purpose, constraints, ek_purpose, server_purpose,
};

/// Root, intermediate and EK, each with a key of its own.
struct Keys {
    root: Key,
    intermediate: Key,
    ek: Key,
}

impl Keys {
    fn new() -> Self {
        Self { root: Key::p256(), intermediate: Key::p384(), ek: Key::p256() }
    }

    fn root(&self) -> Request<'_> {
        Request::authority("Root", "Root", &self.root, &self.root)
    }

    fn intermediate(&self) -> Request<'_> {
        Request::authority("Intermediate", "Root", &self.intermediate, &self.root)
    }

    fn ek(&self) -> Request<'_> {
        Request::ek("Intermediate", &self.ek, &self.intermediate)
    }
}

fn check_at(
    leaf: &Request<'_>,
    pool: &[&Request<'_>],
    anchors: &[&Request<'_>],
    now: u64,
) -> Result<String, PathError> {
    let parse = |request: &Request<'_>| Certificate::parse(&request.issue()).unwrap();
    let pool: Vec<Certificate> = pool.iter().map(|request| parse(request)).collect();
    let anchors: Vec<Anchor> =
        anchors.iter().map(|request| Anchor::from_der(&request.issue()).unwrap()).collect();
    validate(&parse(leaf), &pool, &anchors, now).map(|anchor| anchor.certificate().subject())
}

fn check(
    leaf: &Request<'_>,
    pool: &[&Request<'_>],
    anchors: &[&Request<'_>],
) -> Result<String, PathError> {
    check_at(leaf, pool, anchors, NOW)
}

fn subject(name: &str) -> String {
    format!("CN={name}")
}

#[test]
fn good_paths_hold() {
    let keys = Keys::new();
    let (root, intermediate, ek) = (keys.root(), keys.intermediate(), keys.ek());
    assert_eq!(check(&ek, &[&intermediate], &[&root]), Ok(subject("Root")));
    // The intermediate may be an anchor itself, and then nothing above it matters.
    assert_eq!(check(&ek, &[], &[&intermediate]), Ok(subject("Intermediate")));
    // Certificates of no concern in the pool do not disturb.
    let other = Key::p256();
    let unrelated = Request::authority("Unrelated", "Unrelated", &other, &other);
    assert_eq!(check(&ek, &[&unrelated, &root, &intermediate], &[&root]), Ok(subject("Root")));
    // The first and the last second of validity count.
    for now in [NOW - 1000, NOW + 1000] {
        assert_eq!(check_at(&ek, &[&intermediate], &[&root], now), Ok(subject("Root")));
    }
    let certificate = Certificate::parse(&ek.issue()).unwrap();
    assert_eq!(EkKind::of(&certified_ek(&certificate).unwrap()), Some(EkKind::P256));
}

#[test]
fn what_vendors_put_into_their_certificates_is_accepted() {
    let keys = Keys::new();
    let (root, ek) = (keys.root(), keys.ek());
    let any_policy = vec![0x30, 8, 0x30, 6, 6, 4, 0x55, 0x1d, 0x20, 0];
    for intermediate in [
        keys.intermediate().with(CERTIFICATE_POLICIES, true, any_policy.clone()),
        keys.intermediate().with(EXTENDED_KEY_USAGE, true, ek_purpose()),
        keys.intermediate().with(EXTENDED_KEY_USAGE, false, any_purpose()),
        keys.intermediate().with(NAME_CONSTRAINTS, false, vec![0x30, 0]),
        keys.intermediate().with(BASIC_CONSTRAINTS, true, constraints(true, Some(0))),
        keys.intermediate().without(KEY_USAGE),
    ] {
        assert_eq!(check(&ek, &[&intermediate], &[&root]), Ok(subject("Root")));
    }
    // An empty subject is normal for an EK; the purpose may be critical.
    let mut nameless = keys.ek().with(EXTENDED_KEY_USAGE, true, ek_purpose());
    nameless.subject = "";
    assert_eq!(check(&nameless, &[&keys.intermediate()], &[&root]), Ok(subject("Root")));
    // Old roots are version 1, without any extension.
    let mut old_root = keys.root();
    old_root.version_1 = true;
    assert_eq!(check(&ek, &[&keys.intermediate()], &[&old_root]), Ok(subject("Root")));
}

#[test]
fn each_signature_algorithm_that_is_accepted_works() {
    let (rsa, ek) = (Key::rsa(), Key::p256());
    let root = Request::authority("Root", "Root", &rsa, &rsa);
    for algorithm in
        [256, 384, 512].into_iter().flat_map(|bits| [Algorithm::Pkcs1(bits), Algorithm::Pss(bits)])
    {
        let leaf = Request { algorithm: Some(algorithm), ..Request::ek("Root", &ek, &rsa) };
        assert_eq!(check(&leaf, &[], &[&root]), Ok(subject("Root")), "{algorithm:?}");
    }
    for key in [Key::p256(), Key::p384()] {
        let root = Request::authority("Root", "Root", &key, &key);
        assert!(check(&Request::ek("Root", &ek, &key), &[], &[&root]).is_ok());
    }
}

#[test]
fn algorithms_that_are_not_accepted_are_named() {
    let (rsa, p256, ek) = (Key::rsa(), Key::p256(), Key::p256());
    for (key, algorithm) in [
        (&rsa, Algorithm::Sha1WithRsa),
        (&rsa, Algorithm::PssDefaults),
        (&rsa, Algorithm::EcdsaSha256),
        (&p256, Algorithm::EcdsaSha1),
        (&p256, Algorithm::Pkcs1(256)),
    ] {
        let root = Request::authority("Root", "Root", key, key);
        let leaf = Request { algorithm: Some(algorithm), ..Request::ek("Root", &ek, key) };
        let error = check(&leaf, &[], &[&root]).unwrap_err();
        let named = matches!(error, PathError::SignatureAlgorithm { .. });
        assert!(named, "{algorithm:?}: {error}");
    }
}

#[test]
fn without_an_anchor_the_missing_issuer_is_named() {
    let keys = Keys::new();
    let (root, intermediate, ek) = (keys.root(), keys.intermediate(), keys.ek());
    let missing = |issuer: &str| Err(PathError::NoPath { issuer: subject(issuer) });
    assert_eq!(check(&ek, &[], &[&root]), missing("Intermediate"));
    assert_eq!(check(&ek, &[&intermediate], &[]), missing("Root"));
    // A root in the stranger's own pool is no anchor.
    assert_eq!(check(&ek, &[&intermediate, &root], &[]), missing("Root"));
}

/// What is wrong, EK, intermediate, root, what is said.
type Case<'a> = (&'a str, Request<'a>, Request<'a>, Request<'a>, PathError);

fn assert_defects(cases: Vec<Case<'_>>) {
    for (what, ek, intermediate, root, expected) in cases {
        assert_eq!(check(&ek, &[&intermediate], &[&root]), Err(expected), "{what}");
    }
}

fn past(mut request: Request<'_>) -> Request<'_> {
    request.not_after = NOW - 1;
    request
}

fn future(mut request: Request<'_>) -> Request<'_> {
    request.not_before = NOW + 1;
    request
}

fn signed_by<'a>(key: &'a Key, mut request: Request<'a>) -> Request<'a> {
    request.signer = key;
    request
}

#[test]
fn certificates_out_of_their_time_are_named() {
    let keys = Keys::new();
    let (root, inter, ek) = (|| keys.root(), || keys.intermediate(), || keys.ek());
    let expired = |name: &str| PathError::Expired { subject: subject(name) };
    let early = |name: &str| PathError::NotYetValid { subject: subject(name) };
    assert_defects(vec![
        ("EK expired", past(ek()), inter(), root(), expired("EK")),
        ("intermediate expired", ek(), past(inter()), root(), expired("Intermediate")),
        ("anchor expired", ek(), inter(), past(root()), expired("Root")),
        ("EK of tomorrow", future(ek()), inter(), root(), early("EK")),
        ("intermediate of tomorrow", ek(), future(inter()), root(), early("Intermediate")),
        ("anchor of tomorrow", ek(), inter(), future(root()), early("Root")),
    ]);
}

#[test]
fn forged_signatures_are_named() {
    let (keys, other) = (Keys::new(), Key::p256());
    let (root, inter, ek) = (|| keys.root(), || keys.intermediate(), || keys.ek());
    let forged = |name: &str| PathError::Signature { subject: subject(name) };
    assert_defects(vec![
        ("EK", signed_by(&other, ek()), inter(), root(), forged("EK")),
        ("intermediate", ek(), signed_by(&other, inter()), root(), forged("Intermediate")),
    ]);
    // An anchor needs no signature: the operator chose it.
    let anchor = signed_by(&other, root());
    assert_eq!(check(&ek(), &[&inter()], &[&anchor]), Ok(subject("Root")));
}

#[test]
fn certificates_for_another_purpose_are_named() {
    let keys = Keys::new();
    let (root, inter, ek) = (|| keys.root(), || keys.intermediate(), || keys.ek());
    let purpose = |name: &str| PathError::KeyPurpose { subject: subject(name) };
    let authority = constraints(true, None);
    assert_defects(vec![
        ("no purpose", ek().without(EXTENDED_KEY_USAGE), inter(), root(), purpose("EK")),
        (
            "EK for web servers",
            ek().with(EXTENDED_KEY_USAGE, false, server_purpose()),
            inter(),
            root(),
            purpose("EK"),
        ),
        (
            "EK for anything",
            ek().with(EXTENDED_KEY_USAGE, false, any_purpose()),
            inter(),
            root(),
            purpose("EK"),
        ),
        (
            "authority for web servers",
            ek(),
            inter().with(EXTENDED_KEY_USAGE, false, server_purpose()),
            root(),
            purpose("Intermediate"),
        ),
        (
            "EK that is an authority",
            ek().with(BASIC_CONSTRAINTS, true, authority),
            inter(),
            root(),
            PathError::EkIsAuthority,
        ),
    ]);
}

#[test]
fn issuers_that_may_not_issue_are_named() {
    let keys = Keys::new();
    let (root, inter, ek) = (|| keys.root(), || keys.intermediate(), || keys.ek());
    let not_authority = |name: &str| PathError::NotAnAuthority { subject: subject(name) };
    assert_defects(vec![
        (
            "not an authority",
            ek(),
            inter().with(BASIC_CONSTRAINTS, true, constraints(false, None)),
            root(),
            not_authority("Intermediate"),
        ),
        (
            "nothing says authority",
            ek(),
            inter().without(BASIC_CONSTRAINTS),
            root(),
            not_authority("Intermediate"),
        ),
        (
            "may not sign certificates",
            ek(),
            inter().with(KEY_USAGE, true, vec![3, 2, 7, 0x80]),
            root(),
            not_authority("Intermediate"),
        ),
        (
            "anchor that is no authority",
            ek(),
            inter(),
            root().without(BASIC_CONSTRAINTS),
            not_authority("Root"),
        ),
        (
            "path longer than the root allows",
            ek(),
            inter(),
            root().with(BASIC_CONSTRAINTS, true, constraints(true, Some(0))),
            PathError::PathLength { subject: subject("Root") },
        ),
    ]);
}

#[test]
fn unknown_critical_extensions_are_named() {
    let keys = Keys::new();
    let (root, inter, ek) = (|| keys.root(), || keys.intermediate(), || keys.ek());
    let empty = || vec![0x30, 0];
    let critical = |name: &str| PathError::CriticalExtension {
        subject: subject(name),
        oid: "2.5.29.30".parse().unwrap(),
    };
    assert_defects(vec![
        ("EK", ek().with(NAME_CONSTRAINTS, true, empty()), inter(), root(), critical("EK")),
        (
            "intermediate",
            ek(),
            inter().with(NAME_CONSTRAINTS, true, empty()),
            root(),
            critical("Intermediate"),
        ),
        ("anchor", ek(), inter(), root().with(NAME_CONSTRAINTS, true, empty()), critical("Root")),
    ]);
}

#[test]
fn a_version_1_certificate_cannot_issue_unless_it_is_an_anchor() {
    let keys = Keys::new();
    let mut intermediate = keys.intermediate();
    intermediate.version_1 = true;
    let error = check(&keys.ek(), &[&intermediate], &[&keys.root()]).unwrap_err();
    assert_eq!(error, PathError::NotAnAuthority { subject: subject("Intermediate") });
}

#[test]
fn cross_signed_authorities_are_followed_and_circles_end() {
    let keys = Keys::new();
    let (a, b) = (Key::p256(), Key::p256());
    let a_by_b = Request::authority("A", "B", &a, &b);
    let b_by_a = Request::authority("B", "A", &b, &a);
    let a_by_root = Request::authority("A", "Root", &a, &keys.root);
    let leaf = Request::ek("A", &keys.ek, &a);
    let error = check(&leaf, &[&a_by_b, &b_by_a], &[&keys.root()]).unwrap_err();
    assert!(matches!(error, PathError::NoPath { .. }), "{error}");
    let found = check(&leaf, &[&a_by_b, &b_by_a, &a_by_root], &[&keys.root()]);
    assert_eq!(found, Ok(subject("Root")));
}

/// A stranger's pool in which everybody issued everybody must not cost more than a few signature
/// checks.
#[test]
fn an_entangled_pool_is_given_up() {
    let (key, ek) = (Key::p256(), Key::p256());
    let tangle: Vec<Request<'_>> =
        (0..MAX_INTERMEDIATES).map(|_| Request::authority("X", "X", &key, &key)).collect();
    let pool: Vec<&Request<'_>> = tangle.iter().collect();
    let leaf = Request::ek("X", &ek, &key);
    assert_eq!(check(&leaf, &pool, &[]), Err(PathError::TooLong));
    let one_more = [pool, vec![&leaf]].concat();
    assert_eq!(check(&leaf, &one_more, &[]), Err(PathError::TooLong));
}

#[test]
fn malformed_certificates_are_errors() {
    let keys = Keys::new();
    let good = keys.ek().issue();
    for len in 0..good.len() {
        assert!(Certificate::parse(&good[..len]).is_err(), "cut at {len}");
    }
    let trailing = [good.as_slice(), &[0]].concat();
    assert!(matches!(Certificate::parse(&trailing), Err(CertificateError::Malformed { .. })));
    let long = vec![0x30; 4097];
    assert!(matches!(Certificate::parse(&long), Err(CertificateError::TooLong { len: 4097 })));

    let mut twice = keys.ek();
    twice.extensions.push((EXTENDED_KEY_USAGE, false, ek_purpose()));
    let error = Certificate::parse(&twice.issue()).unwrap_err();
    assert!(matches!(error, CertificateError::Extensions { .. }), "{error}");

    let mut two = keys.ek();
    two.outer_algorithm = Some(Algorithm::EcdsaSha256);
    let error = Certificate::parse(&two.issue()).unwrap_err();
    assert_eq!(error, CertificateError::SignatureAlgorithms);
}
