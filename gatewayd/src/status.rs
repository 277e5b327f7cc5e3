//! Composes the status that everybody reads, from snapshots of the parts. It decides which state
//! the daemon is in and says why; it changes nothing.

mod several;

use attestation::tpm::IdentityInfo;
use ledger::crypto::PublicKey;
use ledger::genesis::Genesis;
use ledger::ids::NodeId;
use ledger::state::Attestation;

use crate::clock;
use crate::config::Settings;
use crate::control::{DaemonState, GatewayInfo, Status};
use crate::ingest::Heard;
use crate::presence::{Presence, presence};
use crate::site::{Parts, Running};
use crate::store::NodeBytes;
use several::Around;

/// What is known of the TPM now.
#[derive(Debug, Clone)]
pub struct TpmView {
    /// In words.
    pub words: String,
    /// Whether it is a program.
    pub software: bool,
    /// Why it does not answer.
    pub failed: Option<String>,
}

impl TpmView {
    /// It answers.
    pub fn of(info: &IdentityInfo) -> Self {
        let kind = if info.is_software { "software TPM" } else { "hardware TPM" };
        let words = format!("{kind} ({})", info.manufacturer);
        Self { words, software: info.is_software, failed: None }
    }

    /// It does not.
    pub fn failed(why: String) -> Self {
        Self { words: why.clone(), software: false, failed: Some(why) }
    }
}

/// Status while no site runs.
pub fn without_site(
    state: DaemonState,
    reasons: Vec<String>,
    tpm: Option<TpmView>,
    settings: &Settings,
) -> Status {
    let tpm = tpm.unwrap_or(TpmView {
        words: format!("not asked yet ({})", settings.tcti),
        software: false,
        failed: None,
    });
    Status {
        version: env!("CARGO_PKG_VERSION"),
        state,
        reasons,
        warnings: vec![],
        site: None,
        gateway: None,
        attestation: None,
        height: None,
        era: None,
        block_time_ms: None,
        members: 0,
        voters: 0,
        voters_may_fail: 0,
        endurance: String::new(),
        gateways: vec![],
        silent_voters: vec![],
        connected: 0,
        behind: 0,
        syncing_from: None,
        join: None,
        bridge: None,
        bridges: vec![],
        sensors: 0,
        presence: [0; 3],
        readings_waiting: 0,
        readings_committed: 0,
        readings_unrecorded: 0,
        strangers: 0,
        clock: clock_word(),
        disk_used_bytes: 0,
        disk_budget_bytes: settings.disk_budget_bytes,
        tpm: tpm.words,
        tpm_software: tpm.software,
    }
}

fn clock_word() -> &'static str {
    if clock::synchronised() { "synced" } else { "unknown" }
}

/// Word for the attestation state of a gateway.
pub fn attestation_word(attestation: &Attestation) -> &'static str {
    match attestation {
        Attestation::Unverified => "unverified",
        Attestation::Unattested => "unattested",
        Attestation::Attested { .. } => "attested",
    }
}

/// The site and this gateway, while its keys are not open.
pub fn name_site(status: &mut Status, genesis: &Genesis, own: Option<&PublicKey>) {
    status.site = Some(genesis.site_name.as_str().to_owned());
    status.gateway = own.map(|identity| NodeId::of_key(identity).to_gateway_string());
}

/// What is heard while the TPM is waited for.
pub async fn listening(status: &mut Status, parts: &Parts) {
    let heard = parts.ingest.heard().await.unwrap_or_default();
    let sensors = parts.sensors.intervals().await.unwrap_or_default();
    status.sensors = u32::try_from(sensors.len()).unwrap_or(u32::MAX);
    [status.readings_waiting, status.readings_committed, status.readings_unrecorded] = heard.counts;
    status.disk_used_bytes = heard.used_bytes;
    let what = "line sources are still buffered; sensors with keys wait for the TPM";
    status.reasons.push(what.into());
    if let Some(why) = heard.refusing {
        status.reasons.push(format!("readings are not taken: {why}"));
    }
}

