//! Keys of this gateway as management changes them.

use std::time::Duration;

use super::{Control, ControlError, Result, RotatedInfo, UpgradeInfo, blocking};
use crate::identity::Folder;
use crate::sensors::settings::hex;
use crate::site::Request;
use crate::upgrade::{self, Wish};
use crate::vote_keys;

/// Longest wait for the daemon's parts to start anew with other keys.
const RESTART_TIMEOUT: Duration = Duration::from_secs(60);

impl Control {
    /// Gives this gateway a new vote key; returns when the record names it, the old one is
    /// destroyed, and the daemon goes on with the new one.
    ///
    /// # Errors
    /// No site runs, no vote key now, the TPM does not sign, no block in time.
    pub async fn rotate_vote_key(&self) -> Result<RotatedInfo> {
        let parts = self.parts()?;
        let (gateway, old) = (parts.gateway, parts.vote_key);
        let folder = Folder::at(&self.settings.data_dir)?;
        let (done, new) = vote_keys::rotate(&parts, &self.tpm, folder).await?;
        drop(parts);
        // A daemon that is stopping starts anew by itself.
        let _ = self.site.send(Request::Restart).await;
        let mut running = self.running.clone();
        let anew = running.wait_for(|parts| {
            let parts = parts.as_ref().filter(|parts| parts.gateway == gateway);
            parts.is_some_and(|parts| parts.vote_key == Some(new))
        });
        if !matches!(tokio::time::timeout(RESTART_TIMEOUT, anew).await, Ok(Ok(_))) {
            return Err(ControlError::Timeout(format!(
                "the new vote key is on the record (height {}), but the daemon has not started \
                 anew with it within {} s; `gatewayctl status`",
                done.height,
                RESTART_TIMEOUT.as_secs()
            )));
        }
        let summary = "this gateway has a new vote key; the old one is destroyed".to_owned();
        let (old, new) = (old.map(|key| hex(key.as_bytes())), hex(new.as_bytes()));
        Ok(RotatedInfo {
            height: done.height,
            transaction: done.hash.to_string(),
            old_vote_key: old.unwrap_or_default(),
            vote_key: new,
            summary,
        })
    }

    /// Makes keys for this gateway in another TPM, for the operator's act `upgrade` to put them in
    /// the place of the old ones. Nothing changes until that act is recorded.
    ///
    /// # Errors
    /// `Refused`: several gateways keep the record, this one is not unattested, the TPM is a
    /// software one or the one it has. The TPM does not answer.
    pub async fn prepare_upgrade(&self, address: String) -> Result<UpgradeInfo> {
        let parts = self.parts()?;
        let (own, place) = (parts.gateway, address.clone());
        let wish = parts.ledger.view(move |state| upgrade::wish(state, own, &place));
        let (label, software_is_let_in) = wish.await??;
        let old_address = Folder::at(&self.settings.data_dir)?.tpm_address(&self.settings.tcti)?;
        let wish = Wish {
            address,
            old_address,
            chain_id: parts.genesis.chain_id(),
            old: own,
            old_ek: parts.identity.ek_digest,
            label,
            software_is_let_in,
        };
        let (tpm, dir) = (self.tpm.clone(), self.settings.data_dir.clone());
        let made = blocking(move || {
            let made = upgrade::prepare(&Folder::at(&dir)?, &tpm, &wish);
            made.map_err(ControlError::from)
        });
        let (prepared, info) = made.await?;
        Ok(UpgradeInfo {
            gateway: prepared.node().to_gateway_string(),
            replaces: own.to_gateway_string(),
            address: prepared.address.clone(),
            tpm: info.manufacturer.to_string(),
            software: info.is_software,
            ek_digest: hex(&info.ek_digest),
            ek_certificate: info.endorsements.ek_certificate.is_some(),
        })
    }
}
