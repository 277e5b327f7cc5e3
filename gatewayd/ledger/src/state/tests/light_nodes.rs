//! Registration, assignment, sessions, windows.

use super::*;
use crate::{
    ids::{Identity, IdentityKind},
    state::records::{DOWN_WINDOW, JOIN_WINDOW},
    transaction::{Assign, AssignReason, Register, Session, Ticket, TicketIssuer},
};

fn register(site: &mut Fixture, change: impl FnOnce(&mut Register)) -> Result<Vec<Event>, Refused> {
    let node = site.light_node_id(2);
    let mut body = site.registration(node);
    change(&mut body);
    let transaction = site.by_founder(Body::Register(body));
    site.try_one(&transaction)
}

#[test]
fn a_registration_must_agree_with_itself() {
    let mut site = Fixture::new();
    assert!(register(&mut site, |_| ()).is_ok());
    let own_key = key(5).public_key();
    type Change = fn(&mut Register);
    let cases: [(&str, Change); 4] = [
        ("level 4", |body| body.level = 4),
        ("level 2 without a key", |body| body.level = 2),
        ("a key of another kind", |body| body.public_key = Some(key(5).public_key())),
        ("no key", |body| body.identity_kind = IdentityKind::PublicKey),
    ];
    for (description, change) in cases {
        let error = applied(register(&mut site, change));
        assert!(matches!(error, ApplyError::Registration(_)), "{description}: {error:?}");
    }
    // The ID must be the key's own.
    let chain = site.state.chain_id();
    let foreign = site.light_node_id(2);
    for (node, fits) in [(NodeId::of_key(&own_key), true), (foreign, false)] {
        let mut body = site.registration(node);
        body.identity_kind = IdentityKind::PublicKey;
        body.public_key = Some(own_key);
        body.level = 3;
        let transaction = site.by_founder(Body::Register(body));
        assert_eq!(site.try_one(&transaction).is_ok(), fits);
    }
    let identity = Identity::PublicKey(*own_key.as_bytes());
    assert_eq!(NodeId::derive(&identity, &chain), NodeId::of_key(&own_key));
}

#[test]
fn an_id_is_registered_once_while_it_lives() {
    let mut site = Fixture::new();
    let node = site.join(2);
    let again = site.by_founder(Body::Register(site.registration(node)));
    assert_eq!(applied(site.try_one(&again)), ApplyError::Registered(node));
    let gateway = site.by_founder(Body::Register(site.registration(site.gateway())));
    assert_eq!(applied(site.try_one(&gateway)), ApplyError::Registered(site.gateway()));
}

fn retire(site: &mut Fixture, node: NodeId) {
    let ticket = site.window_ticket(TicketPurpose::Retire, &node);
    let body = Body::Retire(Retire { node, reason: reason(), ticket });
    let transaction = site.by_founder(body);
    site.commit(vec![transaction]).unwrap();
}

#[test]
fn a_retired_node_comes_back_with_its_counters_unless_revoked() {
    let mut site = Fixture::new();
    let node = site.join(2);
    let batch = site.batch(&site.cut(&[(node, 1, 0), (node, 1, 1)]), vec![]);
    site.commit(vec![batch]).unwrap();
    retire(&mut site, node);
    assert_eq!(site.state.serving_gateway(&node), None);
    let twice = Body::Retire(Retire {
        node,
        reason: reason(),
        ticket: site.window_ticket(TicketPurpose::Retire, &node),
    });
    let twice = site.by_founder(twice);
    assert_eq!(applied(site.try_one(&twice)), ApplyError::Retired(node));

    let back = site.by_founder(Body::Register(site.registration(node)));
    let events = site.try_one(&back).unwrap();
    assert!(matches!(events[0], Event::Registered { again: true, .. }));
    site.commit(vec![back]).unwrap();
    let session = site.state.session(&node).unwrap();
    assert_eq!((session.counters.epoch, session.counters.highest), (1, Some(1)));

    retire(&mut site, node);
    let revoke = site.by_operator(Body::Revoke(act(node)));
    site.commit(vec![revoke]).unwrap();
    let back = site.by_founder(Body::Register(site.registration(node)));
    assert_eq!(applied(site.try_one(&back)), ApplyError::Revoked(node));
}

