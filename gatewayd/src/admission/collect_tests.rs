use ledger::codec::Encode;
use ledger::crypto::SigningKey;
use ledger::transaction::ClaimVerdict;
use ledger::validator_set::Validator;

use super::*;
use crate::admission::messages::Bytes;

fn key(byte: u8) -> SigningKey {
    SigningKey::from_bytes(&[byte; 32]).unwrap()
}

fn node(byte: u8) -> NodeId {
    NodeId([byte; 20])
}

/// Four voters: node n votes with key n.
fn voters() -> ValidatorSet {
    let voter = |byte| Validator { node: node(byte), vote_key: key(byte).public_key() };
    ValidatorSet::new(key(90).public_key(), (1..=4).map(voter).collect()).unwrap()
}

const LABEL: Label = Label { full: true, coordinator: true };

fn expected() -> Expected {
    Expected {
        chain_id: ChainId(Hash([1; 32])),
        era: Era(0),
        purpose: Purpose::Admit,
        identity: key(50).public_key(),
        vote_key: key(51).public_key(),
        ek_digest: Hash([2; 32]),
        ak_name: TpmName([3; 34]),
        label: LABEL,
        base_height: Height(7),
    }
}

fn statement() -> Statement {
    let Expected { chain_id, era, purpose, identity, vote_key, ek_digest, .. } = expected();
    let claims = (0..6).map(|claim| ClaimVerdict { claim, status: 0 }).collect();
    Statement {
        chain_id,
        era,
        purpose,
        identity,
        vote_key,
        ek_digest,
        ak_name: TpmName([3; 34]),
        ek_kind: 2,
        tpm_model: Hash([4; 32]),
        label: LABEL,
        policy_hash: Hash([5; 32]),
        claims,
        base_height: Height(7),
    }
}

fn signed(voter: u8, statement: &Statement) -> Appraised {
    Appraised {
        claims: vec![],
        statement: Bytes::new(statement.to_bytes()).unwrap(),
        voter: node(voter),
        signature: key(voter).sign_digest(&statement.digest()),
    }
}

#[test]
fn more_than_two_thirds_over_one_statement_are_enough() {
    let (set, statement) = (voters(), statement());
    let mut collected = Endorsements::new(expected());
    for voter in [3, 1] {
        collected.add(&set, node(voter), &signed(voter, &statement)).unwrap();
        // One voter counts once.
        collected.add(&set, node(voter), &signed(voter, &statement)).unwrap();
    }
    assert_eq!(collected.count(), 2);
    collected.add(&set, node(4), &signed(4, &statement)).unwrap();
    let (common, signatures) = collected.complete(&set).unwrap();
    assert_eq!(common, statement);
    let order: Vec<_> = signatures.iter().map(|each| each.voter).collect();
    assert_eq!(order, [node(1), node(3), node(4)], "the ledger wants them ascending");
    let mut few = Endorsements::new(expected());
    few.add(&set, node(1), &signed(1, &statement)).unwrap();
    few.add(&set, node(2), &signed(2, &statement)).unwrap();
    assert!(few.complete(&set).is_none(), "two of four are not more than two thirds");
}

#[test]
fn who_says_something_else_spoils_nothing_for_the_others() {
    let (set, good) = (voters(), statement());
    let other = Statement { tpm_model: Hash([9; 32]), ..good.clone() };
    let mut collected = Endorsements::new(expected());
    collected.add(&set, node(1), &signed(1, &other)).unwrap();
    let second = collected.add(&set, node(2), &signed(2, &good));
    assert_eq!(second, Err(EndorsementError::Differs), "which of the two is right is open");
    collected.add(&set, node(3), &signed(3, &good)).unwrap();
    collected.add(&set, node(4), &signed(4, &good)).unwrap();
    assert_eq!(collected.count(), 3);
    let (common, signatures) = collected.complete(&set).unwrap();
    assert_eq!((common, signatures.len()), (good, 3));
}

#[test]
fn what_is_not_a_common_endorsement_is_refused_by_name() {
    let (set, good) = (voters(), statement());
    let mut collected = Endorsements::new(expected());
    collected.add(&set, node(1), &signed(1, &good)).unwrap();
    let mut cases = vec![
        ("in another's name", 2, signed(3, &good), EndorsementError::OtherVoter),
        ("no voter", 9, signed(9, &good), EndorsementError::NotAVoter),
    ];
    let mut wrong = signed(2, &good);
    wrong.signature = key(3).sign_digest(&good.digest());
    cases.push(("another's signature", 2, wrong, EndorsementError::Signature));
    let other_policy = Statement { policy_hash: Hash([6; 32]), ..good.clone() };
    cases.push(("another policy", 2, signed(2, &other_policy), EndorsementError::Differs));
    let mut denied = good.clone();
    denied.claims[5].status = ClaimVerdict::CONTRAINDICATED;
    cases.push(("contraindicated", 2, signed(2, &denied), EndorsementError::Contraindicated));
    let about: [(&str, Statement); 6] = [
        ("the site", Statement { chain_id: ChainId(Hash([9; 32])), ..good.clone() }),
        ("the era", Statement { era: Era(1), ..good.clone() }),
        ("its purpose", Statement { purpose: Purpose::Attest, ..good.clone() }),
        ("the identity key", Statement { identity: key(9).public_key(), ..good.clone() }),
        ("the vote key", Statement { vote_key: key(9).public_key(), ..good.clone() }),
        ("the base height", Statement { base_height: Height(8), ..good.clone() }),
    ];
    for (what, statement) in about {
        cases.push((what, 2, signed(2, &statement), EndorsementError::Says(what)));
    }
    let mut garbage = signed(2, &good);
    garbage.statement = Bytes::new(vec![0x80]).unwrap();
    for (what, from, appraised, error) in cases {
        assert_eq!(collected.add(&set, node(from), &appraised), Err(error), "{what}");
    }
    let refused = collected.add(&set, node(2), &garbage);
    assert!(matches!(refused, Err(EndorsementError::Malformed(_))));
    assert_eq!(collected.count(), 1, "nothing of all this was taken");
}
