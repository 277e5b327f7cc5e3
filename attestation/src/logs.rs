//! Measurement logs as they come with evidence, and what a verifier keeps of them between two
//! appraisals. Bytes as they came; nothing here is believed yet.

use crate::attest::Clock;

/// Longest event log that is looked at, in bytes. Real ones are 20 to 200 KiB.
pub const MAX_EVENT_LOG_LEN: usize = 1 << 20;

/// Longest part of an IMA log that is looked at, in bytes: some 100,000 entries. A machine that has
/// run for months has opened some tens of thousands of files, and only its first appraisal needs
/// all of them.
pub const MAX_IMA_LEN: usize = 16 << 20;

/// The logs that explain quoted registers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Logs {
    /// The firmware's event log (`binary_bios_measurements`), whole.
    pub event_log: Option<Vec<u8>>,
    /// The kernel's log (`binary_runtime_measurements`), from where the verifier has read it.
    pub ima: Option<ImaPart>,
}

impl Logs {
    /// No logs: all that `tpm-only` needs.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }
}

/// An IMA log from some offset to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImaPart {
    /// Where in the log the bytes begin: 0, or what the verifier asked for.
    pub from_offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What a verifier keeps of an appraisal that affirmed the boot (and the files). Good for the same
/// boot of the same machine under the same reference values; anything else needs the whole logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// TPM resets and resumes at the quote: which boot it was.
    pub(crate) reset_count: u32,
    pub(crate) restart_count: u32,
    /// Digest of the attestation key and of the policy that judged: see [`crate::verifier`].
    pub(crate) context: [u8; 32],
    /// Digest of the quoted registers that the event log explained.
    pub(crate) boot: [u8; 32],
    /// How far the IMA log was judged.
    pub(crate) ima: Option<ImaProgress>,
}

/// A place in an IMA log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImaProgress {
    /// Bytes of the log that were judged.
    pub(crate) offset: u64,
    /// Value of the register there.
    pub(crate) register: [u8; 32],
}

impl Judged {
    /// From where the IMA log has to be sent: 0 for the whole log.
    #[must_use]
    pub fn ima_offset(&self) -> u64 {
        self.ima.map_or(0, |progress| progress.offset)
    }

    /// Whether it is of the boot that this clock tells.
    pub(crate) fn is_of(&self, clock: Clock, context: &[u8; 32]) -> bool {
        self.reset_count == clock.reset_count
            && self.restart_count == clock.restart_count
            && self.context == *context
    }
}
