//! Malformed evidence is an error that names the part and the field; and no bytes make a parser
//! panic.

use attestation::evidence::{Endorsements, Evidence};
use attestation::verifier::EvidenceError;
use attestation::{Logs, ParseError, appraise, fuzz};

use crate::stored;
use crate::vectors::{SETS, Vectors};

fn error_of(vectors: &Vectors) -> EvidenceError {
    let none = Logs::none();
    let (policy, challenge) = (&vectors.policy, &vectors.challenge);
    appraise(&vectors.evidence, &vectors.endorsements, &none, &[], policy, challenge).unwrap_err()
}

type Field = fn(&mut Evidence) -> &mut Vec<u8>;

const PARTS: [(&str, Field); 7] = [
    ("endorsement key", |evidence| &mut evidence.ek_public),
    ("attestation key", |evidence| &mut evidence.ak_public),
    ("identity key", |evidence| &mut evidence.identity_public),
    ("certification", |evidence| &mut evidence.certification),
    ("certification signature", |evidence| &mut evidence.certification_signature),
    ("quote", |evidence| &mut evidence.quote),
    ("quote signature", |evidence| &mut evidence.quote_signature),
];

#[test]
fn every_cut_and_every_trailing_byte_is_named_with_its_part() {
    for (set, _) in SETS {
        let good = stored(set);
        for (name, field) in PARTS {
            let mut vectors = good.clone();
            let whole = field(&mut vectors.evidence).clone();
            for len in 0..whole.len() {
                field(&mut vectors.evidence).truncate(len);
                match error_of(&vectors) {
                    EvidenceError::Part { part, error } => {
                        assert_eq!(part, name);
                        let cut = matches!(error, ParseError::Truncated { .. });
                        assert!(cut, "{set}, {name} cut at {len}: {error}");
                    }
                    other => panic!("{other}"),
                }
                field(&mut vectors.evidence).clone_from(&whole);
            }
            field(&mut vectors.evidence).push(0);
            match error_of(&vectors) {
                EvidenceError::Part { part, error: ParseError::Trailing { count: 1, .. } } => {
                    assert_eq!(part, name);
                }
                other => panic!("{name}: {other}"),
            }
        }
    }
}

/// (what, part, offset, new bytes, field that the error names)
const FIELDS: [(&str, usize, usize, &[u8], &str); 22] = [
    ("an EK of keyed hash type", 0, 0, &[0, 8], "public.type"),
    ("an EK named with SHA-1", 0, 2, &[0, 4], "nameAlg"),
    ("a policy of 255 bytes", 0, 8, &[0, 255], "public.authPolicy"),
    ("an EK with Camellia", 0, 42, &[0, 0x26], "public.symmetric"),
    ("an EK with ECDAA", 0, 48, &[0, 0x1a], "public.scheme"),
    ("an EK on P-521", 0, 50, &[0, 5], "public.curveID"),
    ("an EK with a KDF", 0, 52, &[0, 0x20], "public.kdf"),
    ("an x of 33 bytes", 0, 54, &[0, 33], "public.unique.x"),
    ("an identity off the curve", 2, 30, &[0, 0, 0, 0], "public.unique (a P-256 point)"),
    ("another magic", 3, 0, &[0xff, 0x54, 0x43, 0x48], "attest.magic"),
    ("another type", 3, 4, &[0x80, 0x19], "attest.type"),
    ("a Name of 67 bytes", 3, 6, &[0, 67], "attest.qualifiedSigner"),
    ("extra data of 65 bytes", 3, 42, &[0, 65], "attest.extraData"),
    ("neither safe nor unsafe", 3, 92, &[2], "attest.clockInfo.safe"),
    ("a certified Name of 67 bytes", 3, 101, &[0, 67], "attest.certify.name"),
    ("17 banks", 5, 101, &[0, 0, 0, 17], "pcrSelect.count"),
    ("a bitmap of 5 bytes", 5, 107, &[5], "pcrSelect.sizeofSelect"),
    ("a digest of 65 bytes", 5, 111, &[0, 65], "attest.quote.pcrDigest"),
    ("an RSA signature", 6, 0, &[0, 0x14], "signature.sigAlg"),
    ("a SHA-1 signature", 6, 2, &[0, 4], "signature.hash"),
    ("an r of 33 bytes", 6, 4, &[0, 33], "signature.signatureR"),
    ("an s of 33 bytes", 6, 38, &[0, 33], "signature.signatureS"),
];

