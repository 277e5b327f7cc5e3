//! Long random lives of a site: whatever its gateways and its operator do, the rules keep what
//! the rest of the ledger relies on.

use proptest::prelude::*;

use super::*;
use crate::{
    policy::VoterRule,
    transaction::{Online, Replace, SuspendCause},
};

const PEOPLE: usize = 7;

/// What somebody tries; the number chooses whom it is about.
fn attempt(site: &mut Fixture, people: &[GatewayKeys], action: u8, who: usize) -> Transaction {
    let keys = people[who].clone();
    let node = keys.node();
    match action {
        0 => site.by_operator(Body::GatewayApproval(site.approval(&keys))),
        1 | 2 => site.by_founder(Body::Admit(site.admission(&keys).into())),
        3 | 4 => {
            // As many as are members; the rules look at each of them.
            let members: Vec<_> =
                people.iter().filter(|keys| is_ready(site, &keys.node())).collect();
            let nodes = if members.is_empty() { vec![&keys] } else { members };
            site.by_founder(Body::Activate(site.activation(&nodes)))
        }
        5 => {
            let silent = if site.state.gateway(&node).is_some() { node } else { site.gateway() };
            site.by_founder(Body::Offline(site.offline(silent)))
        }
        6 => {
            let epoch = site.state.gateway(&node).map_or(0, |known| known.liveness_epoch);
            site.by_identity_of(&keys, Body::Online(Online { liveness_epoch: epoch + 1 }))
        }
        7 => site.by_founder(Body::Suspend(site.failed(&keys))),
        8 => {
            let votes = site.equivocation(&keys, site.height());
            let cause = SuspendCause::Equivocation(votes.into());
            site.by_founder(Body::Suspend(Suspend { node, reason: reason(), cause }))
        }
        9 => site.by_operator(suspension(node)),
        10 => site.by_operator(Body::Pardon(act(node))),
        11 => site.by_operator(Body::Revoke(act(node))),
        12 => site.by_identity_of(&keys, Fixture::leave(None)),
        13 => {
            let successor = people[(who + 1) % PEOPLE].node();
            site.by_identity_of(&keys, Fixture::leave(Some(successor)))
        }
        14 => {
            let new = people[(who + 1) % PEOPLE].clone();
            let replace = Replace { ek_digest: keys.ek_digest(), ..site.replacement(node, &new) };
            site.by_operator(Body::Replace(replace.into()))
        }
        _ => site.by_founder(Body::Attest(site.renewal(&keys).into())),
    }
}

fn is_ready(site: &Fixture, node: &NodeId) -> bool {
    let fit = |gateway: &Gateway| {
        gateway.online
            && gateway.standing.standing == Standing::Active
            && gateway.attestation.is_attested()
    };
    !site.state.voters().contains(node) && site.state.gateway(node).is_some_and(fit)
}

fn check(state: &State) {
    let Voters { nodes, removed } = state.voters_record();
    assert!(!nodes.is_empty());
    for node in removed {
        let standing = state.gateway(node).unwrap().standing.standing;
        assert_eq!(standing, Standing::Suspended, "until the operator decides");
    }
    // Panics when two voters share a key.
    assert_eq!(state.validator_set().count(), nodes.len());
    for node in nodes {
        let voter = state.gateway(node).unwrap();
        assert!(voter.full && voter.standing.standing.may_record(), "{voter:?}");
        assert!(!removed.contains(node));
    }
    for (node, gateway) in state.gateways() {
        assert_eq!(NodeId::of_key(&gateway.identity), *node);
        assert_eq!(state.vote_key_owner(&gateway.vote_key), Some(node));
        // One TPM, one gateway with rights.
        let tpms = state.endorsements().filter(|(_, known)| known.gateway == *node).count();
        let with_rights = gateway.standing.standing.may_record();
        assert!(tpms > 0 || !with_rights, "{gateway:?}");
        assert!(gateway.replaced_by.is_none() || !with_rights, "{gateway:?}");
    }
    let rebuilt = State::from_entries(state.entries(), &state.root());
    assert!(rebuilt.is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_rules_keep_their_promises_through_a_long_life(
        every in any::<bool>(),
        steps in prop::collection::vec((0u8..16, 0..PEOPLE), 20..100),
    ) {
        let mut site = Fixture::grown(4);
        let mut people = site.voters.clone();
        people.extend((people.len()..PEOPLE).map(|byte| GatewayKeys::new(50 + byte as u8)));
        site.voters = people.clone();
        let voters = if every { VoterRule::All } else { VoterRule::OneThenFour };
        let trusting = Policy { voters, operator_approval: false, ..Policy::default() };
        let act = site.by_operator(trusting.into());
        site.commit(vec![act]).unwrap();
        for (number, (action, who)) in steps.into_iter().enumerate() {
            // Who comes back needs a vote key that it never had.
            let fresh = people[who].vote.public_key();
            let known = site.state.vote_key_owner(&fresh).is_some();
            let votes = site.state.voters().contains(&people[who].node());
            if action == 1 && known && !votes {
                people[who].vote = key(150 + (number % 49) as u8);
                site.voters = people.clone();
            }
            let transaction = attempt(&mut site, &people, action, who);
            let removed = site.state.voters_record().removed.len();
            if site.try_one(&transaction).is_ok() {
                site.commit(vec![transaction]).unwrap();
            }
            let Voters { nodes, removed: after } = site.state.voters_record();
            if after.len() > removed {
                prop_assert!(after.len() * 3 < nodes.len() + after.len(), "at most a third");
            }
            check(&site.state);
            // Blocks are proposed, and transactions authored, by somebody who votes.
            let voter = people.iter().find(|keys| site.state.voters().contains(&keys.node()));
            site.founder = voter.unwrap().clone();
        }
        prop_assert_eq!(replayed(&site).root(), site.state.root());
    }
}
