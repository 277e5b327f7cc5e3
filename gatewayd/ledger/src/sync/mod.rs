//! How a gateway without blocks gets the ledger: a verified snapshot of state and history, from
//! which it goes on with blocks like every other.
//!
//! ```text
//! trusted header (light client, site code)
//!        │                         member that serves: store::SnapshotServer
//!     Client ──SnapshotRequest──>  Newest, Steps, Entries
//!        │   <─────Snapshot──────  manifest, changes of the voters, state entries
//!        └─> VerifiedSnapshot ──> Store::found_from ──> Host
//! ```
//!
//! Nothing that a server says is believed: its header must be certified by voters that follow
//! from the trusted header, its state must have that header's root, its history peaks that
//! header's history root. No clock, disk or socket here.

pub mod client;
pub mod snapshot;
pub mod wire;

#[cfg(test)]
mod tests;

pub use client::Client;
pub use snapshot::{Entry, Snapshot, SnapshotError, VerifiedSnapshot};
