//! A site with many sensors. Pairing them one by one takes a person's time, so they are put in
//! with the daemon's own parts while it is stopped: registered and assigned on the ledger, kept in
//! the buffer with their keys sealed under the site's storage key, LoRaWAN devices after a real
//! join. Then the daemon is started on it and nothing is left of this.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use attestation::tpm::Tpm;
use drivers::codec::Codec;
use drivers::device::Identity;
use drivers::lora::effect::{Effect, Input};
use drivers::lora::ids::{DevEui, JoinEui, Key};
use drivers::lora::join::Version;
use drivers::lora::server::{DeviceConfig, Server, Settings};
use drivers::serial::pairing::PrintedCode;
use gatewayd::identity::{self, Folder};
use gatewayd::ingest::{self, Group};
use gatewayd::ledger_task::{self, Registration};
use gatewayd::sensors::settings::{LinkSettings, SensorSettings, hex};
use gatewayd::sensors::shared::{Shared, ledger_identity};
use gatewayd::store::SensorRow;
use ledger::host::Host;
use ledger::ids::{ChainId, NodeId};
use tests::gateway::Gateway;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;

use crate::testing::{TestDevice, forwarder, pull_data, push, tx_ack, unbase64};

/// Registrations under way at once.
const AT_ONCE: usize = 32;

/// The stopped daemon's ledger, buffer and keys, opened here.
pub(crate) struct Parts {
    shared: Shared,
    threads: Vec<JoinHandle<()>>,
    tpm: Tpm,
}

impl Parts {
    /// Opens what the stopped daemon left. Call within a runtime.
    pub(crate) fn open(gateway: &Gateway) -> Result<Self> {
        let dir = gateway.data_dir();
        let folder = Folder::at(&dir)?;
        let tpm = Tpm::spawn(&gateway.tpm.tcti(), folder.tpm())?;
        let genesis = folder.genesis()?.context("the site was founded")?;
        let unlocked = folder.unlock(&tpm)?;
        let id = identity::node(&unlocked.info)?;
        let host = Host::open(&dir, id, unlocked.vote.clone())?;
        let chain_id: ChainId = genesis.chain_id();
        let (events, _) = broadcast::channel(16);
        let limits = ingest::Limits { batch_interval_ms: None, budget_bytes: u64::MAX };
        let context = ingest::leaf::Context { chain_id, gateway: id };
        let opened = ingest::open(&dir.join("buffer.db"), context, limits, events.clone())?;
        let (ledger, inbox) = ledger_task::channel();
        let (stopped, _) = mpsc::channel(1);
        let parts = ledger_task::Parts {
            data_dir: dir.clone(),
            host,
            gateway: id,
            vote_key: unlocked.vote,
            next_vote_key: None,
            silent_from: None,
            keeper: ledger_task::Keeper::new(folder, unlocked.vault.clone()),
            batches: opened.batches,
            ingest: opened.handle.clone(),
            links: None,
            events: events.clone(),
            stopped,
        };
        let thread = ledger_task::start(inbox, parts)?;
        let shared = Shared {
            chain_id,
            ingest: opened.handle,
            clock: ledger.clock(),
            ledger,
            vault: unlocked.vault,
            events,
        };
        Ok(Self { shared, threads: vec![opened.thread, thread], tpm })
    }

