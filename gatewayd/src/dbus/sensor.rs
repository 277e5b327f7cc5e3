//! `org.gatewayd.Gateway1.Sensor`: one object for each sensor, under `/sensors/`. Server and proxy.

use std::sync::{Arc, Mutex, PoisonError};

use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, OwnedObjectPath};

use super::error::Error;
use super::gate::{Action, Gate};
use super::options::{Options, bounded_text, limit, required};
use super::variant::Dict;
use super::{MAX_NAME, PATH, dict, dicts};
use crate::control::{Control, ReadingSelector, SensorInfo};

/// Serves the interface for one sensor. There may be ten thousand: each holds little, and shares
/// what it can.
pub(crate) struct Sensor {
    pub(crate) own: Arc<(Control, Arc<Gate>)>,
    /// Newest properties; replaced from outside, so that no call waits for another. A lock rather
    /// than a channel, which would take more room than all else here; it is held to copy a pointer.
    pub(crate) shown: Arc<Mutex<Arc<Shown>>>,
}

/// The properties of a sensor.
#[derive(Debug, PartialEq)]
pub(crate) struct Shown {
    pub(crate) id: Arc<str>,
    pub(crate) name: Box<str>,
    pub(crate) kind: &'static str,
    pub(crate) identity: Box<str>,
    pub(crate) level: u8,
    pub(crate) presence: &'static str,
    pub(crate) standing: Arc<str>,
    pub(crate) label: Arc<str>,
    pub(crate) serving: Arc<str>,
    pub(crate) link_state: Arc<str>,
}

impl Shown {
    /// The properties in a snapshot; `share` gives equal texts one place.
    pub(crate) fn of(info: SensorInfo, mut share: impl FnMut(&str) -> Arc<str>) -> Self {
        Self {
            id: info.id.into(),
            name: info.name.into(),
            kind: info.kind,
            identity: info.identity.into(),
            level: info.level,
            presence: info.presence,
            standing: share(&info.standing),
            label: share(&info.label),
            serving: share(info.serving.as_deref().unwrap_or_default()),
            link_state: share(&info.link_state),
        }
    }
}

/// Longest site code, bytes.
const MAX_CODE: usize = 128;

/// Object path of a sensor.
///
/// # Errors
/// The ID has characters that no `ln1…` has.
pub(crate) fn object_path(id: &str) -> Result<OwnedObjectPath, Error> {
    OwnedObjectPath::try_from(format!("{PATH}/sensors/{id}"))
        .map_err(|_| Error::Internal(format!("`{}` is no sensor ID", id.escape_debug())))
}

#[zbus::interface(
    name = "org.gatewayd.Gateway1.Sensor",
    proxy(default_service = "org.gatewayd.Gateway1", visibility = "pub")
)]
impl Sensor {
    /// Everything `gatewayctl sensor show` shows.
    async fn describe(&self) -> Result<Dict, Error> {
        let _place = self.gate().read()?;
        dict(&self.control().sensor(&self.id()).await?)
    }

    /// Changes on the record, newest first.
    async fn history(&self, limit: u32) -> Result<Vec<Dict>, Error> {
        let _place = self.gate().read()?;
        let limit = self::limit(limit)?;
        dicts(&self.control().sensor_history(&self.id(), limit).await?)
    }

    /// Readings, newest first.
    async fn readings(&self, limit: u32) -> Result<Vec<Dict>, Error> {
        let _place = self.gate().read()?;
        let limit = self::limit(limit)?;
        dicts(&self.control().readings(Some(&self.id()), limit).await?)
    }

    /// Proof file of one reading. Options `epoch` (u) and `counter` (t) together; without them the
    /// newest. `anchor` (s) is the site code that the verifier holds, when it is not the newest.
    /// A reading that waits is committed first.
    async fn export(&self, options: Dict) -> Result<Vec<u8>, Error> {
        let _place = self.gate().read()?;
        let mut options = Options::new(options)?;
        let counter = match (options.u32("epoch")?, options.u64("counter")?) {
            (None, None) => None,
            (epoch, counter) => Some((required("epoch", epoch)?, required("counter", counter)?)),
        };
        let anchor = options.text("anchor", MAX_CODE)?;
        options.finish()?;
        let selector = ReadingSelector { sensor: self.id(), counter, anchor };
        Ok(self.control().export_reading(selector).await?)
    }

