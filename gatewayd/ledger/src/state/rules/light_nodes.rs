//! Rules about light nodes: registration, assignment, sessions, windows.

use alloc::{vec, vec::Vec};

use super::super::{
    ApplyError, Event, Key, Record, Standing,
    execution::Execution,
    records::{
        DOWN_WINDOW, Gateway, JOIN_WINDOW, LightNode, MAX_USED_TICKETS, Retirement, StandingRecord,
        UsedTicket, Window,
    },
};
use crate::{
    ids::{Height, IdentityKind, NodeId},
    transaction::{
        Assign, AssignItem, AssignReason, Author, Register, Reserve, ReserveItem, Retire, Session,
        Ticket, TicketIssuer, TicketPurpose,
    },
};

/// Longest pairing window, milliseconds.
const MAX_PAIRING_WINDOW_MS: u64 = 3_600_000;

/// How far a sponsor's clock may run ahead of block time, milliseconds.
const CLOCK_ALLOWANCE_MS: u64 = 60_000;

/// Join nonces have 24 bits (LoRaWAN 1.0.4).
const JOIN_NONCES: u32 = 1 << 24;

pub(super) fn apply_register(
    execution: &mut Execution<'_>,
    body: &Register,
) -> Result<Vec<Event>, ApplyError> {
    check_registration(body)?;
    check_ticket(execution, &body.ticket, &body.sponsor)?;
    use_ticket(execution, TicketPurpose::Register, &body.node, &body.ticket)?;
    if execution.gateway(&body.node).is_some() {
        return Err(ApplyError::Registered(body.node));
    }
    let standing = standing_of_newcomer(execution, &body.node)?;
    let again = execution.light_node(&body.node).is_some();
    let assign_epoch = execution.light_node(&body.node).map_or(0, |known| known.assign_epoch);
    charge_sponsor(execution, &body.sponsor)?;
    let light_node = LightNode {
        identity_kind: body.identity_kind,
        public_key: body.public_key,
        class: body.class.clone(),
        level: body.level,
        expected_interval_s: body.expected_interval_s,
        downlink: body.downlink,
        wire_counter: body.wire_counter,
        owner: body.owner,
        descriptor_hash: body.descriptor_hash,
        sponsor: body.sponsor,
        standing,
        registered: execution.context.height,
        retired: None,
        assign_epoch,
        gateways: Vec::new(),
        exposed_since: None,
    };
    // The session stays as it was: counters of a former life are never committed twice.
    let session = execution.session(&body.node);
    execution.put(Key::Session(body.node), Record::Session(session));
    execution.put(Key::LightNode(body.node), Record::LightNode(light_node));
    Ok(vec![Event::Registered { node: body.node, sponsor: body.sponsor, again }])
}

fn check_registration(body: &Register) -> Result<(), ApplyError> {
    let own_key = body.identity_kind == IdentityKind::PublicKey;
    if body.level > 3 {
        return Err(ApplyError::Registration("there is no such assurance level"));
    }
    if body.level >= 2 && !own_key {
        return Err(ApplyError::Registration("levels 2 and 3 need a key of the node's own"));
    }
    if body.public_key.is_some() != own_key {
        return Err(ApplyError::Registration("a public key belongs to its own kind alone"));
    }
    if let Some(key) = &body.public_key {
        let sound = key.validate().is_ok() && NodeId::of_key(key) == body.node;
        if !sound {
            return Err(ApplyError::Registration("the ID is not that of the public key"));
        }
    }
    if body.owner.is_some_and(|owner| owner.validate().is_err()) {
        return Err(ApplyError::Registration("the owner's key is not a P-256 key"));
    }
    Ok(())
}

