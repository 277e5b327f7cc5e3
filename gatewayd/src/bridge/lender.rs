//! The bridge's side: finds its member, connects to it again and again, and lends it the packet
//! forwarders and the serial ports of this machine.
//!
//! ```text
//! find ─ check against the site code ─> offer ─ not let in yet ──┐
//!  ^                                      │ Welcome              │
//!  └──── wait, growing <── connection ended <── serve            │
//!        └────────────── wait, short <───────────────────────────┘
//! ```

use std::time::Duration;

use ledger::codec::Text;
use ledger::ids::NodeId;
use tokio::sync::watch;

use super::order::{Found, Order};
use super::radio::RadioSide;
use super::serve::{Ended, serve};
use crate::admission::newcomer::{check_address, pause};
use crate::control::{BridgeStatus, JoinProgress, JoinStep};
use crate::identity::Folder;
use crate::peers::{self, BridgeLink};

/// How often a member is asked whether it has let this bridge in, while somebody is at work there.
const LET_IN_EVERY: Duration = Duration::from_secs(3);

/// So many times, ten minutes; then seldom, since each time costs two TPMs a signature.
const LET_IN_SOON: u32 = 200;

/// Longest wait for a connection.
const DIAL_LIMIT: Duration = Duration::from_secs(15);

/// Addresses that are tried in one round.
const MAX_ADDRESSES: usize = 16;

/// Reasons that are told at once.
const MAX_REASONS: usize = 4;

/// What the bridge works with.
pub struct Parts {
    /// The transport; it has no members.
    pub peers: peers::Handle,
    /// This machine.
    pub own: NodeId,
    /// What was asked for.
    pub order: Order,
    /// Where the order lies.
    pub folder: Folder,
    /// Where packet forwarders speak to.
    pub lora: crate::config::Lora,
    /// Where it is shown how far this is.
    pub progress: watch::Sender<JoinProgress>,
    /// Where the figures are shown.
    pub status: watch::Sender<BridgeStatus>,
}

/// Why a round ends.
#[derive(Debug)]
struct Stop {
    step: JoinStep,
    why: String,
}

impl Stop {
    fn new(step: JoinStep, why: impl Into<String>) -> Self {
        Self { step, why: why.into() }
    }
}

/// Lends until it is dropped.
pub async fn lend(parts: Parts) {
    let Parts { peers, own, mut order, folder, lora, progress, status } = parts;
    let teller = Teller { progress, status, own };
    let mut radio = RadioSide::new(&lora);
    let (mut failures, mut asked) = (0_u32, 0_u32);
    loop {
        // What forwarders say meanwhile reaches nobody, and must not be taken for news later.
        let connected = tokio::select! {
            connected = connect(&peers, &mut order, &folder, &teller) => connected,
            () = radio.idle() => continue,
        };
        let pause = match connected {
            Ok(link) => match serve(&link, &mut radio, &teller).await {
                Ended::NotLetIn => {
                    teller.tell(JoinStep::AwaitingApproval, teller.let_me_in());
                    (failures, asked) = (0, asked.saturating_add(1));
                    if asked <= LET_IN_SOON { LET_IN_EVERY } else { pause::after(asked) }
                }
                Ended::Lost { welcome, why } => {
                    failures = if welcome { 1 } else { failures.saturating_add(1) };
                    asked = if welcome { 0 } else { asked };
                    teller.tell(JoinStep::Finding, format!("the member is away: {why}"));
                    pause::after(failures)
                }
            },
            Err(Stop { step, why }) => {
                failures = failures.saturating_add(1);
                teller.tell(step, why);
                pause::after(failures)
            }
        };
        teller.again_after(pause);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = radio.idle() => {}
        }
    }
}

/// A connection to the member; which one that is was checked once, and is kept.
async fn connect(
    peers: &peers::Handle,
    order: &mut Order,
    folder: &Folder,
    teller: &Teller,
) -> Result<BridgeLink, Stop> {
    let found = match &order.found {
        Some(found) => found.clone(),
        None => find(peers, order, folder, teller).await?,
    };
    teller.member(&found);
    let mut reasons = Vec::new();
    for address in addresses(peers, order) {
        let link = match offer(peers, &address).await {
            Ok(link) => link,
            Err(why) => {
                reasons.push(why);
                continue;
            }
        };
        if link.session().identity == found.member {
            return Ok(link);
        }
        let other = link.session().node.to_gateway_string();
        reasons.push(format!("at {address} is {other}, which is another gateway"));
    }
    reasons.truncate(MAX_REASONS);
    let member = NodeId::of_key(&found.member).to_gateway_string();
    let why = format!("the member {member} is away: {}", reasons.join("; "));
    Err(Stop::new(JoinStep::Finding, why))
}

