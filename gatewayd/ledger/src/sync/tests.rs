//! Answers in their one form, and what the parsers refuse.

use super::wire::{Answer, Manifest, Request};
use crate::codec::{Decode, Encode};
use crate::fixture::Fixture;
use crate::ids::{Hash, Height};
use crate::state::map::SparseMap;
use crate::store::SetStep;

fn fixture() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.commit(Vec::new()).unwrap();
    fixture
}

fn manifest(fixture: &Fixture) -> Manifest {
    let (block, certificate) = fixture.chain.last().unwrap().clone();
    Manifest {
        genesis: fixture.genesis.clone(),
        header: block.header,
        certificate,
        peaks: vec![Hash([1; 32])],
        base: Height(0),
        validators: fixture.genesis.validator_set(),
        entries: 7,
    }
}

#[test]
fn requests_and_answers_round_trip() {
    let requests = [
        Request::Newest { at_least: Height(3) },
        Request::Steps { height: Height(7), after: Height(3) },
        Request::Entries { height: Height(7), after: vec![4, 5] },
    ];
    for request in requests {
        assert_eq!(Request::from_bytes(&request.to_bytes()), Ok(request));
    }
    let fixture = fixture();
    let manifest = manifest(&fixture);
    let step = SetStep {
        header: manifest.header.clone(),
        certificate: manifest.certificate.clone(),
        next: manifest.validators.clone(),
    };
    let (height, after) = (Height(7), Height(3));
    let entries = vec![(vec![1], vec![2])];
    let proof = SparseMap::new().prove(&[3; 32]);
    let answers = [
        Answer::Manifest(Box::new(manifest)),
        Answer::Steps { height, after, steps: vec![step], more: false },
        Answer::Entries { height, after: vec![], entries: entries.clone(), more: Some(proof) },
        Answer::Entries { height, after: vec![7], entries, more: None },
        Answer::Gone { height },
    ];
    for answer in answers {
        let bytes = answer.to_bytes();
        assert_eq!(Answer::from_bytes(&bytes), Ok(answer));
        for end in 0..bytes.len() {
            assert!(Answer::from_bytes(&bytes[..end]).is_err(), "cut at {end}");
        }
    }
}

#[test]
fn a_manifest_is_of_this_site_and_its_history() {
    let fixture = fixture();
    let trusted = fixture.tip.header.clone();
    let mut good = manifest(&fixture);
    assert!(good.check(&trusted).is_err(), "another history");
    let genesis = crate::state::State::genesis_header(&fixture.genesis);
    good.peaks = vec![crate::chain::history_leaf(&genesis.hash())];
    assert_eq!(good.check(&trusted), Ok(()));
    let mut other = good.clone();
    other.genesis.time_ms += 1;
    assert!(other.check(&trusted).is_err());
    let mut fork = trusted.clone();
    fork.time_ms += 1;
    assert!(good.check(&fork).is_err());
    let mut newer = trusted;
    newer.height = Height(9);
    assert!(good.check(&newer).is_err());
}
