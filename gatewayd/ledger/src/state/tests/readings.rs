//! Batches, tallies, refusals.

use super::*;
use crate::{
    state::counters::CounterError,
    transaction::{CounterRange, NodeRanges},
};

#[test]
fn a_batch_commits_its_counters_once() {
    let mut site = Fixture::new();
    let (a, b) = (site.join(2), site.join(3));
    let cut = site.cut(&[(a, 1, 0), (a, 1, 1), (b, 1, 4), (b, 1, 9)]);
    let batch = site.batch(&cut, vec![]);
    site.commit(vec![batch]).unwrap();
    let counters = |node| site.state.session(&node).unwrap().counters.clone();
    assert_eq!(counters(a).highest, Some(1));
    let gap = |first, last| CounterRange { epoch: 1, first, last };
    assert_eq!(counters(b).gaps, [gap(0, 3), gap(5, 8)]);

    for positions in [[(a, 1, 1)], [(b, 1, 9)], [(b, 1, 4)]] {
        let cut = site.cut(&positions);
        let transaction = site.batch(&cut, vec![]);
        let error = applied(site.try_one(&transaction));
        let committed =
            matches!(error, ApplyError::Counter { error: CounterError::Committed { .. }, .. });
        assert!(committed, "{error:?}");
        // Inclusion means acceptance: a block with it is invalid.
        let block = site.commit(vec![transaction]);
        assert_eq!(block, Err(BlockError::Apply { index: 0, error }));
    }
    let late = site.cut(&[(b, 1, 6)]);
    let late = site.batch(&late, vec![]);
    site.commit(vec![late]).unwrap();
    assert_eq!(site.state.session(&b).unwrap().counters.gaps, [gap(0, 3), gap(5, 5), gap(7, 8)]);
}

#[test]
fn a_batch_is_its_authors_next() {
    let mut site = Fixture::new();
    let node = site.join(2);
    for sequence in [0, 2, u64::MAX] {
        let mut cut = site.cut(&[(node, 1, 0)]);
        cut.head.sequence = sequence;
        let transaction = site.batch(&cut, vec![]);
        let error = ApplyError::Sequence { expected: 1, found: sequence };
        assert_eq!(applied(site.try_one(&transaction)), error);
    }
}

#[test]
fn a_batch_must_agree_with_its_list() {
    let mut site = Fixture::new();
    let node = site.join(2);
    let cut = site.cut(&[(node, 1, 0), (node, 1, 1)]);
    for change in 0..3 {
        let mut wrong = cut.clone();
        match change {
            0 => wrong.head.count = 3,
            1 => wrong.head.count = 0,
            _ => wrong.head.first_ms = wrong.head.last_ms + 1,
        }
        let transaction = site.batch(&wrong, vec![]);
        assert!(matches!(applied(site.try_one(&transaction)), ApplyError::Batch(_)), "{change}");
    }
}

#[test]
fn an_attachment_is_the_one_in_the_head_and_in_order() {
    let mut site = Fixture::new();
    let (a, b) = (site.join(2), site.join(3));
    let cut = site.cut(&[(a, 1, 0), (b, 1, 0)]);
    let transaction = site.batch(&cut, vec![]);
    let bare = Transaction::from_raw(transaction.raw()).unwrap();
    assert_eq!(site.try_one(&bare), Err(Refused::Verify(VerifyError::Attachment)));

    let other = site.cut(&[(a, 1, 0)]).attachment(vec![]);
    assert!(bare.clone().attach(other).is_err());
    let mut unsorted = cut.attachment(vec![]);
    unsorted.list.reverse();
    assert!(unsorted.check().is_err());
    let range = |first, last| CounterRange { epoch: 1, first, last };
    for ranges in [
        vec![],
        vec![range(1, 0)],
        vec![range(0, 1), range(2, 2)],
        vec![range(0, 5), range(3, 8)],
        vec![range(5, 5), range(0, 0)],
        vec![range(0, u64::MAX)],
    ] {
        let mut attachment = cut.attachment(vec![]);
        attachment.list = vec![NodeRanges { node: a, ranges }];
        assert!(attachment.check().is_err(), "{:?}", attachment.list);
    }
    // The travelling form of a batch without its attachment is refused.
    assert!(Transaction::from_bytes(&bare.to_bytes()).is_err());
    assert_eq!(Transaction::from_bytes(&transaction.to_bytes()), Ok(transaction));
}

#[test]
fn only_holders_commit_and_quarantined_nodes_are_left_out() {
    let mut site = Fixture::new();
    let node = site.join(2);
    let other = site.add_member(20);
    let cut = site.cut(&[(node, 1, 0)]);
    let attachment = cut.attachment(vec![]);
    let mut draft = site.draft(Author::Node(other.node()), Body::Batch(cut.head));
    draft.attachment = Some(attachment.digest());
    let foreign = draft.sign(&other.vote).attach(attachment).unwrap();
    assert_eq!(applied(site.try_one(&foreign)), ApplyError::NotAHolder(node));

    let suspend = site.by_operator(suspension(node));
    site.commit(vec![suspend]).unwrap();
    let transaction = site.batch(&cut, vec![]);
    assert_eq!(applied(site.try_one(&transaction)), ApplyError::Quarantined(node));
}

