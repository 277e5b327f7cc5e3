//! Entry points for fuzz targets: one for each parser of outside bytes. They must never panic,
//! and what they accept must survive its own encoding where it has one.

use crate::activation::CredentialBlob;
use crate::attest::Attest;
use crate::boot;
use crate::endorsement::{self, Anchor, Certificate};
use crate::event_log::EventLog;
use crate::event_log::describe::describe;
use crate::evidence::{Endorsements, Evidence};
use crate::ima;
use crate::logs::ImaPart;
use crate::pcr_policy::Approval;
use crate::public::Public;
use crate::reference_values::{MAX_TEXT_LEN, ReferenceValues};
use crate::template::EkKind;

/// `TPMT_PUBLIC`.
pub fn public(bytes: &[u8]) {
    if let Ok(public) = Public::parse(bytes) {
        assert_eq!(public.raw(), bytes, "a public area is kept as it came");
        assert!(public.p256_compressed().map_or(true, |point| point[0] & 0xfe == 2));
        if let Some(kind) = EkKind::of(&public) {
            let rebuilt = Public::parse(&kind.public_area(public.key()));
            assert_eq!(rebuilt.ok().and_then(|rebuilt| EkKind::of(&rebuilt)), Some(kind));
        }
    }
}

/// `TPMS_ATTEST`.
pub fn attest(bytes: &[u8]) {
    if let Ok(attest) = Attest::parse(bytes) {
        assert_eq!(attest.raw(), bytes, "an attestation is kept as it came");
    }
}

/// `TPMT_SIGNATURE`.
pub fn signature(bytes: &[u8]) {
    if let Ok(scalars) = crate::signature::parse(bytes) {
        assert!(bytes.len() <= crate::signature::MAX_SIGNATURE_LEN);
        assert_eq!(bytes.last(), scalars.last(), "s ends where the structure ends");
    }
}

/// An EK certificate and its pool, from the wire form of endorsements. The first certificate of
/// the pool is its own anchor, so that the path search runs to its end.
pub fn certificate_chain(bytes: &[u8]) {
    let Ok(endorsements) = Endorsements::from_bytes(bytes) else { return };
    let parse = |bytes: &Vec<u8>| endorsement::trim_der(bytes).and_then(Certificate::parse).ok();
    let pool: Vec<Certificate> = endorsements.intermediates.iter().filter_map(parse).collect();
    let anchors: Vec<Anchor> = endorsements
        .intermediates
        .first()
        .and_then(|first| Anchor::from_der(first).ok())
        .into_iter()
        .collect();
    if let Some(leaf) = endorsements.ek_certificate.as_ref().and_then(parse) {
        drop(endorsement::validate(&leaf, &pool, &anchors, 1_800_000_000));
        if let Some(ek) = endorsement::certified_ek(&leaf) {
            assert!(EkKind::of(&ek).is_some(), "a certified EK follows its template");
        }
    }
}

/// One certificate.
pub fn certificate(bytes: &[u8]) {
    if let Ok(trimmed) = endorsement::trim_der(bytes) {
        drop(Certificate::parse(trimmed).map(|found| (found.key(), found.subject())));
    }
}

/// Evidence on the wire.
pub fn evidence(bytes: &[u8]) {
    if let Ok(evidence) = Evidence::from_bytes(bytes) {
        assert_eq!(evidence.to_bytes(), bytes, "evidence has one wire form");
    }
}

/// A credential on the wire.
pub fn credential(bytes: &[u8]) {
    if let Ok(blob) = CredentialBlob::from_bytes(bytes) {
        assert_eq!(blob.to_bytes(), bytes, "a credential has one wire form");
    }
}

/// An event log: taken apart, described, replayed, and judged by what it leads to.
pub fn event_log(bytes: &[u8]) {
    let Ok(log) = EventLog::parse(bytes) else { return };
    for event in log.events() {
        assert!(event.pcr < 24 || !event.extends(), "what extends has a register");
        assert!(describe(event).text.len() <= MAX_TEXT_LEN, "descriptions are short");
    }
    if let Some(registers) = log.replay() {
        let quoted: Vec<_> = (0..24).zip(registers).collect();
        let nothing = boot::judge(bytes, &quoted, &[]);
        assert!(nothing.is_err(), "without reference values nothing is accepted");
    }
}

/// An IMA log: replayed, and judged by what it leads to.
pub fn ima_log(bytes: &[u8]) {
    let mut register = [0; 32];
    let mut entries = ima::Entries::new(bytes);
    for entry in entries.by_ref().map_while(Result::ok) {
        assert!(!entry.digest_text().is_empty());
        if entry.pcr == u32::from(ima::IMA_PCR) {
            register = entry.extend(&register);
        }
    }
    assert!(entries.rest().is_empty(), "a log ends, or an error ends it");
    let quoted = ima::Quoted { register, progress: None, aggregates: &[] };
    let part = ImaPart { from_offset: 0, bytes: bytes.to_vec() };
    if let Ok((count, progress)) = ima::walk(&part, &quoted, |_, _| {}) {
        assert!(count > 0 && progress.offset <= bytes.len() as u64);
    }
}

/// A document of reference values.
pub fn reference_values(bytes: &[u8]) {
    if let Ok(document) = ReferenceValues::from_bytes(bytes) {
        assert_eq!(document.to_bytes(), bytes, "reference values have one form");
    }
}

/// An operator's approval of a boot.
pub fn approval(bytes: &[u8]) {
    if let Ok(approval) = Approval::from_bytes(bytes) {
        assert_eq!(approval.to_bytes(), bytes, "an approval has one wire form");
    }
}
