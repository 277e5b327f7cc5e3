//! Reference values proposed from what a gateway has measured: a fresh quote, and logs that have to
//! lead to the quoted registers. The operator signs them, or does not.

use attestation::activation::{ENTROPY_LEN, make_credential};
use attestation::logs::{ImaPart, Logs};
use attestation::pcr::PcrSelection;
use attestation::public::Public;
use attestation::tpm::{IdentityInfo, Tpm};
use attestation::{Evidence, Profile, ReferenceValues, propose};
use ledger::ids::NodeId;

use super::{Control, ControlError, Result, blocking};
use crate::admission::learning::learn;
use crate::admission::logs::MachineLogs;
use crate::vault;

impl Control {
    /// Documents of reference values that accept what a gateway has booted, under the profile
    /// `measured` or `measured+ima`. Another member is asked for a fresh quote and its logs.
    ///
    /// # Errors
    /// No such gateway, or it does not prove its TPM; no log; the log does not lead to the
    /// registers; the TPM does not answer.
    pub async fn propose_reference_values(
        &self,
        gateway: &str,
        profile: &str,
    ) -> Result<Vec<Vec<u8>>> {
        let parts = self.parts()?;
        let profile = [Profile::Measured, Profile::MeasuredIma]
            .into_iter()
            .find(|known| known.as_str() == profile)
            .ok_or_else(|| {
                ControlError::InvalidArgument("the profile is measured or measured+ima".into())
            })?;
        let gateway = self.gateway(gateway).await?;
        let found = if gateway.own {
            self.propose_from_self(profile).await?
        } else {
            let wrong =
                |error: ledger::ids::ParseIdError| ControlError::Internal(error.to_string());
            let (_, node) = NodeId::parse(&gateway.id).map_err(wrong)?;
            learn(&parts.ledger, &parts.peers, parts.gateway, node, profile).await?
        };
        Ok(found.iter().map(ReferenceValues::to_bytes).collect())
    }

    async fn propose_from_self(&self, profile: Profile) -> Result<Vec<ReferenceValues>> {
        let parts = self.parts()?;
        let pcrs = parts.ledger.view(|state| state.policy().pcrs).await?;
        let (tpm, info) = (self.tpm.clone(), parts.identity.clone());
        let machine = MachineLogs::by_helper(&self.settings.logs_socket);
        blocking(move || {
            // The log may be ahead of the quote, not behind it.
            let evidence = quote(&tpm, &info, pcrs)?;
            let logs = logs(&machine, profile)?;
            propose(&evidence, &logs, profile)
                .map_err(|error| ControlError::Refused(error.to_string()))
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
