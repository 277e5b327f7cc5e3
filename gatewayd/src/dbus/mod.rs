//! The management interface on D-Bus: `org.gatewayd.Gateway1`.
//!
//! ```text
//! /org/gatewayd/Gateway1                 ObjectManager, Manager, Pairing, Ledger, Attestation
//! /org/gatewayd/Gateway1/sensors/ln1…    Sensor
//! /org/gatewayd/Gateway1/gateways/gw1…   Gateway
//! ```
//!
//! One file an interface, holding server and proxy. Handlers check, send, await and map the error;
//! they hold no logic and no state. The major version is in the names: members are added, and no
//! signature ever changes. It must not know drivers, ledger or TPM.

pub mod attestation;
pub mod client;
pub mod error;
mod gate;
pub mod gateway;
pub mod ledger;
pub mod manager;
mod objects;
mod options;
pub mod pairing;
pub mod sensor;
mod service;
#[cfg(test)]
mod tests;
pub mod variant;

pub use error::Error;
pub use service::{BusState, Service};
pub use variant::Dict;

/// Well-known name on the bus.
pub const NAME: &str = "org.gatewayd.Gateway1";

/// Path of the root object.
pub const PATH: &str = "/org/gatewayd/Gateway1";

/// Longest name or ID in an argument, bytes: 64 characters of a site's or sensor's name.
const MAX_NAME: usize = 256;

fn dict<T: serde::Serialize>(value: &T) -> Result<Dict, Error> {
    variant::to_dict(value).map_err(|error| Error::Internal(error.to_string()))
}

fn dicts<T: serde::Serialize>(values: &[T]) -> Result<Vec<Dict>, Error> {
    values.iter().map(dict).collect()
}
