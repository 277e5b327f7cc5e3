//! The face that the management side (D-Bus) sees of the running daemon: typed requests to the
//! tasks that own the state, and snapshots for reads.
//!
//! It holds senders and snapshots only; it must not hold state of its own, and must not know D-Bus.

mod types;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{broadcast, watch};

pub use types::*;

/// Handle to the running daemon; cheap to clone.
#[derive(Clone)]
pub struct Control {
    status: watch::Receiver<Arc<Status>>,
    pairing: watch::Receiver<PairingStatus>,
    events: broadcast::Sender<Event>,
}

impl Control {
    /// Newest snapshot of the daemon's status.
    pub fn status(&self) -> Arc<Status> {
        self.status.borrow().clone()
    }

    /// Changes of the status.
    pub fn status_changes(&self) -> watch::Receiver<Arc<Status>> {
        self.status.clone()
    }

    /// Changes of the pairing window.
    pub fn pairing_changes(&self) -> watch::Receiver<PairingStatus> {
        self.pairing.clone()
    }

    /// Events from now on; a receiver that lags loses the oldest.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Founds a site.
    pub async fn init_site(&self, request: InitSite) -> Result<SiteInfo> {
        unavailable(request)
    }

    /// The site this gateway belongs to.
    pub async fn site(&self) -> Result<SiteInfo> {
        unavailable(())
    }

    /// Bytes of an operator act, to be signed with the operator key.
    pub async fn prepare_operator_act(
        &self,
        kind: &str,
        options: BTreeMap<String, String>,
        caller: &str,
    ) -> Result<Vec<u8>> {
        unavailable((kind, options, caller))
    }

    /// Submits a signed operator act; returns when it is committed.
    pub async fn submit_operator_act(
        &self,
        act: Vec<u8>,
        signature: [u8; 64],
    ) -> Result<CommittedInfo> {
        unavailable((act, signature))
    }

    /// Looks at everything the gateway needs and says what to do about what is missing.
    pub async fn doctor(&self) -> Result<Vec<DoctorCheck>> {
        unavailable(())
    }

    /// Keys and TPM of this gateway.
    pub async fn identity(&self) -> Result<IdentityInfo> {
        unavailable(())
    }

    /// All sensors.
    pub async fn sensors(&self) -> Result<Vec<SensorInfo>> {
        unavailable(())
    }

    /// One sensor by `ln1…` or name.
    pub async fn sensor(&self, id_or_name: &str) -> Result<SensorInfo> {
        unavailable(id_or_name)
    }

    /// Gives a sensor another name (local).
    pub async fn rename_sensor(&self, id_or_name: &str, name: &str) -> Result<()> {
        unavailable((id_or_name, name))
    }

    /// Retires a sensor; returns when that is committed. Its readings stay.
    pub async fn forget_sensor(&self, id_or_name: &str) -> Result<CommittedInfo> {
        unavailable(id_or_name)
    }

    /// Changes of a sensor on the record, newest first.
    pub async fn sensor_history(&self, id_or_name: &str, limit: u32) -> Result<Vec<HistoryEntry>> {
        unavailable((id_or_name, limit))
    }

    /// Readings, newest first.
    pub async fn readings(&self, sensor: Option<&str>, limit: u32) -> Result<Vec<ReadingInfo>> {
        unavailable((sensor, limit))
    }

    /// Proof file of one reading; commits it first if it waits.
    pub async fn export_reading(&self, reading: ReadingSelector) -> Result<Vec<u8>> {
        unavailable(reading)
    }

    /// Opens a pairing window; returns its number.
    pub async fn open_pairing(&self, request: PairingRequest) -> Result<u64> {
        unavailable(request)
    }

    /// Accepts what the preview shows.
    pub async fn confirm_pairing(&self, window: u64) -> Result<()> {
        unavailable(window)
    }

    /// Closes the window without a sensor.
    pub async fn close_pairing(&self, window: u64) -> Result<()> {
        unavailable(window)
    }

    /// Newest block.
    pub async fn ledger_head(&self) -> Result<BlockInfo> {
        unavailable(())
    }

    /// Block at a height.
    pub async fn ledger_show(&self, height: u64) -> Result<BlockInfo> {
        unavailable(height)
    }

    /// Proof file that an ID is on the record with this standing, or that it is not.
    pub async fn prove(&self, id: &str) -> Result<Vec<u8>> {
        unavailable(id)
    }
}

fn unavailable<T, A>(_request: A) -> Result<T> {
    Err(ControlError::Unavailable("the daemon is starting".into()))
}
