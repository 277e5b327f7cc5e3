//! From what the operator asks (or what is kept of a sensor) to what a driver serves.

use drivers::device::Identity;
use drivers::lora::ids::{DevEui, JoinEui, Key};
use drivers::lora::server::DeviceConfig;
use drivers::serial::line::Mapping;
use drivers::serial::pairing::PrintedCode;
use ledger::crypto::sha256;
use ledger::ids::{IdentityKind, NodeId};
use zeroize::Zeroizing;

use super::port::Speaks;
use super::settings::{self, LinkSettings, Place, SensorSettings, unhex};
use super::shared::{Shared, ledger_identity};
use crate::control::{ControlError, PairingHow, PairingRequest, Result};
use crate::ledger_task::Registration;
use crate::store::{NodeBytes, SensorRow};

/// Longest name of a sensor, bytes.
const MAX_NAME: usize = 64;

/// A sensor with everything a driver needs.
#[derive(Clone)]
pub(super) struct Sensor {
    pub(super) node: NodeBytes,
    pub(super) identity: Identity,
    pub(super) name: String,
    pub(super) settings: SensorSettings,
    /// Printed code, AppKey, or nothing for a line source.
    secret: Zeroizing<Vec<u8>>,
    pub(super) added_ms: u64,
}

/// What its driver takes.
pub(super) enum Driver {
    Port { path: String, baud: u32, speaks: Speaks },
    Lora(DeviceConfig),
}

impl Sensor {
    /// From what the operator asks for.
    pub(super) fn asked(request: &PairingRequest, shared: &Shared) -> Result<Self> {
        let (identity, link, secret) = asked_link(&request.how)?;
        let node = shared.node(&identity);
        let name = match request.name.trim() {
            "" => node.to_light_node_string(),
            name => checked_name(name)?,
        };
        let salt = crate::vault::random()
            .map_err(|_| ControlError::Internal("the system gives no random bytes".into()))?;
        Ok(Self {
            node: node.0,
            identity,
            name,
            settings: SensorSettings::new(&identity, request.interval_s, salt, link),
            secret,
            added_ms: shared.clock.borrow().now().0,
        })
    }

    /// From what is kept.
    pub(super) fn kept(row: &SensorRow, shared: &Shared) -> Result<Self> {
        let damaged = |what: &str| ControlError::Storage(format!("sensor {}: {what}", row.name));
        let settings: SensorSettings =
            serde_json::from_str(&row.settings).map_err(|error| damaged(&error.to_string()))?;
        let identity = settings.identity().ok_or_else(|| damaged("its identity is damaged"))?;
        let secret = match (&settings.link, shared.vault.is_locked()) {
            // It has none.
            (LinkSettings::Line { .. }, true) => Zeroizing::new(vec![]),
            (_, true) => {
                let why = format!("the keys of {} are sealed to the TPM, which is away", row.name);
                return Err(ControlError::Unavailable(why));
            }
            (_, false) => shared
                .vault
                .open(&[b"root-key", &row.node], &row.secret)
                .map_err(|error| damaged(&error.to_string()))?,
        };
        let (node, name, added_ms) = (row.node, row.name.clone(), row.added_ms);
        Ok(Self { node, identity, name, settings, secret, added_ms })
    }

    /// As it is kept.
    pub(super) fn row(&self, shared: &Shared) -> Result<SensorRow> {
        let internal = |error: &dyn std::fmt::Display| ControlError::Internal(error.to_string());
        Ok(SensorRow {
            node: self.node,
            name: self.name.clone(),
            settings: serde_json::to_string(&self.settings).map_err(|error| internal(&error))?,
            secret: shared
                .vault
                .seal(&[b"root-key", &self.node], &self.secret)
                .map_err(|error| internal(&error))?,
            added_ms: self.added_ms,
        })
    }

    /// What its driver takes. `admitted`: the record knows it.
    pub(super) fn driver(&self, admitted: bool) -> Result<Driver> {
        let damaged = || ControlError::Storage(format!("what is kept of {} is damaged", self.name));
        Ok(match &self.settings.link {
            LinkSettings::Serial { port, baud } => {
                let code = self.secret.as_slice().try_into().map_err(|_| damaged())?;
                let speaks = Speaks::Frames(PrintedCode::from_bytes(code));
                Driver::Port { path: port.clone(), baud: *baud, speaks }
            }
            LinkSettings::Line { port, baud, map } => {
                let Identity::Bus { bus, .. } = self.identity else { return Err(damaged()) };
                let mapping = Box::new(Mapping::from_toml(map).map_err(|_| damaged())?);
                let speaks = Speaks::Lines { bus, mapping };
                Driver::Port { path: port.clone(), baud: *baud, speaks }
            }
            LinkSettings::Lora { join_eui, codec, version } => {
                let Identity::DevEui(dev_eui) = self.identity else { return Err(damaged()) };
                let join_eui = unhex(join_eui).and_then(|bytes| bytes.try_into().ok());
                let key = self.secret.as_slice().try_into().map_err(|_| damaged())?;
                Driver::Lora(DeviceConfig {
                    dev_eui: DevEui(dev_eui),
                    join_eui: JoinEui(join_eui.ok_or_else(damaged)?),
                    app_key: Key::new(key),
                    version: settings::version(version).ok_or_else(damaged)?,
                    codec: settings::codec(codec).ok_or_else(damaged)?,
                    admitted,
                })
            }
        })
    }