#[test]
fn the_last_readings_of_a_retired_node_may_come_within_the_hour() {
    let mut site = Fixture::new();
    let node = site.join(2);
    let body = Body::Retire(Retire {
        node,
        reason: reason(),
        ticket: site.window_ticket(TicketPurpose::Retire, &node),
    });
    let retire = site.by_founder(body);
    site.commit(vec![retire]).unwrap();
    let cut = site.cut(&[(node, 1, 0)]);
    let batch = site.batch(&cut, vec![]);
    assert!(site.try_one(&batch).is_ok());
    site.commit_at(site.now_ms() + 3_600_000, vec![]).unwrap();
    assert_eq!(applied(site.try_one(&batch)), ApplyError::Retired(node));
}

#[test]
fn a_new_session_keeps_the_old_tail_open() {
    let mut site = Fixture::new();
    let node = site.join(2);
    let first = site.cut(&[(node, 1, 0)]);
    let first = site.batch(&first, vec![]);
    let session = site.by_founder(site.open_session(node));
    site.commit(vec![first, session]).unwrap();
    let both = site.cut(&[(node, 1, 1), (node, 2, 0)]);
    let both = site.batch(&both, vec![]);
    site.commit(vec![both]).unwrap();
    let early = site.cut(&[(node, 3, 0)]);
    let early = site.batch(&early, vec![]);
    let error = ApplyError::Counter { node, error: CounterError::Epoch(3) };
    assert_eq!(applied(site.try_one(&early)), error);
}

#[test]
fn receipts_come_from_other_members_with_rights() {
    let mut site = Fixture::new();
    let node = site.join(2);
    let other = site.add_member(20);
    let cut = site.cut(&[(node, 1, 0)]);
    let good = site.receipt(&other, &cut);
    let transaction = site.batch(&cut, vec![good]);
    let events = site.try_one(&transaction).unwrap();
    assert!(matches!(events[0], Event::BatchCommitted { receipts: 1, .. }));

    let own = site.receipt(&site.founder.clone(), &cut);
    let transaction = site.batch(&cut, vec![own]);
    assert!(matches!(applied(site.try_one(&transaction)), ApplyError::Receipt(_)));

    let mut later = good;
    later.retained_until_ms += 1;
    let transaction = site.batch(&cut, vec![later]);
    assert_eq!(site.try_one(&transaction), Err(Refused::Verify(VerifyError::Part("receipt"))));

    let stranger = GatewayKeys::new(60);
    let unknown = site.receipt(&stranger, &cut);
    let transaction = site.batch(&cut, vec![unknown]);
    let expected = Refused::Verify(VerifyError::NotAMember(stranger.node()));
    assert_eq!(site.try_one(&transaction), Err(expected));
    assert!(cut.attachment(vec![good, good]).check().is_err(), "one holder twice");

    let suspend = site.by_operator(suspension(other.node()));
    site.commit(vec![suspend]).unwrap();
    let transaction = site.batch(&cut, vec![good]);
    assert!(matches!(applied(site.try_one(&transaction)), ApplyError::Receipt(_)));
}

#[test]
fn while_a_holder_is_offline_more_gaps_stay_open() {
    let mut site = Fixture::new();
    let other = site.add_member(20);
    let node = site.join(2);
    let item = site.assignment(node, vec![site.gateway(), other.node()]);
    let body = site.assign(vec![item], &[&other]);
    let transaction = site.by_founder(body);
    site.commit(vec![transaction]).unwrap();
    let every_other: Vec<_> = (0..150).map(|i| (node, 1, 2 * i + 1)).collect();
    let transaction = site.batch(&site.cut(&every_other), vec![]);
    let closed = |events: &[Event]| {
        events.iter().filter(|event| matches!(event, Event::GapClosed { .. })).count()
    };
    assert_eq!(closed(&site.try_one(&transaction).unwrap()), 150 - 64);
    let mut offline = site.state.gateway(&other.node()).unwrap().clone();
    offline.online = false;
    site.put(Key::Gateway(other.node()), Record::Gateway(offline));
    assert_eq!(closed(&site.try_one(&transaction).unwrap()), 0);
}

#[test]
fn an_hour_is_tallied_once_and_not_ahead() {
    let mut site = Fixture::new();
    let hour = site.now_ms() / 3_600_000;
    let tally = |hour| {
        let count = TallyCount { kind: TallyKind::BadMic, frames: 7, senders: 2 };
        Body::Tally(Tally { hour, counts: vec![count] })
    };
    let ahead = site.by_founder(tally(hour + 1));
    assert_eq!(applied(site.try_one(&ahead)), ApplyError::Hour(hour + 1));
    let now = site.by_founder(tally(hour));
    site.commit(vec![now]).unwrap();
    let again = site.by_founder(tally(hour));
    assert_eq!(applied(site.try_one(&again)), ApplyError::Hour(hour));
}

#[test]
fn refusals_are_capped() {
    let mut site = Fixture::new();
    let policy = Policy { refusals_per_hour: 1, ..Policy::default() };
    let policy = site.by_operator(policy.into());
    site.commit(vec![policy]).unwrap();
    let body = Body::Refusal(Refusal { node: NodeId([1; 20]), reason: Text::new("x").unwrap() });
    let first = site.by_founder(body.clone());
    site.commit(vec![first]).unwrap();
    let second = site.by_founder(body.clone());
    assert_eq!(applied(site.try_one(&second)), ApplyError::Budget("refusals in an hour"));
    site.commit_at(site.now_ms() + 3_600_000, vec![]).unwrap();
    let third = site.by_founder(body);
    assert!(site.try_one(&third).is_ok());
}
