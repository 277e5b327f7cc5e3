//! One serial port: a task owns the link and what speaks on it, shared-key frames or lines. It must
//! not acknowledge what is not durable.

use std::collections::{BTreeMap, HashMap};

use drivers::device::Identity;
use drivers::serial::effect::{Effect, Refusal};
use drivers::serial::line::{self, Mapping, Source};
use drivers::serial::link::{Event, Link, LinkError, Writer};
use drivers::serial::pairing::PrintedCode;
use drivers::serial::port::Port;
use drivers::serial::session::{Committed, Session};
use tokio::sync::{mpsc, oneshot};

use super::shared::Shared;
use crate::clock;
use crate::control::{ControlError, Result};
use crate::ingest::{Group, leaf};
use crate::pairing::window::{Failure, Input};
use crate::store::NodeBytes;

/// Commands that may wait; callers block beyond it.
const QUEUE: usize = 16;

/// Bytes kept for the preview of a line source: its newest lines.
const PREVIEW_BYTES: usize = 2048;

/// A sensor on a port, live or to be paired.
pub(super) struct Candidate {
    pub(super) node: NodeBytes,
    pub(super) speaks: Speaks,
    /// Unsealed session record.
    pub(super) record: Option<Vec<u8>>,
    /// What is durable of it: epoch and highest counter.
    pub(super) known: Committed,
}

/// What a sensor speaks.
#[derive(Clone)]
pub(super) enum Speaks {
    /// Shared-key frames.
    Frames(PrintedCode),
    /// Lines.
    Lines { bus: [u8; 16], mapping: Box<Mapping> },
}

impl Speaks {
    pub(super) fn identity(&self) -> Identity {
        match self {
            Self::Frames(code) => Identity::SerialDevice(code.device().0),
            Self::Lines { bus, .. } => Identity::Bus { bus: *bus, unit: 0 },
        }
    }
}

enum Command {
    Pair {
        candidate: Box<Candidate>,
        told: mpsc::Sender<Input>,
        reply: oneshot::Sender<Result<()>>,
    },
    StopPairing,
    Add {
        candidate: Box<Candidate>,
        reply: oneshot::Sender<Result<()>>,
    },
    /// The record knows the sensor of the open window: serve it.
    Serve(oneshot::Sender<Result<()>>),
    /// Answers how many sensors are left.
    Remove {
        identity: Identity,
        reply: oneshot::Sender<usize>,
    },
    State(oneshot::Sender<PortState>),
}

/// What is to be told about a port.
#[derive(Debug, Clone, Default)]
pub(super) struct PortState {
    /// Link in words.
    pub(super) link: String,
    /// Refused frames or lines by sensor and reason.
    pub(super) refused: HashMap<NodeBytes, BTreeMap<String, u64>>,
}

/// Handle of a port's task; the port is closed when the last one is dropped.
#[derive(Clone)]
pub(super) struct Handle {
    commands: mpsc::Sender<Command>,
}

impl Handle {
    /// Starts the task of a port: one of this machine, or one that a bridge lends.
    pub(super) fn start(path: &str, link: Link, shared: Shared) -> Self {
        let (commands, inbox) = mpsc::channel(QUEUE);
        let writer = link.writer();
        let task = Task {
            path: path.to_owned(),
            writer,
            shared,
            live: Port::new(),
            source: None,
            devices: HashMap::new(),
            pairing: None,
            first: None,
            link_state: LinkState::Opening,
        };
        tokio::spawn(task.run(link, inbox));
        Self { commands }
    }

    /// Lets the window hear a sensor; nothing of it is recorded or acknowledged.
    pub(super) async fn pair(&self, candidate: Candidate, told: mpsc::Sender<Input>) -> Result<()> {
        let candidate = Box::new(candidate);
        self.ask(|reply| Command::Pair { candidate, told, reply }).await?
    }

    /// Serves the sensor of the window, which is told of its first reading.
    pub(super) async fn serve_paired(&self) -> Result<()> {
        self.ask(Command::Serve).await?
    }

    pub(super) async fn stop_pairing(&self) {
        // A task that has ended pairs nobody.
        let _ = self.commands.send(Command::StopPairing).await;
    }

    /// Serves a sensor that was paired before.
    pub(super) async fn add(&self, candidate: Candidate) -> Result<()> {
        let candidate = Box::new(candidate);
        self.ask(|reply| Command::Add { candidate, reply }).await?
    }

    pub(super) async fn remove(&self, identity: Identity) -> Result<usize> {
        self.ask(|reply| Command::Remove { identity, reply }).await
    }