#[test]
fn each_field_out_of_bounds_is_named() {
    for (what, part, offset, bytes, expected) in FIELDS {
        let mut vectors = stored("p256");
        let (name, field) = PARTS[part];
        field(&mut vectors.evidence)[offset..offset + bytes.len()].copy_from_slice(bytes);
        let error = error_of(&vectors);
        let EvidenceError::Part { part, error } = error else { panic!("{what}: {error}") };
        assert_eq!(part, name, "{what}");
        let field = match error {
            ParseError::Truncated { field }
            | ParseError::TooLong { field, .. }
            | ParseError::Unsupported { field, .. }
            | ParseError::Invalid { field } => field,
            other => panic!("{what}: {other}"),
        };
        assert_eq!(field, expected, "{what}: {error}");
    }
}

#[test]
fn overlong_structures_are_refused_before_they_are_read() {
    for (index, limit) in [(0, 1024), (3, 1024)] {
        let mut vectors = stored("p256");
        let (name, field) = PARTS[index];
        field(&mut vectors.evidence).resize(limit + 1, 0);
        let error = error_of(&vectors);
        let too_long = matches!(
            &error,
            EvidenceError::Part { part, error: ParseError::TooLong { .. } } if *part == name
        );
        assert!(too_long, "{error}");
    }
}

#[test]
fn malformed_certificates_are_named() {
    let mut vectors = stored("p256");
    vectors.endorsements.ek_certificate = Some(vec![0x30, 0x03, 1, 1, 0]);
    let error = error_of(&vectors);
    assert!(matches!(&error, EvidenceError::Certificate { part: "EK certificate", .. }), "{error}");
    let mut vectors = stored("p256");
    vectors.endorsements.intermediates.push(b"not DER".to_vec());
    let error = error_of(&vectors);
    let named = matches!(&error, EvidenceError::Certificate { part, .. }
        if *part == "intermediate certificate");
    assert!(named, "{error}");
}

/// Padding as TPM vendors leave it in NV is cut; anything else is not padding.
#[test]
fn padding_after_a_certificate_is_cut() {
    for (padding, accepted) in [
        (vec![0xff; 400], true),
        (vec![0x00; 7], true),
        (vec![0xff, 0xff, 0x00], false),
        (vec![0x42], false),
    ] {
        let mut vectors = stored("p384");
        vectors.endorsements.ek_certificate.as_mut().unwrap().extend(&padding);
        if accepted {
            assert!(vectors.appraise().is_accepted(), "{padding:?}");
        } else {
            assert!(matches!(error_of(&vectors), EvidenceError::Certificate { .. }));
        }
    }
}

type Target = fn(&[u8]);

/// A small deterministic fuzzer, so that every run of the tests tries what the fuzz targets try
/// at length: changed, cut and spliced vectors.
#[test]
fn no_change_of_the_vectors_makes_a_parser_panic() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    for (set, _) in SETS {
        let vectors = stored(set);
        let evidence = &vectors.evidence;
        let chain = Endorsements {
            ek_certificate: vectors.endorsements.ek_certificate.clone(),
            intermediates: vec![
                std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/root.der")).unwrap(),
                vectors.endorsements.intermediates[0].clone(),
            ],
        };
        let targets: [(Target, Vec<u8>); 9] = [
            (fuzz::public, evidence.ek_public.clone()),
            (fuzz::public, evidence.ak_public.clone()),
            (fuzz::attest, evidence.quote.clone()),
            (fuzz::attest, evidence.certification.clone()),
            (fuzz::signature, evidence.quote_signature.clone()),
            (fuzz::certificate_chain, chain.to_bytes()),
            (fuzz::certificate, chain.ek_certificate.clone().unwrap()),
            (fuzz::evidence, evidence.to_bytes()),
            (fuzz::credential, vectors.credential.to_bytes()),
        ];
        for (target, seed) in targets {
            target(&seed);
            for _ in 0..400 {
                let mut bytes = seed.clone();
                for _ in 0..=next(3) {
                    let at = next(bytes.len());
                    match next(4) {
                        0 => bytes[at] ^= 1 << next(8),
                        1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][next(5)],
                        2 => bytes.truncate(at + 1),
                        _ => bytes.insert(at, next(256) as u8),
                    }
                }
                target(&bytes);
            }
        }
    }
}
