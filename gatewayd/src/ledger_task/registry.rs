//! Light nodes enter and leave the record: `Register`, `Assign`, `Reserve`, `Retire`.

use ledger::codec::Text;
use ledger::ids::{Hash, IdentityKind, NodeId};
use ledger::state::{DOWN_WINDOW, JOIN_WINDOW};
use ledger::transaction::{
    Assign, AssignItem, AssignReason, Body, Register, Reserve, ReserveItem, Retire, Ticket,
    TicketIssuer, TicketPurpose,
};

use super::{Done, Handle, Here};
use crate::control::{ControlError, Result};
use crate::store::NodeBytes;

/// How long a ticket of an open window holds, ms: the time a block takes, generously.
const TICKET_MS: u64 = 120_000;

/// What is said of a light node when it becomes known.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Its node ID.
    pub node: NodeId,
    /// How it proves who it is.
    pub identity_kind: IdentityKind,
    /// Device class.
    pub class: &'static str,
    /// Highest assurance level.
    pub level: u8,
    /// Expected seconds between readings.
    pub interval_s: u32,
    /// Whether it needs downlinks.
    pub downlink: bool,
    /// Whether it counts its frames itself.
    pub wire_counter: bool,
    /// Salted hash of what the operator calls it.
    pub descriptor_hash: [u8; 32],
}

impl Handle {
    /// Registers a light node under the open window of this gateway, and assigns it here.
    ///
    /// # Errors
    /// `Refused` by the rules, with the reason.
    pub async fn register(&self, registration: Registration) -> Result<Done> {
        let node = registration.node;
        self.propose(move |here| register(here, registration)).await?;
        self.propose(move |here| assign(here, node)).await
    }

    /// Takes the next window of FCntDown (or of JoinNonce): (first, how many).
    ///
    /// # Errors
    /// Not the serving gateway, or not in time.
    pub async fn reserve(&self, node: NodeBytes, join: bool) -> Result<(u32, u32)> {
        let id = NodeId(node);
        self.propose(move |here| reserve(here, id, join)).await?;
        let window = self
            .view(move |state| {
                let session = state.session(&id)?;
                if join { session.join } else { session.down }
            })
            .await?;
        let count = if join { JOIN_WINDOW } else { DOWN_WINDOW };
        window
            .map(|window| (window.first, count))
            .ok_or_else(|| ControlError::Internal("a reserved window is missing".into()))
    }

    /// Gives a light node up.
    ///
    /// # Errors
    /// `Refused` by the rules.
    pub async fn retire(&self, node: NodeId, reason: String) -> Result<Done> {
        self.propose(move |here| {
            let reason = Text::new(reason)
                .map_err(|_| ControlError::InvalidArgument("the reason is too long".into()))?;
            let ticket = ticket(here, TicketPurpose::Retire, &node);
            Ok(Body::Retire(Retire { node, reason, ticket }))
        })
        .await
    }
}

fn ticket(here: &Here<'_>, purpose: TicketPurpose, node: &NodeId) -> Ticket {
    let issuer = TicketIssuer::Window { sponsor: here.gateway, opened_ms: here.time_ms };
    let expires = here.time_ms + TICKET_MS;
    Ticket::sign(&here.chain_id, purpose, node, issuer, expires, here.key)
}

fn register(here: &Here<'_>, registration: Registration) -> Result<Body> {
    let Registration {
        node,
        identity_kind,
        class,
        level,
        interval_s,
        downlink,
        wire_counter,
        descriptor_hash,
    } = registration;
    let class = Text::new(class)
        .map_err(|_| ControlError::Internal("the device class is too long".into()))?;
    Ok(Body::Register(Register {
        node,
        identity_kind,
        public_key: None,
        class,
        level,
        expected_interval_s: interval_s,
        downlink,
        wire_counter,
        owner: None,
        descriptor_hash: Hash(descriptor_hash),
        sponsor: here.gateway,
        ticket: ticket(here, TicketPurpose::Register, &node),
    }))
}

fn assign(here: &Here<'_>, node: NodeId) -> Result<Body> {
    let expected_epoch = here.state.light_node(&node).map_or(0, |known| known.assign_epoch);
    let session_epoch = here.state.session(&node).map_or(0, |session| session.counters.epoch);
    let gateways = vec![here.gateway];
    let items = vec![AssignItem { node, expected_epoch, session_epoch, gateways }];
    Ok(Body::Assign(Assign { reason: AssignReason::Refill, items, holders: vec![] }))
}

fn reserve(here: &Here<'_>, node: NodeId, join: bool) -> Result<Body> {
    let session_epoch = here.state.session(&node).map_or(0, |session| session.counters.epoch);
    let gateway = here.state.gateway(&here.gateway);
    let liveness_epoch = gateway.map_or(0, |gateway| gateway.liveness_epoch);
    let items = vec![ReserveItem { node, session_epoch, down: !join, join }];
    Ok(Body::Reserve(Reserve { liveness_epoch, items }))
}