#[test]
fn a_ticket_holds_for_its_purpose_node_sponsor_and_time() {
    let mut site = Fixture::new();
    let node = site.light_node_id(2);
    let chain = site.state.chain_id();
    let now = site.tip.header.time_ms;
    let sponsor = site.gateway();
    let vote = site.founder.vote.clone();
    let operator = site.operator.clone();
    let window = |opened_ms| TicketIssuer::Window { sponsor, opened_ms };
    let sign = |purpose, node: &NodeId, issuer, expires, key: &_| {
        Ticket::sign(&chain, purpose, node, issuer, expires, key)
    };
    let purpose = TicketPurpose::Register;
    let good = [
        sign(purpose, &node, window(now), now + 3_600_000, &vote),
        sign(purpose, &node, TicketIssuer::Operator, now + 9_999_999_999, &operator),
    ];
    for ticket in good {
        assert!(register(&mut site, |body| body.ticket = ticket).is_ok());
    }
    let forged = [
        ("another purpose", sign(TicketPurpose::Retire, &node, window(now), now + 9_000, &vote)),
        ("another node", sign(purpose, &NodeId([1; 20]), window(now), now + 9_000, &vote)),
        ("not the operator's", sign(purpose, &node, TicketIssuer::Operator, now + 9_000, &vote)),
        ("not the sponsor's", sign(purpose, &node, window(now), now + 9_000, &operator)),
    ];
    for (description, ticket) in forged {
        let refused = register(&mut site, |body| body.ticket = ticket);
        let expected = Err(Refused::Verify(VerifyError::Part("ticket")));
        assert_eq!(refused, expected, "{description}");
    }
    let unfit = [
        ("expired", sign(purpose, &node, window(now - 10_000), now, &vote)),
        ("longer than an hour", sign(purpose, &node, window(now), now + 3_600_001, &vote)),
        ("ends before it begins", sign(purpose, &node, window(now + 9_000), now + 5_000, &vote)),
        ("not open yet", sign(purpose, &node, window(now + 70_000), now + 90_000, &vote)),
        ("operator's, expired", sign(purpose, &node, TicketIssuer::Operator, now, &operator)),
    ];
    for (description, ticket) in unfit {
        let error = applied(register(&mut site, |body| body.ticket = ticket));
        assert!(matches!(error, ApplyError::Ticket(_)), "{description}: {error:?}");
    }
    // A window of another gateway than the named sponsor.
    let other = site.add_member(20);
    let issuer = TicketIssuer::Window { sponsor: other.node(), opened_ms: now };
    let ticket = sign(purpose, &node, issuer, now + 9_000, &other.vote);
    let error = applied(register(&mut site, |body| body.ticket = ticket));
    assert!(matches!(error, ApplyError::Ticket(_)));
}

#[test]
fn a_ticket_is_good_once() {
    let mut site = Fixture::new();
    let node = site.light_node_id(2);
    let (chain, now) = (site.state.chain_id(), site.tip.header.time_ms);
    let operator = site.operator.clone();
    let sign = |purpose| {
        Ticket::sign(&chain, purpose, &node, TicketIssuer::Operator, now + 99_999_999, &operator)
    };
    let mut first = site.registration(node);
    first.ticket = sign(TicketPurpose::Register);
    let retire = |ticket| Body::Retire(Retire { node, reason: reason(), ticket });
    let transactions = vec![
        site.by_founder(Body::Register(first.clone())),
        site.by_founder(retire(sign(TicketPurpose::Retire))),
    ];
    site.commit(transactions).unwrap();
    let replayed = site.by_founder(Body::Register(first));
    assert_eq!(applied(site.try_one(&replayed)), ApplyError::Ticket("it was used before"));
    let fresh = site.by_founder(Body::Register(site.registration(node)));
    site.commit(vec![fresh]).unwrap();
    let replayed = site.by_founder(retire(sign(TicketPurpose::Retire)));
    assert_eq!(applied(site.try_one(&replayed)), ApplyError::Ticket("it was used before"));
}

