//! Absurd values, properly signed: refused or applied, never a panic; and long random lives.

use alloc::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    fixture::signatures,
    transaction::{
        Assign, AssignItem, AssignReason, Attachment, BatchHead, CounterRange, NodeRanges, Offline,
        Session, Ticket, TicketIssuer, activate_digest, offline_digest, ready_digest,
    },
};

/// The ends of ranges, where arithmetic goes wrong.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(63),
        Just(64),
        Just(u64::from(u32::MAX)),
        Just(u64::MAX - 1),
        Just(u64::MAX),
        any::<u64>(),
    ]
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn absurd_bodies(site: &Fixture, node: NodeId, n: &[u64]) -> Vec<Body> {
    let sponsor = site.gateway();
    let chain = site.state.chain_id();
    let vote = site.founder.vote.clone();
    let ticket = |purpose| {
        let issuer = TicketIssuer::Window { sponsor, opened_ms: n[0] };
        Ticket::sign(&chain, purpose, &node, issuer, n[1], &vote)
    };
    let mut register = site.registration(node);
    register.ticket = ticket(TicketPurpose::Register);
    register.level = n[2] as u8;
    register.expected_interval_s = small(n[3]);
    let item = AssignItem {
        node,
        expected_epoch: small(n[4]),
        session_epoch: small(n[5]),
        gateways: vec![sponsor],
    };
    let assign = Assign { reason: AssignReason::Drain, items: vec![item], holders: vec![] };
    let session = Session {
        node,
        expected_epoch: small(n[6]),
        digest: Hash([1; 32]),
        liveness_epoch: small(n[7]),
    };
    let reserve = ReserveItem { node, session_epoch: small(n[0]), down: true, join: true };
    let count = TallyCount { kind: TallyKind::Unknown, frames: n[1], senders: small(n[2]) };
    vec![
        Body::Register(register),
        Body::Retire(Retire { node, reason: reason(), ticket: ticket(TicketPurpose::Retire) }),
        Body::Assign(assign),
        Body::Session(session),
        Body::Reserve(Reserve { liveness_epoch: small(n[7]), items: vec![reserve] }),
        Body::Tally(Tally { hour: n[3], counts: vec![count] }),
    ]
}

/// About membership: numbers that a quorum of liars would sign.
fn absurd_membership(site: &Fixture, n: &[u64]) -> Vec<Body> {
    let founder = site.founder.clone();
    let mut activate = site.activation(&[&founder]);
    (activate.height, activate.hash) = (Height(n[0]), Hash([n[1] as u8; 32]));
    let (chain, era) = (site.state.chain_id(), site.state.era());
    let ready = ready_digest(&chain, era, activate.height, &activate.hash);
    activate.nodes = signatures(&[&founder], &ready);
    let ids = activate.node_ids();
    let heard = activate_digest(&chain, era, activate.height, &activate.hash, &ids);
    activate.quorum = signatures(&[&founder], &heard);
    let liveness_epoch = small(n[2]);
    let silent = site.gateway();
    let quorum = site.quorum(&offline_digest(&chain, era, &silent, liveness_epoch));
    let mut admit = site.admission(&GatewayKeys::new(60));
    admit.statement.base_height = Height(n[3]);
    admit.statement.ek_kind = n[4] as u8;
    site.endorse(&mut admit);
    let votes = site.equivocation(&founder, Height(n[5]));
    let cause = SuspendCause::Equivocation(votes.into());
    vec![
        Body::Activate(activate),
        Body::Offline(Offline { node: silent, liveness_epoch, quorum }),
        Body::Admit(admit.into()),
        Body::Suspend(Suspend { node: silent, reason: reason(), cause }),
    ]
}

fn absurd_batch(site: &mut Fixture, node: NodeId, n: &[u64]) -> Option<Transaction> {
    let (first, last) = (n[0].min(n[1]), n[0].max(n[1]));
    let ranges = vec![CounterRange { epoch: small(n[2]), first, last }];
    let attachment = Attachment { list: vec![NodeRanges { node, ranges }], receipts: vec![] };
    attachment.check().ok()?;
    let head = BatchHead {
        sequence: n[3],
        first_ms: n[4],
        last_ms: n[5],
        count: small(n[6]),
        root: Hash([1; 32]),
    };
    let mut draft = site.draft(Author::Node(site.gateway()), Body::Batch(head));
    draft.attachment = Some(attachment.digest());
    draft.sign(&site.founder.vote).attach(attachment).ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn absurd_values_never_panic(
        n in prop::collection::vec(number(), 8), nonce in number(), expiry in number(),
        block_ms in number(), record in number(),
    ) {
        let mut site = Fixture::new();
        let node = site.join(2);
        // Also a record that is at the end of its numbers already.
        let mut session = site.state.session(&node).unwrap().clone();
        session.counters.highest = Some(record);
        session.counters.epoch = small(record).max(1);
        session.down_next = small(record);
        session.join_next = small(record);
        site.put(Key::Session(node), Record::Session(session));
        let absent = site.light_node_id(3);
        let vote = site.founder.vote.clone();
        let mut transactions: Vec<_> = [node, absent]
            .iter()
            .flat_map(|node| absurd_bodies(&site, *node, &n))
            .chain(absurd_membership(&site, &n))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|body| {
                let author = Author::Node(site.gateway());
                let mut draft = site.draft(author, body);
                // Mostly fit, or nothing behind these two checks would be reached.
                let fit = n[0] % 4 != 1;
                (draft.nonce, draft.expiry) = if fit { (50, u64::MAX) } else { (nonce, expiry) };
                draft.sign(&vote)
            })
            .collect();
        transactions.extend(absurd_batch(&mut site, node, &n));
        for transaction in transactions {
            if let Ok(verified) = site.state.verify(transaction) {
                let mut execution = site.state.begin(site.tip.next_context(block_ms));
                if execution.apply(&verified).is_ok() {
                    let outcome = execution.finish();
                    let mut state = site.state.clone();
                    let root = outcome.root();
                    state.commit(outcome);
                    prop_assert!(State::from_entries(state.entries(), &root).is_ok());
                }
            }
        }
    }

    /// A random life of two light nodes against a plain set of committed counters.
    #[test]
    fn a_long_life_commits_each_counter_once(
        steps in prop::collection::vec((0u8..10, 0usize..2, 0u32..4, 0u64..12, 1u64..4), 1..40),
    ) {
        let mut site = Fixture::new();
        let nodes = [site.join(2), site.join(3)];
        let mut committed = BTreeSet::new();
        for (action, which, epoch, first, width) in steps {
            let node = nodes[which];
            if action == 0 {
                let session = site.by_founder(site.open_session(node));
                site.commit(vec![session]).unwrap();
                continue;
            }
            let positions: Vec<_> = (first..first + width).map(|c| (node, epoch, c)).collect();
            let open = site.state.session(&node).unwrap().counters.epoch;
            let fresh = (1..=open).contains(&epoch)
                && positions.iter().all(|position| !committed.contains(position));
            let cut = site.cut(&positions);
            let transaction = site.batch(&cut, vec![]);
            prop_assert_eq!(site.commit(vec![transaction]).is_ok(), fresh);
            if fresh {
                committed.extend(positions);
            }
        }
        let root = site.state.root();
        let rebuilt = State::from_entries(site.state.entries(), &root);
        prop_assert!(rebuilt.is_ok());
        prop_assert_eq!(replayed(&site).root(), root);
    }
}
