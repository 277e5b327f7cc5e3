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

pub mod batch;
pub mod block;
pub mod certificate;
pub mod chain;
pub mod codec;
#[cfg(feature = "full")]
pub mod consensus;
pub mod crypto;
#[cfg(test)]
mod fixture;
pub mod genesis;
#[cfg(test)]
mod golden;
pub mod header;
#[cfg(feature = "full")]
pub mod host;
pub mod ids;
pub mod light;
#[cfg(feature = "full")]
pub mod mempool;
pub mod merkle;
#[cfg(feature = "full")]
pub mod node;
pub mod operator;
pub mod policy;
pub mod proof;
pub mod state;
#[cfg(feature = "full")]
pub mod store;
#[cfg(feature = "full")]
pub mod sync;
pub mod transaction;
pub mod validator_set;
pub mod vote;
