//! The objects of one connection: published, kept in step with the daemon, and their signals.
//!
//! It must not decide anything: it repeats what the control face says.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use zbus::object_server::{InterfaceRef, SignalEmitter};
use zbus::{Connection, connection};

use super::attestation::Attestation;
use super::gate::Gate;
use super::gateway::{self, Gateway};
use super::ledger::Ledger;
use super::manager::Manager;
use super::pairing::Pairing;
use super::sensor::{Sensor, Shown, object_path};
use super::{PATH, dict};
use crate::config::Bus;
use crate::control::{Control, DaemonState, Event, GatewayInfo, ReadingInfo, SensorInfo, Status};

/// Most `Reading` signals a second: the bus is for people and home automation, and every signal
/// costs two processes. Readings beyond it are durable all the same and can be listed.
const MAX_READING_SIGNALS: u32 = 200;

/// What is published on one connection.
pub(super) struct Objects {
    own: Arc<Own>,
    connection: Connection,
    root: SignalEmitter<'static>,
    manager: InterfaceRef<Manager>,
    pairing: InterfaceRef<Pairing>,
    attestation: InterfaceRef<Attestation>,
    status: Arc<Status>,
    pairing_state: &'static str,
    sensors: HashMap<Arc<str>, Arc<Mutex<Arc<Shown>>>>,
    gateways: HashMap<String, Arc<Mutex<Arc<GatewayInfo>>>>,
    texts: HashSet<Arc<str>>,
    reading_signals: Budget,
}

impl Objects {
    /// Connects and publishes the objects that are always there. The name is not asked for yet, so
    /// that whoever sees the name sees all objects.
    pub(super) async fn publish(
        control: &Control,
        bus: &Bus,
        default_baud: u32,
    ) -> zbus::Result<Self> {
        let gate = Arc::new(Gate::new());
        let builder = match bus {
            Bus::System => connection::Builder::system(),
            Bus::Address(address) => connection::Builder::address(address.as_str()),
        };
        let (control, status) = (control.clone(), control.status());
        let pairing_state = control.pairing_changes().borrow().state;
        let own = || (control.clone(), Arc::clone(&gate));
        let connection = builder
            .serve_at(PATH, zbus::fdo::ObjectManager)
            .serve_at(PATH, manager(own()))
            .serve_at(PATH, pairing(own(), default_baud))
            .serve_at(PATH, ledger(own()))
            .serve_at(PATH, attestation(own()))
            .build()
            .await?;
        let server = connection.object_server();
        Ok(Self {
            root: SignalEmitter::new(&connection, PATH)?,
            manager: server.interface(PATH).await?,
            pairing: server.interface(PATH).await?,
            attestation: server.interface(PATH).await?,
            connection: connection.clone(),
            own: Arc::new(own()),
            status,
            pairing_state,
            sensors: HashMap::new(),
            gateways: HashMap::new(),
            texts: HashSet::new(),
            reading_signals: Budget { since: Instant::now(), used: 0 },
        })
    }

    /// The connection.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Makes the sensor objects those of the daemon, whatever happened before.
    pub(super) async fn list_sensors(&mut self) -> zbus::Result<()> {
        let listed = match self.own.0.sensors().await {
            Ok(listed) => listed,
            // The parts start anew with other keys: their sensors are those of before.
            Err(_) if self.status.state == DaemonState::Running => return Ok(()),
            // Without a site, or while starting, there are none.
            Err(_) => Vec::new(),
        };
        let now: HashSet<&str> = listed.iter().map(|info| info.id.as_str()).collect();
        let gone: Vec<Arc<str>> =
            self.sensors.keys().filter(|id| !now.contains(&***id)).cloned().collect();
        for id in gone {
            self.remove_sensor(&id).await?;
        }
        for info in listed {
            self.put_sensor(info).await?;
        }
        Ok(())
    }

    /// Makes the gateway objects those of the record.
    pub(super) async fn list_gateways(&mut self) -> zbus::Result<()> {
        let listed = match self.own.0.gateways().await {
            Ok(listed) => listed,
            // The parts start anew with other keys: their gateways are those of before.
            Err(_) if self.status.state == DaemonState::Running => return Ok(()),
            // Without a site, or while starting, there are none.
            Err(_) => Vec::new(),
        };
        let now: HashSet<&str> = listed.iter().map(|info| info.id.as_str()).collect();
        let gone: Vec<String> =
            self.gateways.keys().filter(|id| !now.contains(id.as_str())).cloned().collect();
        for id in gone {
            self.gateways.remove(&id);
            if let Ok(path) = gateway::object_path(&id) {
                self.connection.object_server().remove::<Gateway, _>(&path).await?;
            }
        }
        for info in listed {
            self.put_gateway(info).await?;
        }
        Ok(())
    }

    /// Turns one event into signals and objects.
    pub(super) async fn event(&mut self, event: Event) -> zbus::Result<()> {
        match &event {
            Event::Reading(reading) => self.reading(reading).await,
            Event::Committed { height, transactions, readings } => {
                Ledger::committed(&self.root, *height, *transactions, *readings).await
            }
            Event::Pairing(status) => Pairing::progress(&self.root, as_dict(status)?).await,
            Event::Sensor { id, change } => {
                if *change == "removed" {
                    self.remove_sensor(id).await?;
                } else if let Ok(info) = self.own.0.sensor(id).await {
                    self.put_sensor(info).await?;
                }
                Manager::event(&self.root, as_dict(&event)?).await
            }
            Event::Gateway { .. } => {
                self.list_gateways().await?;
                Manager::event(&self.root, as_dict(&event)?).await
            }
            Event::State { .. } | Event::Alert { .. } => {
                Manager::event(&self.root, as_dict(&event)?).await
            }
        }
    }

