//! Each rule of the state machine, by the transaction that breaks it.

mod absurd;
mod governance;
mod light_nodes;
mod lives;
mod membership;
mod pinning;
mod readings;
mod voters;

use alloc::{vec, vec::Vec};

use super::*;
use crate::{
    chain::{BlockError, Tip, execute},
    codec::{Decode, Encode, Text},
    fixture::{Fixture, GatewayKeys, Refused, key},
    transaction::{
        Authorship, Body, Kind, NodeAct, OperatorRotation, Reason, Recover, Refusal, Reserve,
        ReserveItem, Retire, RotateKey, Survivor, Suspend, SuspendCause, Tally, TallyCount,
        TallyKind, TicketPurpose, Transaction,
    },
};

fn reason() -> Reason {
    Text::new("a test").unwrap()
}

fn act(node: NodeId) -> NodeAct {
    NodeAct { node, reason: reason() }
}

/// The state that the whole chain leads to, block by block from genesis.
fn replayed(site: &Fixture) -> State {
    let mut state = State::from_genesis(&site.genesis);
    let mut tip = Tip::genesis(&site.genesis);
    let mut parents_set = site.genesis.validator_set();
    for (block, certificate) in &site.chain {
        let outcome = execute(&state, &tip, &parents_set, block).unwrap();
        parents_set = state.validator_set();
        certificate.verify(&block.header, &parents_set).unwrap();
        state.commit(outcome);
        tip = tip.advance(block.header.clone());
    }
    assert_eq!(tip, site.tip);
    state
}

fn suspension(node: NodeId) -> Body {
    Body::Suspend(Suspend { node, reason: reason(), cause: SuspendCause::Operator })
}

fn applied(result: Result<Vec<Event>, Refused>) -> ApplyError {
    match result {
        Err(Refused::Apply(error)) => error,
        other => panic!("expected a refusal by apply, got {other:?}"),
    }
}

/// A body of every delivered kind; most need not be valid, the author is checked first.
fn bodies(site: &mut Fixture) -> Vec<Body> {
    let node = site.join(40);
    let batch = site.cut(&[(node, 1, 0)]);
    let chain = site.state.chain_id().0;
    let identity = site.founder.identity.public_key();
    let item = site.assignment(node, vec![site.gateway()]);
    let count = TallyCount { kind: TallyKind::Unknown, frames: 1, senders: 1 };
    let item_to_reserve = ReserveItem { node, session_epoch: 1, down: true, join: false };
    let retire =
        Retire { node, reason: reason(), ticket: site.window_ticket(TicketPurpose::Retire, &node) };
    let recover = Recover {
        era: Era(1),
        parent: site.tip.hash,
        height: site.height().next(),
        survivors: vec![Survivor { node: site.gateway(), new_vote_key: None }],
        block_digest: Hash::ZERO,
    };
    let mut all = vec![
        Policy::default().into(),
        suspension(node),
        Body::Pardon(act(node)),
        Body::Revoke(act(node)),
        Body::Recover(recover),
        Body::OperatorRotation(OperatorRotation::new(&chain, &key(77))),
        Body::Batch(batch.head),
        site.open_session(node),
        Body::Reserve(Reserve { liveness_epoch: 0, items: vec![item_to_reserve] }),
        Body::Register(site.registration(site.light_node_id(41))),
        Body::Retire(retire),
        site.assign(vec![item], &[]),
        Body::Tally(Tally { hour: 1, counts: vec![count] }),
        Body::Refusal(Refusal { node, reason: Text::new("clone").unwrap() }),
        Body::RotateKey(RotateKey::new(&chain, &identity, &key(78))),
    ];
    all.extend(site.membership_bodies());
    all
}

fn with_attachment(
    site: &Fixture,
    mut draft: crate::transaction::Draft,
) -> crate::transaction::Draft {
    if draft.body.kind() == Kind::Batch {
        let node = site.light_node_id(40);
        draft.attachment = Some(site.cut(&[(node, 1, 0)]).attachment(vec![]).digest());
    }
    draft
}

/// Signs a draft with a key and gives it the attachment that a batch needs.
fn signed(
    site: &Fixture,
    draft: crate::transaction::Draft,
    key: &crate::crypto::SigningKey,
) -> Transaction {
    let draft = with_attachment(site, draft);
    let attached = draft.attachment.is_some();
    let transaction = draft.sign(key);
    if !attached {
        return transaction;
    }
    let node = site.light_node_id(40);
    transaction.attach(site.cut(&[(node, 1, 0)]).attachment(vec![])).unwrap()
}

