//! The signed record that the gateways keep together: transactions, blocks, proofs.
//!
//! ```text
//! Draft ─sign─> Transaction ─State::verify─> VerifiedTransaction ─apply─> changed entries, events
//!                                                  │
//!                               Block = header + transactions + parent's certificate
//! ```
//!
//! Without default features this is the light client, `no_std` with `alloc`. The crate knows no
//! clock, socket, thread or randomness (`store` knows a disk): time and bytes come in, effects
//! go out. Everything read from outside is bounded, canonical or refused, and never panics.
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

pub mod block;
pub mod certificate;
pub mod chain;
pub mod codec;
pub mod crypto;
pub mod genesis;
pub mod header;
pub mod ids;
pub mod merkle;
pub mod operator;
pub mod policy;
pub mod state;
pub mod transaction;
pub mod validator_set;