    pub(super) async fn state(&self) -> Result<PortState> {
        self.ask(Command::State).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let gone = || ControlError::Unavailable("the port's task has ended".into());
        self.commands.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

/// A sensor that is being paired on the port.
struct Pairing {
    candidate: Candidate,
    /// A port of its own, so that what it says is kept apart from the sensors that are served.
    frames: Port,
    /// The session that its handshake opened: epoch and digest.
    opened: Option<(u32, [u8; 32])>,
    /// Newest bytes of a line source.
    heard: Vec<u8>,
    told: mpsc::Sender<Input>,
}

struct Device {
    node: NodeBytes,
    speaks: Speaks,
    durable: Option<Vec<u8>>,
    known: Committed,
}

struct Task {
    path: String,
    writer: Writer,
    shared: Shared,
    live: Port,
    source: Option<Source>,
    devices: HashMap<Identity, Device>,
    pairing: Option<Pairing>,
    /// Told of the first reading of the newly paired sensor.
    first: Option<(Identity, mpsc::Sender<Input>)>,
    link_state: LinkState,
}

/// Whether the port is open.
#[derive(Clone, Copy)]
enum LinkState {
    Opening,
    Open,
    Gone(LinkError),
}

impl Task {
    async fn run(mut self, mut link: Link, mut inbox: mpsc::Receiver<Command>) {
        loop {
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.command(command).await,
                    None => return,
                },
                event = link.next() => match event {
                    Some(event) => self.event(event).await,
                    None => return,
                },
            }
        }
    }

    async fn command(&mut self, command: Command) {
        // Replies to callers that have gone away are dropped.
        match command {
            Command::Pair { candidate, told, reply } => {
                let _ = reply.send(self.pair(*candidate, told));
            }
            Command::StopPairing => self.pairing = None,
            Command::Add { candidate, reply } => {
                let _ = reply.send(self.add(*candidate));
            }
            Command::Serve(reply) => {
                let _ = reply.send(self.serve_paired().await);
            }
            Command::Remove { identity, reply } => {
                self.remove(&identity);
                let _ = reply.send(self.devices.len());
            }
            Command::State(reply) => {
                let _ = reply.send(self.state());
            }
        }
    }

    fn pair(&mut self, candidate: Candidate, told: mpsc::Sender<Input>) -> Result<()> {
        let lines = matches!(candidate.speaks, Speaks::Lines { .. });
        if self.source.is_some() || (lines && !self.devices.is_empty()) {
            let busy = "another sensor is paired on this port, and it cannot be shared";
            return Err(ControlError::Busy(busy.into()));
        }
        let mut frames = Port::new();
        if let Speaks::Frames(code) = &candidate.speaks {
            let mut session = Session::new(code.key(), None, candidate.known)
                .map_err(|error| ControlError::Internal(error.to_string()))?;
            session.hold_readings(true);
            frames.add(session).map_err(|error| ControlError::Busy(error.to_string()))?;
        }
        if let LinkState::Gone(error) = self.link_state {
            tell_link(&told, error);
        }
        self.pairing = Some(Pairing { candidate, frames, opened: None, heard: Vec::new(), told });
        Ok(())
    }

    /// The session goes on as it was opened in the window; now it is written into the record and
    /// kept, and readings are taken.
    async fn serve_paired(&mut self) -> Result<()> {
        let Some(mut pairing) = self.pairing.take() else {
            return Err(ControlError::Unavailable("the window has closed".into()));
        };
        let identity = pairing.candidate.speaks.identity();
        let Speaks::Frames(code) = &pairing.candidate.speaks else {
            self.add(pairing.candidate)?;
            self.first = Some((identity, pairing.told));
            return Ok(());
        };
        let node = pairing.candidate.node;
        if let (Some((epoch, digest)), Some(record)) = (pairing.opened, &pairing.candidate.record) {
            self.shared.ledger.open_session(node, epoch, digest).await;
            let sealed = self.shared.seal_session(&node, record);
            let sealed = sealed.map_err(|error| ControlError::Internal(error.to_string()))?;
            let group = Group { readings: vec![], sessions: vec![(node, sealed)] };
            self.shared.ingest.append(group).await?;
        }
        if let Some(mut session) = pairing.frames.remove(code.device()) {
            session.hold_readings(false);
            self.live.add(session).map_err(|error| ControlError::Busy(error.to_string()))?;
        }
        let Candidate { node, speaks, record, known } = pairing.candidate;
        self.devices.insert(identity, Device { node, speaks, durable: record, known });
        self.first = Some((identity, pairing.told));
        Ok(())
    }

