//! The LoRaWAN side: one task owns the UDP socket and the network server; packet forwarders beside
//! bridges are served like those of its own. It must not acknowledge
//! what is not durable, and it decides nothing that the server's state machine can decide.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use drivers::device::Identity;
use drivers::lora::effect::{BridgeId, Effect, Input, Stranger, Way, WindowKind};
use drivers::lora::ids::DevEui;
use drivers::lora::link::{Batch, Link, MAX_BATCH};
use drivers::lora::server::{AddDeviceError, Counters, DeviceConfig, Highest, Server, Settings};
use ledger::ids::NodeId;
use ledger::transaction::TallyCount;
use tokio::sync::{mpsc, oneshot};

use super::Lent;
use super::shared::Shared;
use super::strangers::Strangers;
use crate::bridge::{self, Downlink, Uplink};
use crate::clock;
use crate::control::ControlError;
use crate::ingest::Group;
use crate::pairing::window;
use crate::store::NodeBytes;

/// Commands that may wait; callers block beyond it.
const QUEUE: usize = 64;

/// Readings wait so long for others to share their synced transaction: a sync costs as much for one
/// as for a thousand, and a device that waits for an answer has a second.
const LINGER: Duration = Duration::from_millis(10);

/// …and no longer when there are this many.
const ROUND_READINGS: usize = 1024;

/// What the task is asked.
enum Command {
    Add(Box<Candidate>, oneshot::Sender<Result<(), ControlError>>),
    Admit { dev_eui: DevEui, join_window: (u32, u32), reply: oneshot::Sender<Option<Vec<u8>>> },
    Remove(DevEui),
    Granted { dev_eui: DevEui, window: WindowKind, from: u32, count: u32 },
    State(oneshot::Sender<LoraState>),
    Tally { hour: u64, reply: oneshot::Sender<Option<(u64, Vec<TallyCount>)>> },
}

/// A device to be served, or to be paired.
pub(super) struct Candidate {
    pub(super) node: NodeBytes,
    pub(super) config: DeviceConfig,
    /// Unsealed session record.
    pub(super) record: Option<Vec<u8>>,
    /// Highest durable counter.
    pub(super) highest: Option<(u32, Option<u64>)>,
    /// While pairing: who is told.
    pub(super) pairing: Option<mpsc::Sender<window::Input>>,
}

/// Figures of the LoRaWAN side.
#[derive(Debug, Clone, Default)]
pub struct LoraState {
    /// The server's counters.
    pub counters: Counters,
    /// Forwarders that spoke to us.
    pub forwarders: usize,
    /// Refused frames by device and reason.
    pub refused: HashMap<NodeBytes, BTreeMap<String, u64>>,
    /// The bridge that a device was heard over last; devices that were heard here are left out.
    pub over: HashMap<NodeBytes, BridgeId>,
}

/// Handle of the task.
#[derive(Clone)]
pub(super) struct Handle {
    commands: mpsc::Sender<Command>,
}

impl Handle {
    pub(super) async fn add(&self, candidate: Candidate) -> Result<(), ControlError> {
        self.ask(|reply| Command::Add(Box::new(candidate), reply)).await?
    }

    /// The record knows the device: answer its joins. Returns its session record, to be kept.
    pub(super) async fn admit(
        &self,
        dev_eui: DevEui,
        join_window: (u32, u32),
    ) -> Result<Option<Vec<u8>>, ControlError> {
        self.ask(|reply| Command::Admit { dev_eui, join_window, reply }).await
    }

    pub(super) async fn remove(&self, dev_eui: DevEui) {
        // A task that has ended serves nobody.
        let _ = self.commands.send(Command::Remove(dev_eui)).await;
    }

    pub(super) async fn state(&self) -> Result<LoraState, ControlError> {
        self.ask(Command::State).await
    }

