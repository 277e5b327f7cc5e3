//! `org.gatewayd.Gateway1.Gateway`: one object for each gateway of the site, under `/gateways/`.
//! Server and proxy. What changes a gateway is an act of the operator: `Manager` takes those.

use std::sync::{Arc, Mutex, PoisonError};

use zbus::OwnedObjectPath;
use zbus::object_server::SignalEmitter;

use super::error::Error;
use super::gate::Gate;
use super::options::limit;
use super::variant::Dict;
use super::{PATH, dict, dicts};
use crate::control::{Control, GatewayInfo};

/// Serves the interface for one gateway.
pub(crate) struct Gateway {
    pub(crate) own: Arc<(Control, Arc<Gate>)>,
    /// Newest snapshot; replaced from outside, so that no property waits for a call.
    pub(crate) shown: Arc<Mutex<Arc<GatewayInfo>>>,
}

/// Object path of a gateway.
///
/// # Errors
/// The ID has characters that no `gw1…` has.
pub(crate) fn object_path(id: &str) -> Result<OwnedObjectPath, Error> {
    OwnedObjectPath::try_from(format!("{PATH}/gateways/{id}"))
        .map_err(|_| Error::Internal(format!("`{}` is no gateway ID", id.escape_debug())))
}

#[zbus::interface(
    name = "org.gatewayd.Gateway1.Gateway",
    proxy(default_service = "org.gatewayd.Gateway1", visibility = "pub")
)]
impl Gateway {
    /// Everything `gatewayctl gateway show` shows.
    async fn describe(&self) -> Result<Dict, Error> {
        let _place = self.own.1.read()?;
        dict(&self.own.0.gateway(&self.shown().id).await?)
    }

    /// Changes on the record, newest first; batches are left out.
    async fn history(&self, limit: u32) -> Result<Vec<Dict>, Error> {
        let _place = self.own.1.read()?;
        let limit = self::limit(limit)?;
        dicts(&self.own.0.gateway_history(&self.shown().id, limit).await?)
    }

    /// `gw1…`.
    #[zbus(property(emits_changed_signal = "const"), name = "Id")]
    fn id_property(&self) -> String {
        self.shown().id.clone()
    }

    /// Label on the record: `full, coordinator`.
    #[zbus(property)]
    fn label(&self) -> String {
        self.shown().label.clone()
    }

    /// Standing on the record.
    #[zbus(property)]
    fn standing(&self) -> String {
        self.shown().standing.clone()
    }

    /// Why the standing was changed last; empty for the first standing.
    #[zbus(property)]
    fn reason(&self) -> String {
        self.shown().reason.clone()
    }

    /// `attested`, `stale`, `unverified` or `unattested`.
    #[zbus(property)]
    fn attestation(&self) -> String {
        self.shown().attestation.into()
    }

    /// Whether its vote counts.
    #[zbus(property)]
    fn voter(&self) -> bool {
        self.shown().voter
    }

    /// Whether the record counts it as online.
    #[zbus(property)]
    fn online(&self) -> bool {
        self.shown().online
    }

    /// Time of the block since which it counts as offline, ms since 1970; 0 while it is online, or
    /// when that is not known here.
    #[zbus(property)]
    fn offline_since(&self) -> u64 {
        self.shown().offline_since_ms.unwrap_or(0)
    }

    /// Whether this gateway hears it now; true of itself.
    #[zbus(property)]
    fn connected(&self) -> bool {
        self.shown().connected
    }

    /// Height of the block that made it a member.
    #[zbus(property(emits_changed_signal = "const"))]
    fn member_since(&self) -> u64 {
        self.shown().member_since
    }

    /// Height of its newest block, as far as it is known here; 0 when it is not.
    #[zbus(property(emits_changed_signal = "false"))]
    fn height(&self) -> u64 {
        self.shown().height.unwrap_or(0)
    }
}

impl Gateway {
    fn shown(&self) -> Arc<GatewayInfo> {
        Arc::clone(&self.shown.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Announces what differs from older properties.
    pub(crate) async fn announce(
        &self,
        emitter: &SignalEmitter<'_>,
        old: &GatewayInfo,
    ) -> zbus::Result<()> {
        let new = self.shown();
        if old.label != new.label {
            self.label_changed(emitter).await?;
        }
        if old.standing != new.standing {
            self.standing_changed(emitter).await?;
        }
        if old.reason != new.reason {
            self.reason_changed(emitter).await?;
        }
        if old.attestation != new.attestation {
            self.attestation_changed(emitter).await?;
        }
        if old.voter != new.voter {
            self.voter_changed(emitter).await?;
        }
        if old.online != new.online {
            self.online_changed(emitter).await?;
        }
        if old.offline_since_ms != new.offline_since_ms {
            self.offline_since_changed(emitter).await?;
        }
        if old.connected != new.connected {
            self.connected_changed(emitter).await?;
        }
        Ok(())
    }
}
