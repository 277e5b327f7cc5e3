//! Newcomers that were appraised here, and how gateways stand with their attestation.

use ledger::ids::{NodeId, NodeKind};
use serde::Serialize;

use super::{ClaimInfo, CommittedInfo, Control, ControlError, Result};

/// A newcomer that asked to become a member, as this gateway saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AdmissionInfo {
    /// `gw1…`.
    pub id: String,
    /// Identity key, hex, SEC1 compressed: what an approval names.
    pub identity_key: String,
    /// SHA-256 of its EK's public area, hex: what an approval names.
    pub ek_digest: String,
    /// `RSA-2048`, `P-256` or `P-384`.
    pub ek_type: &'static str,
    /// Manufacturer, model and version of its TPM, in words.
    pub tpm: String,
    /// It asks for the label full node.
    pub full: bool,
    /// It asks for the label coordinator.
    pub coordinator: bool,
    /// What it measured of itself, in its own words.
    pub measurements: String,
    /// Attestation policy that it was appraised under, hex: what an approval names.
    pub policy_hash: String,
    /// The verdicts, each with its reason.
    pub claims: Vec<ClaimInfo>,
    /// `needs-approval`, `endorsed` or `refused`.
    pub state: &'static str,
    /// Why it is refused or what it waits for, in a sentence.
    pub reason: String,
    /// True when nobody the site trusts vouches for its EK: an approval must pin it.
    pub needs_pin: bool,
    /// Address that it asked from.
    pub from: String,
    /// When it was first seen here, ms since 1970.
    pub since_ms: u64,
    /// When it was last seen here, ms since 1970.
    pub seen_ms: u64,
    /// `gw1…` of the gateway with the same TPM that it would replace.
    pub replaces: Option<String>,
}

/// How a gateway stands with its attestation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttestationInfo {
    /// `gw1…`.
    pub id: String,
    /// `attested`, `stale`, `unverified`, `unattested`.
    pub state: &'static str,
    /// Block that recorded the attestation.
    pub height: Option<u64>,
    /// Time of that block, ms since 1970.
    pub time_ms: Option<u64>,
    /// Until when it holds, block time, ms since 1970.
    pub valid_until_ms: Option<u64>,
    /// Whether the policy that was applied is still the site's.
    pub current_policy: Option<bool>,
    /// Claims that the policy accepted without proof.
    pub warnings: Vec<&'static str>,
    /// The newest appraisal made by this gateway itself since it started.
    pub last: Option<AppraisalInfo>,
    /// Of this gateway itself: what its renewal waits for, in a sentence.
    pub renewal: Option<String>,
}

/// An appraisal made here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AppraisalInfo {
    /// When, ms since 1970.
    pub time_ms: u64,
    /// Whether nothing was contraindicated.
    pub accepted: bool,
    /// The verdicts.
    pub claims: Vec<ClaimInfo>,
    /// Resets (reboots) that its TPM counts.
    pub reset_count: u32,
}

impl Control {
    /// Newcomers that are not members yet, newest last.
    ///
    /// # Errors
    /// No site runs.
    pub async fn admissions(&self) -> Result<Vec<AdmissionInfo>> {
        self.parts()?.admission.pending().await
    }

    /// How a gateway stands with its attestation.
    ///
    /// # Errors
    /// Not a gateway's ID, or no member.
    pub async fn attestation_of(&self, id: &str) -> Result<AttestationInfo> {
        let parts = self.parts()?;
        let node = match NodeId::parse(id) {
            Ok((NodeKind::Gateway, node)) => node,
            Ok(_) => return Err(ControlError::InvalidArgument(format!("{id} is no gateway"))),
            Err(error) => return Err(ControlError::InvalidArgument(error.to_string())),
        };
        parts.admission.attestation_of(node).await
    }

    /// Renews this gateway's attestation now; returns when that is committed.
    ///
    /// # Errors
    /// Not enough voters are connected, a verifier refused, the TPM does not answer.
    pub async fn renew_attestation(&self) -> Result<CommittedInfo> {
        self.parts()?.admission.renew().await
    }
}