    /// Gives the sensor another name.
    #[zbus(proxy(allow_interactive_auth))]
    async fn rename(
        &self,
        name: String,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Error> {
        let _caller = self.gate().change(connection, &header, Action::ManageSensors).await?;
        let name = bounded_text("name", name, MAX_NAME)?;
        Ok(self.control().rename_sensor(&self.id(), &name).await?)
    }

    /// Retires the sensor; returns when that is committed. What it has said stays on the record.
    #[zbus(proxy(allow_interactive_auth))]
    async fn forget(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Dict, Error> {
        let _caller = self.gate().change(connection, &header, Action::ManageSensors).await?;
        dict(&self.control().forget_sensor(&self.id()).await?)
    }

    /// `ln1…`.
    #[zbus(property(emits_changed_signal = "const"), name = "Id")]
    fn id_property(&self) -> String {
        self.id()
    }

    /// Name given by the operator.
    #[zbus(property)]
    fn name(&self) -> String {
        self.shown().name.to_string()
    }

    /// `serial`, `line` or `lora`.
    #[zbus(property(emits_changed_signal = "const"))]
    fn kind(&self) -> String {
        self.shown().kind.into()
    }

    /// Identity in its own notation.
    #[zbus(property(emits_changed_signal = "const"))]
    fn identity(&self) -> String {
        self.shown().identity.to_string()
    }

    /// Assurance level, 0 to 3.
    #[zbus(property)]
    fn level(&self) -> u8 {
        self.shown().level
    }

    /// `present`, `late`, `silent` or `unknown`.
    #[zbus(property)]
    fn presence(&self) -> String {
        self.shown().presence.into()
    }

    /// Standing on the record.
    #[zbus(property)]
    fn standing(&self) -> String {
        self.shown().standing.to_string()
    }

    /// Label on the record.
    #[zbus(property)]
    fn label(&self) -> String {
        self.shown().label.to_string()
    }

    /// Serving gateway, `gw1…`; empty when there is none.
    #[zbus(property)]
    fn serving(&self) -> String {
        self.shown().serving.to_string()
    }

    /// State of its link in words.
    #[zbus(property)]
    fn link_state(&self) -> String {
        self.shown().link_state.to_string()
    }

    /// A reading is durable at this gateway. Under floods some are left out: `Readings` has all.
    #[zbus(signal)]
    pub(crate) async fn reading(emitter: &SignalEmitter<'_>, reading: Dict) -> zbus::Result<()>;
}

impl Sensor {
    fn control(&self) -> &Control {
        &self.own.0
    }

    fn gate(&self) -> &Gate {
        &self.own.1
    }

    fn id(&self) -> String {
        self.shown().id.to_string()
    }

    fn shown(&self) -> Arc<Shown> {
        Arc::clone(&self.shown.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Announces what differs from older properties.
    pub(crate) async fn announce(
        &self,
        emitter: &SignalEmitter<'_>,
        old: &Shown,
    ) -> zbus::Result<()> {
        let new = self.shown();
        if old.name != new.name {
            self.name_changed(emitter).await?;
        }
        if old.level != new.level {
            self.level_changed(emitter).await?;
        }
        if old.presence != new.presence {
            self.presence_changed(emitter).await?;
        }
        if old.standing != new.standing {
            self.standing_changed(emitter).await?;
        }
        if old.label != new.label {
            self.label_changed(emitter).await?;
        }
        if old.serving != new.serving {
            self.serving_changed(emitter).await?;
        }
        if old.link_state != new.link_state {
            self.link_state_changed(emitter).await?;
        }
        Ok(())
    }
}
