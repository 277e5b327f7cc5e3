//! How trusted a node is: `Suspend`, `Pardon`, `Revoke`, `Leave` (design §2, §4, §5).

use alloc::{vec, vec::Vec};

use super::{
    super::{
        ApplyError, Event, Key, Record, Standing, execution::Execution, records::StandingRecord,
    },
    attesting, voters,
};
use crate::{
    ids::NodeId,
    transaction::{
        Equivocation, FailedAttestation, Leave, NodeAct, Purpose, Reason, Suspend, SuspendCause,
    },
};

/// Acts of the operator, on a gateway or a light node.
pub(super) fn apply_act(
    execution: &mut Execution<'_>,
    act: &NodeAct,
    to: Standing,
) -> Result<Vec<Event>, ApplyError> {
    let NodeAct { node, reason } = act;
    if execution.gateway(node).is_some() {
        // The operator has looked at what a rule did: to suspend once more is to agree with it.
        let confirmed = voters::confirm_removal(execution, node);
        let mut events = vec![];
        if !to.may_record() {
            events.extend(voters::remove_voter(execution, node)?);
        }
        events.insert(0, change_gateway(execution, node, to, reason, confirmed)?);
        return Ok(events);
    }
    let light_node = execution.light_node(node).ok_or(ApplyError::UnknownNode(*node))?;
    let mut light_node = light_node.clone();
    let from = light_node.standing.standing;
    check_step(from, to)?;
    light_node.standing = changed(execution, to, reason);
    execution.put(Key::LightNode(*node), Record::LightNode(light_node));
    Ok(vec![Event::StandingChanged { node: *node, from, to, reason: reason.clone() }])
}

fn changed(execution: &Execution<'_>, to: Standing, reason: &Reason) -> StandingRecord {
    StandingRecord { standing: to, since: execution.context.height, reason: reason.clone() }
}

fn change_gateway(
    execution: &mut Execution<'_>,
    node: &NodeId,
    to: Standing,
    reason: &Reason,
    confirmed: bool,
) -> Result<Event, ApplyError> {
    let mut gateway = super::member(execution, node)?.clone();
    let from = gateway.standing.standing;
    if !(confirmed && to == Standing::Suspended) {
        check_step(from, to)?;
    }
    // A pardon would make a member of it that nobody admitted.
    if from == Standing::Candidate && to == Standing::Suspended {
        return Err(ApplyError::Standing("it has no rights to lose"));
    }
    gateway.standing = changed(execution, to, reason);
    gateway.ready = None;
    execution.put(Key::Gateway(*node), Record::Gateway(gateway));
    Ok(Event::StandingChanged { node: *node, from, to, reason: reason.clone() })
}

fn check_step(from: Standing, to: Standing) -> Result<(), ApplyError> {
    match (from, to) {
        (Standing::Revoked, _) => Err(ApplyError::Standing("revoked is for ever")),
        (Standing::Suspended, Standing::Suspended) => {
            Err(ApplyError::Standing("suspended already"))
        }
        (Standing::Candidate | Standing::Active, Standing::Active) => {
            Err(ApplyError::Standing("nothing to pardon"))
        }
        _ => Ok(()),
    }
}

/// `Suspend` by a rule: the evidence is in the body, and the number of voters that it may take
/// out is limited.
pub(super) fn apply_suspend(
    execution: &mut Execution<'_>,
    body: &Suspend,
) -> Result<Vec<Event>, ApplyError> {
    let gateway = super::member(execution, &body.node)?;
    if !gateway.standing.standing.may_record() {
        return Err(ApplyError::Standing("it has no rights to lose"));
    }
    match &body.cause {
        SuspendCause::Operator => return Err(ApplyError::NoRights),
        SuspendCause::FailedAttestation(failed) => check_failed(execution, &body.node, failed)?,
        SuspendCause::Equivocation(votes) => check_equivocation(execution, &body.node, votes)?,
    }
    let vote = voters::remove_by_rule(execution, &body.node)?;
    let changed = change_gateway(execution, &body.node, Standing::Suspended, &body.reason, false)?;
    Ok([changed].into_iter().chain(vote).collect())
}

fn check_failed(
    execution: &Execution<'_>,
    node: &NodeId,
    failed: &FailedAttestation,
) -> Result<(), ApplyError> {
    let FailedAttestation { statement, endorsements } = failed;
    attesting::check_statement(execution, statement, Purpose::Fail)?;
    if statement.node() != *node {
        return Err(ApplyError::Statement("it is about another gateway"));
    }
    attesting::check_fresh(super::member(execution, node)?, statement)?;
    attesting::check_endorsers(execution, endorsements)
}

/// Votes from before the last standing change are settled: a pardon is not undone by old news.
fn check_equivocation(
    execution: &Execution<'_>,
    node: &NodeId,
    votes: &Equivocation,
) -> Result<(), ApplyError> {
    let Equivocation { era, vote_key, first, second } = votes;
    let since = super::member(execution, node)?.standing.since;
    let rules = [
        (first.voter == *node, "the votes are another gateway's"),
        (execution.vote_key_owner(vote_key) == Some(*node), "the key is not this gateway's"),
        (*era <= execution.site().era, "the votes are from an era that has not begun"),
        (first.contradicts(second), "the votes do not contradict each other"),
        (first.height > since, "the votes are older than its last standing change"),
    ];
    match rules.iter().find(|(holds, _)| !holds) {
        Some((_, why)) => Err(ApplyError::Evidence(why)),
        None => Ok(()),
    }
}

/// Whoever leaves while marked is suspended: to come back under a new start is no way out.
pub(super) fn apply_leave(
    execution: &mut Execution<'_>,
    author: NodeId,
    body: &Leave,
) -> Result<Vec<Event>, ApplyError> {
    let vote = leave_voters(execution, &author, body.successor)?;
    let mut gateway = super::member(execution, &author)?.clone();
    let to = match gateway.standing.standing {
        Standing::Marked => Standing::Suspended,
        _ => Standing::Candidate,
    };
    gateway.standing = changed(execution, to, &body.reason);
    gateway.online = false;
    gateway.ready = None;
    execution.put(Key::Gateway(author), Record::Gateway(gateway));
    let left = Event::Left { gateway: author, reason: body.reason.clone() };
    Ok([left].into_iter().chain(vote).collect())
}

/// Removal never leaves one voter by itself; a sole voter hands its vote to a ready member.
fn leave_voters(
    execution: &mut Execution<'_>,
    author: &NodeId,
    successor: Option<NodeId>,
) -> Result<Vec<Event>, ApplyError> {
    let votes = execution.voters().contains(author);
    match (votes, execution.voters().len(), successor) {
        (true, 1, Some(successor)) => {
            voters::check_successor(execution, &successor)?;
            Ok(voters::hand_over(execution, author, successor))
        }
        (_, _, Some(_)) => Err(ApplyError::Standing("only a sole voter names a successor")),
        (true, 1, None) => Err(ApplyError::Standing("the last voter keeps its rights")),
        (true, 2, None) => {
            Err(ApplyError::Standing("one voter alone would be left: the operator decides"))
        }
        (_, _, None) => Ok(voters::remove_voter(execution, author)?.into_iter().collect()),
    }
}
