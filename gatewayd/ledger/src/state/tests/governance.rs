//! Policy, standing, keys, eras.

use alloc::string::ToString;

use super::*;
use crate::{
    genesis::FounderAttestation,
    operator::{Recovery, Request, SignedAct, certify_recovery},
    policy::{NextVersion, Window},
    transaction::{
        Document, DocumentKind, GatewayApproval, PolicyAct, Replace, VoteKeyProof, vote_key_digest,
        vote_possession_digest,
    },
};

#[test]
fn a_policy_for_another_state_machine_is_refused() {
    let mut site = Fixture::new();
    let policy = Policy { state_version: 2, ..Policy::default() };
    let transaction = site.by_operator(policy.into());
    assert_eq!(applied(site.try_one(&transaction)), ApplyError::StateVersion(2));
    let policy = Policy { block_interval_ms: 250, ..Policy::default() };
    let transaction = site.by_operator(policy.clone().into());
    site.commit(vec![transaction]).unwrap();
    assert_eq!(*site.state.policy(), policy);
}

#[test]
fn standing_changes_by_the_allowed_steps_alone() {
    let mut site = Fixture::new();
    let node = site.join(2);
    let standing = |site: &Fixture| site.state.light_node(&node).unwrap().standing.standing;
    let pardon = site.by_operator(Body::Pardon(act(node)));
    assert!(matches!(applied(site.try_one(&pardon)), ApplyError::Standing(_)));
    let suspend = site.by_operator(suspension(node));
    site.commit(vec![suspend]).unwrap();
    assert_eq!(standing(&site), Standing::Suspended);
    let again = site.by_operator(suspension(node));
    assert!(matches!(applied(site.try_one(&again)), ApplyError::Standing(_)));
    let pardon = site.by_operator(Body::Pardon(act(node)));
    site.commit(vec![pardon]).unwrap();
    assert_eq!(standing(&site), Standing::Active);
    let revoke = site.by_operator(Body::Revoke(act(node)));
    site.commit(vec![revoke]).unwrap();
    for body in [Body::Pardon(act(node)), suspension(node), Body::Revoke(act(node))] {
        let transaction = site.by_operator(body);
        let error = ApplyError::Standing("revoked is for ever");
        assert_eq!(applied(site.try_one(&transaction)), error);
    }
    let unknown = site.by_operator(suspension(NodeId([1; 20])));
    assert_eq!(applied(site.try_one(&unknown)), ApplyError::UnknownNode(NodeId([1; 20])));
}

#[test]
fn the_last_voter_keeps_its_rights() {
    let mut site = Fixture::new();
    for body in [suspension(site.gateway()), Body::Revoke(act(site.gateway()))] {
        let transaction = site.by_operator(body);
        let error = ApplyError::Standing("the last voter keeps its rights");
        assert_eq!(applied(site.try_one(&transaction)), error);
    }
}

#[test]
fn revoking_a_gateway_exposes_the_keys_it_held() {
    let mut site = Fixture::new();
    let other = site.add_member(20);
    let node = site.join(2);
    let item = site.assignment(node, vec![site.gateway(), other.node()]);
    let assign = site.assign(vec![item], &[&other]);
    let assign = site.by_founder(assign);
    site.commit(vec![assign]).unwrap();
    assert_eq!(site.state.exposed_since(&node), None);
    let revoke = site.by_operator(Body::Revoke(act(other.node())));
    site.commit(vec![revoke]).unwrap();
    let revoked_at = site.height();
    assert_eq!(site.state.exposed_since(&node), Some(revoked_at));
    let item = site.assignment(node, vec![site.gateway()]);
    let assign = site.assign(vec![item], &[]);
    let assign = site.by_founder(assign);
    site.commit(vec![assign]).unwrap();
    assert_eq!(site.state.exposed_since(&node), Some(revoked_at), "leaving the list heals nothing");
}

#[test]
fn a_vote_key_is_rotated_once_and_changes_the_validators() {
    let mut site = Fixture::new();
    let (chain, identity) = (site.state.chain_id().0, site.founder.identity.public_key());
    let new = key(150);
    let before = site.state.validator_set();
    let rotate = site.by_identity(Body::RotateKey(RotateKey::new(&chain, &identity, &new)));
    let pending =
        site.by_founder(Body::Refusal(Refusal { node: NodeId([1; 20]), reason: Text::default() }));
    let pending = site.state.verify(pending).unwrap();
    site.commit(vec![rotate]).unwrap();
    assert_ne!(site.state.validator_set().hash(), before.hash());
    assert_eq!(site.tip.header.next_validators_hash, site.state.validator_set().hash());
    // Verified under the old key, applied after the rotation.
    let mut execution = site.state.begin(site.tip.next_context(site.now_ms()));
    assert_eq!(execution.apply(&pending), Err(ApplyError::KeyChanged));
    let old = site.founder.vote.clone();
    site.founder.vote = new.clone();
    site.voters[0].vote = new;
    for used in [&old, &site.founder.vote.clone(), &site.operator.clone()] {
        let body = Body::RotateKey(RotateKey::new(&chain, &identity, used));
        let transaction = site.by_identity(body);
        assert_eq!(applied(site.try_one(&transaction)), ApplyError::KeyInUse);
    }
    site.commit(vec![]).unwrap();
}

