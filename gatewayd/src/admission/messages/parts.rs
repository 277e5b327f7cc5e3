//! What several messages hold.

use ledger::codec::{DecodeError, Decoder, Text};
use ledger::crypto::PublicKey;

use super::codec::wire;
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

/// A policy's profile as the wire has it; the ledger encodes it inside the policy only.
pub(super) fn profile(decoder: &mut Decoder<'_>) -> Result<Profile, DecodeError> {
    match decoder.uint8("profile")? {
        1 => Ok(Profile::TpmOnly),
        2 => Ok(Profile::Measured),
        3 => Ok(Profile::MeasuredIma),
        _ => Err(DecodeError::Invalid("profile")),
    }
}
