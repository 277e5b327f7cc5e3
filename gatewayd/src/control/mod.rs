//! The face that the management side (D-Bus) sees of the running daemon: typed requests to the
//! tasks that own the state, and snapshots for reads.
//!
//! It holds senders and snapshots only; it must not hold state of its own, and must not know D-Bus.

mod acts;
mod admissions;
mod boots;
mod bridges;
mod doctor;
mod gateways;
mod identity_types;
mod joining;
mod keys;
pub mod policy;
mod proofs;
mod proposing;
mod record;
mod types;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use attestation::tpm::Tpm;
use ledger::ids::NodeId;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::config::Settings;
use crate::ingest::leaf;
use crate::site::{Request, Running};
use crate::store::BufferReader;

pub use admissions::{AdmissionInfo, AppraisalInfo, AttestationInfo};
pub use bridges::{BridgeInfo, BridgeStatus};
pub(crate) use gateways::gateways;
pub use identity_types::*;
pub use joining::{ClaimInfo, JoinProgress, JoinSite, JoinStep, JoinVerifier};
pub(crate) use proofs::identity_proof;
pub use types::*;

/// Longest wait for a site to be founded: a TPM makes four keys.
const FOUNDING_TIMEOUT: Duration = Duration::from_secs(90);

/// Most readings of one answer.
const MAX_READINGS: u32 = 10_000;

/// Handle to the running daemon; cheap to clone.
#[derive(Clone)]
pub struct Control {
    /// Configuration.
    pub(crate) settings: Arc<Settings>,
    /// The TPM's thread.
    pub(crate) tpm: Tpm,
    /// The running parts, once there are any.
    pub(crate) running: watch::Receiver<Option<Running>>,
    /// The site's task.
    pub(crate) site: mpsc::Sender<Request>,
    /// Status.
    pub(crate) status: watch::Receiver<Arc<Status>>,
    /// Pairing window.
    pub(crate) pairing: watch::Receiver<PairingStatus>,
    /// Where a join stands.
    pub(crate) join: watch::Receiver<JoinProgress>,
    /// Events.
    pub(crate) events: broadcast::Sender<Event>,
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

    /// Founds a site; returns when it runs.
    ///
    /// # Errors
    /// An identity exists, the TPM does not answer or is a software one, an argument is wrong.
    pub async fn init_site(&self, request: InitSite) -> Result<SiteInfo> {
        let (reply, answer) = oneshot::channel();
        let stopping = || ControlError::Unavailable("the daemon is stopping".into());
        let request = Request::Init(Box::new(request), reply);
        self.site.send(request).await.map_err(|_| stopping())?;
        let founding = async {
            answer.await.map_err(|_| stopping())??;
            let mut running = self.running.clone();
            running.wait_for(Option::is_some).await.map_err(|_| stopping())?;
            Ok::<(), ControlError>(())
        };
        let late = || ControlError::Timeout("the site was not founded within 90 s".into());
        tokio::time::timeout(FOUNDING_TIMEOUT, founding).await.map_err(|_| late())??;
        self.site().await
    }

    /// The running parts.
    ///
    /// # Errors
    /// No site; or its TPM or its disk does not let it run, with the reason.
    fn parts(&self) -> Result<Running> {
        if let Some(running) = self.running.borrow().clone() {
            return Ok(running);
        }
        let status = self.status();
        match status.state {
            DaemonState::Uninitialised => Err(ControlError::NotInitialised),
            DaemonState::NoTpm => Err(ControlError::Tpm(status.reasons.join("; "))),
            DaemonState::Bridge => {
                let what = "this machine is a bridge and keeps no record: ask the member";
                Err(ControlError::Unavailable(what.into()))
            }
            _ if status.reasons.is_empty() => {
                Err(ControlError::Unavailable("the daemon is starting".into()))
            }
            _ => Err(ControlError::Unavailable(status.reasons.join("; "))),
        }
    }

    /// All sensors.
    ///
    /// # Errors
    /// No site runs.
    pub async fn sensors(&self) -> Result<Vec<SensorInfo>> {
        self.parts()?.sensors.list().await
    }

    /// One sensor by `ln1…` or name.
    ///
    /// # Errors
    /// None, or several of that name.
    pub async fn sensor(&self, id_or_name: &str) -> Result<SensorInfo> {
        let sensors = self.parts()?.sensors;
        let (node, _) = sensors.find(id_or_name).await?;
        let id = NodeId(node).to_light_node_string();
        let found = sensors.list().await?.into_iter().find(|sensor| sensor.id == id);
        found.ok_or(ControlError::NotFound { what: "sensor", name: id })
    }

    /// Gives a sensor another name (local).
    ///
    /// # Errors
    /// No such sensor, or the name is taken or unusable.
    pub async fn rename_sensor(&self, id_or_name: &str, name: &str) -> Result<()> {
        self.parts()?.sensors.rename(id_or_name, name).await
    }

    /// Retires a sensor; returns when that is committed. Its readings stay.
    ///
    /// # Errors
    /// No such sensor; nothing can be signed now.
    pub async fn forget_sensor(&self, id_or_name: &str) -> Result<CommittedInfo> {
        self.parts()?.sensors.forget(id_or_name).await
    }

    /// Readings, newest first.
    ///
    /// # Errors
    /// No such sensor; the buffer cannot be read.
    pub async fn readings(&self, sensor: Option<&str>, limit: u32) -> Result<Vec<ReadingInfo>> {
        let parts = self.parts()?;
        let node = match sensor {
            Some(sensor) => Some(parts.sensors.find(sensor).await?.0),
            None => None,
        };
        let names: BTreeMap<_, _> = parts.sensors.names().await?.into_iter().collect();
        let path = self.settings.data_dir.join("buffer.db");
        let limit = limit.min(MAX_READINGS) as usize;
        let found = blocking(move || {
            let reader = BufferReader::open(&path).map_err(storage)?;
            reader.newest(node.as_ref(), limit).map_err(storage)
        });
        let describe = |stored: crate::store::StoredReading| {
            let standing = stored.batch.map(|(_, state, height)| (state, height));
            let mut reading = leaf::describe(&stored.entry, standing);
            reading.sensor_name = names.get(&stored.entry.node).cloned().unwrap_or_default();
            reading
        };
        Ok(found.await?.into_iter().map(describe).collect())
    }

    /// Opens a pairing window; returns its number.
    ///
    /// # Errors
    /// A window is open, an argument is wrong, a link is not available.
    pub async fn open_pairing(&self, request: PairingRequest) -> Result<u64> {
        self.parts()?.sensors.open_pairing(request).await
    }

    /// Accepts what the preview shows.
    ///
    /// # Errors
    /// There is no such window, or nothing to confirm.
    pub async fn confirm_pairing(&self, window: u64) -> Result<()> {
        self.parts()?.sensors.confirm(window).await
    }

    /// Closes the window without a sensor.
    ///
    /// # Errors
    /// There is no such window.
    pub async fn close_pairing(&self, window: u64) -> Result<()> {
        self.parts()?.sensors.close(window).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let broke = |error: tokio::task::JoinError| ControlError::Internal(error.to_string());
    tokio::task::spawn_blocking(work).await.map_err(broke)?
}

fn storage(error: impl std::fmt::Display) -> ControlError {
    ControlError::Storage(error.to_string())
}