    /// Closes all of it; the daemon can be started.
    pub(crate) fn close(self) -> Result<()> {
        let Self { shared, threads, tpm } = self;
        drop(shared);
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a thread broke"))?;
        }
        tpm.shutdown()?;
        Ok(())
    }

    /// Adds LoRaWAN devices that have joined and not sent yet.
    pub(crate) async fn add_lora(&self, count: u64) -> Result<Vec<TestDevice>> {
        let (devices, records) = join(count)?;
        let mut sensors = Vec::new();
        for device in &devices {
            let link = LinkSettings::Lora {
                join_eui: hex(&device.join_eui),
                codec: "raw".into(),
                version: "1.0.4".into(),
            };
            let identity = Identity::DevEui(device.dev_eui);
            let name = format!("lora-{}", sensors.len());
            sensors.push((name, identity, link, device.app_key.to_vec()));
        }
        self.add(sensors, &records).await?;
        Ok(devices)
    }

    /// Adds serial sensors on these ports.
    pub(crate) async fn add_serial(&self, sensors: &[(String, PrintedCode)]) -> Result<()> {
        let sensors = sensors.iter().enumerate().map(|(number, (port, code))| {
            let link = LinkSettings::Serial { port: port.clone(), baud: 115_200 };
            let identity = Identity::SerialDevice(code.device().0);
            (format!("serial-{number}"), identity, link, code.to_bytes().to_vec())
        });
        self.add(sensors.collect(), &Records::new()).await
    }

    async fn add(
        &self,
        sensors: Vec<(String, Identity, LinkSettings, Vec<u8>)>,
        records: &Records,
    ) -> Result<()> {
        let mut under_way = JoinSet::new();
        for (name, identity, link, secret) in sensors {
            let node = self.shared.node(&identity);
            let (ledger, registration) =
                (self.shared.ledger.clone(), registration(node, &identity, &link));
            let row = SensorRow {
                node: node.0,
                name,
                settings: serde_json::to_string(&SensorSettings::new(&identity, 0, [0; 16], link))?,
                secret: self.shared.vault.seal(&[b"root-key", &node.0], &secret)?,
                added_ms: 0,
            };
            self.shared.ingest.put_sensor(row).await?;
            if let Some(record) = records.get(&identity) {
                let sealed = self.shared.seal_session(&node.0, record)?;
                let group = Group { readings: vec![], sessions: vec![(node.0, sealed)] };
                self.shared.ingest.append(group).await?;
            }
            if under_way.len() == AT_ONCE {
                finished(under_way.join_next().await)?;
            }
            under_way.spawn(async move { ledger.register(registration).await });
        }
        while !under_way.is_empty() {
            finished(under_way.join_next().await)?;
        }
        Ok(())
    }

    /// Commits blocks of one transaction each, one after the other, until the chain has `height`.
    /// Returns how many.
    pub(crate) async fn grow(&self, node: NodeId, height: u64) -> Result<u64> {
        let before = self.shared.ledger.tip().borrow().height;
        let mut blocks = 0;
        while before + blocks < height {
            self.shared.ledger.reserve(node.0, false).await?;
            blocks += 1;
        }
        Ok(blocks)
    }

    /// Node ID of a LoRaWAN device.
    pub(crate) fn node(&self, device: &TestDevice) -> NodeId {
        self.shared.node(&Identity::DevEui(device.dev_eui))
    }
}

type Registered = gatewayd::control::Result<ledger_task::Done>;

fn finished(done: Option<Result<Registered, tokio::task::JoinError>>) -> Result<()> {
    done.context("a registration")???;
    Ok(())
}

fn registration(node: NodeId, identity: &Identity, link: &LinkSettings) -> Registration {
    Registration {
        node,
        identity_kind: ledger_identity(identity).kind(),
        class: link.class(),
        level: link.level().number(),
        interval_s: 0,
        downlink: matches!(link, LinkSettings::Lora { .. }),
        wire_counter: link.wire_counter(),
        descriptor_hash: [0; 32],
    }
}

/// Session records of devices, not sealed yet.
type Records = HashMap<Identity, Vec<u8>>;

/// Joins devices at a network server of its own; the devices and the server's records of them.
fn join(count: u64) -> Result<(Vec<TestDevice>, Records)> {
    let mut server = Server::new(Settings::default());
    server.set_transmit_allowed(true);
    let from = SocketAddr::from(([127, 0, 0, 1], 1_700)).into();
    server.step(0, Input::Datagram { from, bytes: &pull_data(forwarder(1)) });
    let mut devices: Vec<TestDevice> = (0..count).map(TestDevice::new).collect();
    let mut records = Records::new();
    let mut now_ms = 0;
    for device in &mut devices {
        let config = DeviceConfig {
            dev_eui: DevEui(device.dev_eui),
            join_eui: JoinEui(device.join_eui),
            app_key: Key::new(device.app_key),
            version: Version::V1_0_4,
            codec: Codec::Raw,
            admitted: true,
        };
        server.add_device(config, None, None)?;
        server.grant_join(DevEui(device.dev_eui), 0, 16);
        let request = push(forwarder(1), 0, 5.0, &device.join_request());
        let mut effects = server.step(now_ms, Input::Datagram { from, bytes: &request });
        // Ten seconds for each keep the duty cycle out of the way.
        now_ms += 200;
        effects.extend(server.step(now_ms, Input::Wake));
        now_ms += 10_000;
        for effect in effects {
            match effect {
                Effect::Persist { identity, record } => {
                    records.insert(identity, record);
                }
                Effect::Send { bytes, token, deadline_ms: Some(_), .. } => {
                    let json: serde_json::Value = serde_json::from_slice(&bytes[4..])?;
                    let phy = unbase64(json["txpk"]["data"].as_str().context("data")?);
                    anyhow::ensure!(device.join_accept(&phy), "the device takes the JoinAccept");
                    let confirmation = tx_ack(forwarder(1), token, None);
                    server.step(now_ms, Input::Datagram { from, bytes: &confirmation });
                }
                _ => {}
            }
        }
        anyhow::ensure!(device.session.is_some(), "the device has joined");
    }
    Ok((devices, records))
}