#[test]
fn used_tickets_are_forgotten_when_they_expire_and_bounded() {
    let mut site = Fixture::new();
    let node = site.light_node_id(2);
    let mut again = 0;
    while again < 8 {
        let register = site.by_founder(Body::Register(site.registration(node)));
        let ticket = site.window_ticket(TicketPurpose::Retire, &node);
        let retire = site.by_founder(Body::Retire(Retire { node, reason: reason(), ticket }));
        site.commit(vec![register, retire]).unwrap();
        again += 1;
    }
    let transaction = site.by_founder(Body::Register(site.registration(node)));
    let error = ApplyError::Budget("unexpired tickets of one light node");
    assert_eq!(applied(site.try_one(&transaction)), error);
    site.commit_at(site.now_ms() + 200_000, vec![]).unwrap();
    let transaction = site.by_founder(Body::Register(site.registration(node)));
    assert!(site.try_one(&transaction).is_ok());
}

#[test]
fn sponsors_have_budgets() {
    let mut site = Fixture::new();
    let policy = Policy { registrations_per_hour: 2, nodes_per_sponsor: 3, ..Policy::default() };
    let policy = site.by_operator(policy.into());
    site.commit(vec![policy]).unwrap();
    let first = site.join(2);
    site.join(3);
    let third = site.light_node_id(4);
    let transaction = site.by_founder(Body::Register(site.registration(third)));
    let error = ApplyError::Budget("registrations in an hour");
    assert_eq!(applied(site.try_one(&transaction)), error);
    // The next hour.
    site.commit_at(site.now_ms() + 3_600_000, vec![]).unwrap();
    site.join(4);
    let transaction = site.by_founder(Body::Register(site.registration(site.light_node_id(5))));
    let error = ApplyError::Budget("light nodes of one sponsor");
    assert_eq!(applied(site.try_one(&transaction)), error);
    retire(&mut site, first);
    site.join(5);
}

#[test]
fn a_marked_gateway_does_not_sponsor() {
    let mut site = Fixture::new();
    let mut gateway = site.state.gateway(&site.gateway()).unwrap().clone();
    gateway.standing.standing = Standing::Marked;
    site.put(Key::Gateway(site.gateway()), Record::Gateway(gateway));
    let error = applied(register(&mut site, |_| ()));
    assert!(matches!(error, ApplyError::Ticket(_)));
}

#[test]
fn an_assignment_is_compare_and_set() {
    let mut site = Fixture::new();
    let node = site.join(2);
    let list = vec![site.gateway()];
    for (expected_epoch, session_epoch, error) in [
        (0, 1, ApplyError::Epoch { expected: 0, found: 1 }),
        (1, 0, ApplyError::Epoch { expected: 0, found: 1 }),
    ] {
        let mut item = site.assignment(node, list.clone());
        (item.expected_epoch, item.session_epoch) = (expected_epoch, session_epoch);
        let body = site.assign(vec![item], &[]);
        let transaction = site.by_founder(body);
        assert_eq!(applied(site.try_one(&transaction)), error);
    }
    let item = site.assignment(node, list);
    let body = site.assign(vec![item], &[]);
    let transaction = site.by_founder(body);
    assert!(site.try_one(&transaction).is_ok());
}

#[test]
fn every_listed_gateway_has_signed_that_it_holds_the_session() {
    let mut site = Fixture::new();
    let (other, third) = (site.add_member(20), site.add_member(21));
    let node = site.join(2);
    let list = vec![site.gateway(), other.node()];
    let item = site.assignment(node, list.clone());
    for (description, holders) in
        [("missing", vec![]), ("another's", vec![&third]), ("too many", vec![&other, &third])]
    {
        let body = site.assign(vec![item.clone()], &holders);
        let transaction = site.by_founder(body);
        let refused = site.try_one(&transaction);
        assert!(matches!(refused, Err(Refused::Verify(VerifyError::Part(_)))), "{description}");
    }
    let good = site.assign(vec![item.clone()], &[&other]);
    let Body::Assign(mut moved) = good.clone() else { unreachable!() };
    moved.items[0].session_epoch = 7;
    let transaction = site.by_founder(Body::Assign(moved));
    let refused = site.try_one(&transaction);
    assert_eq!(refused, Err(Refused::Verify(VerifyError::Part("holder signature"))));
    let transaction = site.by_founder(good);
    site.commit(vec![transaction]).unwrap();
    assert_eq!(site.state.light_node(&node).unwrap().gateways, list);
    assert_eq!(site.state.serving_gateway(&node), Some(site.gateway()));
}

