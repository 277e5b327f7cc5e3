//! Wire and disk formats pinned by a file: a change of any byte shows here.
//!
//! `testdata/golden.txt` holds one value a line, `name hex`. To approve a change of format, which
//! is a new version of it, run `UPDATE_GOLDEN=1 cargo test -p ledger golden` and commit the file.

use alloc::{boxed::Box, collections::BTreeMap, format, string::String, vec, vec::Vec};

use proptest::prelude::*;

use crate::{
    batch::LeafPath,
    block::Block,
    certificate::Certificate,
    codec::{Decode, DecodeError, Encode, Text},
    fixture::{Fixture, GatewayKeys, START_MS, key},
    genesis::Genesis,
    header::Header,
    ids::{Era, Hash, Height, NodeId},
    merkle::Frontier,
    operator::{Request, SignedAct},
    policy::{NextVersion, Policy, Window},
    proof::{Anchor, Proof, ReadingProof, Subject, Target},
    state::{Event, Key, Record, StateProof},
    transaction::{
        Attachment, Author, Authorship, Body, Document, DocumentKind, NodeAct, OperatorRotation,
        PolicyAct, Recover, Refusal, Reserve, ReserveItem, Retire, RotateKey, Survivor, Suspend,
        SuspendCause, Tally, TallyCount, TallyKind, TicketPurpose, Transaction,
    },
    validator_set::ValidatorSet,
};

/// Reads bytes and writes what was read.
type Again = fn(&[u8]) -> Result<Vec<u8>, DecodeError>;

struct Golden {
    name: String,
    bytes: Vec<u8>,
    again: Again,
}

fn again<T: Decode + Encode>(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    T::from_bytes(bytes).map(|value| value.to_bytes())
}

fn golden<T: Decode + Encode>(name: impl Into<String>, value: &T) -> Golden {
    Golden { name: name.into(), bytes: value.to_bytes(), again: again::<T> }
}

fn transactions(site: &mut Fixture, other: &GatewayKeys) -> Vec<Transaction> {
    let node = site.join(2);
    let chain = site.state.chain_id().0;
    let identity = site.founder.identity.public_key();
    let reason = || Text::new("a reason").unwrap();
    let act = NodeAct { node, reason: reason() };
    let survivor = Survivor { node: site.gateway(), new_vote_key: None };
    let recover = Recover {
        era: Era(1),
        parent: site.tip.hash,
        height: site.height().next(),
        survivors: vec![survivor],
        block_digest: Hash([4; 32]),
    };
    let item = site.assignment(node, vec![site.gateway(), other.node()]);
    let reserve = ReserveItem { node, session_epoch: 1, down: true, join: true };
    let count = TallyCount { kind: TallyKind::BadMic, frames: 300, senders: 7 };
    let ticket = site.window_ticket(TicketPurpose::Retire, &node);
    let by_operator = [
        policy_act().into(),
        Body::Suspend(Suspend { node, reason: reason(), cause: SuspendCause::Operator }),
        Body::Pardon(act.clone()),
        Body::Revoke(act),
        Body::Recover(recover),
        Body::OperatorRotation(OperatorRotation::new(&chain, &key(77))),
    ];
    let by_founder = [
        site.open_session(node),
        Body::Reserve(Reserve { liveness_epoch: 0, items: vec![reserve] }),
        Body::Register(site.registration(site.light_node_id(3))),
        Body::Retire(Retire { node, reason: reason(), ticket }),
        site.assign(vec![item], &[other]),
        Body::Tally(Tally { hour: 500_000, counts: vec![count] }),
        Body::Refusal(Refusal { node, reason: Text::new("a clone").unwrap() }),
    ];
    let mut all: Vec<_> = by_operator.into_iter().map(|body| site.by_operator(body)).collect();
    all.extend(by_founder.into_iter().map(|body| site.by_founder(body)));
    all.push(site.by_identity(Body::RotateKey(RotateKey::new(&chain, &identity, &key(78)))));
    let cut = site.cut(&[(node, 1, 0), (node, 1, 1), (node, 1, 5)]);
    let receipt = site.receipt(other, &cut);
    all.push(site.batch(&cut, vec![receipt]));
    for body in site.membership_bodies() {
        all.push(match body.authorship() {
            Authorship::Operator => site.by_operator(body),
            Authorship::IdentityKey => site.by_identity(body),
            _ => site.by_founder(body),
        });
    }
    all
}

/// Its kind; a suspension by rule with its cause.
fn name_of(transaction: &Transaction) -> String {
    let body = &transaction.draft().body;
    let cause = match body {
        Body::Suspend(Suspend { cause: SuspendCause::FailedAttestation(_), .. }) => "-failed",
        Body::Suspend(Suspend { cause: SuspendCause::Equivocation(_), .. }) => "-equivocation",
        _ => "",
    };
    format!("transaction-{:?}{cause}", body.kind())
}

