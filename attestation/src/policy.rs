//! The site's appraisal policy for evidence (RFC 9334, 8.5). It says what is trusted; it holds no
//! secret and knows no TPM.

use crate::endorsement::Anchor;
use crate::pcr::PcrSelection;

/// How much of the boot is judged. The numbers are those of the site's policy on the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum Profile {
    /// EK chain, residency of the keys, a fresh quote. The boot is reported as not measured.
    TpmOnly = 1,
    /// Also the event log of the firmware against reference values.
    Measured = 2,
    /// Also the kernel's log of the files that it opened (IMA) against reference values.
    MeasuredIma = 3,
}

impl Profile {
    /// The profile of that number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::TpmOnly, Self::Measured, Self::MeasuredIma]
            .into_iter()
            .find(|profile| *profile as u8 == number)
    }

    /// The word for it in interfaces.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TpmOnly => "tpm-only",
            Self::Measured => "measured",
            Self::MeasuredIma => "measured+ima",
        }
    }

    /// Whether a verifier asks for the event log.
    #[must_use]
    pub fn wants_event_log(self) -> bool {
        self != Self::TpmOnly
    }

    /// Whether a verifier asks for the IMA log.
    #[must_use]
    pub fn wants_ima(self) -> bool {
        self == Self::MeasuredIma
    }
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
