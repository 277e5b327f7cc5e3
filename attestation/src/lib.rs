//! TPM 2.0 keys and evidence, and the verifier that appraises them (RFC 9334).
//!
//! Two halves that do not know each other's work:
//!
//! ```text
//!   attester:  TPM ──tpm::Tpm (one thread)──> Evidence, Endorsements
//!                                                  │  bytes on the wire
//!   verifier:  make_credential ─> challenge        v
//!              appraise(evidence, endorsements, logs, reference values, policy, challenge)
//!                                                  └─> AttestationResult
//! ```
//!
//! The verifier half is pure: it has no clock, socket, thread or TPM library, and time and
//! entropy are arguments. (The padding of RSA-OAEP is the one random value it does not take from
//! its caller: the cryptographic library makes it.) The attester half, [`tpm`], is behind the
//! feature `tpm` and is the only place where the TPM2 software stack may be named.

mod bytes;
mod crypto;
mod measured;

pub mod activation;
pub mod attest;
pub mod boot;
pub mod certify;
pub mod endorsement;
pub mod event_log;
pub mod evidence;
pub mod fuzz;
pub mod ima;
pub mod logs;
pub mod manufacturer;
pub mod pcr;
pub mod pcr_policy;
pub mod policy;
pub mod propose;
pub mod public;
pub mod quote;
pub mod reference_values;
pub mod result;
pub mod signature;
pub mod template;
#[cfg(feature = "tpm")]
pub mod tpm;
pub mod verifier;

pub use bytes::ParseError;
pub use evidence::{Endorsements, Evidence};
pub use logs::{ImaPart, Judged, Logs};
pub use policy::{Policy, Profile};
pub use propose::propose;
pub use reference_values::ReferenceValues;
pub use result::{AttestationResult, Claim, ClaimKind, Reason, Status};
pub use verifier::{Challenge, appraise};
