//! Who is reachable: `Offline` by a quorum, `Online` by the gateway itself.

use alloc::{vec, vec::Vec};

use super::{
    super::{ApplyError, Event, Key, Record, execution::Execution},
    voters,
};
use crate::{
    ids::{Era, NodeId},
    transaction::{Offline, Online},
};

/// The statement is bound to the liveness epoch: after the gateway's return it is void.
pub(super) fn apply_offline(
    execution: &mut Execution<'_>,
    era: Era,
    body: &Offline,
) -> Result<Vec<Event>, ApplyError> {
    super::check_era(execution, era)?;
    let mut gateway = super::member(execution, &body.node)?.clone();
    if !gateway.standing.standing.may_record() {
        return Err(ApplyError::Offline("it has no rights to lose"));
    }
    if gateway.liveness_epoch != body.liveness_epoch {
        return Err(ApplyError::Liveness(body.liveness_epoch));
    }
    if !gateway.online {
        return Err(ApplyError::Offline("it is offline already"));
    }
    if body.quorum.iter().any(|each| each.voter == body.node) {
        return Err(ApplyError::Offline("it has signed itself"));
    }
    voters::check_quorum(execution, &body.quorum)?;
    gateway.online = false;
    gateway.ready = None;
    execution.put(Key::Gateway(body.node), Record::Gateway(gateway));
    Ok(vec![Event::WentOffline { gateway: body.node }])
}

/// Also good while online: a gateway that has lost its windows begins a new epoch.
pub(super) fn apply_online(
    execution: &mut Execution<'_>,
    author: NodeId,
    body: &Online,
) -> Result<Vec<Event>, ApplyError> {
    let mut gateway = super::member(execution, &author)?.clone();
    let next = gateway.liveness_epoch.checked_add(1);
    if next.ok_or(ApplyError::Exhausted("liveness epochs"))? != body.liveness_epoch {
        return Err(ApplyError::Liveness(body.liveness_epoch));
    }
    gateway.online = true;
    gateway.liveness_epoch = body.liveness_epoch;
    execution.put(Key::Gateway(author), Record::Gateway(gateway));
    Ok(vec![Event::CameOnline { gateway: author, epoch: body.liveness_epoch }])
}