/// Status while the site runs.
pub async fn compose(running: &Running, tpm: &TpmView, settings: &Settings) -> Status {
    let gateways = crate::control::gateways(running).await;
    let around = around(running).await;
    let tip = *running.ledger.tip().borrow();
    let (heard, lora) = (running.ingest.heard().await, running.sensors.lora().await);
    let errors =
        [gateways.as_ref().err(), around.as_ref().err(), heard.as_ref().err(), lora.as_ref().err()];
    let mut failed: Vec<_> = errors.into_iter().flatten().map(ToString::to_string).collect();
    // Nothing answers for the same reason.
    failed.dedup();
    if tip.disk_full {
        failed.push("the record waits: its disk is full".into());
    }
    let (heard, around) = (heard.unwrap_or_default(), around.unwrap_or_default());
    let gateways = gateways.unwrap_or_default();
    failed.extend(several::reasons(&gateways, &around));
    let (state, reasons) = judge(running, tpm, failed, heard.refusing.as_deref());
    let sensors = running.sensors.intervals().await.unwrap_or_default();
    let (now, quality) = running.ledger.clock().borrow().now();
    let mut status = Status {
        site: Some(running.genesis.site_name.as_str().to_owned()),
        gateway: Some(running.gateway.to_gateway_string()),
        height: Some(tip.height),
        era: Some(tip.era),
        block_time_ms: Some(tip.time_ms),
        members: tip.members,
        voters: tip.voters,
        sensors: u32::try_from(sensors.len()).unwrap_or(u32::MAX),
        presence: presences(&sensors, &heard, now),
        readings_waiting: heard.counts[0],
        readings_committed: heard.counts[1],
        readings_unrecorded: heard.counts[2],
        strangers: lora.ok().flatten().map_or(0, |lora| lora.counters.strangers),
        clock: quality.word(),
        disk_used_bytes: heard.used_bytes + ledger_bytes(settings),
        behind: around.behind,
        ..without_site(state, reasons, Some(tpm.clone()), settings)
    };
    let own = gateways.iter().find(|gateway| gateway.own).map(|own| own.attestation);
    status.attestation = own.map(Into::into);
    status.warnings = warnings(own, tpm, settings, running.peers.not_listening());
    status.warnings.extend(several::warnings(&gateways, &around));
    status.bridges = running.bridges.list().await.unwrap_or_default();
    status.warnings.extend(several::away_bridges(&status.bridges));
    describe_gateways(&mut status, gateways);
    status.syncing_from = around.syncing_from;
    status
}

/// What the gateways of the site are to each other.
fn describe_gateways(status: &mut Status, gateways: Vec<GatewayInfo>) {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let silent = several::silent_voters(&gateways);
    let voters = status.voters as usize;
    status.voters_may_fail = count(several::tolerance(voters).saturating_sub(silent.len()));
    status.endurance = several::endurance(status.members as usize, voters, silent.len());
    status.connected = count(gateways.iter().filter(|it| it.connected && !it.own).count());
    status.silent_voters = silent;
    status.gateways = gateways;
}

/// What is known of the site beside its gateways.
async fn around(running: &Running) -> crate::control::Result<Around> {
    let look = running.ledger.with_node(|node| {
        let progress = node.progress();
        Around {
            behind: progress.behind,
            syncing_from: progress.from.map(NodeId::to_gateway_string),
            insecure: node.state().policy().insecure_software_tpm_sites,
            silent_through: node.silent_through().map(|height| height.0),
            in_doubt: node.is_voter() && node.is_in_doubt(),
        }
    });
    look.await
}

/// The state and why; the worst that is true wins.
fn judge(
    running: &Running,
    tpm: &TpmView,
    failed: Vec<String>,
    refusing: Option<&str>,
) -> (DaemonState, Vec<String>) {
    let (mut state, mut reasons) = (DaemonState::Running, Vec::new());
    if let Some(why) = &tpm.failed {
        state = DaemonState::NoTpm;
        reasons.push(format!("TPM: {why}; sensors are still served with the keys in memory"));
    }
    if !failed.is_empty() {
        state = DaemonState::Degraded;
        reasons.extend(failed);
    }
    if let Some(why) = refusing {
        state = DaemonState::Degraded;
        reasons.push(format!("readings are not taken: {why}"));
    }
    if running.rolled_back {
        state = DaemonState::RolledBack;
        let why = match running.ledger.tip().borrow().voters {
            0 | 1 => {
                "an older copy of the disk was put back: nothing is signed until the operator runs \
                 `gatewayctl site recover`"
            }
            _ => {
                "an older copy of the disk was put back: nothing is signed until this gateway has \
                 caught up with the others and has a new vote key"
            }
        };
        reasons.push(why.into());
    }
    (state, reasons)
}

/// Sensors present, late, silent.
fn presences(sensors: &[(NodeBytes, u32)], heard: &Heard, now_ms: u64) -> [u32; 3] {
    let mut counts = [0; 3];
    for (node, interval_s) in sensors {
        let last = heard.newest.get(node).map(|entry| entry.time_ms);
        match presence(now_ms, last, *interval_s) {
            Presence::Present => counts[0] += 1,
            Presence::Late => counts[1] += 1,
            Presence::Silent | Presence::Unknown => counts[2] += 1,
        }
    }
    counts
}

/// What must always be said.
fn warnings(
    attestation: Option<&str>,
    tpm: &TpmView,
    settings: &Settings,
    not_listening: Option<String>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if attestation == Some("unattested") {
        let what = "UNATTESTED site: it was founded on a software TPM; whoever copies the disk \
                    copies the gateway, and every reading and proof says so";
        warnings.push(what.into());
    } else if tpm.software {
        let what = "the TPM is a software one: it protects nothing against a copied disk";
        warnings.push(what.into());
    }
    if settings.insecure_software_tpm_sites {
        warnings.push("insecure_software_tpm_sites is on: for demonstrations and tests".into());
    }
    if let Some(why) = not_listening {
        warnings.push(format!("other gateways cannot dial this one: {why}"));
    }
    warnings
}

/// Bytes of the ledger on disk.
fn ledger_bytes(settings: &Settings) -> u64 {
    let size = |name| std::fs::metadata(settings.data_dir.join(name)).map_or(0, |file| file.len());
    ["ledger.db", "ledger.db-wal", "wal-a", "wal-b"].into_iter().map(size).sum()
}