#[test]
fn a_rotation_without_possession_is_refused() {
    let mut site = Fixture::new();
    let (chain, identity) = (site.state.chain_id().0, site.founder.identity.public_key());
    let mut rotation = RotateKey::new(&chain, &identity, &key(150));
    rotation.vote_key = key(151).public_key();
    let transaction = site.by_identity(Body::RotateKey(rotation));
    let refused = site.try_one(&transaction).unwrap_err();
    assert!(matches!(refused, Refused::Verify(VerifyError::Part(_))));
}

#[test]
fn the_operator_key_rotates_by_itself() {
    let mut site = Fixture::new();
    let chain = site.state.chain_id().0;
    let new = key(201);
    let mut forged = OperatorRotation::new(&chain, &new);
    forged.new_key = key(202).public_key();
    let transaction = site.by_operator(Body::OperatorRotation(forged));
    assert!(matches!(site.try_one(&transaction), Err(Refused::Verify(VerifyError::Part(_)))));
    let in_use = OperatorRotation::new(&chain, &site.founder.vote);
    let transaction = site.by_operator(Body::OperatorRotation(in_use));
    assert_eq!(applied(site.try_one(&transaction)), ApplyError::KeyInUse);

    let rotation = Body::OperatorRotation(OperatorRotation::new(&chain, &new));
    let transaction = site.by_operator(rotation);
    site.commit(vec![transaction]).unwrap();
    let by_old = site.by_operator(Policy::default().into());
    assert_eq!(site.try_one(&by_old), Err(Refused::Verify(VerifyError::Signature)));
    site.operator = new;
    let by_new = site.by_operator(Policy::default().into());
    site.commit(vec![by_new]).unwrap();
}

#[test]
fn two_keys_changed_in_one_block_make_each_other_fail() {
    let mut site = Fixture::new();
    let chain = site.state.chain_id().0;
    let rotation = Body::OperatorRotation(OperatorRotation::new(&chain, &key(201)));
    let first = site.by_operator(rotation);
    let second = site.by_operator(Policy::default().into());
    let expected = BlockError::Apply { index: 1, error: ApplyError::KeyChanged };
    assert_eq!(site.commit(vec![first, second]), Err(expected));
}

fn recovery<'a>(site: &'a Fixture, new_key: Option<VoteKeyProof>) -> Recovery<'a> {
    Recovery {
        state: &site.state,
        tip: &site.tip,
        last_commit: site.last_commit.as_ref(),
        time_ms: site.now_ms(),
        proposer: site.gateway(),
        survivors: vec![Survivor { node: site.gateway(), new_vote_key: new_key }],
        nonce: 1,
        expiry_ms: site.now_ms() + 60_000,
    }
}

fn new_vote_key(site: &Fixture, vote: &crate::crypto::SigningKey) -> VoteKeyProof {
    let context = site.state.chain_id().0;
    let (identity, vote_key) = (site.founder.identity.public_key(), vote.public_key());
    VoteKeyProof {
        vote_key,
        certificate: site
            .founder
            .identity
            .sign_digest(&vote_key_digest(&context, &identity, &vote_key)),
        possession: vote.sign_digest(&vote_possession_digest(&context, &identity, &vote_key)),
    }
}