#[test]
fn the_right_author_of_each_kind_is_let_in() {
    let mut site = Fixture::new();
    for body in bodies(&mut site) {
        let kind = body.kind();
        let (author, key) = match body.authorship() {
            Authorship::Operator => (Author::Operator, site.operator.clone()),
            Authorship::IdentityKey => {
                (Author::Node(site.gateway()), site.founder.identity.clone())
            }
            _ => (Author::Node(site.gateway()), site.founder.vote.clone()),
        };
        let draft = site.draft(author, body);
        let transaction = signed(&site, draft, &key);
        assert!(site.state.verify(transaction).is_ok(), "{kind:?}");
    }
}

#[test]
fn the_wrong_author_of_each_kind_is_refused() {
    let mut site = Fixture::new();
    let stranger = GatewayKeys::new(60);
    for body in bodies(&mut site) {
        let kind = body.kind();
        let node = Author::Node(site.gateway());
        // (who is named as author, whose key signs): each wrong in one way.
        let wrong = match body.authorship() {
            Authorship::Operator => vec![
                (node, site.founder.vote.clone()),
                (node, site.founder.identity.clone()),
                (Author::Operator, site.founder.vote.clone()),
                (Author::Operator, key(99)),
            ],
            Authorship::IdentityKey => vec![
                (Author::Operator, site.operator.clone()),
                (node, site.founder.vote.clone()),
                (Author::Node(stranger.node()), stranger.identity.clone()),
            ],
            _ => vec![
                (Author::Operator, site.operator.clone()),
                (node, site.founder.identity.clone()),
                (node, site.operator.clone()),
                (Author::Node(stranger.node()), stranger.vote.clone()),
            ],
        };
        for (author, key) in wrong {
            let draft = site.draft(author, body.clone());
            let transaction = signed(&site, draft, &key);
            let refused = site.state.verify(transaction).unwrap_err();
            let expected = matches!(
                refused,
                VerifyError::Author { .. } | VerifyError::Signature | VerifyError::NotAMember(_)
            );
            assert!(expected, "{kind:?} by {author:?}: {refused:?}");
        }
    }
}

#[test]
fn a_member_that_is_no_coordinator_does_not_coordinate() {
    let mut site = Fixture::new();
    let node = site.join(2);
    let mut gateway = site.state.gateway(&site.gateway()).unwrap().clone();
    gateway.coordinator = false;
    site.put(Key::Gateway(site.gateway()), Record::Gateway(gateway));
    let register = site.by_founder(Body::Register(site.registration(site.light_node_id(3))));
    assert_eq!(applied(site.try_one(&register)), ApplyError::NotACoordinator);
    let item = site.assignment(node, vec![]);
    let assign = site.assign(vec![item], &[]);
    let assign = site.by_founder(assign);
    assert_eq!(applied(site.try_one(&assign)), ApplyError::NotACoordinator);
}

#[test]
fn a_suspended_gateway_authors_nothing() {
    let mut site = Fixture::new();
    let node = site.join(2);
    let other = site.add_member(20);
    let suspend = site.by_operator(suspension(other.node()));
    site.commit(vec![suspend]).unwrap();
    let refusal = Body::Refusal(Refusal { node, reason: Text::new("x").unwrap() });
    let transaction = site.by(&other, refusal);
    assert_eq!(applied(site.try_one(&transaction)), ApplyError::NoRights);
}

#[test]
fn other_chains_eras_and_expired_transactions_are_refused() {
    let mut site = Fixture::new();
    let tally = |hour| {
        let count = TallyCount { kind: TallyKind::Unknown, frames: 1, senders: 1 };
        Body::Tally(Tally { hour, counts: vec![count] })
    };
    let author = Author::Node(site.gateway());
    let vote = site.founder.vote.clone();

    let mut other_chain = site.draft(author, tally(1));
    other_chain.chain_id = ChainId(Hash([1; 32]));
    let refused = site.try_one(&other_chain.sign(&vote)).unwrap_err();
    assert_eq!(refused, Refused::Verify(VerifyError::Chain(ChainId(Hash([1; 32])))));

    let mut later_era = site.draft(author, tally(1));
    later_era.era = Era(1);
    assert_eq!(applied(site.try_one(&later_era.sign(&vote))), ApplyError::Era(Era(1)));

    let mut at_the_end = site.draft(author, tally(1));
    at_the_end.expiry = site.height().0 + 1;
    assert!(site.try_one(&at_the_end.sign(&vote)).is_ok());
    let mut expired = site.draft(author, tally(1));
    expired.expiry = site.height().0;
    assert_eq!(applied(site.try_one(&expired.sign(&vote))), ApplyError::Expired(0));

    let operator = site.operator.clone();
    let mut late = site.draft(Author::Operator, Policy::default().into());
    late.expiry = site.now_ms() - 1;
    let expected = ApplyError::Expired(late.expiry);
    assert_eq!(applied(site.try_one(&late.sign(&operator))), expected);
}