async fn offer(peers: &peers::Handle, address: &str) -> Result<BridgeLink, String> {
    match tokio::time::timeout(DIAL_LIMIT, peers.offer_bridge(address)).await {
        Ok(Ok(link)) => Ok(link),
        // The transport names the address.
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("{address}: no connection in time")),
    }
}

/// The first address at which a member of the site answers; it is kept.
async fn find(
    peers: &peers::Handle,
    order: &mut Order,
    folder: &Folder,
    teller: &Teller,
) -> Result<Found, Stop> {
    teller.tell(JoinStep::Finding, String::new());
    let (mut reasons, mut wrong) = (Vec::new(), false);
    for address in addresses(peers, order) {
        let said = check_address(peers, &order.anchor, &address).await;
        match said {
            Ok(member) => {
                let site = member.site.genesis.site_name.clone();
                let identity = member.connection.session().identity;
                let address = Text::new(address);
                let address = address.map_err(|it| Stop::new(JoinStep::Finding, it.to_string()))?;
                let found = Found { member: identity, address, site };
                order.found = Some(found.clone());
                keep(order, folder).await?;
                return Ok(found);
            }
            Err(useless) => {
                wrong |= useless.is_wrong();
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
    Err(Stop::new(step, reasons.join("; ")))
}

async fn keep(order: &Order, folder: &Folder) -> Result<(), Stop> {
    let (folder, order) = (folder.clone(), order.clone());
    let kept = tokio::task::spawn_blocking(move || folder.keep_bridge_order(&order)).await;
    match kept {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Stop::new(JoinStep::Finding, error.to_string())),
        Err(error) => Err(Stop::new(JoinStep::Finding, error.to_string())),
    }
}

/// Where the member was, the operator's address, then hints.
fn addresses(peers: &peers::Handle, order: &Order) -> Vec<String> {
    let was = order.found.iter().map(|found| found.address.as_str().to_owned());
    let given = order.address.iter().map(|address| address.as_str().to_owned());
    let hints = match order.discover {
        true => peers.discovered().borrow().clone(),
        false => Vec::new(),
    };
    let mut addresses: Vec<String> = Vec::new();
    for address in was.chain(given).chain(hints) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.truncate(MAX_ADDRESSES);
    addresses
}

/// Writes what management sees.
pub(super) struct Teller {
    progress: watch::Sender<JoinProgress>,
    status: watch::Sender<BridgeStatus>,
    own: NodeId,
}

impl Teller {
    /// A step begins, or goes on.
    pub(super) fn tell(&self, step: JoinStep, detail: String) {
        let (before, said) = (self.progress.borrow().step, self.progress.borrow().detail.clone());
        if (before, &said) != (step, &detail) && !detail.is_empty() {
            tracing::info!(?step, detail, "bridge");
        }
        self.status.send_modify(|shown| {
            shown.connected = step == JoinStep::Done;
            shown.detail.clone_from(&detail);
        });
        self.progress.send_modify(|shown| {
            if shown.step != step {
                shown.since_ms = crate::clock::wall_ms();
            }
            shown.bridge = true;
            shown.gateway = Some(self.own.to_gateway_string());
            (shown.step, shown.detail, shown.next_try_ms) = (step, detail, None);
        });
    }

    /// Figures of the connection.
    pub(super) fn figures(&self, write: impl FnOnce(&mut BridgeStatus)) {
        self.status.send_modify(write);
    }

    fn member(&self, found: &Found) {
        self.status.send_modify(|shown| {
            shown.member = Some(NodeId::of_key(&found.member).to_gateway_string());
            shown.address = Some(found.address.as_str().to_owned());
        });
        let site = found.site.as_str().to_owned();
        self.progress.send_modify(|shown| shown.site = Some(site));
    }

    fn again_after(&self, pause: Duration) {
        let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.progress.send_modify(|shown| {
            shown.attempts = shown.attempts.saturating_add(1);
            shown.next_try_ms = Some(crate::clock::wall_ms().saturating_add(pause));
        });
    }

    fn let_me_in(&self) -> String {
        let id = self.own.to_gateway_string();
        format!(
            "its administrator lets this bridge in on the member: `gatewayctl gateway approve \
             {id} --bridge`"
        )
    }
}
