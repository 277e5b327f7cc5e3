//! Rules about readings and what was heard.

use alloc::{vec, vec::Vec};

use super::super::{
    ApplyError, Event, Key, Record,
    counters::{MAX_GAPS, MAX_GAPS_OFFLINE},
    execution::Execution,
    records::LightNode,
};
use crate::{
    ids::NodeId,
    transaction::{
        Attachment, Author, BatchHead, MAX_BATCH, NodeRanges, Receipt, Refusal, Tally, count_of,
    },
};

/// For how long after its retirement a light node's last readings can be committed.
const RETIRED_GRACE_MS: u64 = 3_600_000;

pub(super) fn apply_batch(
    execution: &mut Execution<'_>,
    author: NodeId,
    head: &BatchHead,
    attachment: &Attachment,
) -> Result<Vec<Event>, ApplyError> {
    let mut activity = execution.activity(&Author::Node(author));
    let expected = activity.batch_sequence.saturating_add(1);
    if head.sequence != expected {
        return Err(ApplyError::Sequence { expected, found: head.sequence });
    }
    if head.count == 0 || head.count as usize > MAX_BATCH || head.first_ms > head.last_ms {
        return Err(ApplyError::Batch("count or time span"));
    }
    if count_of(&attachment.list) != Some(u64::from(head.count)) {
        return Err(ApplyError::Batch("the list holds another number of counters"));
    }
    activity.batch_sequence = head.sequence;
    execution.put(Key::Activity(Author::Node(author)), Record::Activity(activity));
    check_receipts(execution, &author, &attachment.receipts)?;
    let mut events = vec![Event::BatchCommitted {
        gateway: author,
        sequence: head.sequence,
        count: head.count,
        receipts: attachment.receipts.len() as u32,
    }];
    for entry in &attachment.list {
        commit_counters(execution, &author, entry, &mut events)?;
    }
    Ok(events)
}

fn check_receipts(
    execution: &Execution<'_>,
    author: &NodeId,
    receipts: &[Receipt],
) -> Result<(), ApplyError> {
    for receipt in receipts {
        if receipt.holder == *author {
            return Err(ApplyError::Receipt("an author does not receipt its own batch"));
        }
        let holder = super::member(execution, &receipt.holder)?;
        if !holder.full || !holder.standing.standing.may_record() {
            return Err(ApplyError::Receipt("the holder is not a full member with rights"));
        }
    }
    Ok(())
}

fn commit_counters(
    execution: &mut Execution<'_>,
    author: &NodeId,
    entry: &NodeRanges,
    events: &mut Vec<Event>,
) -> Result<(), ApplyError> {
    let node = entry.node;
    let light_node = execution.light_node(&node).ok_or(ApplyError::UnknownNode(node))?;
    check_recordable(execution, author, &node, light_node)?;
    let limit = gap_limit(execution, light_node);
    let mut session = execution.session(&node);
    for range in &entry.ranges {
        let closed = session
            .counters
            .commit(*range, limit)
            .map_err(|error| ApplyError::Counter { node, error })?;
        events.extend(closed.into_iter().map(|range| Event::GapClosed { node, range }));
    }
    execution.put(Key::Session(node), Record::Session(session));
    Ok(())
}

fn check_recordable(
    execution: &Execution<'_>,
    author: &NodeId,
    node: &NodeId,
    light_node: &LightNode,
) -> Result<(), ApplyError> {
    if !light_node.standing.standing.may_record() {
        return Err(ApplyError::Quarantined(*node));
    }
    if let Some(retired) = light_node.retired
        && execution.context.time_ms > retired.time_ms.saturating_add(RETIRED_GRACE_MS)
    {
        return Err(ApplyError::Retired(*node));
    }
    if !light_node.gateways.contains(author) {
        return Err(ApplyError::NotAHolder(*node));
    }
    Ok(())
}

/// While a listed gateway is offline it may hold readings that come late: keep more gaps open.
pub(super) fn gap_limit(execution: &Execution<'_>, light_node: &LightNode) -> usize {
    let offline = |id: &NodeId| execution.gateway(id).is_some_and(|gateway| !gateway.online);
    if light_node.gateways.iter().any(offline) { MAX_GAPS_OFFLINE } else { MAX_GAPS }
}

pub(super) fn apply_tally(
    execution: &mut Execution<'_>,
    author: NodeId,
    body: &Tally,
) -> Result<Vec<Event>, ApplyError> {
    let mut activity = execution.activity(&Author::Node(author));
    if body.hour <= activity.tally_hour || body.hour > execution.context.hour() {
        return Err(ApplyError::Hour(body.hour));
    }
    activity.tally_hour = body.hour;
    execution.put(Key::Activity(Author::Node(author)), Record::Activity(activity));
    let counts = body.counts.clone();
    Ok(vec![Event::Tallied { gateway: author, hour: body.hour, counts }])
}

pub(super) fn apply_refusal(
    execution: &mut Execution<'_>,
    author: NodeId,
    body: &Refusal,
) -> Result<Vec<Event>, ApplyError> {
    let mut activity = execution.activity(&Author::Node(author));
    activity.enter_hour(execution.context.hour());
    if activity.refusals >= execution.policy().refusals_per_hour {
        return Err(ApplyError::Budget("refusals in an hour"));
    }
    activity.refusals += 1;
    execution.put(Key::Activity(Author::Node(author)), Record::Activity(activity));
    let Refusal { node, reason } = body.clone();
    Ok(vec![Event::Refused { node, gateway: author, reason }])
}
