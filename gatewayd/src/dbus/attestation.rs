//! `org.gatewayd.Gateway1.Attestation`: the TPM and the keys of this gateway. Server and proxy.

use std::sync::Arc;

use zbus::object_server::SignalEmitter;

use super::dict;
use super::error::Error;
use super::gate::Gate;
use super::variant::Dict;
use crate::control::{Control, Status};

/// Serves the interface.
pub(crate) struct Attestation {
    pub(crate) control: Control,
    pub(crate) gate: Arc<Gate>,
}

#[zbus::interface(
    name = "org.gatewayd.Gateway1.Attestation",
    proxy(
        default_service = "org.gatewayd.Gateway1",
        default_path = "/org/gatewayd/Gateway1",
        visibility = "pub"
    )
)]
impl Attestation {
    /// Public halves of the keys, and what is known of the TPM.
    async fn identity(&self) -> Result<Dict, Error> {
        let _place = self.gate.read()?;
        dict(&self.control.identity().await?)
    }

    /// `attested`, `unverified` or `unattested`; empty when there is no site.
    #[zbus(property)]
    fn state(&self) -> String {
        self.control.status().attestation.clone().unwrap_or_default()
    }

    /// Whether the TPM is a software one.
    #[zbus(property)]
    fn software_tpm(&self) -> bool {
        self.control.status().tpm_software
    }
}

impl Attestation {
    /// Announces what differs between two snapshots.
    pub(crate) async fn announce(
        &self,
        emitter: &SignalEmitter<'_>,
        old: &Status,
        new: &Status,
    ) -> zbus::Result<()> {
        if old.attestation != new.attestation {
            self.state_changed(emitter).await?;
        }
        if old.tpm_software != new.tpm_software {
            self.software_tpm_changed(emitter).await?;
        }
        Ok(())
    }
}
