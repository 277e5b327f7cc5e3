//! The member's side: one task that knows which bridges are let in, serves those that are
//! connected, and hands what comes over them to the drivers.
//!
//! Each connection has a small task that brings its messages, each wanted port one that carries its
//! events and writes: only they wait, so that a slow port or a loud bridge stops nobody else.

mod showing;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use drivers::serial::link::{Event as PortEvent, Link, Remote};
use ledger::codec::{Decode, Encode, Text};
use ledger::ids::NodeId;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::frame::{FromBridge, FromMember, MAX_PATH, Radio, WINDOW, cost};
use super::list::{Bridge, List};
use super::serving::{Effect, Input, Key, Serving};
use crate::admission::messages::Bytes;
use crate::clock;
use crate::control::{BridgeInfo, ControlError, Event, Result};
use crate::identity::Folder;
use crate::peers::{self, BridgeEnd, BridgeFrame, BridgeLink, BridgeSender, Member};

/// Messages of bridges, ports and drivers that may wait; who sends more waits.
const QUEUE: usize = 256;

/// Datagrams that wait for the LoRaWAN task; a further one is dropped and counted.
const RADIO_QUEUE: usize = 256;

/// Events that wait for a port's own task: more than its window can hold.
const PORT_QUEUE: usize = 512;

const _: () = assert!(PORT_QUEUE > (WINDOW / super::frame::MESSAGE_COST) as usize + 64);

/// A datagram of a forwarder beside a bridge.
#[derive(Debug)]
pub struct Uplink {
    /// Which bridge.
    pub bridge: NodeId,
    /// What the bridge calls the forwarder.
    pub forwarder: u32,
    /// What it said.
    pub datagram: Vec<u8>,
}

/// A datagram for such a forwarder.
pub type Downlink = Uplink;

/// Handle of the task; cheap to clone.
#[derive(Clone)]
pub struct Handle(mpsc::Sender<Ask>);

/// What the task is asked, and told.
enum Ask {
    List(oneshot::Sender<Vec<BridgeInfo>>),
    LetIn(String, Option<String>, oneshot::Sender<Result<BridgeInfo>>),
    Forget(String, oneshot::Sender<Result<()>>),
    Find(String, oneshot::Sender<Result<NodeId>>),
    Open(NodeId, Text<MAX_PATH>, u32, Remote),
    Downlink(Downlink),
    Frame(u64, BridgeFrame),
    Ended(u64, BridgeEnd),
    Unwanted(NodeId, Key),
    Written(NodeId, Key, Vec<u8>),
    Taken(NodeId, u16, u32),
}

/// What the task holds of the channels; made before the task, since connections come later.
pub struct Asks {
    asks: mpsc::Receiver<Ask>,
    /// Weak, so that the task ends with its last handle.
    own: mpsc::WeakSender<Ask>,
    radio: mpsc::Sender<Uplink>,
}

/// What the task is started with.
pub struct Parts {
    /// This gateway.
    pub gateway: NodeId,
    /// Name of its site.
    pub site: Text<64>,
    /// Connections.
    pub peers: peers::Handle,
    /// Bridges that have connected.
    pub links: mpsc::Receiver<BridgeLink>,
    /// Where the list lies.
    pub folder: Folder,
    /// For `monitor`.
    pub events: broadcast::Sender<Event>,
}

/// Handle, what the task is started with, and the datagrams of forwarders. Until it runs,
/// questions wait.
pub fn channel() -> (Handle, Asks, mpsc::Receiver<Uplink>) {
    let (sender, asks) = mpsc::channel(QUEUE);
    let (radio_in, radio) = mpsc::channel(RADIO_QUEUE);
    let own = sender.downgrade();
    (Handle(sender), Asks { asks, own, radio: radio_in }, radio)
}

/// Starts the task. It ends when its handles are gone.
///
/// # Errors
/// The list cannot be read.
pub fn start(asks: Asks, parts: Parts) -> anyhow::Result<()> {
    let list = parts.folder.bridges()?;
    let Asks { asks, own, radio } = asks;
    let task = Task { parts, list, own, radio, served: BTreeMap::new(), links: 0, keys: 0 };
    task.let_in();
    tokio::spawn(task.run(asks));
    Ok(())
}

impl Handle {
    /// Bridges that are let in, and those that ask to be.
    ///
    /// # Errors
    /// The daemon is stopping.
    pub async fn list(&self) -> Result<Vec<BridgeInfo>> {
        self.ask(Ask::List).await
    }

    /// Lets a bridge in that asks here, or gives one another name; returns when that is on disk.
    ///
    /// # Errors
    /// None of that ID asks; too many are let in; the name is taken.
    pub async fn let_in(&self, id: &str, name: Option<&str>) -> Result<BridgeInfo> {
        let (id, name) = (id.to_owned(), name.map(str::to_owned));
        self.ask(|reply| Ask::LetIn(id, name, reply)).await?
    }

