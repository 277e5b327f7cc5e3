//! What can go wrong with a TPM, in the words of who has to mend it.

use std::path::PathBuf;
use std::time::Duration;

use crate::bytes::ParseError;
use crate::tpm::response::{self, Class, Response};
use crate::tpm::tcti::TctiError;

/// An error of the attester half.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// Configuration: the address is not one.
    #[error(transparent)]
    Address(#[from] TctiError),

    /// Hardware: there is no such device.
    #[error(
        "no TPM at {path}: is one fitted, enabled in the firmware setup, and its driver loaded? \
         On a Raspberry Pi add the line dtoverlay=tpm-slb9670 (for an Infineon SLB 9670 or 9672 \
         on SPI) to /boot/firmware/config.txt and restart"
    )]
    DeviceMissing {
        /// The device file.
        path: PathBuf,
    },

    /// Operator: the user may not open the device.
    #[error(
        "no permission to open the TPM {path}: its users are the group tss. Run \
         \"usermod -aG tss USER\" (or SupplementaryGroups=tss in the unit) and start again"
    )]
    Permission {
        /// The device file.
        path: PathBuf,
    },

    /// Operator: another program has the raw device.
    #[error("the TPM {path} is in use by another program; use device:/dev/tpmrm0, which is shared")]
    DeviceBusy {
        /// The device file.
        path: PathBuf,
    },

    /// Hardware or operator: the device cannot be opened for another reason.
    #[error("the TPM {path} cannot be opened: {error}")]
    Device {
        /// The device file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },

    /// Operator: no software TPM listens.
    #[error("no software TPM answers at {address}: is its service running? ({error})")]
    Unreachable {
        /// Host and control port.
        address: String,
        /// What the system says.
        error: std::io::Error,
    },

    /// Hardware: the connection broke, also when built anew. Trying later may help.
    #[error("the connection to the TPM at {address} broke ({command}, code {code:#010x})")]
    Lost {
        /// The TCTI string.
        address: String,
        /// The command during which it broke.
        command: &'static str,
        /// The library's code.
        code: u32,
    },

    /// Hardware: no answer in time. The command may still be carried out.
    #[error("the TPM did not answer within {} s ({command})", after.as_secs_f32())]
    Timeout {
        /// What was asked.
        command: &'static str,
        /// The deadline.
        after: Duration,
    },

    /// Hardware: an earlier command has been running for so long that nothing more is queued.
    #[error("the TPM has been silent for {} s: it hangs, or is far too slow", since.as_secs())]
    Hung {
        /// How long the running command has taken.
        since: Duration,
    },

    /// Load: the queue is full. Trying later helps.
    #[error("too many requests wait for the TPM")]
    Busy,

    /// The system: it gives no thread.
    #[error("the TPM thread cannot be started: {error}")]
    Thread {
        /// What the system says.
        error: std::io::Error,
    },

    /// The TPM thread has ended.
    #[error("the TPM thread has been shut down")]
    ShutDown,

    /// Hardware: the TPM refused a command.
    #[error("the TPM refused {command}: {text} (code {code:#x})")]
    Refused {
        /// The command.
        command: &'static str,
        /// The library's words.
        text: String,
        /// The code.
        code: u32,
    },

    /// Operator: a hierarchy of the TPM has a password, which this program does not know.
    #[error(
        "the TPM's {hierarchy} hierarchy has a password set; clear the TPM in the firmware setup, \
         or remove the password with tpm2_changeauth -c {hierarchy}"
    )]
    HierarchyPassword {
        /// owner or endorsement.
        hierarchy: &'static str,
    },

    /// Operator: wrong passwords of some program have locked the TPM.
    #[error("the TPM is locked after too many wrong passwords; see tpm2_dictionarylockout")]
    Lockout,

    /// The library refused an argument or an answer of the TPM: a bug, or a broken TPM.
    #[error("the TPM library failed at {command}: {text}")]
    Library {
        /// The command.
        command: &'static str,
        /// The library's words.
        text: String,
    },

    /// Hardware: the TPM answered with something that does not parse.
    #[error("the TPM's answer to {command} is malformed: {error}")]
    Malformed {
        /// The command.
        command: &'static str,
        /// What is wrong.
        error: ParseError,
    },

    /// Hardware: the TPM has no SHA-256 bank, or not all the registers.
    #[error(
        "the TPM has no SHA-256 bank with the asked registers; enable it in the firmware setup"
    )]
    PcrBank,

    /// Hardware: the registers changed under each of several quotes.
    #[error("the TPM's registers change faster than they can be quoted")]
    PcrUnstable,

    /// No key of any endorsement template could be made.
    #[error("the TPM can make no endorsement key (P-256, P-384 or RSA-2048)")]
    NoEndorsementKey,

    /// An identity exists: it is never overwritten.
    #[error("an identity exists already in {path}: it is never overwritten")]
    IdentityExists {
        /// The key file.
        path: PathBuf,
    },

    /// There is no identity yet.
    #[error("there is no identity in {path} yet: found a site or join one first")]
    NoIdentity {
        /// The key file.
        path: PathBuf,
    },

    /// The keys belong to another TPM.
    #[error(
        "this is another TPM than at init: the identity was made in another one. Put the old TPM \
         (or mainboard) back, or have the operator replace this gateway"
    )]
    AnotherTpm,

    /// The same TPM, but its owner hierarchy was cleared: the keys are gone for ever.
    #[error(
        "the TPM was cleared since init: the identity is lost. The operator has to replace this \
         gateway"
    )]
    Cleared,

    /// A blob is not what was written.
    #[error("the key file {what} is damaged: {why}; restore it from a backup")]
    Damaged {
        /// The file, or what the blob is.
        what: String,
        /// What is wrong with it.
        why: &'static str,
    },

    /// Our disk: a key file cannot be read or written.
    #[error("{}: {error}", path.display())]
    Storage {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },

    /// The caller wants to seal more than a TPM takes.
    #[error("a secret of {len} bytes cannot be sealed; {max} is the most")]
    SecretTooLong {
        /// Its length.
        len: usize,
        /// The bound.
        max: usize,
    },

    /// Operator: no signature of the right key in the right epoch is at hand.
    #[error(
        "the operator has signed no PCR policy for epoch {epoch} with the key that this secret is \
         sealed to"
    )]
    NoApproval {
        /// The epoch of the secret.
        epoch: u64,
    },

    /// Operator: this boot is not one of those that were signed.
    #[error(
        "this boot is not approved: its registers are in none of the {approvals} PCR policies that \
         the operator has signed. Boot what was approved, or have the operator sign this boot"
    )]
    BootNotApproved {
        /// How many were tried.
        approvals: usize,
    },

    /// The peer: the credential is not for this TPM and this attestation key.
    #[error("the credential was made for another TPM or another attestation key")]
    ForeignCredential,

    /// Operator: the NV index of the start counter is something else.
    #[error(
        "NV index {index:#010x} of the TPM, which holds gatewayd's start counter, is in use by \
         another program ({found})"
    )]
    CounterForeign {
        /// The index.
        index: u32,
        /// What was found there.
        found: String,
    },

    /// The start counter is not there: never defined, or the TPM was cleared or exchanged.
    #[error("the TPM has no start counter at NV index {index:#010x}: it was cleared, or exchanged")]
    CounterMissing {
        /// The index.
        index: u32,
    },
}

