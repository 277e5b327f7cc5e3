//! Rules about policy, standing, keys and eras.

use alloc::{vec, vec::Vec};

use super::super::{
    ApplyError, Event, Key, Record, Standing,
    execution::Execution,
    records::{MAX_RECOVERIES, Recovery, StandingRecord, Voters},
};
use crate::{
    crypto::PublicKey,
    ids::NodeId,
    policy::{Policy, STATE_VERSION},
    transaction::{Body, NodeAct, OperatorRotation, Recover, RotateKey},
};

/// Applies an act of the operator.
pub(super) fn apply_operator(
    execution: &mut Execution<'_>,
    body: &Body,
) -> Result<Vec<Event>, ApplyError> {
    match body {
        Body::Policy(act) => apply_policy(execution, &act.policy),
        Body::Suspend(body) => {
            let act = NodeAct { node: body.node, reason: body.reason.clone() };
            change_standing(execution, &act, Standing::Suspended)
        }
        Body::Pardon(act) => change_standing(execution, act, Standing::Active),
        Body::Revoke(act) => change_standing(execution, act, Standing::Revoked),
        Body::OperatorRotation(body) => rotate_operator(execution, body),
        Body::Recover(body) => recover(execution, body),
        Body::Admit(_)
        | Body::Activate(_)
        | Body::Attest(_)
        | Body::Offline(_)
        | Body::Online(_)
        | Body::Leave(_)
        | Body::Replace(_)
        | Body::GatewayApproval(_)
        | Body::Batch(_)
        | Body::Session(_)
        | Body::Reserve(_)
        | Body::Register(_)
        | Body::Retire(_)
        | Body::Assign(_)
        | Body::Tally(_)
        | Body::Refusal(_)
        | Body::RotateKey(_) => Err(ApplyError::NoRights),
    }
}

fn apply_policy(execution: &mut Execution<'_>, policy: &Policy) -> Result<Vec<Event>, ApplyError> {
    if policy.state_version != STATE_VERSION {
        return Err(ApplyError::StateVersion(policy.state_version));
    }
    execution.put(Key::Policy, Record::Policy(policy.clone()));
    Ok(vec![Event::PolicyChanged])
}

/// `Suspend`, `Pardon` and `Revoke`, of a gateway or a light node.
fn change_standing(
    execution: &mut Execution<'_>,
    act: &NodeAct,
    to: Standing,
) -> Result<Vec<Event>, ApplyError> {
    let since = execution.context.height;
    let changed = |from: Standing| -> Result<StandingRecord, ApplyError> {
        check_step(from, to)?;
        Ok(StandingRecord { standing: to, since, reason: act.reason.clone() })
    };
    let from = if let Some(gateway) = execution.gateway(&act.node) {
        let mut gateway = gateway.clone();
        let from = gateway.standing.standing;
        gateway.standing = changed(from)?;
        if !to.may_record() {
            remove_voter(execution, &act.node)?;
        }
        execution.put(Key::Gateway(act.node), Record::Gateway(gateway));
        from
    } else if let Some(light_node) = execution.light_node(&act.node) {
        let mut light_node = light_node.clone();
        let from = light_node.standing.standing;
        light_node.standing = changed(from)?;
        execution.put(Key::LightNode(act.node), Record::LightNode(light_node));
        from
    } else {
        return Err(ApplyError::UnknownNode(act.node));
    };
    let reason = act.reason.clone();
    Ok(vec![Event::StandingChanged { node: act.node, from, to, reason }])
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

/// A gateway without rights does not vote; the last voter cannot go.
fn remove_voter(execution: &mut Execution<'_>, node: &NodeId) -> Result<(), ApplyError> {
    let left: Vec<NodeId> =
        execution.voters().iter().filter(|voter| *voter != node).copied().collect();
    if left.is_empty() {
        return Err(ApplyError::Standing("the last voter keeps its rights"));
    }
    if left.len() < execution.voters().len() {
        execution.put(Key::Voters, Record::Voters(Voters::new(left)));
    }
    Ok(())
}

fn rotate_operator(
    execution: &mut Execution<'_>,
    body: &OperatorRotation,
) -> Result<Vec<Event>, ApplyError> {
    let mut site = execution.site().clone();
    if site.operator == body.new_key || is_gateway_key(execution, &body.new_key) {
        return Err(ApplyError::KeyInUse);
    }
    site.operator = body.new_key;
    execution.put(Key::Site, Record::Site(site));
    Ok(vec![Event::OperatorRotated])
}

/// One key, one role: whoever can open a gateway's key must not be the operator by it.
fn is_gateway_key(execution: &Execution<'_>, key: &PublicKey) -> bool {
    execution.vote_key_was_used(key) || execution.gateway(&NodeId::of_key(key)).is_some()
}

pub(super) fn apply_rotate_key(
    execution: &mut Execution<'_>,
    author: NodeId,
    body: &RotateKey,
) -> Result<Vec<Event>, ApplyError> {
    set_vote_key(execution, author, body.vote_key)?;
    Ok(vec![Event::KeyRotated { gateway: author }])
}

fn set_vote_key(
    execution: &mut Execution<'_>,
    node: NodeId,
    key: PublicKey,
) -> Result<(), ApplyError> {
    if is_gateway_key(execution, &key) || execution.site().operator == key {
        return Err(ApplyError::KeyInUse);
    }
    let mut gateway = super::member(execution, &node)?.clone();
    gateway.vote_key = key;
    execution.put(Key::Gateway(node), Record::Gateway(gateway));
    execution.put(Key::VoteKey(key), Record::VoteKey(node));
    Ok(())
}

/// `Recover`: the survivors alone vote from the next block on. That the operator signed the
/// rest of the block is checked with its certificate.
fn recover(execution: &mut Execution<'_>, body: &Recover) -> Result<Vec<Event>, ApplyError> {
    let mut site = execution.site().clone();
    if site.era.0.checked_add(1) != Some(body.era.0) {
        return Err(ApplyError::Recovery("it does not begin the next era"));
    }
    if body.parent != execution.context.parent_hash || body.height != execution.context.height {
        return Err(ApplyError::Recovery("it names another parent"));
    }
    let mut events = vec![Event::Recovered { era: body.era, height: body.height }];
    for survivor in &body.survivors {
        let gateway = super::member(execution, &survivor.node)?;
        if !gateway.standing.standing.may_record() || !gateway.full {
            return Err(ApplyError::Recovery("a survivor has not the rights of a voter"));
        }
        if let Some(proof) = &survivor.new_vote_key {
            set_vote_key(execution, survivor.node, proof.vote_key)?;
            events.push(Event::KeyRotated { gateway: survivor.node });
        }
    }
    let nodes = body.survivors.iter().map(|survivor| survivor.node).collect();
    execution.put(Key::Voters, Record::Voters(Voters::new(nodes)));
    site.era = body.era;
    if site.recoveries.len() >= MAX_RECOVERIES {
        site.recoveries.remove(0);
    }
    site.recoveries.push(Recovery { era: body.era, height: body.height });
    execution.put(Key::Site, Record::Site(site));
    Ok(events)
}
