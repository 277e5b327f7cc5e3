//! Finding members: addresses are hints, and who answers is checked before anything is said.

use std::collections::BTreeMap;
use std::time::Duration;

use ledger::ids::NodeId;

use super::{Newcomer, Stop};
use crate::admission::exchange::{Ask, AskError};
use crate::admission::head::{self, HeadError, KnownSite};
use crate::admission::messages::{HeadAnswer, Request, Response};
use crate::clock;
use crate::control::JoinStep;
use crate::peers::{self, Connection};

/// Longest wait for a connection.
const DIAL_LIMIT: Duration = Duration::from_secs(15);

/// Addresses that are tried in one round.
const MAX_ADDRESSES: usize = 64;

/// Reasons that are told at once.
const MAX_REASONS: usize = 4;

/// A member that is one.
pub(super) struct Found {
    pub(super) connection: Connection,
    pub(super) site: KnownSite,
    /// Members and where they can be reached.
    pub(super) members: Vec<(NodeId, Vec<String>)>,
}

/// What is known of addresses.
#[derive(Default)]
pub(super) struct Finding {
    /// Addresses that members told, and where a gateway was reached.
    told: Vec<String>,
    reached: BTreeMap<NodeId, String>,
}

/// Why an address is of no use.
enum Useless {
    /// Nobody is there, or it answers nothing usable.
    Silent(String),
    /// Whoever is there is not of the site: nothing was said to it.
    Wrong(HeadError),
    /// A member that cannot show its record yet.
    Wait(String),
}

impl Newcomer {
    /// The first address at which a member of the site answers.
    pub(super) async fn find(&mut self) -> Result<Found, Stop> {
        self.teller.step(JoinStep::Finding, String::new());
        let (mut reasons, mut wrong) = (Vec::new(), false);
        for address in self.addresses() {
            match self.try_address(&address).await {
                Ok(found) => {
                    self.finding.reached.insert(found.site.node, address);
                    self.finding.learn(&found.members);
                    return Ok(found);
                }
                Err(Useless::Silent(why)) => reasons.push(why),
                Err(Useless::Wait(why)) => reasons.push(format!("{address}: {why}")),
                Err(Useless::Wrong(error)) => {
                    // Said first: it is the operator's business.
                    wrong = true;
                    reasons.insert(0, format!("{address}: {error}; nothing was said to it"));
                }
            }
        }
        reasons.truncate(MAX_REASONS);
        if reasons.is_empty() {
            let none = "no gateway was found in this network; give the address of a member";
            reasons.push(none.into());
        }
        let step = if wrong { JoinStep::Refused } else { JoinStep::Finding };
        Err(Stop::new(step, reasons.join("; ")))
    }

    /// Keeps where members were reached, for the member that this gateway becomes: nobody knows
    /// yet where it listens itself.
    pub(super) fn remember(&self) -> Result<(), Stop> {
        let done = peers::remember(&self.parts.data_dir, self.finding.reached.iter());
        done.map_err(|error| Stop::new(JoinStep::Fetching, format!("addresses: {error}")))
    }

    /// The operator's address first, then those where somebody was, then hints.
    fn addresses(&self) -> Vec<String> {
        let order = &self.parts.order;
        let own = order.address.iter().map(|address| address.as_str().to_owned());
        let found = match order.discover {
            true => self.parts.peers.discovered().borrow().clone(),
            false => Vec::new(),
        };
        let known = self.finding.reached.values().chain(&self.finding.told).cloned();
        let mut addresses: Vec<String> = Vec::new();
        for address in own.chain(known).chain(found) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses.truncate(MAX_ADDRESSES);
        addresses
    }

    async fn try_address(&self, address: &str) -> Result<Found, Useless> {
        let connection = self.dial(address).await.map_err(Useless::Silent)?;
        let detail = format!("{address} answers");
        self.teller.step(JoinStep::Checking, detail);
        let silent = |error: AskError| Useless::Silent(format!("{address}: {error}"));
        let head = Request::Head(self.parts.order.anchor);
        let (response, _) = connection.ask(&head).await.map_err(silent)?;
        let answer = match response {
            Response::Head(answer) => answer,
            Response::Wait(wait) => return Err(Useless::Wait(wait.reason.as_str().into())),
            Response::Refused(refused) => {
                return Err(Useless::Wait(refused.reason.as_str().into()));
            }
            _ => return Err(silent(AskError::Unexpected)),
        };
        let now_ms = clock::synchronised().then(clock::wall_ms);
        let peer = connection.session().identity;
        let site = head::check(&answer, &self.parts.order.anchor, &peer, now_ms);
        let site = site.map_err(Useless::Wrong)?;
        Ok(Found { connection, site, members: members(&answer) })
    }

    async fn dial(&self, address: &str) -> Result<Connection, String> {
        match tokio::time::timeout(DIAL_LIMIT, self.parts.peers.dial(address)).await {
            Ok(Ok(connection)) => Ok(connection),
            // The transport names the address.
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("{address}: no connection in time")),
        }
    }

    /// A connection to one voter: where it was told to be, else wherever gateways are. The record
    /// says who votes, and the connection proves who answers: no other check is needed.
    pub(super) async fn reach(
        &mut self,
        node: NodeId,
        members: &[(NodeId, Vec<String>)],
    ) -> Result<Connection, String> {
        let told = members.iter().find(|(member, _)| *member == node);
        let told = told.map(|(_, addresses)| addresses.clone()).unwrap_or_default();
        let known = self.finding.reached.get(&node).cloned();
        let mut addresses: Vec<String> = known.into_iter().chain(told).collect();
        // Of a gateway whose address nobody knows, every hint may be the right one.
        if addresses.is_empty() {
            let others: Vec<&String> = self.finding.others(&node).collect();
            let hints = self.addresses().into_iter();
            addresses = hints.filter(|address| !others.contains(&address)).collect();
        }
        let mut why = "nobody knows its address".to_owned();
        for address in addresses {
            match self.dial(&address).await {
                Ok(connection) if connection.session().node == node => {
                    self.teller.address(&node, &address);
                    self.finding.reached.insert(node, address);
                    return Ok(connection);
                }
                Ok(connection) => {
                    let other = connection.session().node;
                    why = format!("at {address} is {}", other.to_gateway_string());
                    self.finding.reached.insert(other, address);
                }
                Err(error) => why = error,
            }
        }
        self.finding.reached.remove(&node);
        Err(why)
    }
}

impl Finding {
    fn learn(&mut self, members: &[(NodeId, Vec<String>)]) {
        for address in members.iter().flat_map(|(_, addresses)| addresses) {
            if !self.told.contains(address) && self.told.len() < MAX_ADDRESSES {
                self.told.push(address.clone());
            }
        }
    }

    /// Where other gateways than this were reached.
    fn others(&self, node: &NodeId) -> impl Iterator<Item = &String> {
        self.reached.iter().filter(move |(reached, _)| *reached != node).map(|(_, at)| at)
    }
}

fn members(answer: &HeadAnswer) -> Vec<(NodeId, Vec<String>)> {
    let one = |member: &crate::admission::messages::MemberAddress| {
        let addresses = member.addresses.iter().map(|address| address.as_str().to_owned());
        (NodeId::of_key(&member.identity), addresses.collect())
    };
    answer.members.iter().map(one).collect()
}