/// A node that was retired comes back with its past; a live, suspended or revoked one does not.
fn standing_of_newcomer(
    execution: &Execution<'_>,
    node: &NodeId,
) -> Result<StandingRecord, ApplyError> {
    let Some(known) = execution.light_node(node) else {
        return Ok(StandingRecord::active(execution.context.height));
    };
    match (known.standing.standing, known.retired) {
        (Standing::Revoked, _) => Err(ApplyError::Revoked(*node)),
        (_, None) => Err(ApplyError::Registered(*node)),
        (Standing::Suspended, _) => Err(ApplyError::Quarantined(*node)),
        _ => Ok(known.standing.clone()),
    }
}

/// Takes one registration off the sponsor's budgets.
fn charge_sponsor(execution: &mut Execution<'_>, sponsor: &NodeId) -> Result<(), ApplyError> {
    let gateway = super::member(execution, sponsor)?;
    if gateway.standing.standing != Standing::Active {
        return Err(ApplyError::Ticket("the sponsor has not the right to sponsor"));
    }
    let author = Author::Node(*sponsor);
    let mut activity = execution.activity(&author);
    activity.enter_hour(execution.context.hour());
    if activity.registrations >= execution.policy().registrations_per_hour {
        return Err(ApplyError::Budget("registrations in an hour"));
    }
    if activity.sponsored >= execution.policy().nodes_per_sponsor {
        return Err(ApplyError::Budget("light nodes of one sponsor"));
    }
    activity.registrations += 1;
    activity.sponsored += 1;
    execution.put(Key::Activity(author), Record::Activity(activity));
    Ok(())
}

fn check_ticket(
    execution: &Execution<'_>,
    ticket: &Ticket,
    sponsor: &NodeId,
) -> Result<(), ApplyError> {
    let now = execution.context.time_ms;
    if now > ticket.expires_ms {
        return Err(ApplyError::Ticket("it has expired"));
    }
    let TicketIssuer::Window { sponsor: issuer, opened_ms } = ticket.issuer else {
        return Ok(());
    };
    if issuer != *sponsor {
        return Err(ApplyError::Ticket("it was issued by another gateway than the sponsor"));
    }
    if !super::member(execution, sponsor)?.standing.standing.may_record() {
        return Err(ApplyError::Ticket("the sponsor's standing does not allow it"));
    }
    let length = ticket.expires_ms.checked_sub(opened_ms);
    if length.is_none_or(|length| length > MAX_PAIRING_WINDOW_MS) {
        return Err(ApplyError::Ticket("its window is longer than an hour"));
    }
    if opened_ms > now.saturating_add(CLOCK_ALLOWANCE_MS) {
        return Err(ApplyError::Ticket("its window is not open yet"));
    }
    Ok(())
}

/// A ticket is good once: else whoever saw it on the ledger could retire or register the light
/// node again until it expires.
fn use_ticket(
    execution: &mut Execution<'_>,
    purpose: TicketPurpose,
    node: &NodeId,
    ticket: &Ticket,
) -> Result<(), ApplyError> {
    let Ticket { issuer, expires_ms, signature: _ } = ticket;
    let digest = Ticket::digest(&execution.site().chain_id, purpose, node, issuer, *expires_ms);
    let mut used = execution.used_tickets(node);
    let now = execution.context.time_ms;
    used.tickets.retain(|ticket| now <= ticket.expires_ms);
    if used.tickets.iter().any(|ticket| ticket.digest == digest) {
        return Err(ApplyError::Ticket("it was used before"));
    }
    if used.tickets.len() >= MAX_USED_TICKETS {
        return Err(ApplyError::Budget("unexpired tickets of one light node"));
    }
    used.tickets.push(UsedTicket { digest, expires_ms: *expires_ms });
    execution.put(Key::Tickets(*node), Record::Tickets(used));
    Ok(())
}

