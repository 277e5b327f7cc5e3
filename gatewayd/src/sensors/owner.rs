//! The task that owns the sensors, their links and the pairing window.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use drivers::lora::ids::DevEui;
use drivers::serial::link::{self, Link};
use drivers::serial::session::Committed;
use ledger::ids::NodeId;
use ledger::transaction::{Body, Tally};
use tokio::sync::mpsc;

use super::candidate::{Driver, Sensor, checked_name};
use super::settings::Place;
use super::{Command, Parts, lora, port};
use crate::bridge;
use crate::clock;
use crate::control::{
    CommittedInfo, ControlError, Event, PairingHow, PairingRequest, PairingStatus, Result,
};
use crate::pairing::window::{Effect, Failure, Input, Window};
use crate::store::NodeBytes;

/// News from drivers to the window that may wait; more is dropped by the drivers.
const WINDOW_QUEUE: usize = 64;

/// How long batches are cut early around a pairing, ms: the operator watches.
const HURRY_MS: u64 = 60_000;

/// The window that is open, or the last one.
struct Open {
    window: Window,
    sensor: Sensor,
    news: mpsc::Receiver<Input>,
    told: mpsc::Sender<Input>,
}

pub(super) struct Owner {
    pub(super) parts: Parts,
    pub(super) sensors: BTreeMap<NodeBytes, Sensor>,
    pub(super) ports: HashMap<String, port::Handle>,
    pub(super) lora: Option<lora::Handle>,
    bridges: Option<bridge::Handle>,
    open: Option<Open>,
    windows: u64,
}

