//! What several messages hold.

use ledger::codec::{DecodeError, Decoder, Text};
use ledger::crypto::PublicKey;
use ledger::ids::Hash;

use super::MAX_LOG_PART;
use super::codec::{Bytes, wire};
pub use ledger::policy::Profile;
pub use ledger::transaction::Label;

/// A reason or a state, in a sentence.
pub type Words = Text<400>;

/// Most claims of one appraisal.
pub const MAX_CLAIMS: usize = 16;

/// Most addresses of one member.
const MAX_ADDRESSES: usize = 4;

/// One verdict with its reason; numbers of `attestation::ClaimKind` and `attestation::Status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimWords {
    /// What is claimed.
    pub claim: u8,
    /// The verdict.
    pub status: u8,
    /// Why: also which event or file failed.
    pub reason: Words,
}

wire!(ClaimWords, "claim", 512, [claim, status, reason]);

/// Where a member can be reached: a hint, since who answers there proves itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberAddress {
    /// Its identity key.
    pub identity: PublicKey,
    /// `host:port`, best first.
    pub addresses: Vec<Text<80>>,
}

wire!(MemberAddress, "member", 512, [identity, addresses: list(MAX_ADDRESSES)]);

/// Which measurement logs a challenge asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogsWanted {
    /// The firmware's event log.
    pub event: bool,
    /// The IMA list from this byte on.
    pub ima_from: Option<u64>,
}

wire!(LogsWanted, "logs", 16, [event, ima_from]);

/// An event log that follows its evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventLogHead {
    /// Its length, bytes.
    pub len: u64,
    /// Its SHA-256, which the TPM has attested over.
    pub digest: Hash,
}

wire!(EventLogHead, "event log", 64, [len, digest]);

/// The next part of a log, in order: as long as a part may be, but for the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// Nonce of the challenge.
    pub nonce: Hash,
    /// Whether it is of the IMA list; else of the event log.
    pub ima: bool,
    /// The bytes.
    pub bytes: Bytes<MAX_LOG_PART>,
}

wire!(LogPart, "log part", MAX_LOG_PART + 64, [nonce, ima, bytes]);

impl LogPart {
    /// Of which log it is, in words.
    pub fn what(&self) -> &'static str {
        if self.ima { "IMA log" } else { "event log" }
    }
}

/// Which part of a log is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogQuestion {
    /// Nonce of the challenge that the log was announced in answer to.
    pub nonce: Hash,
    /// Whether it is of the IMA list; else of the event log.
    pub ima: bool,
    /// Its first byte, counted from the beginning of what was announced.
    pub from: u64,
}

wire!(LogQuestion, "log question", 64, [nonce, ima, from]);

/// A policy's profile as the wire has it; the ledger encodes it inside the policy only.
pub(super) fn profile(decoder: &mut Decoder<'_>) -> Result<Profile, DecodeError> {
    match decoder.uint8("profile")? {
        1 => Ok(Profile::TpmOnly),
        2 => Ok(Profile::Measured),
        3 => Ok(Profile::MeasuredIma),
        _ => Err(DecodeError::Invalid("profile")),
    }
}
