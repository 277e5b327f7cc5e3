//! `org.gatewayd.Gateway1.Ledger`: blocks, proofs and readings. Server and proxy.

use std::sync::Arc;

use zbus::object_server::SignalEmitter;

use super::error::Error;
use super::gate::Gate;
use super::options::{bounded_text, limit};
use super::variant::Dict;
use super::{MAX_NAME, dict, dicts};
use crate::control::Control;

/// Serves the interface.
pub(crate) struct Ledger {
    pub(crate) control: Control,
    pub(crate) gate: Arc<Gate>,
}

#[zbus::interface(
    name = "org.gatewayd.Gateway1.Ledger",
    proxy(
        default_service = "org.gatewayd.Gateway1",
        default_path = "/org/gatewayd/Gateway1",
        visibility = "pub"
    )
)]
impl Ledger {
    /// Newest block.
    async fn head(&self) -> Result<Dict, Error> {
        let _place = self.gate.read()?;
        dict(&self.control.ledger_head().await?)
    }

    /// Block at a height.
    async fn block(&self, height: u64) -> Result<Dict, Error> {
        let _place = self.gate.read()?;
        dict(&self.control.ledger_show(height).await?)
    }

    /// Proof file that an ID is on the record with its standing, or that it is not.
    async fn prove(&self, id: String) -> Result<Vec<u8>, Error> {
        let _place = self.gate.read()?;
        let id = bounded_text("id", id, MAX_NAME)?;
        Ok(self.control.prove(&id).await?)
    }

    /// Readings of one sensor (`ln1…` or its name), or of all when `sensor` is empty; newest
    /// first.
    async fn readings(&self, sensor: String, limit: u32) -> Result<Vec<Dict>, Error> {
        let _place = self.gate.read()?;
        let sensor = bounded_text("sensor", sensor, MAX_NAME)?;
        let sensor = (!sensor.is_empty()).then_some(sensor.as_str());
        dicts(&self.control.readings(sensor, self::limit(limit)?).await?)
    }

    /// Height of the newest block; 0 when there is no site.
    #[zbus(property(emits_changed_signal = "false"))]
    fn height(&self) -> u64 {
        self.control.status().height.unwrap_or(0)
    }

    /// How often the operator recovered the record.
    #[zbus(property(emits_changed_signal = "false"))]
    fn era(&self) -> u32 {
        self.control.status().era.unwrap_or(0)
    }

    /// A block is stored: its height, its transactions, and the readings that it commits.
    #[zbus(signal)]
    pub(crate) async fn committed(
        emitter: &SignalEmitter<'_>,
        height: u64,
        transactions: u32,
        readings: u32,
    ) -> zbus::Result<()>;
}
