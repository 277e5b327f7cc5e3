//! Forms of transactions that are refused.

use alloc::vec;

use super::*;
use crate::{
    codec::Text,
    fixture::{Fixture, key},
};

fn draft() -> Draft {
    let mut site = Fixture::new();
    let body = Refusal { node: NodeId([1; 20]), reason: Text::new("a clone").unwrap() };
    let author = Author::Node(site.gateway());
    site.draft(author, Body::Refusal(body))
}

/// The head's kind is the eighth of its nine fields; here it stands right before the body.
fn with_kind(number: u64) -> Vec<u8> {
    let Draft { chain_id, era, author, nonce, expiry, attachment, body } = draft();
    let mut encoder = Encoder::new();
    encoder.array(9).uint(TRANSACTION_VERSION).value(&chain_id).value(&era).value(&author);
    encoder.uint(nonce).uint(expiry).value(&attachment).uint(number).value(&body);
    encoder.into_bytes()
}

#[test]
fn kinds_that_are_not_delivered_are_unsupported_and_others_unknown() {
    let undelivered = [11u64, 12, 17, 23, 28];
    for number in 1..=28u64 {
        let refused = Draft::from_bytes(&with_kind(number));
        if !undelivered.contains(&number) {
            let unsupported = matches!(refused, Err(DecodeError::UnsupportedKind(_)));
            assert!(!unsupported, "kind {number}");
        } else {
            assert_eq!(refused, Err(DecodeError::UnsupportedKind(number as u16)));
        }
    }
    for number in [0, 29, 1_000, u64::MAX] {
        let refused = Draft::from_bytes(&with_kind(number));
        assert_eq!(refused, Err(DecodeError::UnknownKind(number)));
    }
}

#[test]
fn unknown_fields_versions_and_oversize_are_refused_by_name() {
    let good = draft().signing_bytes();
    assert!(Draft::from_bytes(&good).is_ok());
    let mut more_fields = good.clone();
    more_fields[0] += 1;
    more_fields.push(0xf6);
    let expected = DecodeError::FieldCount { what: "transaction", found: 10, expected: 9 };
    assert_eq!(Draft::from_bytes(&more_fields), Err(expected));
    let mut version = good.clone();
    version[1] = 2;
    let expected = DecodeError::Version { what: "transaction", found: 2 };
    assert_eq!(Draft::from_bytes(&version), Err(expected));
    let mut trailing = good;
    trailing.push(0);
    assert_eq!(Draft::from_bytes(&trailing), Err(DecodeError::Trailing(1)));
    let huge = vec![0; MAX_TRANSACTION + 1];
    assert!(matches!(Transaction::from_raw(&huge), Err(DecodeError::TooLong { .. })));
}

#[test]
fn a_batch_names_an_attachment_and_nothing_else_does() {
    let mut site = Fixture::new();
    let node = site.join(2);
    let cut = site.cut(&[(node, 1, 0)]);
    let batch = site.draft(Author::Node(site.gateway()), Body::Batch(cut.head));
    let refused = Err(DecodeError::Invalid("attachment digest"));
    assert_eq!(Draft::from_bytes(&batch.signing_bytes()), refused);
    let mut other = draft();
    other.attachment = Some(Hash([1; 32]));
    assert_eq!(Draft::from_bytes(&other.signing_bytes()), refused);
}

#[test]
fn a_draft_that_no_one_else_could_read_is_not_verified() {
    let mut site = Fixture::new();
    let node = site.join(2);
    let item = ReserveItem { node, session_epoch: 1, down: true, join: false };
    // Twice the same node: not the canonical form.
    let body = Body::Reserve(Reserve { liveness_epoch: 0, items: vec![item, item] });
    let transaction = site.by_founder(body);
    let refused = site.state.verify(transaction).unwrap_err();
    assert!(matches!(refused, crate::state::VerifyError::Body(_)), "{refused:?}");
}

#[test]
fn what_is_signed_elsewhere_is_the_same_transaction() {
    let (draft, key) = (draft(), key(101));
    let elsewhere = key.sign_digest(&draft.signing_digest());
    let there = draft.clone().with_signature(elsewhere);
    assert_eq!(there, draft.sign(&key));
    assert_eq!(Transaction::from_raw(there.raw()), Ok(there.clone()));
    assert_eq!(there.verify_signature(&key.public_key()), Ok(()));
}
