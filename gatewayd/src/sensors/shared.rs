//! What every driver task needs of the rest: where readings and sessions go.

use std::sync::Arc;

use drivers::device::Identity;
use drivers::reading::VerifiedReading;
use ledger::ids::{ChainId, NodeId};
use tokio::sync::{broadcast, watch};

use crate::clock::{self, SiteClock};
use crate::control::Event;
use crate::store::{Entry, NodeBytes};
use crate::vault::{OpenError, Vault};
use crate::{ingest, ledger_task};

/// Handles; cheap to clone.
#[derive(Clone)]
pub struct Shared {
    /// Chain of this site.
    pub chain_id: ChainId,
    /// The durable buffer.
    pub ingest: ingest::Handle,
    /// The ledger.
    pub ledger: ledger_task::Handle,
    /// The storage key.
    pub vault: Arc<Vault>,
    /// The record's time.
    pub clock: watch::Receiver<SiteClock>,
    /// For alerts.
    pub events: broadcast::Sender<Event>,
}

impl Shared {
    /// Node ID of an identity on this site.
    pub fn node(&self, identity: &Identity) -> NodeId {
        node_id(identity, &self.chain_id)
    }

    /// A verified reading as it is kept: drivers count in boot time, the record in Unix time.
    pub fn entry(&self, node: NodeBytes, reading: &VerifiedReading) -> Entry {
        let (now, quality) = self.clock.borrow().now();
        let age = clock::boot_ms().saturating_sub(reading.received_ms());
        Entry {
            node,
            epoch: reading.epoch(),
            counter: reading.counter(),
            time_ms: now.saturating_sub(age),
            quality: quality.code(),
            level: reading.level().number(),
            senml: reading.senml().to_vec(),
            signature: reading.device_signature().and_then(|bytes| bytes.try_into().ok()),
        }
    }

    /// Seals a session record.
    pub fn seal_session(&self, node: &NodeBytes, record: &[u8]) -> Result<Vec<u8>, OpenError> {
        self.vault.seal(&[b"session", node], record)
    }
}

/// Node ID of a driver's identity: the ledger's five kinds are the driver's five kinds.
pub fn node_id(identity: &Identity, chain_id: &ChainId) -> NodeId {
    NodeId::derive(&ledger_identity(identity), chain_id)
}

/// The ledger's name for a driver's identity.
pub fn ledger_identity(identity: &Identity) -> ledger::ids::Identity {
    use ledger::ids::Identity as Ledger;
    match *identity {
        Identity::PublicKey(key) => Ledger::PublicKey(key),
        Identity::DevEui(eui) => Ledger::DevEui(eui),
        Identity::Ble { addr, random } => Ledger::Ble { addr, random },
        Identity::SerialDevice(id) => Ledger::SerialDevice(id),
        Identity::Bus { bus, unit } => Ledger::Bus { bus, unit },
    }
}