#[test]
fn a_nonce_is_used_once_even_within_a_block() {
    let mut site = Fixture::new();
    let author = Author::Node(site.gateway());
    let vote = site.founder.vote.clone();
    let body = Body::Refusal(Refusal { node: NodeId([1; 20]), reason: Text::new("x").unwrap() });
    let transaction = site.draft(author, body).sign(&vote);
    let twice = site.commit(vec![transaction.clone(), transaction.clone()]);
    let expected = BlockError::Apply { index: 1, error: ApplyError::Nonce(1) };
    assert_eq!(twice, Err(expected));
    site.commit(vec![transaction.clone()]).unwrap();
    assert_eq!(applied(site.try_one(&transaction)), ApplyError::Nonce(1));
}

#[test]
fn one_author_cannot_fill_a_block() {
    let mut site = Fixture::new();
    let policy = Policy { transactions_per_author: 2, ..Policy::default() };
    let transaction = site.by_operator(policy.into());
    site.commit(vec![transaction]).unwrap();
    let body = || Body::Refusal(Refusal { node: NodeId([1; 20]), reason: Text::default() });
    let three = (0..3).map(|_| site.by_founder(body())).collect();
    let expected = BlockError::Apply { index: 2, error: ApplyError::TooMany(2) };
    assert_eq!(site.commit(three), Err(expected));
}

#[test]
fn a_refused_transaction_changes_nothing() {
    let mut site = Fixture::new();
    let node = site.join(2);
    let good = site.batch(&site.cut(&[(node, 1, 0)]), vec![]);
    // Its second node is unknown: the first one's counters must not stay changed.
    let stranger = NodeId([0xff; 20]);
    let mut bad = site.cut(&[(node, 1, 5), (stranger, 1, 0)]);
    bad.head.sequence = 2;
    let bad = site.batch(&bad, vec![]);
    let mut execution = site.state.begin(site.tip.next_context(site.now_ms()));
    execution.apply(&site.state.verify(good.clone()).unwrap()).unwrap();
    let refused = execution.apply(&site.state.verify(bad).unwrap());
    assert_eq!(refused, Err(ApplyError::UnknownNode(stranger)));
    let with_bad = execution.finish();
    let mut alone = site.state.begin(site.tip.next_context(site.now_ms()));
    alone.apply(&site.state.verify(good).unwrap()).unwrap();
    assert_eq!(with_bad.root(), alone.finish().root());
}

#[test]
fn the_state_is_rebuilt_from_its_entries() {
    let mut site = Fixture::new();
    for byte in 2..8 {
        site.join(byte);
    }
    let entries: Vec<_> = site.state.entries().collect();
    let rebuilt = State::from_entries(entries.clone(), &site.state.root()).unwrap();
    assert_eq!(rebuilt.root(), site.state.root());
    assert_eq!(rebuilt.light_nodes().count(), 6);
    assert_eq!(rebuilt.gateways().count(), 1);

    let mut damaged = entries.clone();
    damaged.pop();
    let error = State::from_entries(damaged, &site.state.root()).unwrap_err();
    assert!(matches!(error, StateError::Root { .. }), "{error:?}");
    let mut flipped = entries;
    *flipped[0].1.last_mut().unwrap() ^= 1;
    assert!(State::from_entries(flipped, &site.state.root()).is_err());
}

#[test]
fn the_changes_of_each_block_add_up_to_the_entries() {
    let mut site = Fixture::new();
    let mut stored: BTreeMap<Vec<u8>, Vec<u8>> = site.state.entries().collect();
    for byte in 2..5 {
        let node = site.light_node_id(byte);
        let register = site.by_founder(Body::Register(site.registration(node)));
        let mut execution = site.state.begin(site.tip.next_context(site.now_ms()));
        execution.apply(&site.state.verify(register.clone()).unwrap()).unwrap();
        let outcome = execution.finish();
        stored.extend(outcome.changes.iter().map(|c| (c.key.clone(), c.value.clone())));
        site.commit(vec![register]).unwrap();
        assert_eq!(outcome.root(), site.state.root());
    }
    assert_eq!(stored, site.state.entries().collect());
}

#[test]
fn events_round_trip_and_name_their_nodes() {
    let mut site = Fixture::new();
    let node = site.light_node_id(2);
    let register = site.by_founder(Body::Register(site.registration(node)));
    let events = site.try_one(&register).unwrap();
    assert_eq!(events[0].nodes(), [node, site.gateway()]);
    for event in events {
        assert_eq!(Event::from_bytes(&event.to_bytes()), Ok(event.clone()));
        assert!(!event.describe().is_empty());
    }
}