    /// Announces the properties that a new status changes, and lists the sensors when they may be
    /// others.
    pub(super) async fn status(&mut self, new: Arc<Status>) -> zbus::Result<()> {
        let old = std::mem::replace(&mut self.status, Arc::clone(&new));
        self.manager.get().await.announce(&self.root, &old, &new).await?;
        self.attestation.get().await.announce(&self.root, &old, &new).await?;
        // A site that begins to run brings its sensors with it.
        if old.state != new.state || self.sensors.len() != new.sensors as usize {
            self.list_sensors().await?;
        }
        // There are a hundred at most, and their properties change with the record.
        self.list_gateways().await
    }

    /// Announces another state of the pairing window.
    pub(super) async fn pairing_state(&mut self, new: &'static str) -> zbus::Result<()> {
        if std::mem::replace(&mut self.pairing_state, new) != new {
            self.pairing.get().await.state_changed(&self.root).await?;
        }
        Ok(())
    }

    async fn reading(&mut self, reading: &ReadingInfo) -> zbus::Result<()> {
        if !self.reading_signals.spend(Instant::now()) {
            return Ok(());
        }
        let Ok(path) = object_path(&reading.sensor) else { return Ok(()) };
        let emitter = SignalEmitter::new(&self.connection, path)?;
        Sensor::reading(&emitter, as_dict(reading)?).await
    }

    async fn put_sensor(&mut self, info: SensorInfo) -> zbus::Result<()> {
        let Ok(path) = object_path(&info.id) else { return Ok(()) };
        let texts = &mut self.texts;
        let new = Arc::new(Shown::of(info, |text| shared(texts, text)));
        let server = self.connection.object_server();
        if let Some(shown) = self.sensors.get(&new.id) {
            let old = {
                let mut current = shown.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::replace(&mut *current, new)
            };
            let sensor: InterfaceRef<Sensor> = server.interface(&path).await?;
            return sensor.get().await.announce(sensor.signal_emitter(), &old).await;
        }
        let id = Arc::clone(&new.id);
        let shown = Arc::new(Mutex::new(new));
        server.at(&path, Sensor { own: Arc::clone(&self.own), shown: Arc::clone(&shown) }).await?;
        self.sensors.insert(id, shown);
        Ok(())
    }

    async fn put_gateway(&mut self, info: GatewayInfo) -> zbus::Result<()> {
        let Ok(path) = gateway::object_path(&info.id) else { return Ok(()) };
        let (id, new) = (info.id.clone(), Arc::new(info));
        let server = self.connection.object_server();
        if let Some(shown) = self.gateways.get(&id) {
            let old = {
                let mut current = shown.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::replace(&mut *current, new)
            };
            let object: InterfaceRef<Gateway> = server.interface(&path).await?;
            return object.get().await.announce(object.signal_emitter(), &old).await;
        }
        let shown = Arc::new(Mutex::new(new));
        server.at(&path, Gateway { own: Arc::clone(&self.own), shown: Arc::clone(&shown) }).await?;
        self.gateways.insert(id, shown);
        Ok(())
    }

    async fn remove_sensor(&mut self, id: &str) -> zbus::Result<()> {
        if self.sensors.remove(id).is_some()
            && let Ok(path) = object_path(id)
        {
            self.connection.object_server().remove::<Sensor, _>(&path).await?;
        }
        Ok(())
    }
}

/// One place for texts that many sensors have.
fn shared(texts: &mut HashSet<Arc<str>>, text: &str) -> Arc<str> {
    /// Most texts that are kept for sharing.
    const MAX_TEXTS: usize = 256;
    if let Some(known) = texts.get(text) {
        return Arc::clone(known);
    }
    if texts.len() >= MAX_TEXTS {
        texts.clear();
    }
    let new: Arc<str> = text.into();
    texts.insert(Arc::clone(&new));
    new
}

/// What every interface holds.
type Own = (Control, Arc<Gate>);

fn manager((control, gate): Own) -> Manager {
    Manager { control, gate }
}

fn pairing((control, gate): Own, default_baud: u32) -> Pairing {
    Pairing { control, gate, default_baud }
}

fn ledger((control, gate): Own) -> Ledger {
    Ledger { control, gate }
}

fn attestation((control, gate): Own) -> Attestation {
    Attestation { control, gate }
}

fn as_dict<T: serde::Serialize>(value: &T) -> zbus::Result<super::variant::Dict> {
    dict(value).map_err(|error| zbus::Error::Failure(error.to_string()))
}

/// How many signals may still go out in this second.
struct Budget {
    since: Instant,
    used: u32,
}

impl Budget {
    fn spend(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self { since: now, used: 0 };
        }
        self.used = self.used.saturating_add(1);
        self.used <= MAX_READING_SIGNALS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_the_next_second_is_free() {
        let start = Instant::now();
        let mut budget = Budget { since: start, used: 0 };
        let sent = (0..1000).filter(|_| budget.spend(start)).count();
        assert_eq!(sent, MAX_READING_SIGNALS as usize);
        assert!(budget.spend(start + Duration::from_secs(1)));
    }
}
