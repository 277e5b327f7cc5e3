//! The connection of one run of `gatewayctl`, and how answers become JSON.

use std::time::Duration;

use serde_json::Value;

use super::Globals;
use super::exit::Failure;
use crate::config::Bus;
use crate::dbus::client::Client;
use crate::dbus::variant::dict_to_json;
use crate::dbus::{Dict, Error};

/// A connection to the daemon.
pub(super) struct Session {
    pub(super) client: Client,
}

impl Session {
    /// Connects to the bus of the options.
    pub(super) async fn open(globals: &Globals) -> Result<Self, Failure> {
        let bus = match globals.bus.as_str() {
            "system" | "" => Bus::System,
            address => Bus::Address(address.into()),
        };
        let client = Client::connect(&bus, Duration::from_secs(globals.timeout)).await?;
        Ok(Self { client })
    }
}

/// An answer as JSON.
pub(super) fn json(answer: Result<Dict, Error>) -> Result<Value, Failure> {
    Ok(dict_to_json(&answer?))
}

/// A list of answers as JSON.
pub(super) fn json_list(answer: Result<Vec<Dict>, Error>) -> Result<Vec<Value>, Failure> {
    Ok(answer?.iter().map(dict_to_json).collect())
}