    fn add(&mut self, candidate: Candidate) -> Result<()> {
        let Candidate { node, speaks, record, known } = candidate;
        match &speaks {
            Speaks::Frames(code) => {
                let session = Session::new(code.key(), record.as_deref(), known)
                    .or_else(|error| {
                        tracing::error!(%error, "session record not usable: a new handshake");
                        Session::new(code.key(), None, known)
                    })
                    .map_err(|error| ControlError::Internal(error.to_string()))?;
                self.live.add(session).map_err(|error| ControlError::Busy(error.to_string()))?;
            }
            Speaks::Lines { bus, mapping } => {
                if self.source.is_some() || !self.devices.is_empty() {
                    return Err(ControlError::Busy("the port is taken by another sensor".into()));
                }
                let open = |record| Source::new(*bus, 0, (**mapping).clone(), record, known);
                let source = open(record.as_deref())
                    .or_else(|error| {
                        tracing::error!(%error, "line record not usable: a new epoch");
                        open(None)
                    })
                    .map_err(|error| ControlError::Internal(error.to_string()))?;
                self.source = Some(source);
            }
        }
        let identity = speaks.identity();
        self.devices.insert(identity, Device { node, speaks, durable: record, known });
        Ok(())
    }

    fn remove(&mut self, identity: &Identity) {
        if let Some(device) = self.devices.remove(identity) {
            match device.speaks {
                Speaks::Frames(code) => drop(self.live.remove(code.device())),
                Speaks::Lines { .. } => self.source = None,
            }
        }
    }

    fn state(&self) -> PortState {
        let link = match self.link_state {
            LinkState::Opening => "opening".into(),
            LinkState::Open => "open".into(),
            LinkState::Gone(error) => format!("waiting: {error}"),
        };
        let mut refused = HashMap::new();
        let mut note = |identity: Identity, refusals: &[(&'static str, u64)]| {
            if let Some(device) = self.devices.get(&identity) {
                let counts =
                    refusals.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
                refused.insert(device.node, counts);
            }
        };
        for session in self.live.sessions() {
            note(session.identity(), session.counts().refusals());
        }
        if let Some(source) = &self.source {
            note(source.identity(), source.counts().refusals());
        }
        PortState { link, refused }
    }

    async fn event(&mut self, event: Event) {
        match event {
            Event::Opened => {
                self.link_state = LinkState::Open;
                tracing::info!(port = self.path, "serial port open");
                self.live.reopened();
                if let Some(source) = &mut self.source {
                    source.reopened();
                }
                if let Some(pairing) = &mut self.pairing {
                    pairing.frames.reopened();
                    pairing.heard.clear();
                }
            }
            Event::Gone(error) => {
                self.link_state = LinkState::Gone(error);
                tracing::warn!(port = self.path, %error, "serial port not open");
                if let Some(pairing) = &self.pairing {
                    tell_link(&pairing.told, error);
                }
            }
            Event::Bytes(bytes) => self.bytes(&bytes).await,
        }
    }

    async fn bytes(&mut self, bytes: &[u8]) {
        let now = clock::boot_ms();
        let entropy = match crate::vault::random::<32>() {
            Ok(entropy) => entropy,
            Err(_) => {
                tracing::error!("the system gives no random bytes; input dropped");
                return;
            }
        };
        if let Some(pairing) = &mut self.pairing {
            pairing.bytes(now, bytes, &entropy, &self.writer);
        }
        let effects = match &mut self.source {
            Some(source) => source.feed(now, bytes),
            None => self.live.feed(now, bytes, &entropy),
        };
        self.execute(effects).await;
    }

    /// Readings and records of the round become durable in one synced transaction, then answers
    /// that had to wait for it are written.
    async fn execute(&mut self, effects: Vec<Effect>) {
        let mut group = Group::default();
        let mut records = HashMap::new();
        let mut delivered = HashMap::new();
        let mut answers = Vec::new();
        for effect in effects {
            match effect {
                Effect::SessionOpened { identity, epoch, digest } => {
                    if let Some(device) = self.devices.get(&identity) {
                        self.shared.ledger.open_session(device.node, epoch, digest).await;
                    }
                }
                Effect::Deliver(reading) => {
                    let Some(device) = self.devices.get(&reading.identity()) else { continue };
                    group.readings.push(self.shared.entry(device.node, &reading));
                    let known = Committed { epoch: reading.epoch(), highest: reading.counter() };
                    delivered.insert(reading.identity(), known);
                }
                Effect::Persist { identity, record } => {
                    records.insert(identity, record);
                }
                Effect::Write { bytes, after_durable: true } => answers.push(bytes),
                Effect::Write { bytes, after_durable: false } => self.write(bytes),
                Effect::Refused(refusal) => self.refused(refusal),
            }
        }
        for (identity, record) in &records {
            let Some(device) = self.devices.get(identity) else { continue };
            if self.shared.vault.is_locked() {
                // A line source: its next start finds its counters in the buffer.
                continue;
            }
            match self.shared.seal_session(&device.node, record) {
                Ok(sealed) => group.sessions.push((device.node, sealed)),
                Err(error) => {
                    tracing::error!(%error, "cannot seal a session; nothing acknowledged");
                    return self.go_back(records.keys().chain(delivered.keys()));
                }
            }
        }
        let nothing = group.readings.is_empty() && group.sessions.is_empty();
        if !nothing && let Err(error) = self.shared.ingest.append(group).await {
            tracing::error!(%error, port = self.path, "readings not kept, not acknowledged");
            return self.go_back(records.keys().chain(delivered.keys()));
        }
        for (identity, record) in records {
            if let Some(device) = self.devices.get_mut(&identity) {
                device.durable = Some(record);
            }
        }
        for (identity, known) in delivered {
            if let Some(device) = self.devices.get_mut(&identity) {
                device.known = known;
            }
            if let Some((_, told)) = self.first.take_if(|first| first.0 == identity) {
                // A window that has ended wants no more news.
                let _ = told.try_send(Input::FirstReading);
            }
        }
        for bytes in answers {
            self.write(bytes);
        }
    }

    fn write(&self, bytes: Vec<u8>) {
        if !self.writer.write(bytes) {
            tracing::debug!(port = self.path, "an answer was dropped; the sensor sends again");
        }
    }

    fn refused(&self, refusal: Refusal) {
        // While pairing, frames of the new sensor are unknown here and known to its window.
        if !(self.pairing.is_some() && matches!(refusal, Refusal::UnknownDevice(_))) {
            tracing::debug!(port = self.path, %refusal, "not taken");
        }
    }

    /// What was not kept is forgotten: sent again, it is new again.
    fn go_back<'a>(&mut self, identities: impl Iterator<Item = &'a Identity>) {
        for identity in identities {
            let Some(device) = self.devices.get(identity) else { continue };
            let candidate = Candidate {
                node: device.node,
                speaks: device.speaks.clone(),
                record: device.durable.clone(),
                known: device.known,
            };
            self.remove(identity);
            if let Err(error) = self.add(candidate) {
                tracing::error!(%error, "a sensor could not be put back");
            }
        }
    }
}

