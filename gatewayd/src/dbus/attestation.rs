//! `org.gatewayd.Gateway1.Attestation`: the TPM and the keys of this gateway. Server and proxy.

use std::sync::Arc;

use attestation::pcr_policy::Approval;
use zbus::Connection;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;

use super::error::Error;
use super::gate::{Action, Gate};
use super::options::{Options, bounded_text, exactly};
use super::variant::Dict;
use super::{MAX_NAME, dict};
use crate::control::{Control, Status};
use crate::sensors::settings::unhex;

/// Longest list of registers, bytes: all 24 of them.
const MAX_REGISTERS: usize = 24 * 68;

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

    /// How a gateway stands with its attestation, by `gw1…`: until when it holds, and the newest
    /// appraisal that was made here.
    async fn of_gateway(&self, id: String) -> Result<Dict, Error> {
        let _place = self.gate.read()?;
        let id = bounded_text("id", id, MAX_NAME)?;
        dict(&self.control.attestation_of(&id).await?)
    }

    /// Renews the attestation of this gateway now; returns when that is committed.
    #[zbus(proxy(allow_interactive_auth))]
    async fn renew(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Dict, Error> {
        let _caller = self.gate.change(connection, &header, Action::ManageIdentity).await?;
        dict(&self.control.renew_attestation().await?)
    }

    /// Gives this gateway a new vote key; returns when the record names it, the old one is
    /// destroyed and the daemon goes on with the new one. The key that is gone signs nothing more.
    #[zbus(proxy(allow_interactive_auth))]
    async fn rotate_vote_key(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Dict, Error> {
        let _caller = self.gate.change(connection, &header, Action::ManageIdentity).await?;
        dict(&self.control.rotate_vote_key().await?)
    }

    /// Makes keys in the TPM at `address` (a TCTI string), for the operator's act `upgrade` with
    /// `node` as answered here. Only an unattested founder that is alone moves.
    #[zbus(proxy(allow_interactive_auth))]
    async fn prepare_upgrade(
        &self,
        address: String,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Dict, Error> {
        let _caller = self.gate.change(connection, &header, Action::ManageIdentity).await?;
        let address = bounded_text("address", address, MAX_NAME)?;
        dict(&self.control.prepare_upgrade(address).await?)
    }

    /// What the operator is to sign so that the storage key opens in a boot with the registers of
    /// now. Options: `registers` (s): values that some will have, as `4=HEX,7=HEX`; `new_epoch`
    /// (b): earlier ones are to open it no longer.
    #[zbus(proxy(allow_interactive_auth))]
    async fn prepare_boot(
        &self,
        options: Dict,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Vec<u8>, Error> {
        let _caller = self.gate.change(connection, &header, Action::OperatorAct).await?;
        let mut options = Options::new(options)?;
        let text = options.text("registers", MAX_REGISTERS)?.unwrap_or_default();
        let new_epoch = options.flag("new_epoch")?;
        options.finish()?;
        let wrong = || Error::InvalidArgument("registers are as 4=HEX,7=HEX".into());
        let registers = registers(&text).ok_or_else(wrong)?;
        Ok(self.control.prepare_boot(registers, new_epoch).await?)
    }

    /// Keeps a boot that the operator has signed (ES256, r and s), and seals the storage key to
    /// the operator's word where it is not yet.
    #[zbus(proxy(allow_interactive_auth))]
    async fn add_boot(
        &self,
        boot: Vec<u8>,
        signature: Vec<u8>,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Dict, Error> {
        let _caller = self.gate.change(connection, &header, Action::OperatorAct).await?;
        let boot: [u8; Approval::LEN] = exactly("boot", &boot)?;
        let signature = exactly("signature", &signature)?;
        dict(&self.control.add_boot(boot.to_vec(), signature).await?)
    }

    /// `attested`, `stale`, `unverified` or `unattested`; empty when there is no site.
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

/// `4=HEX,7=HEX`.
fn registers(text: &str) -> Option<Vec<(u8, [u8; 32])>> {
    let one = |part: &str| {
        let (register, value) = part.split_once('=')?;
        Some((register.parse().ok()?, unhex(value)?.try_into().ok()?))
    };
    text.split(',').filter(|part| !part.is_empty()).map(one).collect()
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
