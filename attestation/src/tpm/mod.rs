//! The attester half: one thread owns the TPM and everybody else asks it.
//!
//! ```text
//!   any thread ── Tpm::sign_identity, quote, … ──> two bounded queues ──> thread "tpm"
//!        ^                                          signing first            │ Engine
//!        └──────────── answer, or a deadline ─────────────────────────────────┘ (Context, keys)
//! ```
//!
//! A TPM that is absent, slow or hung never hangs a caller: every call has a deadline and a typed
//! error that says in words what is wrong and what to do. A transport failure kills the library's
//! context for ever, so it is dropped and built anew, and the keys are loaded again.
//!
//! This is the only place that may name `tss_esapi`. Its helpers for attestation keys are not
//! used: they open unsalted sessions that newer libraries break, and their keys are subject to
//! dictionary attack lockout.

mod authorized;
mod blob;
mod connection;
mod error;
mod objects;
mod response;
mod tcti;

pub mod keys;
pub mod nv;
pub mod seal;
pub mod thread;

pub use authorized::sealed_to;
pub use blob::KEY_FILE;
pub use error::TpmError;
pub use keys::{Certified, IdentityInfo, Quoted, TpmInfo};
pub use seal::MAX_SEALED_LEN;
pub use tcti::{Tcti, TctiError};
pub use thread::{Deadlines, Tpm};
