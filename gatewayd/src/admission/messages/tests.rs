use ledger::crypto::SigningKey;

use super::*;

fn bytes<const MAX: usize>(byte: u8, len: usize) -> Bytes<MAX> {
    Bytes::new(vec![byte; len]).unwrap()
}

fn words(text: &str) -> Words {
    Text::new(text).unwrap()
}

fn key(byte: u8) -> SigningKey {
    SigningKey::from_bytes(&[byte; 32]).unwrap()
}

const LABEL: Label = Label { full: true, coordinator: false };

fn introduction() -> Box<Introduction> {
    let signature = key(1).sign_digest(&Hash([1; 32]));
    Box::new(Introduction {
        label: LABEL,
        measurements: Text::new("4 cores, 8 GiB").unwrap(),
        base_height: Height(7),
        endorsements: bytes(1, 900),
        ek_public: bytes(2, 122),
        ak_public: bytes(3, 88),
        identity_public: bytes(4, 88),
        vote: VoteKeyProof {
            vote_key: key(2).public_key(),
            certificate: signature,
            possession: signature,
        },
        manufacturer: 0x4946_5800,
    })
}

fn evidence() -> Box<EvidenceRequest> {
    Box::new(EvidenceRequest {
        nonce: Hash([5; 32]),
        evidence: bytes(6, 700),
        event_log: Some(EventLogHead { len: 30_000, digest: Hash([7; 32]) }),
        ima: None,
    })
}

fn challenge() -> Box<Challenge> {
    Box::new(Challenge {
        nonce: Hash([5; 32]),
        credential: bytes(8, 120),
        pcrs: 0xff,
        profile: Profile::Measured,
        policy_hash: Hash([9; 32]),
        logs: LogsWanted { event: true, ima_from: Some(4096) },
    })
}

fn claim() -> ClaimWords {
    ClaimWords { claim: 5, status: 2, reason: words("event 17 of PCR 4 is not known") }
}

fn requests() -> Vec<Request> {
    let signature = key(1).sign_digest(&Hash([1; 32]));
    let (height, hash) = (Height(9), Hash([3; 32]));
    vec![
        Request::Head(Anchor { height, hash }),
        Request::Join(introduction()),
        Request::Evidence(evidence()),
        Request::Admit(bytes(1, 500)),
        Request::Progress,
        Request::Attest(introduction()),
        Request::Ready(Ready { height, hash, signature }),
        Request::Endorse(Endorse::Statement(bytes(1, 300))),
        Request::Endorse(Endorse::Activate {
            height,
            hash,
            nodes: vec![NodeId([1; 20]), NodeId([2; 20])],
        }),
        Request::Endorse(Endorse::Offline { node: NodeId([1; 20]), liveness_epoch: 4 }),
        Request::Snapshot(bytes(1, 5)),
        Request::Introduce,
        Request::Prove(challenge()),
        Request::Document(hash),
        Request::Log(Box::new(LogPart { nonce: hash, ima: true, bytes: bytes(2, 40) })),
        Request::Logs(LogQuestion { nonce: hash, ima: false, from: 262_144 }),
    ]
}

fn responses() -> Vec<Response> {
    let signature = key(1).sign_digest(&Hash([1; 32]));
    let voter = NodeId([1; 20]);
    let addresses = vec![Text::new("[fe80::1]:7447").unwrap(), Text::new("gw-2:7447").unwrap()];
    vec![
        Response::Head(Box::new(HeadAnswer {
            genesis: bytes(1, 400),
            proof: bytes(2, 4000),
            members: vec![MemberAddress { identity: key(3).public_key(), addresses }],
        })),
        Response::Challenge(challenge()),
        Response::Appraised(Box::new(Appraised {
            claims: vec![claim()],
            statement: bytes(4, 300),
            voter,
            signature,
        })),
        Response::NeedsApproval(vec![claim(), claim()]),
        Response::Refused(Refused { reason: words("another site"), claims: vec![claim()] }),
        Response::Wait(Wait { reason: words("not there yet"), after_s: 5 }),
        Response::Progress(Progress {
            stage: Stage::Admitted,
            height: Height(12),
            detail: words("a member since block 12"),
        }),
        Response::Heard,
        Response::Endorsed { voter, signature },
        Response::Snapshot(bytes(1, 5)),
        Response::Introduction(introduction()),
        Response::Evidence(evidence()),
        Response::Document(bytes(1, 5)),
        Response::NotHeard(vec![NodeId([1; 20]), NodeId([2; 20])]),
        Response::SendLogs,
        Response::Log(Box::new(LogPart { nonce: Hash([3; 32]), ima: false, bytes: bytes(2, 40) })),
    ]
}