/// A recovery with a new vote key, through the three steps of an operator act.
#[test]
fn the_operator_recovers_the_ledger_of_a_sole_voter() {
    let mut site = Fixture::new();
    site.join(2);
    let vote = key(150);
    let proof = new_vote_key(&site, &vote);
    let (draft, header) = recovery(&site, Some(proof)).draft().unwrap();

    let name = Text::new("cold store").unwrap();
    let request = Request::new(draft, name, Text::new("ann").unwrap()).unwrap();
    let on_the_stick = Request::from_bytes(&request.to_bytes()).unwrap();
    assert!(on_the_stick.describe().iter().any(|line| line.contains("RECOVER")));
    let signed = on_the_stick.sign(&site.operator);
    let back = SignedAct::from_bytes(&signed.to_bytes()).unwrap();
    let (header, certificate) = certify_recovery(header, back.clone().into_transaction());

    let block = crate::block::Block {
        header,
        transactions: vec![back.into_transaction()],
        last_commit: site.last_commit.clone(),
    };
    let outcome = execute(&site.state, &site.tip, &site.tip_set, &block).unwrap();
    assert_eq!(block.header.era, Era(1));
    let decoded = crate::certificate::Certificate::from_bytes(&certificate.to_bytes());
    assert_eq!(decoded.as_ref(), Ok(&certificate));
    site.take(block, certificate, outcome);
    assert_eq!(site.era(), Era(1));
    assert_eq!(site.state.site().recoveries[0].height, site.height());

    // Life goes on under the new key, and the recovery is the parent's certificate.
    site.founder.vote = vote.clone();
    site.voters[0].vote = vote;
    site.commit(vec![]).unwrap();
    site.commit(vec![]).unwrap();

    // A second recovery of a known era is refused.
    let body = Recover {
        era: Era(1),
        parent: site.tip.hash,
        height: site.height().next(),
        survivors: vec![Survivor { node: site.gateway(), new_vote_key: None }],
        block_digest: Hash::ZERO,
    };
    let mut draft = site.draft(Author::Operator, Body::Recover(body));
    draft.nonce = 2;
    let again = draft.sign(&site.operator);
    assert!(matches!(applied(site.try_one(&again)), ApplyError::Recovery(_)));
}

#[test]
fn a_recovery_certifies_nothing_but_its_block() {
    let mut site = Fixture::new();
    site.join(2);
    let (draft, header) = recovery(&site, None).draft().unwrap();
    let stranger = draft.clone().sign(&key(99));
    let transaction = draft.sign(&site.operator);
    let set = site.state.validator_set();
    let (header, certificate) = certify_recovery(header, transaction.clone());
    assert_eq!(certificate.verify(&header, &set), Ok(()));

    let (other, forged) = certify_recovery(header.clone(), stranger);
    assert!(forged.verify(&other, &set).is_err(), "not the operator's key");
    for change in 0..6 {
        let mut changed = header.clone();
        match change {
            0 => changed.state_root = Hash([1; 32]),
            1 => changed.time_ms += 1,
            2 => changed.proposer = NodeId([1; 20]),
            3 => changed.next_validators_hash = Hash([1; 32]),
            4 => changed.tx_root = Hash([1; 32]),
            _ => changed.era = Era(2),
        }
        let forged = Fixture::recovery_certificate(
            transaction.clone(),
            &crate::block::Block {
                header: changed.clone(),
                transactions: vec![],
                last_commit: None,
            },
        );
        assert!(forged.verify(&changed, &set).is_err(), "change {change}");
    }
}

#[test]
fn a_recovery_is_alone_in_its_block_and_names_it() {
    let mut site = Fixture::new();
    let (draft, _) = recovery(&site, None).draft().unwrap();
    let recover = draft.sign(&site.operator);
    let other =
        site.by_founder(Body::Refusal(Refusal { node: NodeId([1; 20]), reason: Text::default() }));
    for pair in [vec![recover.clone(), other.clone()], vec![other, recover.clone()]] {
        let expected = BlockError::Apply { index: 1, error: ApplyError::RecoveryNotAlone };
        assert_eq!(site.block(site.now_ms(), pair).err(), Some(expected));
    }
    // The same transaction at another block time is another block than the operator signed.
    let block = site.block(site.now_ms() + 1, vec![recover]).unwrap();
    let refused = execute(&site.state, &site.tip, &site.tip_set, &block);
    assert_eq!(refused.err(), Some(BlockError::Recovery));
}

#[test]
fn a_recovery_needs_survivors_with_rights() {
    let site = Fixture::new();
    let mut plan = recovery(&site, None);
    plan.survivors[0].node = NodeId([1; 20]);
    let error = crate::operator::ActError::Apply(ApplyError::UnknownNode(NodeId([1; 20])));
    assert_eq!(plan.draft().err(), Some(error));
    plan.survivors.clear();
    assert!(plan.draft().is_err());
}

#[test]
fn only_the_operators_kinds_become_requests() {
    let mut site = Fixture::new();
    let name = || Text::new("x").unwrap();
    for body in bodies(&mut site) {
        let (kind, authorship) = (body.kind(), body.authorship());
        let draft = site.draft(Author::Operator, body.clone());
        let draft = with_attachment(&site, draft);
        let request = Request::new(draft, name(), name());
        assert_eq!(request.is_ok(), authorship == Authorship::Operator, "{kind:?}");
        if let Ok(request) = request {
            let read = Request::from_bytes(&request.to_bytes());
            assert_eq!(read.as_ref(), Ok(&request));
            assert!(request.describe().len() >= 5, "{kind:?}");
            let author = Author::Node(site.gateway());
            let other = site.draft(author, body);
            assert!(Request::new(other, name(), name()).is_err());
        }
    }
}

