//! The site's appraisal policy for evidence (RFC 9334, 8.5). It says what is trusted; it holds no
//! secret and knows no TPM.

use crate::endorsement::Anchor;
use crate::pcr::PcrSelection;

/// How much of the boot is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Profile {
    /// EK chain, residency of the keys, a fresh quote. The boot is reported as not measured.
    TpmOnly,
}

/// The appraisal policy.
#[derive(Debug, Clone)]
pub struct Policy {
    /// How much of the boot is judged.
    pub profile: Profile,
    /// The registers that a quote must cover: exactly these.
    pub pcrs: PcrSelection,
    /// Certificate authorities that may vouch for an EK. None is trusted unless it is here.
    pub anchors: Vec<Anchor>,
    /// SHA-256 of EK public areas that the operator has pinned by hand.
    pub pinned_eks: Vec<[u8; 32]>,
    /// Whether a software TPM is admitted (`insecure_software_tpm_sites`: demo and tests).
    pub allow_software_tpm: bool,
}

impl Policy {
    /// The policy that trusts nothing: no anchor, no pin, no software TPM.
    #[must_use]
    pub fn deny_all() -> Self {
        Self {
            profile: Profile::TpmOnly,
            pcrs: PcrSelection::FIRMWARE,
            anchors: Vec::new(),
            pinned_eks: Vec::new(),
            allow_software_tpm: false,
        }
    }
}