pub(super) fn apply_retire(
    execution: &mut Execution<'_>,
    body: &Retire,
) -> Result<Vec<Event>, ApplyError> {
    let node = body.node;
    let mut light_node = live(execution, &node)?.clone();
    // A sponsor that was replaced has a successor, which has its budget too.
    let sponsor = execution.successor(light_node.sponsor);
    check_ticket(execution, &body.ticket, &sponsor)?;
    use_ticket(execution, TicketPurpose::Retire, &node, &body.ticket)?;
    light_node.retired =
        Some(Retirement { height: execution.context.height, time_ms: execution.context.time_ms });
    let sponsor = Author::Node(sponsor);
    let mut activity = execution.activity(&sponsor);
    activity.sponsored = activity.sponsored.saturating_sub(1);
    execution.put(Key::Activity(sponsor), Record::Activity(activity));
    execution.put(Key::LightNode(node), Record::LightNode(light_node));
    Ok(vec![Event::Retired { node, reason: body.reason.clone() }])
}

/// A light node that is registered and not retired.
fn live<'e>(execution: &'e Execution<'_>, node: &NodeId) -> Result<&'e LightNode, ApplyError> {
    let light_node = execution.light_node(node).ok_or(ApplyError::UnknownNode(*node))?;
    match light_node.retired {
        None => Ok(light_node),
        Some(_) => Err(ApplyError::Retired(*node)),
    }
}

/// A live light node with the right to be recorded.
fn active<'e>(execution: &'e Execution<'_>, node: &NodeId) -> Result<&'e LightNode, ApplyError> {
    let light_node = live(execution, node)?;
    if light_node.standing.standing.may_record() {
        Ok(light_node)
    } else {
        Err(ApplyError::Quarantined(*node))
    }
}

pub(super) fn apply_assign(
    execution: &mut Execution<'_>,
    author: NodeId,
    body: &Assign,
) -> Result<Vec<Event>, ApplyError> {
    let mut events = Vec::with_capacity(body.items.len());
    for item in &body.items {
        events.push(assign(execution, &author, body.reason, item)?);
    }
    Ok(events)
}

fn assign(
    execution: &mut Execution<'_>,
    author: &NodeId,
    reason: AssignReason,
    item: &AssignItem,
) -> Result<Event, ApplyError> {
    let node = item.node;
    let mut light_node = active(execution, &node)?.clone();
    check_epoch(item.expected_epoch, light_node.assign_epoch)?;
    check_epoch(item.session_epoch, execution.session(&node).counters.epoch)?;
    for gateway in &item.gateways {
        let known = light_node.gateways.contains(gateway);
        let listed = super::member(execution, gateway)?;
        let fit = if known {
            listed.standing.standing.may_record()
        } else {
            let valid_s = execution.policy().attestation_valid_s;
            let stale = listed.attestation.is_stale(valid_s, execution.context.time_ms);
            listed.standing.standing == Standing::Active && !stale
        };
        if !fit || !listed.full {
            return Err(ApplyError::Assignment("a listed gateway has not the right to serve"));
        }
    }
    check_change_of_server(execution, author, reason, &light_node.gateways, &item.gateways)?;
    light_node.exposed_since = exposure(execution, &light_node);
    light_node.assign_epoch =
        light_node.assign_epoch.checked_add(1).ok_or(ApplyError::Exhausted("assignment epochs"))?;
    light_node.gateways = item.gateways.clone();
    let epoch = light_node.assign_epoch;
    execution.put(Key::LightNode(node), Record::LightNode(light_node));
    let serving = execution.serving(&item.gateways);
    Ok(Event::Assigned { node, epoch, serving })
}

/// A live serving gateway goes on serving, unless it agrees (it is the author of a drain) or
/// stays in the list and has signed a rotation.
fn check_change_of_server(
    execution: &Execution<'_>,
    author: &NodeId,
    reason: AssignReason,
    before: &[NodeId],
    after: &[NodeId],
) -> Result<(), ApplyError> {
    let Some(serving) = execution.serving(before) else {
        return Ok(());
    };
    let allowed = execution.serving(after) == Some(serving)
        || match reason {
            AssignReason::Refill => false,
            AssignReason::Drain => *author == serving,
            AssignReason::Rotation => after.contains(&serving),
        };
    if allowed {
        Ok(())
    } else {
        Err(ApplyError::Assignment("the serving gateway is alive and has not agreed"))
    }
}