fn document(kind: DocumentKind, byte: u8) -> Document {
    Document { kind, bytes: vec![byte; 100] }
}

#[test]
fn the_documents_that_a_policy_names_are_on_the_ledger() {
    let mut site = Fixture::new();
    let anchor = document(DocumentKind::Anchor, 1);
    let values = document(DocumentKind::ReferenceValues, 2);
    let window = Window { document: values.hash(), until_ms: 0 };
    let policy = Policy {
        ek_anchors: vec![anchor.hash()],
        reference_values: vec![window],
        ..Policy::default()
    };
    let by = |site: &mut Fixture, policy: &Policy, documents: &[&Document]| {
        let documents = documents.iter().copied().cloned().collect();
        site.by_operator(PolicyAct::new(policy.clone(), documents).into())
    };
    let missing = ApplyError::Policy("a document that it names is not on the ledger");
    for some in [&[][..], &[&anchor], &[&values]] {
        let refused = by(&mut site, &policy, some);
        assert_eq!(applied(site.try_one(&refused)), missing);
    }
    let more = document(DocumentKind::Anchor, 3);
    let refused = by(&mut site, &policy, &[&anchor, &values, &more]);
    let unnamed = ApplyError::Policy("a document comes along that it does not name");
    assert_eq!(applied(site.try_one(&refused)), unnamed);
    let disguised = Document { kind: DocumentKind::ReferenceValues, ..anchor.clone() };
    let refused = by(&mut site, &policy, &[&disguised, &values]);
    let kind = ApplyError::Policy("a document is of another kind");
    assert_eq!(applied(site.try_one(&refused)), kind);

    let all = by(&mut site, &policy, &[&anchor, &values]);
    site.commit(vec![all]).unwrap();
    assert_eq!(site.state.document(&anchor.hash()), Some(&anchor));
    let named: Vec<_> = site.state.documents().map(|(_, document)| document.kind).collect();
    assert_eq!(named, [DocumentKind::Anchor, DocumentKind::ReferenceValues]);
    // Known once, known for later policies: old and new hold together during a window.
    let update = document(DocumentKind::ReferenceValues, 4);
    let until = Window { until_ms: site.now_ms(), ..window };
    let mut reference_values = vec![until, Window { document: update.hash(), until_ms: 0 }];
    reference_values.sort_unstable();
    let both = Policy { reference_values, ..policy };
    let both = by(&mut site, &both, &[&update]);
    site.commit(vec![both]).unwrap();
    assert_eq!(site.state.documents().count(), 3);
    assert!(until.holds(site.tip.header.time_ms) && !until.holds(until.until_ms + 1));
}

#[test]
fn a_version_that_this_build_does_not_know_is_not_announced() {
    let mut site = Fixture::new();
    let next = NextVersion { state_version: 2, height: Height(100) };
    let policy = Policy { next_version: Some(next), ..Policy::default() };
    let refused = site.by_operator(policy.into());
    assert_eq!(applied(site.try_one(&refused)), ApplyError::StateVersion(2));
}

/// What the operator reads before it signs says what matters, loudly where it must.
#[test]
fn the_operators_acts_are_read_before_they_are_signed() {
    let mut site = Fixture::new();
    let keys = GatewayKeys::new(60);
    let approval = GatewayApproval { pin: true, ..site.approval(&keys) };
    let replace = Replace {
        attestation: FounderAttestation::Unattested,
        ..site.replacement(site.gateway(), &keys)
    };
    let anchor = document(DocumentKind::Anchor, 1);
    let hash = anchor.hash().to_string();
    let policy = Policy { ek_anchors: vec![anchor.hash()], pcrs: 0b101, ..Policy::default() };
    let node = keys.node().to_gateway_string();
    let acts: [(Body, Vec<&str>); 4] = [
        (
            Body::GatewayApproval(approval),
            vec![&node, "full node and coordinator", "WITHOUT A CERTIFICATE", "30 days"],
        ),
        (Body::Replace(replace.into()), vec![&node, "a new mainboard", "SOFTWARE", "vote"]),
        (
            PolicyAct::new(policy, vec![anchor]).into(),
            vec![&hash, "EK anchor (may vouch", "PCR 0, 2", "1, then 4, 7, 10"],
        ),
        (suspension(keys.node()), vec![&node, "Suspend", "a test"]),
    ];
    for (body, parts) in acts {
        let draft = site.draft(Author::Operator, body);
        let name = || Text::new("x").unwrap();
        let text = Request::new(draft, name(), name()).unwrap().describe().join("\n");
        for part in parts {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }
}
