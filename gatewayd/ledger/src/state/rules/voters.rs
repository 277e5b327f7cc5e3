//! Who votes: how the set grows, and how it shrinks (design §4 "Voters").

use alloc::{vec, vec::Vec};

use super::super::{
    ApplyError, Event, Key, Record, Standing, execution::Execution, records::Voters,
};
use crate::{
    ids::{Era, NodeId},
    policy::VoterRule,
    transaction::{Activate, QuorumSignature},
    validator_set::{MAX_VOTERS, quorum_of},
};

/// Age of the oldest tip that newcomers may have signed, blocks.
pub(super) const READY_BLOCKS: u64 = 20;

/// More than two thirds of the voters signed, and nobody who is no voter.
pub(super) fn check_quorum(
    execution: &Execution<'_>,
    signatures: &[QuorumSignature],
) -> Result<(), ApplyError> {
    let voters = execution.voters();
    if let Some(stranger) = signatures.iter().find(|each| !voters.contains(&each.voter)) {
        return Err(ApplyError::NotAVoter(stranger.voter));
    }
    check_count(signatures.len(), quorum_of(voters.len()))
}

pub(super) fn check_count(found: usize, needed: usize) -> Result<(), ApplyError> {
    if found >= needed { Ok(()) } else { Err(ApplyError::NoQuorum { found, needed }) }
}

/// The quorum vouches for the tip: its voters know the header, the state does not.
pub(super) fn apply_activate(
    execution: &mut Execution<'_>,
    era: Era,
    body: &Activate,
) -> Result<Vec<Event>, ApplyError> {
    super::check_era(execution, era)?;
    check_tip(execution, body)?;
    check_quorum(execution, &body.quorum)?;
    let nodes = body.node_ids();
    for node in &nodes {
        check_ready(execution, node)?;
        let mut gateway = super::member(execution, node)?.clone();
        gateway.ready = Some(execution.context.height);
        execution.put(Key::Gateway(*node), Record::Gateway(gateway));
    }
    let mut events: Vec<_> = nodes.iter().map(|node| Event::Ready { gateway: *node }).collect();
    events.extend(grow(execution, nodes));
    Ok(events)
}

fn check_tip(execution: &Execution<'_>, body: &Activate) -> Result<(), ApplyError> {
    let age = execution.context.height.0.checked_sub(body.height.0);
    match age {
        None | Some(0) => Err(ApplyError::Activation("the tip that was signed lies ahead")),
        Some(1) if body.hash != execution.context.parent_hash => {
            Err(ApplyError::Activation("another tip was signed"))
        }
        Some(age) if age > READY_BLOCKS => {
            Err(ApplyError::Activation("the tip that was signed is older than 20 blocks"))
        }
        Some(_) => Ok(()),
    }
}

fn check_ready(execution: &Execution<'_>, node: &NodeId) -> Result<(), ApplyError> {
    let gateway = super::member(execution, node)?;
    let attested = gateway.attestation.is_attested();
    let valid_s = execution.policy().attestation_valid_s;
    let rules = [
        (!execution.voters().contains(node), "it votes already"),
        (gateway.full, "it has not the label full"),
        (gateway.standing.standing == Standing::Active, "its standing does not allow it"),
        (gateway.online, "it is offline"),
        (attested, "its TPM was not attested"),
        (!gateway.attestation.is_stale(valid_s, execution.context.time_ms), "it is stale"),
    ];
    match rules.iter().find(|(holds, _)| !holds) {
        Some((_, why)) => Err(ApplyError::Activation(why)),
        None => Ok(()),
    }
}

/// Whoever takes a sole voter's vote over has shown lately that it is ready.
pub(super) fn check_successor(execution: &Execution<'_>, node: &NodeId) -> Result<(), ApplyError> {
    check_ready(execution, node)?;
    let ready = super::member(execution, node)?.ready;
    let age = ready.map(|ready| execution.context.height.0.saturating_sub(ready.0));
    if age.is_some_and(|age| age <= READY_BLOCKS) {
        Ok(())
    } else {
        Err(ApplyError::Activation("it has not shown within 20 blocks that it is ready"))
    }
}

/// Gives as many of the ready ones the vote as the rule lets in; those who waited longest first.
fn grow(execution: &mut Execution<'_>, mut ready: Vec<NodeId>) -> Vec<Event> {
    let Voters { mut nodes, removed } = execution.voters_record().clone();
    let count = grown(execution.policy().voters, nodes.len(), ready.len()) - nodes.len();
    let since = |node: &NodeId| execution.gateway(node).map(|gateway| gateway.member_since);
    ready.sort_by_key(|node| (since(node), *node));
    ready.truncate(count);
    if ready.is_empty() {
        return vec![];
    }
    nodes.extend(&ready);
    nodes.sort_unstable();
    let voters = count_of(&nodes);
    execution.put(Key::Voters, Record::Voters(Voters { nodes, removed }));
    ready.into_iter().map(|gateway| Event::VoteGiven { gateway, voters }).collect()
}