/// A policy that brings a document of each kind.
fn policy_act() -> PolicyAct {
    let anchor = Document { kind: DocumentKind::Anchor, bytes: vec![0x30, 0x03] };
    let values = Document { kind: DocumentKind::ReferenceValues, bytes: vec![0x80] };
    let policy = Policy {
        ek_anchors: vec![anchor.hash()],
        reference_values: vec![Window { document: values.hash(), until_ms: START_MS }],
        next_version: Some(NextVersion { state_version: 2, height: Height(1_000) }),
        ..Policy::default()
    };
    PolicyAct::new(policy, vec![anchor, values])
}

/// Entries of the state that a young site has not.
fn later_entries(site: &mut Fixture) -> Vec<Golden> {
    let keys = GatewayKeys::new(60);
    site.admit(&keys);
    let mut act = policy_act();
    act.policy.next_version = None;
    let documents: Vec<_> = act.documents.iter().map(Document::hash).collect();
    let act = site.by_operator(act.into());
    site.commit(vec![act]).unwrap();
    let named = documents.into_iter().map(Key::Document);
    let keys =
        [Key::TpmModel(Hash([3; 32])), Key::Approval(keys.node()), Key::Gateway(keys.node())];
    keys.into_iter()
        .chain(named)
        .map(|key| {
            let value = site.state.value(&key).unwrap();
            entry(&key.to_bytes(), &value)
        })
        .collect()
}

/// An entry of the state as the fuzzer reads it: length of the key ‖ key ‖ value.
fn entry(key: &[u8], value: &[u8]) -> Golden {
    let bytes = [&[key.len() as u8], key, value].concat();
    let again: Again = |bytes| {
        let (length, rest) = bytes.split_first().ok_or(DecodeError::Truncated("entry"))?;
        let parts = rest.split_at_checked(usize::from(*length));
        let (key, value) = parts.ok_or(DecodeError::Truncated("entry"))?;
        let key = Key::from_bytes(key)?;
        let value = Record::from_bytes(&key, value)?.to_bytes();
        let key = key.to_bytes();
        Ok([&[key.len() as u8], &key[..], &value[..]].concat())
    };
    Golden { name: format!("state-{}", hex(key)), bytes, again }
}

fn chain_values(site: &mut Fixture) -> Vec<Golden> {
    let node = site.join(4);
    let cut = site.cut(&[(node, 1, 0), (node, 1, 1)]);
    let transaction = site.batch(&cut, vec![]);
    site.commit(vec![transaction.clone()]).unwrap();
    let (block, certificate) = site.chain.last().unwrap().clone();
    let (salt, leaf) = cut.leaves[1].clone();
    let kept = LeafPath { salt, index: 1, path: cut.path(1).unwrap(), leaf: leaf.clone() };
    let reading = ReadingProof::new(kept.clone(), transaction.raw().to_vec(), 0, vec![], None);
    let target = Target {
        header: block.header.clone(),
        signers: certificate.signers.clone(),
        sets: vec![site.tip_set.clone()],
        steps: vec![],
        anchors: vec![],
    };
    let absent = site.state.state_proof(&Key::Gateway(NodeId([1; 20])));
    let states = vec![site.state.state_proof(&Key::Gateway(site.gateway())), absent.clone()];
    let subject = Subject::Reading(Box::new(reading));
    let draft = site.draft(Author::Operator, Policy::default().into());
    let name = Text::new("cold store").unwrap();
    let request = Request::new(draft, name, Text::new("ann").unwrap()).unwrap();
    let refused =
        Event::Refused { node, gateway: site.gateway(), reason: Text::new("a clone").unwrap() };
    vec![
        golden("header", &block.header),
        golden("certificate", &certificate),
        golden("block", &block),
        golden("leaf", &leaf),
        golden("leaf-path", &kept),
        golden("frontier", &site.tip.history),
        golden("validator-set", &site.tip_set),
        golden("state-proof-absent", &absent),
        golden("state-proof-present", &states[0]),
        golden("proof", &Proof { subject, target, states }),
        golden("operator-request", &request),
        golden("operator-act", &request.clone().sign(&site.operator)),
        golden("event", &refused),
        golden("attachment", &cut.attachment(vec![])),
    ]
}

