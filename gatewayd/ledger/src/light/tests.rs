//! Proofs of a real small chain, and every way to spoil them.

mod followed;

use alloc::{boxed::Box, vec, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::{
    batch::LeafPath,
    block::Block,
    certificate::{Certificate, Signers},
    chain::history_leaf,
    codec::Encode,
    fixture::{Fixture, key},
    header::Header,
    ids::{Era, Hash},
    merkle,
    operator::{Recovery, certify_recovery},
    proof::{ReadingProof, ShownReceipts, Target},
    state::{State, StateProof},
    transaction::{Body, RotateKey, Survivor},
    validator_set::ValidatorSet,
};

/// A site with a committed batch, and what an exporter would have kept.
struct Exported {
    site: Fixture,
    node: NodeId,
    kept: LeafPath,
    /// Height of the batch's block.
    height: u64,
    sets: Vec<ValidatorSet>,
    steps: Vec<(Header, Signers)>,
}

fn exported(readings: u64) -> Exported {
    let mut site = Fixture::new();
    let node = site.join(2);
    let positions: Vec<_> = (0..readings).map(|counter| (node, 1, counter)).collect();
    let cut = site.cut(&positions);
    let other = site.light_node_id(9);
    let register = site.by_founder(Body::Register(site.registration(other)));
    let transaction = site.batch(&cut, vec![]);
    site.commit(vec![register, transaction]).unwrap();
    let index = cut.leaves.len() / 2;
    let (salt, leaf) = cut.leaves[index].clone();
    let kept = LeafPath { salt, index: index as u32, path: cut.path(index).unwrap(), leaf };
    let height = site.height().0;
    let sets = vec![site.genesis.validator_set()];
    Exported { site, node, kept, height, sets, steps: vec![] }
}

impl Exported {
    fn headers(&self) -> Vec<Header> {
        let genesis = State::genesis_header(&self.site.genesis);
        let blocks = self.site.chain.iter().map(|(block, _)| block.header.clone());
        core::iter::once(genesis).chain(blocks).collect()
    }

    fn target(&self, anchors: Vec<Header>) -> Target {
        let (block, certificate) = self.site.chain.last().unwrap();
        Target {
            header: block.header.clone(),
            signers: certificate.signers.clone(),
            sets: self.sets.clone(),
            steps: self.steps.clone(),
            anchors,
        }
    }

    fn states(&self) -> Vec<StateProof> {
        let gateway = Key::Gateway(self.site.gateway());
        let keys = [gateway, Key::LightNode(self.node)];
        keys.iter().map(|key| self.site.state.state_proof(key)).collect()
    }

    /// A proof with genesis as its anchor.
    fn proof(&self) -> Proof {
        let headers = self.headers();
        let tip = headers.len() - 1;
        let at = self.height as usize;
        let block = (at < tip).then(|| {
            let leaves: Vec<Hash> =
                headers[..tip].iter().map(|header| history_leaf(&header.hash())).collect();
            (headers[at].clone(), merkle::path(&leaves, at).unwrap())
        });
        let body = &self.site.chain[at - 1].0;
        let hashes = Block::tx_hashes(&body.transactions);
        let tx = body.transactions.iter().position(|t| matches!(t.draft().body, Body::Batch(_)));
        let tx = tx.unwrap();
        let reading = ReadingProof::new(
            self.kept.clone(),
            body.transactions[tx].raw().to_vec(),
            tx as u32,
            merkle::path(&hashes, tx).unwrap(),
            block,
        );
        Proof {
            subject: Subject::Reading(Box::new(reading)),
            target: self.target(vec![headers[0].clone()]),
            states: self.states(),
        }
    }

    fn anchor(&self, height: usize) -> Anchor {
        Anchor::of(&self.headers()[height])
    }
}

fn failed(proof: &Proof, anchor: &Anchor) -> &'static str {
    let verdict = verify(proof, anchor, &Options::default());
    assert!(verdict.statements.is_empty(), "a failed proof states nothing");
    assert_eq!((verdict.reading.as_ref(), verdict.height), (None, None));
    verdict.failure().expect("a check fails").name
}

