//! Boots that open the storage key: prepared here, signed by the operator, kept here. They are no
//! part of the record: each is for one TPM.

use attestation::pcr_policy::Approval;
use ledger::store::Reader;

use super::{Control, ControlError, KeptBootInfo, Result, blocking, storage};
use crate::boot_seal::{self, Rules};
use crate::identity::Folder;

impl Control {
    /// What the operator is to sign so that the storage key opens in a boot with the registers of
    /// now, but for those given.
    ///
    /// # Errors
    /// `Refused`: no measured profile, registers of zeros, a register that the policy does not
    /// look at. No site; the TPM does not answer.
    pub async fn prepare_boot(
        &self,
        registers: Vec<(u8, [u8; 32])>,
        new_epoch: bool,
    ) -> Result<Vec<u8>> {
        let open = self.running.borrow().is_some();
        let (tpm, dir) = (self.tpm.clone(), self.settings.data_dir.clone());
        blocking(move || {
            let folder = site_folder(&dir)?;
            let rules = rules(&dir)?;
            let boot = boot_seal::prepare(&folder, &tpm, &rules, &registers, new_epoch, open)?;
            Ok(boot.to_bytes())
        })
        .await
    }

    /// Keeps a signed boot; seals the storage key to the operator's word where it is not yet.
    ///
    /// # Errors
    /// `Refused`: not the operator's signature, another epoch, too many. The TPM does not give the
    /// storage key back.
    pub async fn add_boot(&self, boot: Vec<u8>, signature: [u8; 64]) -> Result<KeptBootInfo> {
        let boot = Approval::from_bytes(&boot)
            .map_err(|error| ControlError::InvalidArgument(error.to_string()))?;
        let signed = Approval { signature, ..boot };
        let (tpm, dir) = (self.tpm.clone(), self.settings.data_dir.clone());
        let kept = blocking(move || {
            let folder = site_folder(&dir)?;
            Ok(boot_seal::keep(&folder, &tpm, &rules(&dir)?, signed)?)
        });
        let boot_seal::Kept { sealed, boots, epoch } = kept.await?;
        let opens = format!("it opens in {boots} boot(s) that the operator has signed");
        let summary = match sealed {
            true => format!("the storage key is sealed to the operator's word; {opens}"),
            false => format!("that boot may open the storage key; {opens}"),
        };
        let boots = u32::try_from(boots).unwrap_or(u32::MAX);
        Ok(KeptBootInfo { sealed, boots, epoch, summary })
    }
}

fn site_folder(dir: &std::path::Path) -> Result<Folder> {
    let folder = Folder::at(dir)?;
    match folder.genesis()? {
        Some(_) => Ok(folder),
        None => Err(ControlError::NotInitialised),
    }
}

/// From the record on the disk, which is there also while no key is open.
fn rules(dir: &std::path::Path) -> Result<Rules> {
    let reader = Reader::open(dir).map_err(storage)?;
    let policy = reader.policy().map_err(storage)?;
    Ok(Rules { policy, operator: reader.site().map_err(storage)?.operator })
}