    /// Epoch and digest of the session in its record.
    pub(super) fn opened(&self, record: &[u8]) -> Option<(u32, [u8; 32])> {
        match &self.settings.link {
            LinkSettings::Serial { .. } => drivers::serial::session::opened(record),
            LinkSettings::Line { .. } => drivers::serial::line::opened(record),
            LinkSettings::Lora { version, .. } => {
                drivers::lora::record::opened(record, settings::version(version)?)
            }
        }
    }

    /// What the ledger is told.
    pub(super) fn registration(&self) -> Registration {
        let link = &self.settings.link;
        let salt = self.settings.descriptor_salt.as_bytes();
        let descriptor = sha256(&[b"gatewayd/descriptor/1", salt, self.name.as_bytes()]);
        Registration {
            node: NodeId(self.node),
            identity_kind: kind(&self.identity),
            class: link.class(),
            level: link.level().number(),
            interval_s: self.settings.interval_s,
            downlink: matches!(link, LinkSettings::Lora { .. }),
            wire_counter: link.wire_counter(),
            descriptor_hash: descriptor.0,
        }
    }

    /// What the operator is told while nothing is heard.
    pub(super) fn awaited(&self) -> &'static str {
        match self.settings.link {
            LinkSettings::Serial { .. } => "waiting for the sensor's hello; switch it on",
            LinkSettings::Line { .. } => "waiting for lines",
            LinkSettings::Lora { .. } => "waiting for its JoinRequest; switch it on",
        }
    }
}

fn asked_link(how: &PairingHow) -> Result<(Identity, LinkSettings, Zeroizing<Vec<u8>>)> {
    let invalid = |error: &dyn std::fmt::Display| ControlError::InvalidArgument(error.to_string());
    Ok(match how {
        PairingHow::Serial { port, baud, code } => {
            let code = PrintedCode::parse(code).map_err(|error| invalid(&error))?;
            let identity = Identity::SerialDevice(code.device().0);
            let link = LinkSettings::Serial { port: checked_port(port)?, baud: *baud };
            (identity, link, Zeroizing::new(code.to_bytes().to_vec()))
        }
        PairingHow::Line { port, baud, map } => {
            Mapping::from_toml(map)
                .map_err(|error| ControlError::InvalidArgument(format!("bad-map: {error}")))?;
            let bus = crate::vault::random().map_err(|error| invalid(&error))?;
            let (port, map) = (checked_port(port)?, map.clone());
            let link = LinkSettings::Line { port, baud: *baud, map };
            (Identity::Bus { bus, unit: 0 }, link, Zeroizing::new(vec![]))
        }
        PairingHow::Lora { dev_eui, join_eui, app_key, codec, version } => {
            settings::codec(codec).ok_or_else(|| invalid(&"codec: `raw` or `cayenne`"))?;
            settings::version(version)
                .ok_or_else(|| invalid(&"LoRaWAN version: 1.0.4, 1.0.3 or 1.0.2"))?;
            let link = LinkSettings::Lora {
                join_eui: settings::hex(join_eui),
                codec: codec.clone(),
                version: version.clone(),
            };
            (Identity::DevEui(*dev_eui), link, Zeroizing::new(app_key.to_vec()))
        }
    })
}

/// A port is a path of a device file, here or on a bridge.
fn checked_port(port: &str) -> Result<String> {
    Place::parse(port).map(|place| place.to_string())
}

/// A name is short and printable.
pub(super) fn checked_name(name: &str) -> Result<String> {
    let name = name.trim();
    let printable = !name.is_empty() && !name.chars().any(char::is_control);
    if !printable || name.len() > MAX_NAME || name.starts_with("ln1") {
        let why = "a name has 1 to 64 printable characters and does not begin with ln1".to_owned();
        return Err(ControlError::InvalidArgument(why));
    }
    Ok(name.to_owned())
}

fn kind(identity: &Identity) -> IdentityKind {
    ledger_identity(identity).kind()
}
