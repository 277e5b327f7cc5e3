//! `org.gatewayd.Gateway1.Pairing`: the window in which a sensor is taken in. Server and proxy.

use std::sync::Arc;

use zbus::Connection;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;

use super::error::Error;
use super::gate::{Action, Gate};
use super::options::{Options, required};
use super::variant::Dict;
use super::{MAX_NAME, dict};
use crate::control::{Control, PairingHow, PairingRequest};

/// Longest path of a port, bytes.
const MAX_PORT: usize = 256;

/// Longest printed code, bytes.
const MAX_CODE: usize = 512;

/// Longest line map, bytes of TOML.
const MAX_MAP: usize = 16 * 1024;

/// How long a window stays open when the caller does not say, s.
const DEFAULT_WINDOW_S: u32 = 120;

/// Serves the interface.
pub(crate) struct Pairing {
    pub(crate) control: Control,
    pub(crate) gate: Arc<Gate>,
    /// Baud rate when the caller names none, bit/s.
    pub(crate) default_baud: u32,
}

#[zbus::interface(
    name = "org.gatewayd.Gateway1.Pairing",
    proxy(
        default_service = "org.gatewayd.Gateway1",
        default_path = "/org/gatewayd/Gateway1",
        visibility = "pub"
    )
)]
impl Pairing {
    /// Opens a window and returns its number. `how` and its options:
    /// `serial`: `port` (s), `baud` (u), `code` (s, secret);
    /// `line`: `port` (s), `baud` (u), `map` (s, TOML);
    /// `lora`: `dev_eui`, `join_eui` (ay, 8 bytes), `app_key` (ay, 16 bytes, secret), `codec` (s),
    /// `version` (s). All: `name` (s), `interval_s` (u), `window_s` (u).
    #[zbus(proxy(allow_interactive_auth))]
    async fn open(
        &self,
        how: String,
        options: Dict,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<u64, Error> {
        let _caller = self.gate.change(connection, &header, Action::Pair).await?;
        let request = self.request(&how, Options::new(options)?)?;
        Ok(self.control.open_pairing(request).await?)
    }

    /// Accepts what the preview shows.
    #[zbus(proxy(allow_interactive_auth))]
    async fn confirm(
        &self,
        window: u64,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Error> {
        let _caller = self.gate.change(connection, &header, Action::Pair).await?;
        Ok(self.control.confirm_pairing(window).await?)
    }

    /// Closes the window without a sensor.
    #[zbus(proxy(allow_interactive_auth))]
    async fn close(
        &self,
        window: u64,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(), Error> {
        let _caller = self.gate.change(connection, &header, Action::Pair).await?;
        Ok(self.control.close_pairing(window).await?)
    }

    /// Where the newest window stands.
    async fn status(&self) -> Result<Dict, Error> {
        let _place = self.gate.read()?;
        let status = self.control.pairing_changes().borrow().clone();
        dict(&status)
    }

    /// `idle`, `waiting`, `preview`, `heard`, `registering`, `joining`, `done` or `failed`.
    #[zbus(property)]
    fn state(&self) -> String {
        self.control.pairing_changes().borrow().state.into()
    }

    /// The window moved on: as `Status` says.
    #[zbus(signal)]
    pub(crate) async fn progress(emitter: &SignalEmitter<'_>, status: Dict) -> zbus::Result<()>;
}

impl Pairing {
    fn request(&self, how: &str, mut options: Options) -> Result<PairingRequest, Error> {
        let how = match how {
            "serial" => PairingHow::Serial {
                port: required("port", options.text("port", MAX_PORT)?)?,
                baud: options.u32("baud")?.unwrap_or(self.default_baud),
                code: required("code", options.text("code", MAX_CODE)?)?,
            },
            "line" => PairingHow::Line {
                port: required("port", options.text("port", MAX_PORT)?)?,
                baud: options.u32("baud")?.unwrap_or(self.default_baud),
                map: required("map", options.text("map", MAX_MAP)?)?,
            },
            "lora" => PairingHow::Lora {
                dev_eui: required("dev_eui", options.bytes("dev_eui")?)?,
                join_eui: required("join_eui", options.bytes("join_eui")?)?,
                app_key: required("app_key", options.bytes("app_key")?)?,
                codec: options.text("codec", MAX_NAME)?.unwrap_or_else(|| "raw".into()),
                version: options.text("version", MAX_NAME)?.unwrap_or_else(|| "1.0.4".into()),
            },
            _ => return Err(Error::InvalidArgument("`how` is serial, line or lora".into())),
        };
        let request = PairingRequest {
            how,
            name: options.text("name", MAX_NAME)?.unwrap_or_default(),
            interval_s: options.u32("interval_s")?.unwrap_or(0),
            window_s: options.u32("window_s")?.unwrap_or(DEFAULT_WINDOW_S),
        };
        options.finish()?;
        Ok(request)
    }
}