#[test]
fn a_live_server_is_not_pushed_aside() {
    let mut site = Fixture::new();
    let other = site.add_member(20);
    let node = site.join(2);
    let founder = site.gateway();
    let pushed = [vec![other.node()], vec![other.node(), founder], vec![]];
    for list in pushed {
        let holders: Vec<&GatewayKeys> = if list.is_empty() { vec![] } else { vec![&other] };
        let item = site.assignment(node, list);
        // By the other gateway's hand: the founder has not agreed to go.
        let Body::Assign(body) = site.assign(vec![item.clone()], &holders) else { unreachable!() };
        for reason in [AssignReason::Refill, AssignReason::Drain] {
            let holders = if item.gateways.contains(&founder) {
                let Body::Assign(by_founder) =
                    site.assign(vec![item.clone()], &[&site.founder.clone()])
                else {
                    unreachable!()
                };
                by_founder.holders
            } else {
                vec![]
            };
            let body = Assign { reason, holders, ..body.clone() };
            let transaction = site.by(&other, Body::Assign(body));
            let error = applied(site.try_one(&transaction));
            assert!(matches!(error, ApplyError::Assignment(_)), "{reason:?}");
        }
    }
    // Drained by its own hand.
    let item = site.assignment(node, vec![other.node()]);
    let Body::Assign(body) = site.assign(vec![item], &[&other]) else { unreachable!() };
    let body = Assign { reason: AssignReason::Drain, ..body };
    let transaction = site.by_founder(Body::Assign(body));
    site.commit(vec![transaction]).unwrap();
    assert_eq!(site.state.serving_gateway(&node), Some(other.node()));
}

#[test]
fn the_serving_gateway_is_the_first_that_can() {
    let mut site = Fixture::new();
    let other = site.add_member(20);
    let node = site.join(2);
    let item = site.assignment(node, vec![site.gateway(), other.node()]);
    let body = site.assign(vec![item], &[&other]);
    let transaction = site.by_founder(body);
    site.commit(vec![transaction]).unwrap();
    let mut founder = site.state.gateway(&site.gateway()).unwrap().clone();
    founder.online = false;
    site.put(Key::Gateway(site.gateway()), Record::Gateway(founder));
    assert_eq!(site.state.serving_gateway(&node), Some(other.node()));
}

#[test]
fn unfit_gateways_and_nodes_are_not_assigned() {
    let mut site = Fixture::new();
    let other = site.add_member(20);
    let node = site.join(2);
    let mut weak = site.state.gateway(&other.node()).unwrap().clone();
    weak.full = false;
    site.put(Key::Gateway(other.node()), Record::Gateway(weak));
    let item = site.assignment(node, vec![site.gateway(), other.node()]);
    let body = site.assign(vec![item], &[&other]);
    let transaction = site.by_founder(body);
    assert!(matches!(applied(site.try_one(&transaction)), ApplyError::Assignment(_)));

    let unknown = NodeId([1; 20]);
    let item = site.assignment(unknown, vec![site.gateway()]);
    let body = site.assign(vec![item], &[]);
    let transaction = site.by_founder(body);
    assert_eq!(applied(site.try_one(&transaction)), ApplyError::UnknownNode(unknown));

    let suspend = site.by_operator(suspension(node));
    site.commit(vec![suspend]).unwrap();
    let item = site.assignment(node, vec![site.gateway()]);
    let body = site.assign(vec![item], &[]);
    let transaction = site.by_founder(body);
    assert_eq!(applied(site.try_one(&transaction)), ApplyError::Quarantined(node));
}

