//! Finding members: addresses are hints, and who answers is checked before anything is said.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ledger::codec::Encode;
use ledger::ids::NodeId;
use ledger::proof::Anchor;
use tokio::time::Instant;

use super::{Newcomer, Stop};
use crate::admission::exchange::{Ask, AskError};
use crate::admission::head::{self, HeadError, KnownSite};
use crate::admission::messages::{HeadAnswer, Request, Response};
use crate::clock;
use crate::control::JoinStep;
use crate::peers::{self, Connection, Session};

/// A session is used again in the next round for so long: a guest's ends after 30 s.
const KEEP_FOR: Duration = Duration::from_secs(18);

/// And only while so few bytes were asked in it: a guest may send 64 KiB.
const KEEP_BELOW: usize = 32 * 1024;

/// Longest wait for a connection.
const DIAL_LIMIT: Duration = Duration::from_secs(15);

/// Addresses that are tried in one round.
const MAX_ADDRESSES: usize = 64;

/// Reasons that are told at once.
const MAX_REASONS: usize = 4;

/// A member that is one.
pub(crate) struct Found {
    pub(crate) connection: Guest,
    /// The session is older than this round.
    pub(super) again: bool,
    address: String,
    pub(crate) site: KnownSite,
    /// Members and where they can be reached.
    pub(super) members: Vec<(NodeId, Vec<String>)>,
}

/// A session that may serve several rounds, with what was sent in it.
pub(crate) struct Guest {
    connection: Connection,
    began: Instant,
    sent: AtomicUsize,
}

impl Guest {
    fn new(connection: Connection) -> Self {
        Self { connection, began: Instant::now(), sent: AtomicUsize::new(0) }
    }

    /// Who is at the other end.
    pub(crate) fn session(&self) -> &Session {
        self.connection.session()
    }

    /// Whether another round fits into what a guest may use.
    fn lasts(&self) -> bool {
        self.began.elapsed() < KEEP_FOR && self.sent.load(Ordering::Relaxed) < KEEP_BELOW
    }
}

impl Ask for Guest {
    async fn ask(&self, request: &Request) -> Result<(Response, [u8; 32]), AskError> {
        self.sent.fetch_add(request.to_bytes().len(), Ordering::Relaxed);
        self.connection.ask(request).await
    }
}

/// What is known of addresses.
#[derive(Default)]
pub(super) struct Finding {
    /// How often a round was begun at an address: members take turns, so that one that lies holds
    /// nobody up.
    rounds: BTreeMap<String, u32>,
    /// The session of the last round.
    kept: Option<(String, Guest)>,
    /// Where this round was begun.
    current: Option<String>,
    /// Where the next round begins, out of turn.
    next: Option<String>,
    /// Addresses that members told, and where a gateway was reached.
    told: Vec<String>,
    reached: BTreeMap<NodeId, String>,
}

/// Why an address is of no use.
pub(crate) enum Useless {
    /// Nobody is there, or it answers nothing usable.
    Silent(String),
    /// Whoever is there is not of the site: nothing was said to it.
    Wrong(HeadError),
    /// A member that cannot show its record yet, and when to ask again.
    Wait(String, Duration),
}

impl Useless {
    /// Whether whoever is there is not of the site: that is the operator's business.
    pub(crate) fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong(_))
    }

    /// In words, of this address.
    pub(crate) fn words(&self, address: &str) -> String {
        match self {
            Self::Silent(why) => why.clone(),
            Self::Wait(why, _) => format!("{address}: {why}"),
            Self::Wrong(error) => format!("{address}: {error}; nothing was said to it"),
        }
    }
}

/// Whether a member of the site answers at an address.
pub(crate) async fn check_address(
    peers: &peers::Handle,
    anchor: &Anchor,
    address: &str,
) -> Result<Found, Useless> {
    let connection = dial(peers, address).await.map_err(Useless::Silent)?;
    check_member(connection, false, anchor, address).await
}

impl Newcomer {
    /// A member of the site that answers: of the addresses that began the fewest rounds the first
    /// one, or the session of the last round while it lasts.
    pub(super) async fn find(&mut self) -> Result<Found, Stop> {
        if let Some(found) = self.find_again().await {
            return Ok(found);
        }
        self.teller.step(JoinStep::Finding, String::new());
        let (mut reasons, mut wrong, mut soon) = (Vec::new(), false, None);
        for address in self.finding.in_turn(self.addresses()) {
            self.finding.begins(&address);
            self.finding.current = Some(address.clone());
            match self.try_address(&address).await {
                Ok(found) => {
                    self.finding.reached.insert(found.site.node, address);
                    self.finding.learn(&found.members);
                    return Ok(found);
                }
                Err(useless) if useless.is_wrong() => {
                    // Said first: it is the operator's business.
                    wrong = true;
                    reasons.insert(0, useless.words(&address));
                }
                Err(useless) => {
                    if let Useless::Wait(_, after) = useless {
                        soon = Some(soon.map_or(after, |soon: Duration| soon.min(after)));
                    }
                    reasons.push(useless.words(&address));
                }
            }
        }
        reasons.truncate(MAX_REASONS);
        if reasons.is_empty() {
            let none = "no gateway was found in this network; give the address of a member";
            reasons.push(none.into());
        }
        let step = if wrong { JoinStep::Refused } else { JoinStep::Finding };
        // A member that is there and has nothing to show yet is asked when it said.
        Err(match soon {
            Some(after) => Stop::after(step, reasons.join("; "), after),
            None => Stop::new(step, reasons.join("; ")),
        })
    }