impl Pairing {
    fn bytes(&mut self, now: u64, bytes: &[u8], entropy: &[u8; 32], writer: &Writer) {
        match &self.candidate.speaks {
            Speaks::Frames(_) => {
                // Another nonce than the served sensors get from the same entropy.
                let entropy = entropy.map(|byte| byte ^ 0x5a);
                for effect in self.frames.feed(now, bytes, &entropy) {
                    let input = match effect {
                        Effect::SessionOpened { epoch, digest, .. } => {
                            self.opened = Some((epoch, digest));
                            Input::Heard
                        }
                        Effect::Persist { record, .. } => {
                            self.candidate.record = Some(record);
                            continue;
                        }
                        Effect::Deliver(_) | Effect::Refused(Refusal::Held(_)) => Input::Uplink,
                        Effect::Refused(Refusal::WrongKey(_)) => Input::WrongKey,
                        Effect::Refused(refusal) => {
                            tracing::debug!(%refusal, "not taken while pairing");
                            continue;
                        }
                        // The handshake alone is answered: readings are held, so that none is
                        // acknowledged before the record knows the sensor.
                        Effect::Write { bytes, .. } => {
                            // Dropped when the queue is full: the sensor calls again.
                            let _ = writer.write(bytes);
                            continue;
                        }
                    };
                    // A full queue means that the window has heard enough.
                    let _ = self.told.try_send(input);
                }
            }
            Speaks::Lines { mapping, .. } => {
                self.heard.extend_from_slice(bytes);
                let excess = self.heard.len().saturating_sub(PREVIEW_BYTES);
                self.heard.drain(..excess);
                let newest = line::preview(mapping, &self.heard).pop();
                if let Some(records) = newest.and_then(|line| line.records.ok()) {
                    // A full queue means that the window has heard enough.
                    let _ = self.told.try_send(Input::Preview(leaf::values_of(&records)));
                }
            }
        }
    }
}

fn tell_link(told: &mpsc::Sender<Input>, error: LinkError) {
    let failure = match error {
        LinkError::Busy => Failure::PortBusy,
        LinkError::NotFound | LinkError::Unplugged => Failure::PortMissing,
        LinkError::Permission
        | LinkError::NotASerialPort
        | LinkError::Away
        | LinkError::Settings
        | LinkError::Io(_) => Failure::Unavailable,
    };
    // A full queue means that the window is about to end anyway.
    let _ = told.try_send(Input::Failed(failure, error.to_string()));
}