/// A revoked gateway that leaves the list leaves a mark: it held the keys.
fn exposure(execution: &Execution<'_>, light_node: &LightNode) -> Option<Height> {
    let held = light_node.gateways.iter().filter_map(|id| execution.gateway(id));
    let revoked = held
        .filter(|gateway| gateway.standing.standing == Standing::Revoked)
        .map(|gateway| gateway.standing.since);
    revoked.chain(light_node.exposed_since).min()
}

fn check_epoch(expected: u32, found: u32) -> Result<(), ApplyError> {
    if expected == found { Ok(()) } else { Err(ApplyError::Epoch { expected, found }) }
}

fn check_liveness(gateway: &Gateway, claimed: u32) -> Result<(), ApplyError> {
    if gateway.liveness_epoch == claimed { Ok(()) } else { Err(ApplyError::Liveness(claimed)) }
}

pub(super) fn apply_session(
    execution: &mut Execution<'_>,
    author: NodeId,
    body: &Session,
) -> Result<Vec<Event>, ApplyError> {
    let node = body.node;
    let light_node = active(execution, &node)?;
    if !light_node.gateways.contains(&author) {
        return Err(ApplyError::NotAHolder(node));
    }
    let limit = super::readings::gap_limit(execution, light_node);
    check_liveness(super::member(execution, &author)?, body.liveness_epoch)?;
    let mut session = execution.session(&node);
    check_epoch(body.expected_epoch, session.counters.epoch)?;
    let closed = session.counters.open(limit).ok_or(ApplyError::Exhausted("session epochs"))?;
    session.digest = body.digest;
    // Downlink counters begin anew with the session; its first window is the answerer's.
    session.down_next = DOWN_WINDOW;
    session.down = Some(Window { gateway: author, liveness_epoch: body.liveness_epoch, first: 0 });
    let epoch = session.counters.epoch;
    execution.put(Key::Session(node), Record::Session(session));
    let mut events = vec![Event::SessionOpened { node, epoch, gateway: author }];
    events.extend(closed.into_iter().map(|range| Event::GapClosed { node, range }));
    Ok(events)
}

pub(super) fn apply_reserve(
    execution: &mut Execution<'_>,
    author: NodeId,
    body: &Reserve,
) -> Result<Vec<Event>, ApplyError> {
    check_liveness(super::member(execution, &author)?, body.liveness_epoch)?;
    let mut events = Vec::with_capacity(body.items.len());
    for item in &body.items {
        events.push(reserve(execution, author, body.liveness_epoch, item)?);
    }
    Ok(events)
}

fn reserve(
    execution: &mut Execution<'_>,
    author: NodeId,
    liveness_epoch: u32,
    item: &ReserveItem,
) -> Result<Event, ApplyError> {
    let node = item.node;
    let light_node = active(execution, &node)?;
    if execution.serving(&light_node.gateways) != Some(author) {
        return Err(ApplyError::NotServing(node));
    }
    let mut session = execution.session(&node);
    check_epoch(item.session_epoch, session.counters.epoch)?;
    let window = |first| Window { gateway: author, liveness_epoch, first };
    let (mut down, mut join) = (None, None);
    if item.down {
        let first = session.down_next;
        session.down_next = first
            .checked_add(DOWN_WINDOW)
            .filter(|_| session.counters.epoch > 0)
            .ok_or(ApplyError::Exhausted("downlink counters in this session"))?;
        session.down = Some(window(first));
        down = Some(first);
    }
    if item.join {
        let first = session.join_next;
        session.join_next = first
            .checked_add(JOIN_WINDOW)
            .filter(|next| *next <= JOIN_NONCES)
            .ok_or(ApplyError::Exhausted("join nonces"))?;
        session.join = Some(window(first));
        join = Some(first);
    }
    execution.put(Key::Session(node), Record::Session(session));
    Ok(Event::Reserved { node, gateway: author, down, join })
}
