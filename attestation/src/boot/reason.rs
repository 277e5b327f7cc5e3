//! What is said of a boot: the very event, in words that an operator can act on.

use std::fmt;

use crate::event_log::EventLogError;

/// Why a boot was affirmed or not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BootReason {
    /// Every event of the policy's registers is one of the reference values.
    Matches {
        /// How many events were compared.
        events: usize,
    },
    /// Nothing was measured since the last appraisal.
    Unchanged,
    /// No event log came, and there is no earlier appraisal that stands for it.
    WholeLogNeeded,
    /// The registers are not proven, since the quote is not.
    NotQuoted,
    /// The policy asks for no register that the firmware extends.
    NoRegisters,
    /// The site has no reference values for the boot.
    NoReferenceValues,
    /// All quoted registers are zero: the firmware measures nothing.
    NothingMeasured,
    /// The policy names a register that an event log does not explain.
    UnexplainedRegister {
        /// The register.
        pcr: u8,
    },
    /// The log cannot be read.
    Log(EventLogError),
    /// The log has no SHA-256 digests.
    NoSha256,
    /// The log does not lead to the quoted value.
    Mismatch {
        /// The first register that differs.
        pcr: u8,
        /// How many events the log has for it.
        events: usize,
    },
    /// The site has no reference values for this register.
    NoReference {
        /// The register.
        pcr: u8,
    },
    /// An event that is not among the reference values.
    UnknownEvent {
        /// The event.
        event: EventSummary,
        /// What the reference values have in its place, if anything.
        expected: Option<String>,
    },
    /// An event whose payload is not what was measured.
    PayloadChanged {
        /// The event.
        event: EventSummary,
    },
    /// The log ends where the reference values go on.
    MissingEvent {
        /// The register.
        pcr: u8,
        /// What should have followed.
        expected: String,
    },
}

/// One event, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSummary {
    /// Its number in the log, from 0.
    pub index: usize,
    /// Its register.
    pub pcr: u8,
    /// Its type in the specification's words. The TPM does not vouch for it.
    pub kind: String,
    /// What it measured, short.
    pub description: String,
    /// Whether the description follows from bytes that hash to the digest.
    pub verified: bool,
}

impl fmt::Display for EventSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, pcr, kind, description, verified } = self;
        write!(f, "event {index} (PCR {pcr}, {kind}")?;
        if !description.is_empty() {
            let claim = if *verified { "" } else { "the log says: " };
            write!(f, ": {claim}{description}")?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for BootReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matches { events } => {
                write!(f, "all {events} events of the boot are among the reference values")
            }
            Self::Unchanged => f.write_str("the same boot as at the last appraisal"),
            Self::WholeLogNeeded => f.write_str("the event log is needed and was not sent"),
            Self::NotQuoted => {
                f.write_str("the registers are not proven: the quote is not accepted")
            }
            Self::NoRegisters => {
                f.write_str("the policy asks for no register that the firmware extends")
            }
            Self::NoReferenceValues => f.write_str(
                "the site has no reference values for the boot; see site policy propose-from",
            ),
            Self::NothingMeasured => f.write_str(
                "all quoted registers are zero: the firmware does not measure what it boots",
            ),
            Self::UnexplainedRegister { pcr } => write!(
                f,
                "the policy asks for PCR {pcr}, which no event log explains under this profile"
            ),
            Self::Log(error) => write!(f, "the event log cannot be read: {error}"),
            Self::NoSha256 => f.write_str("the event log has no SHA-256 digests"),
            Self::Mismatch { pcr, events } => write!(
                f,
                "the event log does not lead to the value of PCR {pcr} ({events} events): it was \
                 cut or changed, or something was measured without being logged"
            ),
            Self::NoReference { pcr } => {
                write!(f, "the site has no reference values for PCR {pcr}")
            }
            Self::UnknownEvent { event, expected: Some(expected) } => {
                write!(f, "{event} is not among the reference values, which have {expected} there")
            }
            Self::UnknownEvent { event, expected: None } => {
                write!(f, "{event} is not among the reference values")
            }
            Self::PayloadChanged { event } => {
                write!(f, "{event} is not what was measured: type or payload were changed")
            }
            Self::MissingEvent { pcr, expected } => {
                write!(f, "PCR {pcr} lacks what the reference values go on with: {expected}")
            }
        }
    }
}