/// Reads back what was written, and refuses every cut, tail and other number.
fn holds<T: Encode + Decode + PartialEq + std::fmt::Debug>(message: &T) {
    let bytes = message.to_bytes();
    assert_eq!(T::from_bytes(&bytes).as_ref(), Ok(message));
    for len in 0..bytes.len() {
        assert!(T::from_bytes(&bytes[..len]).is_err(), "{message:?} cut at {len}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(T::from_bytes(&longer), Err(DecodeError::Trailing(1)), "{message:?}");
    let mut other = bytes;
    // The number is the second byte: all are below 24. 23 is none.
    other[1] = 23;
    assert!(matches!(T::from_bytes(&other), Err(DecodeError::Invalid(_))), "{message:?}");
}

#[test]
fn every_message_survives_the_wire_and_every_cut_is_an_error() {
    requests().iter().for_each(holds);
    responses().iter().for_each(holds);
}

#[test]
fn numbers_are_all_different_and_none_is_left_out() {
    let numbers = |messages: &mut dyn Iterator<Item = Vec<u8>>| {
        let mut numbers: Vec<u8> = messages.map(|bytes| bytes[1]).collect();
        numbers.dedup();
        numbers
    };
    let sent = numbers(&mut requests().iter().map(Encode::to_bytes));
    assert_eq!(sent, (1..=14).collect::<Vec<_>>());
    let answered = numbers(&mut responses().iter().map(Encode::to_bytes));
    assert_eq!(answered, (1..=16).collect::<Vec<_>>());
}

#[test]
fn what_is_too_long_or_out_of_order_is_refused() {
    assert!(Bytes::<4>::new(vec![0; 5]).is_err());
    let (nonce, bytes) = (Hash([5; 32]), Bytes::new(vec![0; MAX_LOG_PART]).unwrap());
    let request = Request::Log(Box::new(LogPart { nonce, ima: false, bytes })).to_bytes();
    assert!(request.len() < MAX_REQUEST);
    assert!(Request::from_bytes(&request).is_ok());
    // A length that no message has is refused before anything is taken.
    let forged = [0x82, 0x04, 0x5a, 0xff, 0xff, 0xff, 0xff];
    assert!(matches!(Request::from_bytes(&forged), Err(DecodeError::TooLong { .. })));
    let nodes = vec![NodeId([2; 20]), NodeId([1; 20])];
    let (height, hash) = (Height(9), Hash([3; 32]));
    let unsorted = Request::Endorse(Endorse::Activate { height, hash, nodes }).to_bytes();
    assert_eq!(Request::from_bytes(&unsorted), Err(DecodeError::Unsorted("nodes")));
}

#[test]
fn qualifying_data_binds_every_part() {
    let (identity, vote, other) = (key(1).public_key(), key(2).public_key(), key(3).public_key());
    let bound = Bound {
        nonce: Hash([1; 32]),
        exporter: &[2; 32],
        identity: &identity,
        vote_key: &vote,
        label: LABEL,
        event_log: None,
    };
    let coordinator = Label { full: false, coordinator: true };
    let all = [
        bound,
        Bound { nonce: Hash([9; 32]), ..bound },
        Bound { exporter: &[9; 32], ..bound },
        Bound { identity: &other, ..bound },
        Bound { vote_key: &other, ..bound },
        Bound { label: coordinator, ..bound },
        Bound { event_log: Some(sha256(&[b"log"])), ..bound },
    ];
    let mut data: Vec<_> = all.iter().map(qualifying_data).collect();
    data.sort_unstable();
    data.dedup();
    assert_eq!(data.len(), all.len());
    // A log that was not asked for is as an empty one: its absence cannot be forged into a log.
    let empty = Bound { event_log: Some(sha256(&[])), ..bound };
    assert_eq!(qualifying_data(&bound), qualifying_data(&empty));
}