/// How many vote when `ready` more could; never fewer than now.
pub(super) fn grown(rule: VoterRule, voters: usize, ready: usize) -> usize {
    let all = (voters + ready).min(MAX_VOTERS);
    let grown = match rule {
        VoterRule::All => all,
        // 1, 4, 7, 10 …: 3f + 1 voters tolerate f.
        VoterRule::OneThenFour => all.saturating_sub(1) / 3 * 3 + 1,
    };
    grown.max(voters)
}

fn count_of(nodes: &[NodeId]) -> u32 {
    u32::try_from(nodes.len()).unwrap_or(u32::MAX)
}

/// Takes a gateway's vote away, if it has one; the last voter cannot go.
pub(super) fn remove_voter(
    execution: &mut Execution<'_>,
    node: &NodeId,
) -> Result<Option<Event>, ApplyError> {
    let Voters { mut nodes, removed } = execution.voters_record().clone();
    let Ok(index) = nodes.binary_search(node) else {
        return Ok(None);
    };
    if nodes.len() == 1 {
        return Err(ApplyError::Standing("the last voter keeps its rights"));
    }
    nodes.remove(index);
    let voters = count_of(&nodes);
    execution.put(Key::Voters, Record::Voters(Voters { nodes, removed }));
    Ok(Some(Event::VoteTaken { gateway: *node, voters }))
}

/// As [`remove_voter`] by a rule: at most ⌊(n − 1)/3⌋ until the operator has decided on them, so
/// that no rule and no liar can take the quorum away.
pub(super) fn remove_by_rule(
    execution: &mut Execution<'_>,
    node: &NodeId,
) -> Result<Option<Event>, ApplyError> {
    let Voters { nodes, removed } = execution.voters_record();
    if !nodes.contains(node) {
        return Ok(None);
    }
    let limit = (nodes.len() + removed.len() - 1) / 3;
    if removed.len() >= limit {
        return Err(ApplyError::RemovalLimit(limit));
    }
    let event = remove_voter(execution, node)?;
    let Voters { nodes, mut removed } = execution.voters_record().clone();
    removed.push(*node);
    removed.sort_unstable();
    execution.put(Key::Voters, Record::Voters(Voters { nodes, removed }));
    Ok(event)
}

/// The operator has decided on a gateway that a rule took out; false when none did.
pub(super) fn confirm_removal(execution: &mut Execution<'_>, node: &NodeId) -> bool {
    let Voters { nodes, mut removed } = execution.voters_record().clone();
    let before = removed.len();
    removed.retain(|each| each != node);
    let confirmed = removed.len() < before;
    if confirmed {
        execution.put(Key::Voters, Record::Voters(Voters { nodes, removed }));
    }
    confirmed
}

/// Hands the vote of one gateway, if it has one, to another that has none.
pub(super) fn hand_over(execution: &mut Execution<'_>, from: &NodeId, to: NodeId) -> Vec<Event> {
    let Voters { mut nodes, mut removed } = execution.voters_record().clone();
    removed.retain(|each| each != from);
    let had = nodes.len();
    nodes.retain(|each| each != from);
    let voted = nodes.len() < had;
    if voted {
        nodes.push(to);
        nodes.sort_unstable();
    }
    let voters = count_of(&nodes);
    execution.put(Key::Voters, Record::Voters(Voters { nodes, removed }));
    if voted { vec![Event::VoteGiven { gateway: to, voters }] } else { vec![] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_grow_by_the_steps_of_the_rule() {
        let steps = [
            // (voters, ready, 1-then-4, all)
            (1, 0, 1, 1),
            (1, 1, 1, 2),
            (1, 2, 1, 3),
            (1, 3, 4, 4),
            (1, 5, 4, 6),
            (1, 6, 7, 7),
            (2, 1, 2, 3),
            (2, 2, 4, 4),
            (3, 1, 4, 4),
            (4, 2, 4, 6),
            (4, 3, 7, 7),
            (5, 1, 5, 6),
            (5, 2, 7, 7),
            (7, 3, 10, 10),
            (127, 3, 127, 128),
            (128, 9, 128, 128),
        ];
        for (voters, ready, one_then_four, all) in steps {
            assert_eq!(grown(VoterRule::OneThenFour, voters, ready), one_then_four, "{voters}");
            assert_eq!(grown(VoterRule::All, voters, ready), all, "{voters} + {ready}");
        }
    }
}