impl Owner {
    pub(super) fn new(parts: Parts) -> Self {
        let (sensors, ports) = (BTreeMap::new(), HashMap::new());
        let bridges = parts.lent.as_ref().map(|(bridges, _)| bridges.clone());
        Self { parts, sensors, ports, lora: None, bridges, open: None, windows: 0 }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        self.begin().await;
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut minute = tokio::time::interval(Duration::from_secs(60));
        loop {
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.command(command).await,
                    None => return,
                },
                input = news(&mut self.open) => self.window(input).await,
                _ = second.tick() => self.window(Input::Tick).await,
                _ = minute.tick() => self.tally().await,
            }
        }
    }

    /// Once an hour, what strangers sent becomes one line of the record.
    async fn tally(&mut self) {
        let Some(lora) = &self.lora else { return };
        let hour = lora::hour(self.parts.shared.clock.borrow().now().0);
        let Ok(Some((hour, counts))) = lora.tally(hour).await else { return };
        let ledger = self.parts.ledger.clone();
        tokio::spawn(async move {
            let made = ledger.propose(move |_| Ok(Body::Tally(Tally { hour, counts }))).await;
            if let Err(error) = made {
                tracing::warn!(%error, hour, "strangers of this hour are not on the record");
            }
        });
    }

    /// Starts the links and serves what is kept and on the record.
    async fn begin(&mut self) {
        let settings = &self.parts.settings.lora;
        if settings.enabled {
            let lent = self.parts.lent.take();
            match lora::start(settings, self.parts.shared.clone(), lent).await {
                Ok(handle) => self.lora = Some(handle),
                Err(error) => {
                    tracing::error!(%error, listen = %settings.listen, "LoRaWAN is off");
                    let message = format!("LoRaWAN is off: {}: {error}", settings.listen);
                    self.send(Event::Alert { kind: "lora", message });
                }
            }
        }
        for row in std::mem::take(&mut self.parts.rows) {
            let served = match Sensor::kept(&row, &self.parts.shared) {
                Ok(sensor) => self.resume(sensor).await,
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::error!(%error, sensor = row.name, "a sensor cannot be served");
                let message = format!("{} cannot be served: {error}", row.name);
                self.send(Event::Alert { kind: "sensor", message });
            }
        }
    }

    async fn resume(&mut self, sensor: Sensor) -> Result<()> {
        let node = NodeId(sensor.node);
        let known = self.parts.ledger.view(move |state| {
            let registered = state.light_node(&node).filter(|known| known.retired.is_none());
            registered.map(|_| state.session(&node).map(|session| session.counters.clone()))
        });
        let known = known.await?;
        if known.is_none() && self.parts.shared.vault.is_locked() {
            // The block that registers it may still be in the log, which is read with the vote key.
            return Ok(());
        }
        let Some(counters) = known else {
            // A pairing that was cut off before the record took it leaves nothing behind.
            tracing::info!(sensor = sensor.name, "not on the record: forgotten");
            return self.parts.shared.ingest.remove(sensor.node).await;
        };
        let committed = counters.map(|counters| (counters.epoch, counters.highest));
        let buffered = self.parts.highest.get(&sensor.node).copied();
        let buffered = buffered.map(|(epoch, counter)| (epoch, Some(counter)));
        self.serve(sensor, committed.max(buffered)).await
    }

    /// Hands a sensor to its driver. `known` is its highest durable counter.
    async fn serve(&mut self, sensor: Sensor, known: Option<(u32, Option<u64>)>) -> Result<()> {
        let record = match self.parts.sessions.remove(&sensor.node) {
            Some(sealed) => {
                let opened = self.parts.shared.vault.open(&[b"session", &sensor.node], &sealed);
                if let Err(error) = &opened
                    && !self.parts.shared.vault.is_locked()
                {
                    tracing::error!(%error, sensor = sensor.name, "its session is lost");
                }
                opened.ok().map(|record| record.to_vec())
            }
            None => None,
        };
        // A crash may have come between the buffer, which has its readings, and the record.
        let opened = record.as_deref().and_then(|record| sensor.opened(record));
        let opened = opened.max(known.map(|(epoch, _)| (epoch, [0; 32])));
        if let Some((epoch, digest)) = opened {
            self.parts.shared.ledger.open_session(sensor.node, epoch, digest).await;
        }
        match sensor.driver(true)? {
            Driver::Port { path, baud, speaks } => {
                let (node, known) = (sensor.node, committed(known));
                let candidate = port::Candidate { node, speaks, record, known };
                self.port(&path, baud).await?.add(candidate).await?;
            }
            Driver::Lora(config) => {
                let (node, pairing) = (sensor.node, None);
                let candidate = lora::Candidate { node, config, record, highest: known, pairing };
                self.lora()?.add(candidate).await?;
            }
        }
        self.sensors.insert(sensor.node, sensor);
        Ok(())
    }

    /// The task of a port, started when nobody had it open yet.
    async fn port(&mut self, path: &str, baud: u32) -> Result<port::Handle> {
        if let Some(port) = self.ports.get(path) {
            return Ok(port.clone());
        }
        let link = match Place::parse(path)? {
            Place::Here(path) => Link::spawn(link::Settings { baud, ..link::Settings::new(path) }),
            Place::Bridge(bridge, path) => self.lent_port(bridge, path, baud).await?,
        };
        let port = port::Handle::start(path, link, self.parts.shared.clone());
        self.ports.insert(path.to_owned(), port.clone());
        Ok(port)
    }

    async fn lent_port(&self, bridge: &str, path: &str, baud: u32) -> Result<Link> {
        let unusable = |error| ControlError::InvalidArgument(format!("the port: {error}"));
        let path = ledger::codec::Text::new(path).map_err(unusable)?;
        let Some(bridges) = &self.bridges else {
            let why = "no bridge is heard while the TPM is away".to_owned();
            return Err(ControlError::Unavailable(why));
        };
        let (_, node) = NodeId::parse(bridge).map_err(|error| {
            ControlError::InvalidArgument(format!("the bridge {bridge}: {error}"))
        })?;
        Ok(bridges.open(node, path, baud).await)
    }

    /// A port as it is kept: of a bridge, by its ID.
    async fn resolved(&self, request: &PairingRequest) -> Result<PairingRequest> {
        let mut request = request.clone();
        let (PairingHow::Serial { port, .. } | PairingHow::Line { port, .. }) = &mut request.how
        else {
            return Ok(request);
        };
        if let Place::Bridge(bridge, path) = Place::parse(port)? {
            let bridges = self.bridges.as_ref();
            let none = || ControlError::NotFound { what: "bridge", name: bridge.to_owned() };
            let node = bridges.ok_or_else(none)?.find(bridge).await?;
            *port = Place::Bridge(&node.to_gateway_string(), path).to_string();
        }
        Ok(request)
    }

    fn lora(&self) -> Result<&lora::Handle> {
        let why = "LoRaWAN is switched off or its UDP port is taken; see `gatewayctl doctor`";
        self.lora.as_ref().ok_or_else(|| ControlError::Unavailable(why.into()))
    }

    async fn command(&mut self, command: Command) {
        // Replies to callers that have gone away are dropped.
        match command {
            Command::OpenPairing(request, reply) => {
                let opened = self.open_pairing(&request).await;
                self.show();
                let _ = reply.send(opened);
            }
            Command::Confirm(number, reply) => {
                let _ = reply.send(self.confirm(number).await);
            }
            Command::Close(number, reply) => {
                let known = self.check_window(number);
                if known.is_ok() {
                    self.window(Input::Cancel).await;
                }
                let _ = reply.send(known);
            }
            Command::List(reply) => {
                let _ = reply.send(self.list().await);
            }
            Command::Find(who, reply) => {
                let found = self.find(&who).map(|sensor| (sensor.node, sensor.name.clone()));
                let _ = reply.send(found);
            }
            Command::Names(reply) => {
                let names = self.sensors.values().map(|sensor| (sensor.node, sensor.name.clone()));
                let _ = reply.send(names.collect());
            }
            Command::Rename(who, name, reply) => {
                let _ = reply.send(self.rename(&who, &name).await);
            }
            Command::Forget(who, reply) => {
                let _ = reply.send(self.forget(&who).await);
            }
            Command::Intervals(reply) => {
                let sensors = self.sensors.values();
                let intervals = sensors.map(|sensor| (sensor.node, sensor.settings.interval_s));
                let _ = reply.send(intervals.collect());
            }
            Command::Lora(reply) => {
                let state = match &self.lora {
                    Some(lora) => lora.state().await.ok(),
                    None => None,
                };
                let _ = reply.send(state);
            }
        }
    }

    pub(super) fn find(&self, who: &str) -> Result<&Sensor> {
        let not_found = || ControlError::NotFound { what: "sensor", name: who.to_owned() };
        if let Ok((_, node)) = NodeId::parse(who) {
            return self.sensors.get(&node.0).ok_or_else(not_found);
        }
        let mut named = self.sensors.values().filter(|sensor| sensor.name == who);
        let found = named.next().ok_or_else(not_found)?;
        if named.next().is_some() {
            let why = format!("several sensors are called {who}; give the ID");
            return Err(ControlError::InvalidArgument(why));
        }
        Ok(found)
    }

    async fn rename(&mut self, who: &str, name: &str) -> Result<()> {
        let node = self.find(who)?.node;
        let name = checked_name(name)?;
        if self.sensors.values().any(|sensor| sensor.node != node && sensor.name == name) {
            let why = format!("another sensor is called {name}");
            return Err(ControlError::InvalidArgument(why));
        }
        self.parts.shared.ingest.rename(node, name.clone()).await?;
        if let Some(sensor) = self.sensors.get_mut(&node) {
            sensor.name = name;
        }
        self.changed(node, "changed");
        Ok(())
    }

    async fn forget(&mut self, who: &str) -> Result<CommittedInfo> {
        let sensor = self.find(who)?.clone();
        // What is durable of it is committed first: afterwards its counters are closed.
        self.parts.shared.ingest.flush().await?;
        let reason = "forgotten by the operator".to_owned();
        let done = self.parts.ledger.retire(NodeId(sensor.node), reason).await?;
        self.stop(&sensor).await;
        self.parts.shared.ingest.remove(sensor.node).await?;
        self.sensors.remove(&sensor.node);
        self.changed(sensor.node, "removed");
        Ok(done.info(format!("{} was retired; its readings stay on the record", sensor.name)))
    }

    /// Takes a sensor off its link; a port without sensors is closed.
    async fn stop(&mut self, sensor: &Sensor) {
        match sensor.driver(true) {
            Ok(Driver::Port { path, .. }) => {
                let Some(port) = self.ports.get(&path) else { return };
                if port.remove(sensor.identity).await.is_ok_and(|left| left == 0) {
                    self.ports.remove(&path);
                }
            }
            Ok(Driver::Lora(config)) => {
                if let Some(lora) = &self.lora {
                    lora.remove(config.dev_eui).await;
                }
            }
            Err(error) => tracing::error!(%error, "a sensor's link cannot be told to stop"),
        }
    }

    fn changed(&self, node: NodeBytes, change: &'static str) {
        self.send(Event::Sensor { id: NodeId(node).to_light_node_string(), change });
    }

    fn send(&self, event: Event) {
        // Nobody listening is no error.
        let _ = self.parts.events.send(event);
    }

    async fn open_pairing(&mut self, request: &PairingRequest) -> Result<u64> {
        if !(10..=3600).contains(&request.window_s) {
            let why = "the window is open for 10 to 3600 seconds".to_owned();
            return Err(ControlError::InvalidArgument(why));
        }
        if self.open.as_ref().is_some_and(|open| !open.window.ended()) {
            let why = "a pairing window is open; close it, or wait until it closes".to_owned();
            return Err(ControlError::Busy(why));
        }
        let sensor = Sensor::asked(&self.resolved(request).await?, &self.parts.shared)?;
        if self.sensors.values().any(|known| known.name == sensor.name) {
            let why = format!("a sensor is called {} already", sensor.name);
            return Err(ControlError::InvalidArgument(why));
        }
        let node = NodeId(sensor.node);
        let registered = self.parts.ledger.view(move |state| {
            state.light_node(&node).is_some_and(|known| known.retired.is_none())
        });
        let registered = registered.await?;
        let (told, news) = mpsc::channel(WINDOW_QUEUE);
        self.windows += 1;
        let id = node.to_light_node_string();
        let length_ms = u64::from(request.window_s) * 1000;
        let now = clock::boot_ms();
        let mut window = Window::open(self.windows, id, sensor.awaited(), now, length_ms);
        if registered {
            let why = "this identity is on the record and alive; forget it first".to_owned();
            window.step(now, Input::Failed(Failure::AlreadyRegistered, why));
        } else {
            self.listen(&sensor, told.clone()).await?;
            let hurry = now + length_ms + HURRY_MS;
            self.parts.shared.ingest.hurry(hurry).await;
        }
        self.open = Some(Open { window, sensor, news, told });
        Ok(self.windows)
    }

    /// Lets the driver hear the new sensor, without recording anything of it.
    async fn listen(&mut self, sensor: &Sensor, told: mpsc::Sender<Input>) -> Result<()> {
        match sensor.driver(false)? {
            Driver::Port { path, baud, speaks } => {
                let fresh = !self.ports.contains_key(&path);
                let known = committed(self.last_session(sensor.node).await?);
                let candidate = port::Candidate { node: sensor.node, speaks, record: None, known };
                let heard = self.port(&path, baud).await?.pair(candidate, told).await;
                if heard.is_err() && fresh {
                    self.ports.remove(&path);
                }
                heard
            }
            Driver::Lora(config) => {
                let (node, pairing) = (sensor.node, Some(told));
                let highest = self.last_session(node).await?;
                let candidate = lora::Candidate { node, config, record: None, highest, pairing };
                self.lora()?.add(candidate).await
            }
        }
    }

    /// A sensor that comes back goes on where its counters on the record ended.
    async fn last_session(&self, node: NodeBytes) -> Result<Option<(u32, Option<u64>)>> {
        let node = NodeId(node);
        let last = self.parts.ledger.view(move |state| {
            let session = state.session(&node)?;
            Some((session.counters.epoch, session.counters.highest))
        });
        last.await
    }

    fn check_window(&self, number: u64) -> Result<()> {
        match &self.open {
            Some(open) if open.window.number() == number && !open.window.ended() => Ok(()),
            _ => Err(ControlError::NotFound {
                what: "open pairing window",
                name: number.to_string(),
            }),
        }
    }

    async fn confirm(&mut self, number: u64) -> Result<()> {
        self.check_window(number)?;
        let status = self.status();
        if status.state != "preview" {
            let why = format!("nothing to confirm: the window is {}", status.state);
            return Err(ControlError::InvalidArgument(why));
        }
        self.window(Input::Confirm).await;
        Ok(())
    }

    async fn window(&mut self, input: Input) {
        let Some(open) = &mut self.open else { return };
        if open.window.ended() {
            return;
        }
        for effect in open.window.step(clock::boot_ms(), input) {
            self.effect(effect).await;
        }
        self.show();
    }

    async fn effect(&mut self, effect: Effect) {
        let Some(open) = &self.open else { return };
        let (sensor, told) = (open.sensor.clone(), open.told.clone());
        let done = match effect {
            Effect::Register => self.register(&sensor, told.clone()).await,
            Effect::Serve => self.serve_new(sensor).await,
            Effect::Discard => {
                self.discard(&sensor).await;
                return;
            }
        };
        if let Err(error) = done {
            let failure = match error {
                ControlError::Storage(_) => Failure::Storage,
                ControlError::Refused(_) => Failure::Refused,
                _ => Failure::Unavailable,
            };
            // The queue has room: a window takes its news one by one.
            let _ = told.try_send(Input::Failed(failure, error.to_string()));
        }
    }

    /// Keeps the keys, then writes it into the record: after a crash in between, what is kept and
    /// not on the record is forgotten.
    async fn register(&mut self, sensor: &Sensor, told: mpsc::Sender<Input>) -> Result<()> {
        self.parts.shared.ingest.put_sensor(sensor.row(&self.parts.shared)?).await?;
        let (ledger, registration) = (self.parts.ledger.clone(), sensor.registration());
        tokio::spawn(async move {
            let news = match ledger.register(registration).await {
                Ok(_) => Input::Registered,
                Err(ControlError::Refused(why)) => Input::Failed(Failure::Refused, why),
                Err(error) => Input::Failed(Failure::Unavailable, error.to_string()),
            };
            // A window that has ended in the meantime is past caring.
            let _ = told.send(news).await;
        });
        Ok(())
    }

    async fn serve_new(&mut self, sensor: Sensor) -> Result<()> {
        let node = sensor.node;
        match sensor.driver(true)? {
            Driver::Port { path, baud, .. } => {
                self.port(&path, baud).await?.serve_paired().await?;
            }
            Driver::Lora(config) => {
                let window = self.parts.ledger.reserve(node, true).await?;
                self.admit(node, config.dev_eui, window).await?;
            }
        }
        self.sensors.insert(node, sensor);
        self.changed(node, "added");
        Ok(())
    }

    async fn admit(&self, node: NodeBytes, dev_eui: DevEui, window: (u32, u32)) -> Result<()> {
        if let Some(record) = self.lora()?.admit(dev_eui, window).await? {
            let sealed = self.parts.shared.seal_session(&node, &record);
            let sealed = sealed.map_err(|error| ControlError::Internal(error.to_string()))?;
            let group = crate::ingest::Group { readings: vec![], sessions: vec![(node, sealed)] };
            self.parts.shared.ingest.append(group).await?;
        }
        Ok(())
    }

    /// Leaves nothing behind.
    async fn discard(&mut self, sensor: &Sensor) {
        match sensor.driver(false) {
            Ok(Driver::Port { path, .. }) => {
                if let Some(port) = self.ports.get(&path) {
                    port.stop_pairing().await;
                }
            }
            Ok(Driver::Lora(_)) | Err(_) => {}
        }
        self.stop(sensor).await;
        if self.sensors.remove(&sensor.node).is_some() {
            self.changed(sensor.node, "removed");
        }
        if let Err(error) = self.parts.shared.ingest.remove(sensor.node).await {
            tracing::error!(%error, "what was kept of a failed pairing is still there");
        }
        let node = NodeId(sensor.node);
        let registered = self.parts.ledger.view(move |state| {
            state.light_node(&node).is_some_and(|known| known.retired.is_none())
        });
        if registered.await.unwrap_or(false) {
            let ledger = self.parts.ledger.clone();
            tokio::spawn(async move {
                if let Err(error) = ledger.retire(node, "its pairing failed".into()).await {
                    tracing::error!(%error, "a failed pairing is still on the record");
                }
            });
        }
    }

    fn status(&self) -> PairingStatus {
        let idle = PairingStatus { state: "idle", ..PairingStatus::default() };
        self.open.as_ref().map_or(idle, |open| open.window.status(clock::boot_ms()))
    }

    fn show(&self) {
        let status = self.status();
        let changed = self.parts.pairing.send_if_modified(|shown| {
            let changed = *shown != status;
            shown.clone_from(&status);
            changed
        });
        if changed {
            self.send(Event::Pairing(status));
        }
    }
}

fn committed(known: Option<(u32, Option<u64>)>) -> Committed {
    known.map_or_else(Committed::default, |(epoch, highest)| Committed {
        epoch,
        highest: highest.unwrap_or(0),
    })
}

async fn news(open: &mut Option<Open>) -> Input {
    match open {
        Some(open) if !open.window.ended() => match open.news.recv().await {
            Some(input) => input,
            None => std::future::pending().await,
        },
        _ => std::future::pending().await,
    }
}