/// What it serves already it goes on serving: expiry takes nothing from a sensor.
#[test]
fn a_stale_gateway_gets_no_new_assignment_and_keeps_those_it_has() {
    let mut site = Fixture::hardware();
    let other = GatewayKeys::new(40);
    site.admit(&other);
    let node = site.join(2);
    let day = u64::from(site.state.policy().attestation_valid_s) * 1_000;
    let item = site.assignment(node, vec![site.gateway(), other.node()]);
    let body = site.assign(vec![item], &[&other]);
    assert!(site.try_later(body.clone(), 0, day - 60_000).is_ok());
    let late = applied(site.try_later(body, 0, day + 60_000));
    assert_eq!(late, ApplyError::Assignment("a listed gateway has not the right to serve"));
    let item = site.assignment(node, vec![site.gateway()]);
    let kept = site.assign(vec![item], &[]);
    assert!(site.try_later(kept, 0, day + 60_000).is_ok(), "it is stale, too, and serves on");
}

fn session(node: NodeId, expected_epoch: u32, liveness_epoch: u32) -> Body {
    Body::Session(Session { node, expected_epoch, digest: Hash([3; 32]), liveness_epoch })
}

#[test]
fn a_session_is_compare_and_set_and_opened_by_a_holder() {
    let mut site = Fixture::new();
    let other = site.add_member(20);
    let node = site.join(2);
    for (body, error) in [
        (session(node, 0, 0), ApplyError::Epoch { expected: 0, found: 1 }),
        (session(node, 2, 0), ApplyError::Epoch { expected: 2, found: 1 }),
        (session(node, 1, 5), ApplyError::Liveness(5)),
    ] {
        let transaction = site.by_founder(body);
        assert_eq!(applied(site.try_one(&transaction)), error);
    }
    let transaction = site.by(&other, session(node, 1, 0));
    assert_eq!(applied(site.try_one(&transaction)), ApplyError::NotAHolder(node));

    let transaction = site.by_founder(session(node, 1, 0));
    site.commit(vec![transaction]).unwrap();
    let record = site.state.session(&node).unwrap();
    assert_eq!(record.counters.epoch, 2);
    assert_eq!(record.down_next, DOWN_WINDOW, "the first window is implied");
    assert_eq!(record.down.unwrap().gateway, site.gateway());
}

#[test]
fn windows_are_given_once_to_the_server_alone() {
    let mut site = Fixture::new();
    let other = site.add_member(20);
    let node = site.join(2);
    let reserve = |session_epoch, liveness_epoch, down, join| {
        let items = vec![ReserveItem { node, session_epoch, down, join }];
        Body::Reserve(Reserve { liveness_epoch, items })
    };
    let transaction = site.by(&other, reserve(1, 0, true, false));
    assert_eq!(applied(site.try_one(&transaction)), ApplyError::NotServing(node));
    for (body, error) in [
        (reserve(2, 0, true, false), ApplyError::Epoch { expected: 2, found: 1 }),
        (reserve(1, 1, true, false), ApplyError::Liveness(1)),
    ] {
        let transaction = site.by_founder(body);
        assert_eq!(applied(site.try_one(&transaction)), error);
    }
    let mut seen = Vec::new();
    for _ in 0..3 {
        let transaction = site.by_founder(reserve(1, 0, true, true));
        let events = site.try_one(&transaction).unwrap();
        let Event::Reserved { down, join, .. } = events[0] else { panic!("{events:?}") };
        seen.push((down.unwrap(), join.unwrap()));
        site.commit(vec![transaction]).unwrap();
    }
    let expected: Vec<_> = (0..3).map(|i| (DOWN_WINDOW * (i + 1), 1 + JOIN_WINDOW * i)).collect();
    assert_eq!(seen, expected);
}

#[test]
fn windows_run_out_instead_of_beginning_again() {
    let mut site = Fixture::new();
    let node = site.join(2);
    let mut record = site.state.session(&node).unwrap().clone();
    record.down_next = u32::MAX - 10;
    record.join_next = (1 << 24) - 10;
    site.put(Key::Session(node), Record::Session(record));
    for (down, join) in [(true, false), (false, true)] {
        let items = vec![ReserveItem { node, session_epoch: 1, down, join }];
        let transaction = site.by_founder(Body::Reserve(Reserve { liveness_epoch: 0, items }));
        assert!(matches!(applied(site.try_one(&transaction)), ApplyError::Exhausted(_)));
    }
}