fn accepted(proof: &Proof, anchor: &Anchor) -> Verdict {
    let verdict = verify_bytes(&proof.to_bytes(), anchor, &Options::default());
    assert!(verdict.is_valid(), "{:#?}", verdict.checks);
    verdict
}

#[test]
fn a_reading_is_proved_from_genesis_and_from_the_header_itself() {
    let exported = exported(20);
    let proof = exported.proof();
    let verdict = accepted(&proof, &exported.anchor(0));
    assert_eq!(verdict.reading, Some(exported.kept.leaf.clone()));
    let text = verdict.statements.join("\n");
    for part in
        ["counter 10 of its session epoch 1", "level 1", "UNATTESTED", "synchronised", "No other"]
    {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
    accepted(&proof, &exported.anchor(exported.height as usize));
}

#[test]
fn an_old_block_is_proved_under_a_newer_header() {
    let mut exported = exported(5);
    for _ in 0..20 {
        exported.site.commit(vec![]).unwrap();
    }
    let proof = exported.proof();
    accepted(&proof, &exported.anchor(0));
    accepted(&proof, &exported.anchor(exported.site.height().0 as usize));
    // A code that the file holds no header of.
    assert_eq!(failed(&proof, &exported.anchor(4)), "anchor");
    let mut with_it = proof;
    with_it.target.anchors.push(exported.headers()[4].clone());
    accepted(&with_it, &exported.anchor(4));
}

#[test]
fn other_sites_and_newer_codes_are_refused() {
    let exported = exported(3);
    let proof = exported.proof();
    let mut anchor = exported.anchor(0);
    anchor.hash.0[0] ^= 1;
    assert_eq!(failed(&proof, &anchor), "anchor");
    let tip = exported.site.height().0 as usize;
    let mut same_height = exported.anchor(tip);
    same_height.hash.0[31] ^= 1;
    assert_eq!(failed(&proof, &same_height), "anchor");
    let newer = Anchor { height: Height(1_000), hash: Hash([1; 32]) };
    assert_eq!(failed(&proof, &newer), "anchor");
}

/// Each part changed by itself, and the check that must notice.
#[test]
fn every_change_is_noticed_by_its_check() {
    let mut exported = exported(9);
    for _ in 0..3 {
        exported.site.commit(vec![]).unwrap();
    }
    let proof = exported.proof();
    let anchor = exported.anchor(0);
    accepted(&proof, &anchor);
    type Change = fn(&mut Proof, &mut ReadingProof);
    let changes: [(&str, Change); 15] = [
        ("reading", |_, reading| reading.leaf.senml[16] ^= 1),
        ("reading", |_, reading| reading.leaf.counter += 1),
        ("reading", |_, reading| reading.leaf.level = 2),
        ("reading", |_, reading| reading.salt[0] ^= 1),
        ("reading", |_, reading| reading.index += 1),
        ("reading", |_, reading| reading.path[0].0[0] ^= 1),
        ("transaction", |_, reading| reading.tx_index = 0),
        ("transaction", |_, reading| reading.tx_path.clear()),
        ("transaction", |_, reading| *reading.transaction.last_mut().unwrap() ^= 1),
        ("history", |_, reading| reading.block.as_mut().unwrap().0.time_ms += 1),
        ("history", |_, reading| reading.block.as_mut().unwrap().1[0].0[0] ^= 1),
        ("certificate", |proof, _| proof.target.header.time_ms += 1),
        ("certificate", |proof, _| proof.target.header.era = Era(1)),
        ("state", |proof, _| {
            let first = proof.states[0].clone();
            proof.states.push(first);
        }),
        ("anchor", |proof, _| proof.target.anchors.clear()),
    ];
    for (index, (name, change)) in changes.into_iter().enumerate() {
        let mut changed = proof.clone();
        let Subject::Reading(mut reading) = changed.subject.clone() else { unreachable!() };
        change(&mut changed, &mut reading);
        changed.subject = Subject::Reading(reading);
        assert_eq!(failed(&changed, &anchor), name, "change {index}");
    }
}

#[test]
fn the_state_proofs_are_of_the_certified_header() {
    let mut exported = exported(3);
    let stale = exported.states();
    let node = exported.node;
    let suspend = crate::transaction::Suspend {
        node,
        reason: crate::codec::Text::new("seen twice").unwrap(),
        cause: crate::transaction::SuspendCause::Operator,
    };
    let transaction = exported.site.by_operator(Body::Suspend(suspend));
    exported.site.commit(vec![transaction]).unwrap();
    let mut proof = exported.proof();
    let text = accepted(&proof, &exported.anchor(0)).statements.join("\n");
    assert!(text.contains("suspended since height 3 (reason given: seen twice)"), "{text}");
    proof.states = stale;
    assert_eq!(failed(&proof, &exported.anchor(0)), "state");
    proof.states.clear();
    let text = accepted(&proof, &exported.anchor(0)).statements.join("\n");
    assert!(text.contains("HOW THAT GATEWAY WAS ATTESTED THE FILE DOES NOT SHOW"), "{text}");
}

#[test]
fn certificates_without_a_quorum_or_by_others_are_refused() {
    let exported = exported(3);
    let proof = exported.proof();
    let anchor = exported.anchor(0);
    let Signers::Votes(votes) = &proof.target.signers else { unreachable!() };
    let mut none = proof.clone();
    none.target.signers = Signers::Votes(crate::certificate::Votes {
        bitmap: vec![0],
        signatures: vec![],
        ..votes.clone()
    });
    assert_eq!(failed(&none, &anchor), "certificate");
    let mut other_round = proof.clone();
    other_round.target.signers =
        Signers::Votes(crate::certificate::Votes { round: 1, ..votes.clone() });
    assert_eq!(failed(&other_round, &anchor), "certificate");
    let mut wide = proof.clone();
    wide.target.signers =
        Signers::Votes(crate::certificate::Votes { bitmap: vec![0x80, 0], ..votes.clone() });
    assert_eq!(failed(&wide, &anchor), "certificate");
    // A set of the forger's own, with its own signatures, does not hang on the anchor.
    let mut forged = proof.clone();
    let forger = crate::fixture::GatewayKeys::new(30);
    let voter =
        crate::validator_set::Validator { node: forger.node(), vote_key: forger.vote.public_key() };
    let set = ValidatorSet::new(exported.site.operator.public_key(), vec![voter]).unwrap();
    forged.target.header.validators_hash = set.hash();
    let hash = forged.target.header.hash();
    let digest = crate::certificate::vote_digest(
        &forged.target.header.chain_id,
        forged.target.header.era,
        crate::certificate::VoteType::Precommit,
        forged.target.header.height,
        0,
        Some(&hash),
    );
    let votes = crate::certificate::Votes::collect(0, 1, [(0, forger.vote.sign_digest(&digest))]);
    forged.target.signers = Signers::Votes(votes);
    forged.target.sets = vec![set];
    assert_eq!(failed(&forged, &anchor), "anchor");
}

#[test]
fn set_changes_and_recoveries_are_followed_and_said() {
    let mut exported = exported(3);
    let site = &mut exported.site;
    // The vote key rotates, then the operator recovers the ledger.
    let (chain, identity) = (site.state.chain_id().0, site.founder.identity.public_key());
    let vote = key(150);
    let rotate = site.by_identity(Body::RotateKey(RotateKey::new(&chain, &identity, &vote)));
    site.commit(vec![rotate]).unwrap();
    site.founder.vote = vote.clone();
    site.voters[0].vote = vote;
    let step = site.chain.last().unwrap();
    exported.steps.push((step.0.header.clone(), step.1.signers.clone()));
    exported.sets.push(site.state.validator_set());
    let plan = Recovery {
        state: &site.state,
        tip: &site.tip,
        last_commit: site.last_commit.as_ref(),
        time_ms: site.now_ms(),
        proposer: site.gateway(),
        survivors: vec![Survivor { node: site.gateway(), new_vote_key: None }],
        nonce: 1,
        expiry_ms: site.now_ms() + 60_000,
    };
    let (draft, header) = plan.draft().unwrap();
    let transaction = draft.sign(&site.operator);
    let (header, certificate) = certify_recovery(header, transaction.clone());
    let last_commit = site.last_commit.clone();
    let block = Block { header, transactions: vec![transaction], last_commit };
    let outcome = crate::chain::execute(&site.state, &site.tip, &site.tip_set, &block).unwrap();
    exported.steps.push((block.header.clone(), certificate.signers.clone()));
    site.take(block, certificate, outcome);
    exported.sets.push(site.state.validator_set());
    site.commit(vec![]).unwrap();
    let recovered_at = site.height().0 - 1;

    let mut proof = exported.proof();
    proof.states.push(exported.site.state.state_proof(&Key::Site));
    let text = accepted(&proof, &exported.anchor(0)).statements.join("\n");
    let expected = alloc::format!("RECOVERED BY THE OPERATOR at height {recovered_at}");
    assert!(text.contains(&expected), "{text}");
    // From the recovery on, or from the rotation: later anchors need fewer steps.
    for height in [recovered_at as usize, recovered_at as usize - 1] {
        accepted(&proof, &exported.anchor(height));
    }
    for index in 0..2 {
        let mut broken = proof.clone();
        broken.target.steps[index].0.time_ms += 1;
        assert_eq!(failed(&broken, &exported.anchor(0)), "anchor");
    }
    let mut skipped = proof.clone();
    skipped.target.steps.remove(0);
    skipped.target.sets.remove(0);
    assert_eq!(failed(&skipped, &exported.anchor(0)), "anchor");
    // The recovery kept the voters, so they vouch for what followed; it is said all the same.
    let mut silent = proof.clone();
    silent.target.steps.remove(1);
    silent.target.sets.remove(1);
    silent.states.pop();
    let text = accepted(&silent, &exported.anchor(0)).statements.join("\n");
    assert!(text.contains("RECOVERED BY THE OPERATOR, 1 times"), "{text}");
}

#[test]
fn an_old_code_needs_the_option_and_is_said() {
    let exported = exported(3);
    let proof = exported.proof();
    let anchor = exported.anchor(0);
    let late = crate::fixture::START_MS + OLD_ANCHOR_MS + 86_400_000;
    let mut options = Options { now_ms: Some(late), ..Options::default() };
    let verdict = verify(&proof, &anchor, &options);
    assert_eq!(verdict.failure().unwrap().name, "anchor-age");
    options.old_anchor = true;
    let verdict = verify(&proof, &anchor, &options);
    assert!(verdict.is_valid());
    assert!(verdict.checks.iter().any(|check| check.sentence.contains("31 days old")));
    // The newest code needs no set change to be believed, and has no age.
    let newest = exported.anchor(exported.site.height().0 as usize);
    let options = Options { now_ms: Some(late), ..Options::default() };
    assert!(verify(&proof, &newest, &options).is_valid());
}

#[test]
fn an_absent_id_is_proved_absent_and_a_present_one_shown() {
    let mut exported = exported(3);
    let stranger = NodeId([0x77; 20]);
    let identity = |exported: &Exported, node: NodeId| Proof {
        subject: Subject::Identity(node),
        target: exported.target(vec![exported.headers()[0].clone()]),
        states: [Key::Gateway(node), Key::LightNode(node)]
            .iter()
            .map(|key| exported.site.state.state_proof(key))
            .collect(),
    };
    let anchor = exported.anchor(0);
    let text = accepted(&identity(&exported, stranger), &anchor).statements.join("\n");
    assert!(text.contains("was ever registered"), "{text}");
    let (node, gateway) = (exported.node, exported.site.gateway());
    let text = accepted(&identity(&exported, node), &anchor).statements.join("\n");
    assert!(text.contains("registered at height 1"), "{text}");
    let text = accepted(&identity(&exported, gateway), &anchor).statements.join("\n");
    assert!(text.contains("full node and coordinator"), "{text}");
    // Absence of one ID says nothing about another.
    let mut forged = identity(&exported, stranger);
    forged.subject = Subject::Identity(node);
    assert_eq!(failed(&forged, &anchor), "identity");
    let mut half = identity(&exported, stranger);
    half.states.pop();
    assert_eq!(failed(&half, &anchor), "identity");
    exported.site.commit(vec![]).unwrap();
    let mut stale = identity(&exported, stranger);
    stale.target = exported.target(vec![]);
    accepted(&stale, &exported.anchor(exported.site.height().0 as usize));
}

#[test]
fn receipts_are_shown_with_the_witnesses() {
    let mut site = Fixture::new();
    let other = site.add_member(20);
    let node = site.join(2);
    let mut leaf = site.leaf(node, 1, 0);
    leaf.witnesses = vec![other.node()];
    let cut = crate::batch::CutBatch::build(1, vec![([1; 16], leaf.clone())]).unwrap();
    let receipt = site.receipt(&other, &cut);
    let transaction = site.batch(&cut, vec![receipt]);
    let list_digest = transaction.attachment().unwrap().list_digest();
    site.commit(vec![transaction]).unwrap();
    let kept = LeafPath { salt: [1; 16], index: 0, path: vec![], leaf };
    let height = site.height().0;
    let sets = vec![site.tip_set.clone()];
    let exported = Exported { site, node, kept, height, sets, steps: vec![] };
    let newest = exported.anchor(height as usize);
    let mut proof = exported.proof();
    let text = accepted(&proof, &newest).statements.join("\n");
    assert!(text.contains("the file does not show who countersigned"), "{text}");
    let Subject::Reading(reading) = &mut proof.subject else { unreachable!() };
    reading.receipts = Some(ShownReceipts { list_digest, receipts: vec![receipt] });
    let text = accepted(&proof, &newest).statements.join("\n");
    assert!(text.contains("1 witnesses named, 1 of them countersigned"), "{text}");
    let Subject::Reading(reading) = &mut proof.subject else { unreachable!() };
    reading.receipts.as_mut().unwrap().receipts.clear();
    assert_eq!(failed(&proof, &newest), "receipts");
}

/// Every single bit of a proof file matters.
#[test]
fn no_flipped_byte_is_accepted() {
    let mut exported = exported(4);
    exported.site.commit(vec![]).unwrap();
    let proof = exported.proof();
    let anchor = exported.anchor(0);
    let bytes = proof.to_bytes();
    accepted(&proof, &anchor);
    for index in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[index] ^= 1 << (index % 8);
        let verdict = verify_bytes(&flipped, &anchor, &Options::default());
        assert!(!verdict.is_valid(), "byte {index} of {}", bytes.len());
    }
    for length in 0..bytes.len() {
        let verdict = verify_bytes(&bytes[..length], &anchor, &Options::default());
        assert_eq!(verdict.failure().unwrap().name, "form", "cut at {length}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(!verify_bytes(&longer, &anchor, &Options::default()).is_valid());
}

#[test]
fn a_proof_of_a_recent_block_is_short() {
    let exported = exported(128);
    let length = exported.proof().to_bytes().len();
    assert!(length <= 1_700, "{length} bytes");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let anchor = Anchor { height: Height(1), hash: Hash([1; 32]) };
        prop_assert!(!verify_bytes(&bytes, &anchor, &Options::default()).is_valid());
    }

    /// Damage deep inside of a real file, past what random bytes reach.
    #[test]
    fn damaged_files_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = sample().clone();
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        let anchor = Anchor { height: Height(0), hash: Hash([1; 32]) };
        let verdict = verify_bytes(&bytes, &anchor, &Options::default());
        prop_assert!(!verdict.is_valid());
    }
}

#[test]
fn fuzz_targets_take_real_and_damaged_files() {
    let mut bytes = sample().clone();
    super::fuzz(&bytes);
    crate::state::fuzz(&bytes);
    let exported = exported(2);
    crate::proof::fuzz_anchor(exported.anchor(1).to_code().as_bytes());
    for (key, value) in exported.site.state.entries() {
        crate::state::fuzz(&[&[key.len() as u8], &key[..], &value[..]].concat());
    }
    for index in 0..bytes.len() {
        bytes[index] ^= 0x10;
        super::fuzz(&bytes);
        bytes[index] ^= 0x10;
    }
}

fn sample() -> &'static Vec<u8> {
    static SAMPLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    SAMPLE.get_or_init(|| exported(4).proof().to_bytes())
}

/// The certificate of the store's form is as strict as that of a proof.
#[test]
fn certificates_round_trip() {
    let exported = exported(1);
    let (_, certificate) = exported.site.chain.last().unwrap();
    let read = Certificate::from_bytes(&certificate.to_bytes());
    assert_eq!(read.as_ref(), Ok(certificate));
}
