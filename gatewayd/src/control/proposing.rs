//! Reference values proposed from what this gateway has measured: its own fresh quote, and its own
//! logs, which have to lead to the quoted registers. The operator signs them, or does not.

use attestation::activation::{ENTROPY_LEN, make_credential};
use attestation::logs::{ImaPart, Logs};
use attestation::pcr::PcrSelection;
use attestation::public::Public;
use attestation::tpm::{IdentityInfo, Tpm};
use attestation::{Evidence, Profile, propose};

use super::{Control, ControlError, Result, blocking};
use crate::admission::logs::MachineLogs;
use crate::vault;

impl Control {
    /// Documents of reference values that accept what this gateway has booted, under the profile
    /// `measured` or `measured+ima`.
    ///
    /// # Errors
    /// Another gateway was named: its logs are on it. No log; the log does not lead to the
    /// registers; the TPM does not answer.
    pub async fn propose_reference_values(
        &self,
        gateway: &str,
        profile: &str,
    ) -> Result<Vec<Vec<u8>>> {
        let parts = self.parts()?;
        if !self.gateway(gateway).await?.own {
            let what = "a gateway's measurement logs are on that gateway: propose from it there \
                        (`site policy propose-from self --out FILE`) and take the file along";
            return Err(ControlError::Refused(what.into()));
        }
        let profile = [Profile::Measured, Profile::MeasuredIma]
            .into_iter()
            .find(|known| known.as_str() == profile)
            .ok_or_else(|| {
                ControlError::InvalidArgument("the profile is measured or measured+ima".into())
            })?;
        let pcrs = parts.ledger.view(|state| state.policy().pcrs).await?;
        let (tpm, info) = (self.tpm.clone(), parts.identity.clone());
        let machine = MachineLogs::by_helper(&self.settings.logs_socket);
        blocking(move || {
            // The log may be ahead of the quote, not behind it.
            let evidence = quote(&tpm, &info, pcrs)?;
            let logs = logs(&machine, profile)?;
            let found = propose(&evidence, &logs, profile)
                .map_err(|error| ControlError::Refused(error.to_string()))?;
            Ok(found.iter().map(attestation::ReferenceValues::to_bytes).collect())
        })
        .await
    }
}

fn logs(machine: &MachineLogs, profile: Profile) -> Result<Logs> {
    let missing =
        |error: crate::admission::logs::LogError| ControlError::Unavailable(error.to_string());
    let event_log = profile.wants_event_log().then(|| machine.event_log()).transpose();
    let ima = profile.wants_ima().then(|| machine.ima(0)).transpose();
    Ok(Logs {
        event_log: event_log.map_err(missing)?,
        ima: ima.map_err(missing)?.map(|bytes| ImaPart { from_offset: 0, bytes }),
    })
}

/// This gateway challenges itself: nobody else has to believe the quote.
fn quote(tpm: &Tpm, info: &IdentityInfo, pcrs: u32) -> Result<Evidence> {
    let internal = |error: &dyn std::fmt::Display| ControlError::Internal(error.to_string());
    let pcrs = PcrSelection::from_bits(pcrs).map_err(|error| internal(&error))?;
    let ek = Public::parse(&info.ek_public).map_err(|error| internal(&error))?;
    let ak = Public::parse(&info.ak_public).map_err(|error| internal(&error))?;
    let (secret, entropy) = (random::<32>()?, random::<ENTROPY_LEN>()?);
    let blob =
        make_credential(&ek, &ak.name(), &secret, &entropy).map_err(|error| internal(&error))?;
    tpm.attest(random()?, pcrs, blob).map_err(|error| ControlError::Tpm(error.to_string()))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let none = |_| ControlError::Internal("the system gives no random bytes".into());
    vault::random().map_err(none)
}