    /// The member of the last round, in the same session.
    async fn find_again(&mut self) -> Option<Found> {
        let (address, guest) = self.finding.kept.take().filter(|(_, guest)| guest.lasts())?;
        self.finding.current = Some(address.clone());
        let found = check_member(guest, true, &self.parts.order.anchor, &address).await;
        // Whatever is wrong with it, the members are gone through from there.
        found.ok()
    }

    /// Keeps the session of a round that is waited out.
    pub(super) fn keep(&mut self, found: Found) {
        self.finding.kept = Some((found.address, found.connection));
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
        self.teller.step(JoinStep::Checking, format!("{address} answers"));
        check_member(connection, false, &self.parts.order.anchor, address).await
    }

    async fn dial(&self, address: &str) -> Result<Guest, String> {
        dial(&self.parts.peers, address).await
    }

    /// A connection to one voter: where it was told to be, else wherever gateways are. The record
    /// says who votes, and the connection proves who answers: no other check is needed.
    pub(super) async fn reach(
        &mut self,
        node: NodeId,
        members: &[(NodeId, Vec<String>)],
    ) -> Result<Guest, String> {
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

/// Checks whoever answers against the site code, before anything else is said.
async fn check_member(
    connection: Guest,
    again: bool,
    anchor: &Anchor,
    address: &str,
) -> Result<Found, Useless> {
    let silent = |error: AskError| Useless::Silent(format!("{address}: {error}"));
    let (response, _) = connection.ask(&Request::Head(*anchor)).await.map_err(silent)?;
    let answer = match response {
        Response::Head(answer) => answer,
        Response::Wait(wait) => {
            let after = Duration::from_secs(wait.after_s.into());
            return Err(Useless::Wait(wait.reason.as_str().into(), after));
        }
        Response::Refused(refused) => {
            return Err(Useless::Silent(format!("{address}: {}", refused.reason.as_str())));
        }
        _ => return Err(silent(AskError::Unexpected)),
    };
    let now_ms = clock::synchronised().then(clock::wall_ms);
    let peer = connection.session().identity;
    let site = head::check(&answer, anchor, &peer, now_ms).map_err(Useless::Wrong)?;
    let (members, address) = (members(&answer), address.to_owned());
    Ok(Found { connection, again, address, site, members })
}

async fn dial(peers: &peers::Handle, address: &str) -> Result<Guest, String> {
    match tokio::time::timeout(DIAL_LIMIT, peers.dial(address)).await {
        Ok(Ok(connection)) => Ok(Guest::new(connection)),
        // The transport names the address.
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("{address}: no connection in time")),
    }
}

impl Finding {
    /// Where to go on: those that began the fewest rounds first, in their order.
    fn in_turn(&self, mut addresses: Vec<String>) -> Vec<String> {
        let rounds = |address: &String| self.rounds.get(address).copied().unwrap_or(0);
        addresses.sort_by_key(|address| (self.next.as_ref() != Some(address), rounds(address)));
        addresses
    }

    /// A round has ended. One that has reached something goes on with the same member, which has
    /// the newest block; but once in a row, since it is its own word.
    pub(super) fn ended(&mut self, reached: bool) {
        let goes_on = reached && self.next.is_none();
        self.next = self.current.take().filter(|_| goes_on);
    }

    fn begins(&mut self, address: &str) {
        if self.rounds.len() >= 2 * MAX_ADDRESSES && !self.rounds.contains_key(address) {
            // Hints come and go; the turn begins anew.
            self.rounds.clear();
        }
        let rounds = self.rounds.entry(address.to_owned()).or_default();
        *rounds = rounds.saturating_add(1);
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_take_turns() {
        let mut finding = Finding::default();
        let all = || ["given", "b", "c"].map(str::to_owned).to_vec();
        let mut begun = Vec::new();
        for _ in 0..6 {
            let first = finding.in_turn(all()).remove(0);
            finding.begins(&first);
            begun.push(first);
        }
        assert_eq!(begun, ["given", "b", "c", "given", "b", "c"], "nobody holds it up");
        // Who says that something was reached is asked once more; then it is the next one's turn.
        let mut begun = Vec::new();
        for _ in 0..4 {
            let first = finding.in_turn(all()).remove(0);
            finding.begins(&first);
            finding.current = Some(first.clone());
            finding.ended(true);
            begun.push(first);
        }
        assert_eq!(begun, ["given", "given", "b", "b"]);
        // What is found later is tried before those that led nowhere.
        let mut more = all();
        more.push("new".into());
        assert_eq!(finding.in_turn(more).remove(0), "new");
        for number in 0..10 * MAX_ADDRESSES {
            finding.begins(&format!("hint-{number}"));
        }
        assert!(finding.rounds.len() <= 2 * MAX_ADDRESSES, "hints are bounded");
    }
}
