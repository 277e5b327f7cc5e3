//! The ledger's thread and the other members: what they say goes into the node, what the node says
//! goes out, and who is a member on the record is a member for the transport in the same step.

use std::collections::VecDeque;

use ledger::codec::{Encode, Text};
use ledger::consensus::message::is_urgent;
use ledger::host::HostError;
use ledger::ids::NodeId;
use ledger::node::Input;
use ledger::state::State;
use ledger::transaction::{Body, Equivocation, Suspend, SuspendCause};

use super::owner::{Owner, Waiter};
use crate::clock;
use crate::control::Event;
use crate::peers::{self, Inbox, Lane, Member, PeerEvent};

/// Connections to other members, as the ledger's thread holds them.
pub struct Links {
    /// Where frames go.
    pub peers: peers::Handle,
    /// Where they come from.
    pub inbox: Inbox,
}

/// Evidence that is kept until it is on the record; more voters than that cannot have lied while
/// anything is still decided.
const MAX_EVIDENCE: usize = 64;

/// An accusation that was not recorded is made again after this long, ms.
const ACCUSE_AGAIN_MS: u64 = 60_000;

/// What the ledger's thread holds of the others.
#[derive(Default)]
pub(super) struct Others {
    peers: Option<peers::Handle>,
    inbox: Option<Inbox>,
    /// As the transport knows them.
    members: Vec<Member>,
    evidence: VecDeque<Evidence>,
}

struct Evidence {
    votes: Equivocation,
    next_ms: u64,
}

impl Others {
    /// With connections, or none: then nothing leaves and nothing comes.
    pub(super) fn new(links: Option<Links>) -> Self {
        let (peers, inbox) = links.map(|links| (links.peers, links.inbox)).unzip();
        Self { peers, inbox, ..Self::default() }
    }

    /// The next event of the transport; never without one. May be dropped half-way.
    pub(super) async fn next(&mut self) -> PeerEvent {
        if let Some(inbox) = &mut self.inbox {
            if let Some(event) = inbox.recv().await {
                return event;
            }
            // The transport has ended: the daemon stops.
            self.inbox = None;
        }
        std::future::pending().await
    }

    /// To all connected members.
    pub(super) fn publish(&self, bytes: Vec<u8>) {
        if let Some(peers) = &self.peers {
            peers.publish(lane(&bytes), bytes);
        }
    }

    /// To one member. Who is not connected hears of it otherwise: consensus repeats itself, and
    /// who is behind asks again.
    pub(super) fn send(&self, to: NodeId, bytes: Vec<u8>) {
        let Some(peers) = &self.peers else { return };
        if let Err(error) = peers.send(to, lane(&bytes), bytes) {
            tracing::debug!(%error, gateway = to.to_gateway_string(), "a message is not sent");
        }
    }

    /// Tells the transport who is a member, if that has changed.
    pub(super) fn set_members(&mut self, state: &State) {
        let Some(peers) = &self.peers else { return };
        let members: Vec<Member> = state
            .gateways()
            .filter(|(_, gateway)| gateway.standing.standing.may_record())
            .filter(|(_, gateway)| gateway.replaced_by.is_none())
            .map(|(node, gateway)| Member { node: *node, identity: gateway.identity })
            .collect();
        if members != self.members {
            peers.set_members(&members);
            self.members = members;
        }
    }

    /// Keeps evidence against a voter, once for each.
    fn keep(&mut self, votes: Equivocation) -> bool {
        let voter = votes.first.voter;
        let known = self.evidence.iter().any(|kept| kept.votes.first.voter == voter);
        let news = !known && self.evidence.len() < MAX_EVIDENCE;
        if news {
            self.evidence.push_back(Evidence { votes, next_ms: 0 });
        }
        news
    }

    /// The next accusation to be made now.
    fn due(&mut self, now_ms: u64, state: &State) -> Option<Equivocation> {
        // Whoever has no rights any more was accused with success, perhaps by others.
        self.evidence.retain(|kept| {
            let voter = state.gateway(&kept.votes.first.voter);
            voter.is_some_and(|voter| voter.standing.standing.may_record())
        });
        let due = self.evidence.iter_mut().find(|kept| kept.next_ms <= now_ms)?;
        due.next_ms = now_ms + ACCUSE_AGAIN_MS;
        Some(due.votes)
    }
}

/// Votes and what is as short go before blocks.
fn lane(bytes: &[u8]) -> Lane {
    if is_urgent(bytes) && bytes.len() <= peers::MAX_CONSENSUS {
        Lane::Consensus
    } else {
        Lane::Bulk
    }
}

impl Owner {
    /// Something came from the transport.
    pub(super) async fn heard(&mut self, event: PeerEvent) -> Result<(), HostError> {
        match event {
            PeerEvent::Up(node) => self.step(Input::PeerUp(node)).await,
            PeerEvent::Down(node) => self.step(Input::PeerDown(node)).await,
            PeerEvent::Frame { from, bytes } => self.step(Input::Message { from, bytes }).await,
            PeerEvent::DuplicateIdentity { node, addresses: [first, second] } => {
                let node = node.to_gateway_string();
                let message = format!(
                    "two machines prove the identity of {node}: at {first} and at {second}; one of \
                     them is a copy, or its TPM is shared"
                );
                // Nobody listening is no error.
                let _ = self.events.send(Event::Alert { kind: "identity", message });
                Ok(())
            }
        }
    }

    /// A voter signed two different votes: the evidence is kept until it is on the record.
    pub(super) fn equivocation(&mut self, votes: Equivocation) {
        let gateway = votes.first.voter.to_gateway_string();
        if self.others.keep(votes) {
            // The journal keeps it should the record never take it.
            let evidence: String = votes.to_bytes().iter().map(|b| format!("{b:02x}")).collect();
            tracing::error!(gateway, evidence, "a voter signed two different votes");
            let message = format!("{gateway} signed two different votes");
            // Nobody listening is no error.
            let _ = self.events.send(Event::Alert { kind: "equivocation", message });
        }
    }

    /// Proposes to suspend who signed two different votes. The rules say how many voters may be
    /// taken out so before the operator confirms; what is refused is proposed again later.
    pub(super) async fn accuse(&mut self) -> Result<(), HostError> {
        let state = self.host.node().state();
        let Some(votes) = self.others.due(clock::boot_ms(), state).filter(|_| self.key.is_some())
        else {
            return Ok(());
        };
        let node = votes.first.voter;
        let reason = Text::new("it signed two different votes").unwrap_or_default();
        let cause = SuspendCause::Equivocation(Box::new(votes));
        match self.sign(Body::Suspend(Suspend { node, reason, cause }), None) {
            Ok(transaction) => self.enqueue(transaction, Waiter::Accusation(node)).await,
            Err(error) => {
                tracing::warn!(%error, "an accusation cannot be made now");
                Ok(())
            }
        }
    }
}
