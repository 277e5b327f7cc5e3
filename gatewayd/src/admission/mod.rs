//! Admission of a gateway (RFC 9334): what a newcomer and the members say to each other, and what
//! each side does about it.
//!
//! ```text
//!  newcomer (attester)                               member (verifier, relying party)
//!     Head{site code} ──────────────────────────────> genesis, proof of its own membership
//!     (checks them; says nothing before that)
//!     Join{keys, endorsements} ─────────────────────> Challenge{nonce, credential, registers}
//!     Evidence{activation, certification, quote} ───> SendLogs, where the policy wants them
//!     Log, Log, … ──────────────────────────────────> Appraised{claims, endorsement}
//!     Admit{endorsements of more than 2/3} ─────────> a member authors the transaction
//! ```
//!
//! The newcomer dials; every voter makes its own challenge. Nothing of the ledger's rules is here.

pub mod appraise_founder;
pub mod attester;
pub mod collect;
pub mod endorsing;
pub mod exchange;
pub mod fetching;
pub mod founder;
pub mod handing;
pub mod head;
pub mod join;
pub mod learning;
pub mod logs;
mod measure;
pub mod member;
pub mod membership;
pub mod messages;
pub mod newcomer;
pub mod quorum;
pub mod renewal;
pub mod verifier;