fn all() -> Vec<Golden> {
    let mut site = Fixture::new();
    let mut values = vec![golden("genesis", &site.genesis)];
    let other = site.add_member(20);
    for transaction in transactions(&mut site, &other) {
        values.push(golden(name_of(&transaction), &transaction));
    }
    let mut site = Fixture::new();
    values.extend(chain_values(&mut site));
    for (key, value) in site.state.entries() {
        values.push(entry(&key, &value));
    }
    values.extend(later_entries(&mut Fixture::hardware()));
    let mut grown = Fixture::grown(4);
    grown.commit(vec![]).unwrap();
    values.push(golden("proof-identity", &grown.identity_proof(grown.gateway(), &[Key::Policy])));
    let anchor = Anchor::of(&site.tip.header).to_code();
    let anchor = Golden {
        name: "anchor-code".into(),
        bytes: anchor.into_bytes(),
        again: |bytes| Ok(bytes.to_vec()),
    };
    values.push(anchor);
    values
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn file() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden.txt")
}

#[test]
fn encodings_are_those_of_the_golden_file() {
    let values = all();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let lines: Vec<String> =
            values.iter().map(|value| format!("{} {}\n", value.name, hex(&value.bytes))).collect();
        std::fs::write(file(), lines.concat()).unwrap();
    }
    let text = std::fs::read_to_string(file()).unwrap();
    let pinned: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(pinned.len(), values.len(), "the file and the values are not the same set");
    for value in &values {
        assert_eq!(
            pinned.get(value.name.as_str()),
            Some(&hex(&value.bytes).as_str()),
            "{}",
            value.name
        );
    }
}

#[test]
fn every_value_reads_back_as_its_own_bytes() {
    for Golden { name, bytes, again } in all() {
        assert_eq!(again(&bytes), Ok(bytes), "{name}");
    }
}

/// One encoding a value: whatever a damaged encoding still decodes to encodes to those very
/// bytes, so no two byte strings are one value.
#[test]
fn damaged_encodings_are_refused_or_are_another_value() {
    for Golden { name, bytes, again } in all() {
        for index in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[index] ^= 1 << bit;
                if let Ok(read) = again(&damaged) {
                    assert_eq!(read, damaged, "{name}, byte {index}, bit {bit}");
                }
            }
        }
        let mut longer = bytes.clone();
        longer.push(0);
        let opaque = again(&[]).is_ok();
        assert!(opaque || again(&longer).is_err(), "{name}: left-over byte");
        assert!(opaque || again(&bytes[..bytes.len() - 1]).is_err(), "{name}: cut short");
    }
}

#[test]
fn stored_entries_read_back_by_their_keys() {
    let mut site = Fixture::new();
    site.add_member(20);
    site.join(2);
    site.join(3);
    for (key, value) in site.state.entries() {
        let key = Key::from_bytes(&key).unwrap();
        for index in 0..value.len() {
            for bit in 0..8 {
                let mut damaged = value.clone();
                damaged[index] ^= 1 << bit;
                if let Ok(record) = Record::from_bytes(&key, &damaged) {
                    assert_eq!(record.to_bytes(), damaged, "{key:?}, byte {index}, bit {bit}");
                }
            }
        }
        assert_eq!(Record::from_bytes(&key, &value).unwrap().to_bytes(), value);
    }
}

proptest! {
    /// No decoder panics, whatever it is given, and none takes a second form of a value.
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let decoders: [Again; 18] = [
            again::<Transaction>, again::<crate::transaction::Draft>, again::<Attachment>,
            again::<Block>, again::<Header>, again::<Certificate>, again::<Genesis>,
            again::<ValidatorSet>, again::<Policy>, again::<LeafPath>, again::<Frontier>,
            again::<StateProof>, again::<Proof>, again::<Request>, again::<SignedAct>,
            again::<Event>, again::<crate::transaction::Register>,
            again::<crate::transaction::Assign>,
        ];
        for again in decoders {
            if let Ok(read) = again(&bytes) {
                prop_assert_eq!(&read, &bytes);
            }
        }
        if let Ok(transaction) = Transaction::from_raw(&bytes) {
            prop_assert_eq!(transaction.raw(), &bytes[..]);
        }
        if let Ok(key) = Key::from_bytes(&bytes) {
            prop_assert_eq!(key.to_bytes(), bytes);
        }
    }

    /// CBOR-shaped bytes get further than random ones: array heads and small lengths.
    #[test]
    fn shaped_bytes_never_panic(
        bytes in prop::collection::vec(
            prop_oneof![
                prop::sample::select(vec![0x83u8, 0x82, 0x40, 0x54, 0xf6]), 0u8..0x18, any::<u8>(),
            ],
            0..200,
        ),
    ) {
        let decoders: [Again; 4] =
            [again::<Transaction>, again::<Block>, again::<Proof>, again::<Event>];
        for again in decoders {
            if let Ok(read) = again(&bytes) {
                prop_assert_eq!(&read, &bytes);
            }
        }
    }
}