    /// Counts of the hour that ended before this one, once.
    pub(super) async fn tally(
        &self,
        hour: u64,
    ) -> Result<Option<(u64, Vec<TallyCount>)>, ControlError> {
        self.ask(|reply| Command::Tally { hour, reply }).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, ControlError> {
        let (reply, answer) = oneshot::channel();
        let gone = || ControlError::Unavailable("the LoRaWAN side is not running".into());
        self.commands.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

struct Device {
    node: NodeBytes,
    config: DeviceConfig,
    /// Session record that is on disk.
    durable: Option<Vec<u8>>,
    highest: Option<(u32, Option<u64>)>,
    pairing: Option<mpsc::Sender<window::Input>>,
    refused: BTreeMap<String, u64>,
    /// The bridge that it was heard over last.
    over: Option<BridgeId>,
}

/// Binds the socket and starts the task; `None` when LoRaWAN is switched off.
pub(super) async fn start(
    settings: &crate::config::Lora,
    shared: Shared,
    lent: Option<Lent>,
) -> std::io::Result<Handle> {
    let link = Link::bind(settings.listen).await?;
    let forwarders = settings
        .forwarders
        .iter()
        .map(|eui| drivers::lora::ids::ForwarderEui(*eui))
        .collect::<Vec<_>>();
    let any_on_loopback = forwarders.is_empty();
    let mut server = Server::new(Settings { forwarders, any_on_loopback, ..Settings::default() });
    // A sole voter holds the lease always (design §6); with more voters coordination decides.
    server.set_transmit_allowed(true);
    let (commands, inbox) = mpsc::channel(QUEUE);
    let handle = Handle { commands };
    let commands = handle.commands.downgrade();
    let (bridges, radio) = lent.unzip();
    let this_hour = hour(shared.clock.borrow().now().0);
    let task = Task {
        link,
        bridges,
        radio,
        server,
        strangers: Strangers::new(this_hour),
        shared,
        devices: HashMap::new(),
        commands,
    };
    tokio::spawn(task.run(inbox));
    Ok(handle)
}

struct Task {
    link: Link,
    bridges: Option<bridge::Handle>,
    radio: Option<mpsc::Receiver<Uplink>>,
    server: Server,
    shared: Shared,
    devices: HashMap<Identity, Device>,
    strangers: Strangers,
    /// For answers to itself; weak, so that the task ends with its last handle.
    commands: mpsc::WeakSender<Command>,
}

/// What a round of effects asks for once its readings are durable.
#[derive(Default)]
struct Round {
    group: Group,
    records: HashMap<Identity, Vec<u8>>,
    delivered: HashMap<Identity, (u32, u64)>,
    sends: Vec<Effect>,
    /// When it is made durable at the latest; none while it asks for nothing.
    due: Option<tokio::time::Instant>,
}

impl Round {
    /// Whether it is time, and when it will be.
    fn is_due(&mut self) -> bool {
        let waits = !self.group.readings.is_empty() || !self.records.is_empty();
        if !waits {
            return !self.sends.is_empty();
        }
        let now = tokio::time::Instant::now();
        let due = *self.due.get_or_insert(now + LINGER);
        self.group.readings.len() >= ROUND_READINGS || due <= now
    }
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut batch = Batch::default();
        let mut effects = Vec::new();
        let mut round = Round::default();
        loop {
            let now = clock::boot_ms();
            let wake = self.server.next_wake().map(|at| at.saturating_sub(now));
            tokio::select! {
                command = inbox.recv() => {
                    // What a command changes must not reach into a round that is under way.
                    self.finish(std::mem::take(&mut round), &mut effects).await;
                    match command {
                        Some(command) => self.command(command).await,
                        None => return,
                    }
                }
                received = self.link.receive(&mut batch) => {
                    if let Err(error) = received {
                        tracing::error!(%error, "LoRaWAN socket");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    let now = clock::boot_ms();
                    for (from, bytes) in batch.iter() {
                        let datagram = Input::Datagram { from: from.into(), bytes };
                        self.server.step_into(now, datagram, &mut effects);
                    }
                }
                uplink = next_uplink(&mut self.radio) => self.uplink(uplink, &mut effects),
                () = sleep_ms(wake) => {
                    self.set_time();
                    self.server.step_into(clock::boot_ms(), Input::Wake, &mut effects);
                }
                () = sleep_until(round.due) => {}
            }
            loop {
                for effect in effects.drain(..) {
                    self.sort(effect, &mut round).await;
                }
                if !round.is_due() {
                    break;
                }
                self.finish(std::mem::take(&mut round), &mut effects).await;
            }
        }
    }

    /// What has come over bridges, as much as one socket would give at once.
    fn uplink(&mut self, first: Uplink, effects: &mut Vec<Effect>) {
        let (mut next, mut left) = (Some(first), MAX_BATCH);
        while let Some(Uplink { bridge, forwarder, datagram }) = next {
            let from = Way::Bridge { bridge: bridge.0, forwarder };
            let datagram = Input::Datagram { from, bytes: &datagram };
            self.server.step_into(clock::boot_ms(), datagram, effects);
            left -= 1;
            let more = self.radio.as_mut().filter(|_| left > 0);
            next = more.and_then(|radio| radio.try_recv().ok());
        }
    }

    fn set_time(&mut self) {
        let (now, quality) = self.shared.clock.borrow().now();
        let known = quality != clock::Quality::Unknown;
        let zero = i64::try_from(now).ok().zip(i64::try_from(clock::boot_ms()).ok());
        self.server.set_unix_ms_at_zero(zero.filter(|_| known).map(|(now, boot)| now - boot));
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Add(candidate, reply) => {
                // A caller that has gone away gets no answer.
                let _ = reply.send(self.add(*candidate));
            }
            Command::Admit { dev_eui, join_window: (from, count), reply } => {
                self.server.grant_join(dev_eui, from, count);
                self.server.admit(dev_eui);
                let device = self.devices.get_mut(&Identity::DevEui(dev_eui.0));
                let record = device.and_then(|device| {
                    device.config.admitted = true;
                    device.durable.clone()
                });
                let _ = reply.send(record);
            }
            Command::Remove(dev_eui) => {
                self.server.remove_device(dev_eui);
                self.devices.remove(&Identity::DevEui(dev_eui.0));
            }
            Command::Granted { dev_eui, window, from, count } => match window {
                WindowKind::Down { epoch } => {
                    self.server.grant_down(dev_eui, epoch, from, count);
                }
                WindowKind::Join => self.server.grant_join(dev_eui, from, count),
            },
            Command::Tally { hour, reply } => {
                let total = self.server.counters().strangers;
                let _ = reply.send(self.strangers.turn(hour, total));
            }
            Command::State(reply) => {
                let devices = self.devices.values();
                let refused =
                    devices.clone().map(|device| (device.node, device.refused.clone())).collect();
                let over = devices.filter_map(|device| Some((device.node, device.over?))).collect();
                let _ = reply.send(LoraState {
                    counters: *self.server.counters(),
                    forwarders: self.server.forwarder_count(),
                    refused,
                    over,
                });
            }
        }
    }

    fn add(&mut self, candidate: Candidate) -> Result<(), ControlError> {
        let Candidate { node, config, record, highest, pairing } = candidate;
        let identity = Identity::DevEui(config.dev_eui.0);
        let known = highest.map(|(epoch, counter)| Highest { epoch, counter });
        self.server.add_device(config.clone(), record.as_deref(), known).map_err(|error| {
            match error {
                AddDeviceError::Twice => ControlError::Busy(error.to_string()),
                AddDeviceError::TooMany | AddDeviceError::Record(_) => {
                    ControlError::Refused(error.to_string())
                }
            }
        })?;
        let refused = BTreeMap::new();
        let device =
            Device { node, config, durable: record, highest, pairing, refused, over: None };
        self.devices.insert(identity, device);
        Ok(())
    }

    /// What must wait for durability waits until one synced transaction has taken all readings and
    /// records of the round.
    async fn finish(&mut self, mut round: Round, next: &mut Vec<Effect>) {
        let durable = self.make_durable(&mut round).await;
        for send in round.sends {
            let Effect::Send { to, bytes, deadline_ms, token, .. } = send else { continue };
            let late = deadline_ms.is_some_and(|deadline| clock::boot_ms() > deadline);
            if !durable || late {
                let missed = Input::SendMissed { token };
                self.server.step_into(clock::boot_ms(), missed, next);
            } else {
                self.send(to, &bytes).await;
            }
        }
    }

    async fn send(&self, to: Way, bytes: &[u8]) {
        match to {
            Way::Udp(to) => {
                if let Err(error) = self.link.send(to, bytes).await {
                    tracing::warn!(%error, %to, "cannot send to the packet forwarder");
                }
            }
            Way::Bridge { bridge, forwarder } => {
                let Some(bridges) = &self.bridges else { return };
                let (bridge, datagram) = (NodeId(bridge), bytes.to_vec());
                bridges.downlink(Downlink { bridge, forwarder, datagram }).await;
            }
        }
    }

    async fn sort(&mut self, effect: Effect, round: &mut Round) {
        match effect {
            Effect::Send { to, bytes, after_durable: false, .. } => self.send(to, &bytes).await,
            Effect::Send { .. } => round.sends.push(effect),
            Effect::Deliver(reading) => {
                let identity = reading.identity();
                let Some(device) = self.devices.get(&identity) else { return };
                round.group.readings.push(self.shared.entry(device.node, &reading));
                round.delivered.insert(identity, (reading.epoch(), reading.counter()));
            }
            Effect::Persist { identity, record } => {
                round.records.insert(identity, record);
            }
            Effect::SessionOpened { identity, epoch, digest } => {
                if let Some(device) = self.devices.get(&identity) {
                    self.shared.ledger.open_session(device.node, epoch, digest).await;
                }
            }
            Effect::JoinProved { identity, admitted } => {
                if !admitted {
                    self.tell(&identity, window::Input::Heard);
                }
            }
            Effect::JoinAnswered { identity, dev_addr } => {
                tracing::info!(device = %identity, %dev_addr, "JoinAccept sent");
            }
            Effect::NeedWindow { identity, window } => self.reserve(identity, window),
            Effect::Stranger(stranger) => self.stranger(stranger),
            Effect::Refused { identity, reason } => {
                tracing::warn!(device = %identity, ?reason, "frame refused");
                self.refused(&identity, format!("{reason:?}"));
            }
            Effect::Unanswered { identity, reason } => {
                tracing::warn!(device = %identity, ?reason, "answer not sent");
                self.refused(&identity, format!("unanswered: {reason:?}"));
            }
            Effect::Heard { identity, forwarder, .. } => {
                if let Some(device) = self.devices.get_mut(&identity) {
                    device.over = forwarder.bridge;
                }
            }
            Effect::DeviceStatus { .. } => {}
        }
    }

    fn refused(&mut self, identity: &Identity, reason: String) {
        /// Reasons carry a counter; only their kind is a key, so that the map stays small.
        fn kind(reason: &str) -> &str {
            reason.split('(').next().unwrap_or(reason)
        }
        if let Some(device) = self.devices.get_mut(identity) {
            *device.refused.entry(kind(&reason).to_owned()).or_default() += 1;
        }
    }

    fn stranger(&mut self, stranger: Stranger) {
        self.strangers.note(&stranger);
        if let Stranger::JoinBadMic(dev_eui) = stranger {
            self.tell(&Identity::DevEui(dev_eui.0), window::Input::WrongKey);
        }
        tracing::debug!(?stranger, "counted, not recorded");
    }

    fn tell(&self, identity: &Identity, input: window::Input) {
        let pairing = self.devices.get(identity).and_then(|device| device.pairing.as_ref());
        if let Some(pairing) = pairing {
            // A full queue means that the window has heard enough; a closed one that it ended.
            let _ = pairing.try_send(input);
        }
    }

    fn reserve(&self, identity: Identity, window: WindowKind) {
        let Some(device) = self.devices.get(&identity) else { return };
        let (node, dev_eui) = (device.node, device.config.dev_eui);
        let (ledger, commands) = (self.shared.ledger.clone(), self.commands.clone());
        tokio::spawn(async move {
            let join = matches!(window, WindowKind::Join);
            match ledger.reserve(node, join).await {
                Ok((from, count)) => {
                    // A task that has ended needs no window.
                    let granted = Command::Granted { dev_eui, window, from, count };
                    if let Some(commands) = commands.upgrade() {
                        let _ = commands.send(granted).await;
                    }
                }
                Err(error) => tracing::error!(%error, "no counters for downlinks reserved"),
            }
        });
    }

    /// One transaction for the round. When it fails, the devices concerned go back to what is
    /// durable: what they send again is taken again, and nothing was acknowledged.
    async fn make_durable(&mut self, round: &mut Round) -> bool {
        for (identity, record) in &round.records {
            let Some(device) = self.devices.get(identity) else { continue };
            if !device.config.admitted {
                continue;
            }
            match self.shared.seal_session(&device.node, record) {
                Ok(sealed) => round.group.sessions.push((device.node, sealed)),
                Err(error) => {
                    tracing::error!(%error, "cannot seal a session");
                    self.go_back(round);
                    return false;
                }
            }
        }
        if round.group.readings.is_empty() && round.group.sessions.is_empty() {
            self.note(round);
            return true;
        }
        match self.shared.ingest.append(std::mem::take(&mut round.group)).await {
            Ok(()) => {
                self.note(round);
                true
            }
            Err(error) => {
                tracing::error!(%error, "readings not kept, so not acknowledged");
                self.go_back(round);
                false
            }
        }
    }

    fn note(&mut self, round: &mut Round) {
        for (identity, record) in round.records.drain() {
            if let Some(device) = self.devices.get_mut(&identity) {
                device.durable = Some(record);
            }
        }
        for (identity, (epoch, counter)) in round.delivered.drain() {
            let Some(device) = self.devices.get_mut(&identity) else { continue };
            device.highest = device.highest.max(Some((epoch, Some(counter))));
            if let Some(pairing) = device.pairing.take() {
                // A window that has ended wants no more news.
                let _ = pairing.try_send(window::Input::FirstReading);
            }
        }
    }

    fn go_back(&mut self, round: &Round) {
        for identity in round.records.keys().chain(round.delivered.keys()) {
            let Some(device) = self.devices.remove(identity) else { continue };
            self.server.remove_device(device.config.dev_eui);
            let Device { node, config, durable, highest, pairing, refused, over } = device;
            let candidate = Candidate { node, config, record: durable, highest, pairing };
            match self.add(candidate) {
                Ok(()) => {
                    if let Some(device) = self.devices.get_mut(identity) {
                        (device.refused, device.over) = (refused, over);
                    }
                }
                Err(error) => tracing::error!(%error, "a device could not be put back"),
            }
        }
    }
}

/// Unix hour of a time in ms.
pub(super) fn hour(unix_ms: u64) -> u64 {
    unix_ms / 3_600_000
}

async fn next_uplink(radio: &mut Option<mpsc::Receiver<Uplink>>) -> Uplink {
    if let Some(open) = radio {
        if let Some(uplink) = open.recv().await {
            return uplink;
        }
        // There are no bridges any more.
        *radio = None;
    }
    std::future::pending().await
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn sleep_ms(ms: Option<u64>) {
    match ms {
        Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        None => std::future::pending().await,
    }
}
