//! Which identity this gateway has, in which TPM, and what there is to say about its keys.

use attestation::tpm::TpmError;

use super::{BROKEN, Running, Site};
use crate::boot_seal::{self, Rules};
use crate::control::ControlError;
use crate::identity::IdentityError;
use crate::upgrade;

impl Site {
    /// Takes the identity that the record names, in another TPM perhaps, and goes over to that TPM.
    pub(super) async fn follow_identity(&mut self) -> anyhow::Result<()> {
        let (folder, tpm) = (self.folder()?, self.tpm.clone());
        let (dir, configured) = (self.settings.data_dir.clone(), self.configured_tpm.clone());
        let before = self.settings.tcti.clone();
        let follow = move || {
            upgrade::settle(&folder, &dir, &configured)?;
            let now = folder.tpm_address(&configured)?;
            if now != before {
                tpm.move_to(&now, folder.tpm())?;
            }
            anyhow::Ok(now)
        };
        let now = self.attended("the identity is being looked up", follow).await;
        self.settings.tcti = now.unwrap_or_else(|| anyhow::bail!(BROKEN))?;
        Ok(())
    }

    /// What has to be said of where the keys are, and of how they are sealed.
    pub(super) async fn key_warnings(&self, running: &Running) -> Vec<String> {
        let moved = (self.settings.tcti != self.configured_tpm).then(|| {
            format!(
                "this gateway's identity is in the TPM {}, and the configuration still names {}: \
                 set tpm.tcti",
                self.settings.tcti, self.configured_tpm
            )
        });
        moved.into_iter().chain(self.sealing(running).await).collect()
    }

    async fn sealing(&self, running: &Running) -> Option<String> {
        let rules = running
            .ledger
            .view(|state| Rules { policy: state.policy().clone(), operator: *state.operator() });
        let (rules, folder) = (rules.await.ok()?, self.folder().ok()?);
        let warning = move || boot_seal::warning(&folder, &rules);
        tokio::task::spawn_blocking(warning).await.ok()?
    }
}

/// Why the keys do not open, and what to do where that is not the TPM's to say.
pub(super) fn reason(error: &IdentityError) -> String {
    match error {
        IdentityError::Tpm(TpmError::NoApproval { .. } | TpmError::BootNotApproved { .. }) => {
            format!("{error}: `gatewayctl identity seal`")
        }
        _ => error.to_string(),
    }
}

impl From<IdentityError> for ControlError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Tpm(TpmError::IdentityExists { .. }) | IdentityError::Exists(_) => {
                Self::AlreadyInitialised(error.to_string())
            }
            IdentityError::Tpm(_) => Self::Tpm(error.to_string()),
            IdentityError::SoftwareTpm(_) | IdentityError::Refused(_) => {
                Self::Refused(error.to_string())
            }
            IdentityError::Invalid(_) => Self::InvalidArgument(error.to_string()),
            IdentityError::Io { .. } | IdentityError::Sealed { .. } | IdentityError::Genesis(_) => {
                Self::Storage(error.to_string())
            }
        }
    }
}