impl TpmError {
    /// Whether a new connection may help: the transport is dead or objects are gone.
    pub(super) fn wants_reconnection(&self) -> bool {
        match self {
            Self::Lost { .. } => true,
            Self::Refused { code, .. } => Response(*code).class() == Class::Stale,
            _ => false,
        }
    }

    /// Whether the TPM refused with this code.
    pub(super) fn is_refusal(&self, wanted: u32) -> bool {
        matches!(self, Self::Refused { code, .. } if Response(*code).is(wanted))
    }

    /// Whether the TPM refused because a hierarchy has a password.
    pub(super) fn is_bad_auth(&self) -> bool {
        self.is_refusal(response::BAD_AUTH) || self.is_refusal(response::AUTH_FAIL)
    }

    /// Whether this says that there is no TPM now (so that waiting for one makes sense).
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::DeviceMissing { .. }
                | Self::Permission { .. }
                | Self::DeviceBusy { .. }
                | Self::Device { .. }
                | Self::Unreachable { .. }
                | Self::Lost { .. }
                | Self::Timeout { .. }
                | Self::Hung { .. }
        )
    }
}

/// Names the command in a library error.
pub(super) trait During<T> {
    /// Maps the error of `command`.
    fn during(self, command: &'static str) -> Result<T, TpmError>;
}

impl<T> During<T> for Result<T, tss_esapi::Error> {
    fn during(self, command: &'static str) -> Result<T, TpmError> {
        self.map_err(|error| {
            let Some(response) = Response::of(&error) else {
                return TpmError::Library { command, text: error.to_string() };
            };
            let code = response.0;
            if response.is_lockout() {
                return TpmError::Lockout;
            }
            match response.class() {
                // The address is filled in by the engine, which knows it.
                Class::Dead => TpmError::Lost { address: String::new(), command, code },
                Class::Stale | Class::Refused => {
                    TpmError::Refused { command, text: error.to_string(), code }
                }
            }
        })
    }
}

/// Names the command whose answer did not parse.
pub(super) trait Answering<T> {
    /// Maps the error of parsing the answer to `command`.
    fn answering(self, command: &'static str) -> Result<T, TpmError>;
}

impl<T> Answering<T> for Result<T, ParseError> {
    fn answering(self, command: &'static str) -> Result<T, TpmError> {
        self.map_err(|error| TpmError::Malformed { command, error })
    }
}
