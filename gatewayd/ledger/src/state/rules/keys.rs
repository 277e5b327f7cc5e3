//! One key, one role, for ever: rules about vote keys, identity keys and the operator's.

use alloc::{vec, vec::Vec};

use super::super::{ApplyError, Event, Key, Record, execution::Execution};
use crate::{
    crypto::PublicKey,
    ids::NodeId,
    transaction::{OperatorRotation, RotateKey},
};

pub(super) fn apply_rotate_key(
    execution: &mut Execution<'_>,
    author: NodeId,
    body: &RotateKey,
) -> Result<Vec<Event>, ApplyError> {
    set_vote_key(execution, author, body.vote_key)?;
    Ok(vec![Event::KeyRotated { gateway: author }])
}

pub(super) fn rotate_operator(
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

/// Gives a member a vote key that nobody ever used.
pub(super) fn set_vote_key(
    execution: &mut Execution<'_>,
    node: NodeId,
    key: PublicKey,
) -> Result<(), ApplyError> {
    check_unused(execution, &key)?;
    let mut gateway = super::member(execution, &node)?.clone();
    gateway.vote_key = key;
    execution.put(Key::Gateway(node), Record::Gateway(gateway));
    execution.put(Key::VoteKey(key), Record::VoteKey(node));
    Ok(())
}

/// A newcomer's keys: two of its own that play no other part. The identity may have been here
/// before; a vote key never.
pub(super) fn check_newcomer(
    execution: &Execution<'_>,
    identity: &PublicKey,
    vote_key: &PublicKey,
) -> Result<(), ApplyError> {
    check_unused(execution, vote_key)?;
    let other_role = identity == vote_key
        || *identity == execution.site().operator
        || execution.vote_key_owner(identity).is_some();
    if other_role { Err(ApplyError::KeyInUse) } else { Ok(()) }
}

fn check_unused(execution: &Execution<'_>, key: &PublicKey) -> Result<(), ApplyError> {
    if is_gateway_key(execution, key) || execution.site().operator == *key {
        return Err(ApplyError::KeyInUse);
    }
    Ok(())
}

/// Whoever can open a gateway's key must not be the operator by it.
fn is_gateway_key(execution: &Execution<'_>, key: &PublicKey) -> bool {
    execution.vote_key_owner(key).is_some() || execution.gateway(&NodeId::of_key(key)).is_some()
}