    /// Lets a bridge in no more; its connection ends at once.
    ///
    /// # Errors
    /// There is none of that ID or name.
    pub async fn forget(&self, who: &str) -> Result<()> {
        self.ask(|reply| Ask::Forget(who.to_owned(), reply)).await?
    }

    /// The bridge of that name, ID, or beginning of an ID.
    ///
    /// # Errors
    /// None, or several.
    pub async fn find(&self, who: &str) -> Result<NodeId> {
        self.ask(|reply| Ask::Find(who.to_owned(), reply)).await?
    }

    /// A port on a bridge, kept open while the bridge is connected.
    pub async fn open(&self, bridge: NodeId, path: Text<MAX_PATH>, baud: u32) -> Link {
        let (link, remote) = Link::remote();
        // A daemon that is stopping opens nothing.
        let _ = self.0.send(Ask::Open(bridge, path, baud, remote)).await;
        link
    }

    /// Tells a forwarder something. What does not fit is lost, as UDP is.
    pub async fn downlink(&self, downlink: Downlink) {
        // A daemon that is stopping sends nothing.
        let _ = self.0.send(Ask::Downlink(downlink)).await;
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let gone = || ControlError::Unavailable("the daemon is stopping".into());
        self.0.send(ask(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

/// What there is of one bridge.
#[derive(Default)]
struct Served {
    serving: Serving,
    live: Option<Live>,
    /// Whoever wants a port of it.
    ports: HashMap<Key, mpsc::Sender<(u16, PortEvent)>>,
    /// Where it was last, and when it was heard, ms since 1970.
    address: Option<SocketAddr>,
    seen_ms: Option<u64>,
    /// Why it is not connected.
    away: &'static str,
    counts: Counts,
}

/// Of all connections since the start.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    uplinks: u64,
    downlinks: u64,
    bytes: u64,
    dropped: u64,
}

/// Its connection.
struct Live {
    number: u64,
    sender: BridgeSender,
}

impl Served {
    /// With what the connection that is up has counted.
    fn counts(&self) -> Counts {
        let mut counts = self.counts;
        if let Some(live) = &self.live {
            counts.bytes += live.sender.received_bytes();
            counts.dropped += live.sender.dropped();
        }
        counts
    }
}

struct Task {
    parts: Parts,
    list: List,
    own: mpsc::WeakSender<Ask>,
    radio: mpsc::Sender<Uplink>,
    served: BTreeMap<NodeId, Served>,
    links: u64,
    keys: Key,
}

impl Task {
    async fn run(mut self, mut asks: mpsc::Receiver<Ask>) {
        let mut connecting = true;
        loop {
            tokio::select! {
                ask = asks.recv() => match ask {
                    Some(ask) => self.ask(ask).await,
                    None => return,
                },
                link = self.parts.links.recv(), if connecting => match link {
                    Some(link) => self.connected(link),
                    // The transport has ended; management may still ask.
                    None => connecting = false,
                },
            }
        }
    }

    async fn ask(&mut self, ask: Ask) {
        // Replies to callers that have gone away are dropped.
        match ask {
            Ask::List(reply) => {
                let _ = reply.send(self.infos());
            }
            Ask::LetIn(id, name, reply) => {
                let _ = reply.send(self.put(&id, name.as_deref()).await);
            }
            Ask::Forget(who, reply) => {
                let _ = reply.send(self.forget(&who).await);
            }
            Ask::Find(who, reply) => {
                let _ = reply.send(self.list.find(&who).map(Bridge::node));
            }
            Ask::Open(bridge, path, baud, remote) => self.open(bridge, path, baud, remote),
            Ask::Downlink(downlink) => self.downlink(downlink),
            Ask::Frame(link, frame) => self.frame(link, frame),
            Ask::Ended(link, end) => self.ended(link, end),
            Ask::Unwanted(bridge, key) => {
                self.served.entry(bridge).or_default().ports.remove(&key);
                self.step(bridge, Input::Unwant(key));
            }
            Ask::Written(bridge, key, bytes) => self.step(bridge, Input::Write(key, bytes)),
            Ask::Taken(bridge, port, taken) => self.step(bridge, Input::Taken(port, taken)),
        }
    }

    /// Tells the transport who is let in.
    fn let_in(&self) {
        let member = |bridge: &Bridge| Member { node: bridge.node(), identity: bridge.identity };
        let members: Vec<Member> = self.list.iter().map(member).collect();
        self.parts.peers.set_bridges(&members);
    }

    async fn put(&mut self, id: &str, name: Option<&str>) -> Result<BridgeInfo> {
        let name = match name {
            Some(name) => Some(checked_name(name)?),
            None => None,
        };
        let known = self.list.find(id).ok().cloned();
        let (identity, name, added_ms) = match known {
            Some(known) => (known.identity, name.unwrap_or(known.name), known.added_ms),
            None => (self.waiting(id)?, name.unwrap_or_default(), clock::wall_ms()),
        };
        let bridge = Bridge { identity, name, added_ms };
        let node = bridge.node();
        let mut list = self.list.clone();
        list.put(bridge)?;
        self.keep(list).await?;
        tracing::info!(bridge = node.to_gateway_string(), "let in");
        let not_found = || ControlError::NotFound { what: "bridge", name: id.to_owned() };
        self.infos().into_iter().find(|info| info.node == node).ok_or_else(not_found)
    }

    /// The key of the one that asks here under this ID.
    fn waiting(&self, id: &str) -> Result<ledger::crypto::PublicKey> {
        let waiting = self.parts.peers.waiting_bridges();
        let begins = |one: &&peers::WaitingBridge| {
            id.len() >= 7 && one.node.to_gateway_string().starts_with(id)
        };
        let mut found = waiting.iter().filter(begins);
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one.identity),
            (None, _) => {
                Err(ControlError::NotFound { what: "bridge that asks here", name: id.to_owned() })
            }
            (Some(_), Some(_)) => {
                let why = format!("several bridges begin with {id}: give more of the ID");
                Err(ControlError::InvalidArgument(why))
            }
        }
    }

    async fn forget(&mut self, who: &str) -> Result<()> {
        let node = self.list.find(who)?.node();
        let mut list = self.list.clone();
        list.remove(&node);
        self.keep(list).await?;
        tracing::info!(bridge = node.to_gateway_string(), "forgotten");
        Ok(())
    }

    /// On disk first: what management is told holds after a crash.
    async fn keep(&mut self, list: List) -> Result<()> {
        let (folder, kept) = (self.parts.folder.clone(), list.clone());
        let written = tokio::task::spawn_blocking(move || folder.keep_bridges(&kept)).await;
        let broke = |error: tokio::task::JoinError| ControlError::Internal(error.to_string());
        written.map_err(broke)?.map_err(ControlError::from)?;
        self.list = list;
        self.let_in();
        Ok(())
    }

    /// A bridge that was let in has connected: its messages are brought here.
    fn connected(&mut self, link: BridgeLink) {
        let session = link.session();
        let (node, remote) = (session.node, session.remote);
        self.links += 1;
        let (number, sender) = (self.links, link.sender());
        let served = self.served.entry(node).or_default();
        served.address = Some(remote);
        let before = served.live.replace(Live { number, sender });
        served.close(before);
        let own = self.own.clone();
        tokio::spawn(async move {
            loop {
                let (ask, last) = match link.next().await {
                    Ok(frame) => (Ask::Frame(number, frame), false),
                    Err(end) => (Ask::Ended(number, end), true),
                };
                let Some(own) = own.upgrade() else { return };
                if own.send(ask).await.is_err() || last {
                    return;
                }
            }
        });
        tracing::info!(bridge = node.to_gateway_string(), %remote, "bridge connected");
        self.send(node, FromMember::Welcome(self.parts.site.clone()));
        self.step(node, Input::Down);
        self.step(node, Input::Up);
    }

    fn frame(&mut self, link: u64, frame: BridgeFrame) {
        let of_link = |(_, served): &(&NodeId, &mut Served)| {
            served.live.as_ref().is_some_and(|live| live.number == link)
        };
        let Some((node, served)) = self.served.iter_mut().find(of_link) else { return };
        let node = *node;
        served.seen_ms = Some(clock::wall_ms());
        let read = match frame {
            BridgeFrame::Radio(bytes) => Radio::from_bytes(&bytes).map(|radio| {
                served.counts.uplinks += 1;
                let Radio { forwarder, datagram } = radio;
                let datagram = datagram.into_vec();
                let uplink = Uplink { bridge: node, forwarder, datagram };
                // Full, or LoRaWAN is switched off here.
                if self.radio.try_send(uplink).is_err() {
                    served.counts.dropped += 1;
                }
                None
            }),
            BridgeFrame::Serial(bytes) => FromBridge::from_bytes(&bytes).map(Some),
        };
        match read {
            Ok(None) => {}
            Ok(Some(message)) => self.step(node, Input::Said(message)),
            Err(error) => self.misbehaved(node, &error.to_string()),
        }
    }

    fn misbehaved(&mut self, node: NodeId, why: &str) {
        let id = node.to_gateway_string();
        tracing::warn!(bridge = id, why, "a bridge breaks the rules");
        if let Some(live) = self.served.get(&node).and_then(|served| served.live.as_ref()) {
            live.sender.misbehaved();
        }
        let message = format!("the bridge {id} breaks the rules and was disconnected: {why}");
        // Nobody listening is no error.
        let _ = self.parts.events.send(Event::Alert { kind: "bridge", message });
    }

    fn ended(&mut self, link: u64, end: BridgeEnd) {
        let of_link = |(_, served): &(&NodeId, &mut Served)| {
            served.live.as_ref().is_some_and(|live| live.number == link)
        };
        let Some((node, served)) = self.served.iter_mut().find(of_link) else { return };
        let node = *node;
        served.away = match end {
            BridgeEnd::NotLetIn => "it does not let this gateway in",
            BridgeEnd::Other(why) => why,
        };
        let live = served.live.take();
        served.close(live);
        tracing::info!(bridge = node.to_gateway_string(), why = served.away, "bridge away");
        self.step(node, Input::Down);
    }

    fn downlink(&mut self, Downlink { bridge, forwarder, datagram }: Downlink) {
        let Some(served) = self.served.get_mut(&bridge) else { return };
        let Ok(datagram) = Bytes::new(datagram) else { return };
        let Some(live) = &served.live else {
            served.counts.dropped += 1;
            return;
        };
        let radio = Radio { forwarder, datagram };
        // A connection that has just ended takes nothing; one that is full counts what it drops.
        if live.sender.radio(radio.to_bytes()).is_ok() {
            served.counts.downlinks += 1;
        }
    }

    /// A sensor's port; a task of its own carries what comes from it and goes to it.
    fn open(&mut self, bridge: NodeId, path: Text<MAX_PATH>, baud: u32, remote: Remote) {
        self.keys += 1;
        let (key, own) = (self.keys, self.own.clone());
        let (events_in, events) = mpsc::channel(PORT_QUEUE);
        tokio::spawn(carry(bridge, key, remote, events, own));
        self.served.entry(bridge).or_default().ports.insert(key, events_in);
        self.step(bridge, Input::Want(key, path, baud));
    }

    fn step(&mut self, node: NodeId, input: Input) {
        let effects = self.served.entry(node).or_default().serving.step(input);
        for effect in effects {
            match effect {
                Effect::Send(message) => self.send(node, message),
                Effect::Tell(key, port, event) => {
                    let told = self.served.get(&node).and_then(|served| served.ports.get(&key));
                    // What is under way of a port fits always; one that was closed hears nothing.
                    let _ = told.map(|told| told.try_send((port, event)));
                }
                Effect::Misbehaved(why) => self.misbehaved(node, why),
            }
        }
    }

    fn send(&self, node: NodeId, message: FromMember) {
        let live = self.served.get(&node).and_then(|served| served.live.as_ref());
        // A connection that has just ended takes nothing; one that is full counts what it drops.
        let _ = live.map(|live| live.sender.serial(message.to_bytes()));
    }
}

impl Served {
    /// Keeps what a connection that is over has counted.
    fn close(&mut self, live: Option<Live>) {
        let Some(Live { sender, .. }) = live else { return };
        self.counts.bytes += sender.received_bytes();
        self.counts.dropped += sender.dropped();
    }
}

fn checked_name(name: &str) -> Result<Text<64>> {
    let name = name.trim();
    let plain = !name.is_empty() && !name.starts_with("gw1") && !name.contains('/');
    let why = || {
        let why = "a bridge's name has 1 to 64 characters, no slash, and does not begin with gw1";
        ControlError::InvalidArgument(why.into())
    };
    Text::new(name).ok().filter(|_| plain).ok_or_else(why)
}

/// Carries what comes from a port and what is written to it, until nobody wants the port. Only
/// here is a slow reader waited for.
async fn carry(
    bridge: NodeId,
    key: Key,
    remote: Remote,
    mut events: mpsc::Receiver<(u16, PortEvent)>,
    own: mpsc::WeakSender<Ask>,
) {
    let Remote { events: reader, mut writes } = remote;
    loop {
        let ask = tokio::select! {
            event = events.recv() => {
                let Some((port, event)) = event else { return };
                let taken = match &event {
                    PortEvent::Bytes(bytes) => cost(bytes),
                    PortEvent::Opened | PortEvent::Gone(_) => 0,
                };
                if reader.send(event).await.is_err() {
                    break;
                }
                if taken == 0 {
                    continue;
                }
                Ask::Taken(bridge, port, taken)
            }
            bytes = writes.recv() => match bytes {
                Some(bytes) => Ask::Written(bridge, key, bytes),
                None => break,
            },
        };
        let Some(own) = own.upgrade() else { return };
        if own.send(ask).await.is_err() {
            return;
        }
    }
    if let Some(own) = own.upgrade() {
        // A task that has ended wants nothing.
        let _ = own.send(Ask::Unwanted(bridge, key)).await;
    }
}
