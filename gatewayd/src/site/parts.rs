//! The parts that take readings and write the record, opened together on one disk.

use std::sync::Arc;
use std::thread::JoinHandle;

use attestation::tpm::IdentityInfo;
use ledger::codec::Text;
use ledger::crypto::SigningKey;
use ledger::host::Host;
use ledger::ids::{ChainId, NodeId};
use tokio::sync::mpsc;

use super::Site;
use crate::bridge::{self, MAX_BRIDGES};
use crate::identity::identity_key;
use crate::peers::{self, BridgeLink, Incoming};
use crate::sensors::shared::Shared;
use crate::vault::Vault;
use crate::vote_keys::Keeper;
use crate::{coordination, ingest, ledger_task, sensors};

/// Requests of other gateways that may wait; more are told that this one is busy.
const INCOMING: usize = 64;

/// Signs of life of other gateways that may wait; more are lost, and come again.
const BEATS: usize = 1024;

/// Ledger, buffer and sensors at work.
pub struct Parts {
    /// The ledger's thread.
    pub ledger: ledger_task::Handle,
    /// The buffer's thread.
    pub ingest: ingest::Handle,
    /// The sensors' task.
    pub sensors: sensors::Handle,
    /// To be joined once the handles are gone.
    pub(super) threads: Vec<JoinHandle<()>>,
    /// Why the ledger's thread ended, when it cannot go on.
    pub(super) stopped: mpsc::Receiver<String>,
}

/// The vote key and its successor, as far as they may be used.
#[derive(Default)]
pub(super) struct VoteKeys {
    pub(super) vote: Option<SigningKey>,
    pub(super) next: Option<SigningKey>,
    pub(super) silent_from: Option<u64>,
    /// The log may be that of an older copy of the disk.
    pub(super) doubtful: bool,
}

/// Connections to other gateways, before anybody has taken an end of them.
pub(super) struct Connected {
    /// For the ledger's thread.
    pub(super) links: ledger_task::Links,
    /// For admission.
    pub(super) incoming: mpsc::Receiver<Incoming>,
    /// For coordination.
    pub(super) beats: mpsc::Receiver<peers::Beat>,
    /// Bridges that have connected.
    pub(super) bridges: mpsc::Receiver<BridgeLink>,
}

impl Site {
    /// Starts the connections to other gateways. Until the ledger says who is a member, everybody
    /// is a guest and nobody is dialed.
    pub(super) fn connect(&self, info: &IdentityInfo) -> anyhow::Result<Connected> {
        let settings = self.settings.peers.clone();
        let (events, inbox) = peers::inbox();
        let (incoming_in, incoming) = mpsc::channel(INCOMING);
        let (beats_in, beats) = mpsc::channel(BEATS);
        let (bridges_in, bridges) = mpsc::channel(MAX_BRIDGES);
        let peers = peers::start(peers::Parts {
            signer: Arc::new(self.tpm.clone()),
            identity: identity_key(info)?,
            listen: settings.listen,
            addresses: settings.addresses,
            discovery: settings.discovery,
            interface: settings.interface,
            events,
            incoming: incoming_in,
            beats: beats_in,
            bridges: Some(bridges_in),
            data_dir: Some(self.settings.data_dir.clone()),
        })?;
        Ok(Connected { links: ledger_task::Links { peers, inbox }, incoming, beats, bridges })
    }

    /// Begins to watch who is there.
    pub(super) fn watch(
        &self,
        gateway: NodeId,
        ledger: &ledger_task::Handle,
        peers: &peers::Handle,
        beats: mpsc::Receiver<peers::Beat>,
    ) -> coordination::Handle {
        coordination::start(coordination::Parts {
            gateway,
            tpm: self.tpm.clone(),
            ledger: ledger.clone(),
            peers: peers.clone(),
            beats,
            data_dir: self.settings.data_dir.clone(),
            events: self.events.clone(),
        })
    }

    /// Starts what serves bridges.
    pub(super) fn serve_bridges(
        &self,
        asks: bridge::Asks,
        gateway: NodeId,
        site: Text<64>,
        peers: peers::Handle,
        links: mpsc::Receiver<BridgeLink>,
    ) -> anyhow::Result<()> {
        let (folder, events) = (self.folder()?, self.events.clone());
        let parts = bridge::bridges::Parts { gateway, site, peers, links, folder, events };
        bridge::start(asks, parts)
    }

    /// Opens what is on the disk. Without a vote key nothing is signed; with a locked vault only
    /// sensors without keys are served; without links nobody else is heard, and no bridge.
    pub(super) fn open(
        &self,
        chain_id: ChainId,
        gateway: NodeId,
        votes: VoteKeys,
        vault: Arc<Vault>,
        links: Option<ledger_task::Links>,
        lent: Option<sensors::Lent>,
    ) -> anyhow::Result<Parts> {
        let VoteKeys { vote, next, silent_from, doubtful } = votes;
        let votes = vote.clone().filter(|_| silent_from.is_none());
        let mut host = Host::open(&self.settings.data_dir, gateway, votes)?;
        if doubtful {
            host.doubt_log();
        }
        let (ledger, inbox) = ledger_task::channel();
        let limits = ingest::Limits {
            batch_interval_ms: self.settings.batch_interval_ms,
            budget_bytes: self.settings.disk_budget_bytes,
        };
        let buffer = self.settings.data_dir.join("buffer.db");
        let context = ingest::leaf::Context { chain_id, gateway };
        let opened = ingest::open(&buffer, context, limits, self.events.clone())?;
        let ingest::Opened { handle, thread, highest, sensors: rows, sessions, batches } = opened;
        let (stopped_in, stopped) = mpsc::channel(1);
        let parts = ledger_task::Parts {
            data_dir: self.settings.data_dir.clone(),
            host,
            gateway,
            vote_key: vote,
            next_vote_key: next,
            silent_from,
            keeper: Keeper::new(self.folder()?, Arc::clone(&vault)),
            batches,
            ingest: handle.clone(),
            links,
            events: self.events.clone(),
            stopped: stopped_in,
        };
        let ledger_thread = ledger_task::start(inbox, parts)?;
        let mut settings = self.settings.clone();
        // Every LoRaWAN device has a key.
        settings.lora.enabled &= !vault.is_locked();
        let shared = Shared {
            chain_id,
            ingest: handle.clone(),
            ledger: ledger.clone(),
            vault,
            clock: ledger.clock(),
            events: self.events.clone(),
        };
        let sensors = sensors::start(sensors::Parts {
            shared,
            rows,
            sessions,
            highest,
            settings,
            pairing: self.pairing.clone(),
            events: self.events.clone(),
            ledger: ledger.clone(),
            lent,
        });
        Ok(Parts { ledger, ingest: handle, sensors, threads: vec![thread, ledger_thread], stopped })
    }
}
