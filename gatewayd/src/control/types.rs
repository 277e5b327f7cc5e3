//! What management requests and answers are made of. Plain data; no behaviour.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Why a request was not done. Each variant becomes one named D-Bus error and one exit code.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ControlError {
    /// There is no site yet: `gatewayctl site init` makes one.
    #[error("this gateway belongs to no site yet; found one with `gatewayctl site init`")]
    NotInitialised,
    /// A site identity exists; it is never overwritten.
    #[error("an identity exists already ({0}); it is never overwritten")]
    AlreadyInitialised(String),
    /// The TPM is missing, not permitted, hung, or another one than at `site init`.
    #[error("TPM: {0}")]
    Tpm(String),
    /// Nothing with this name, ID or height.
    #[error("no such {what}: {name}")]
    NotFound {
        /// What was looked for: `sensor`, `block`, `reading`.
        what: &'static str,
        /// The name as it was given.
        name: String,
    },
    /// An argument is malformed, out of range or contradictory.
    #[error("{0}")]
    InvalidArgument(String),
    /// Another request of the same kind is under way.
    #[error("{0}")]
    Busy(String),
    /// The rules of the record or the site's policy say no.
    #[error("refused: {0}")]
    Refused(String),
    /// Not done in time; it may still be done later.
    #[error("not done in time: {0}")]
    Timeout(String),
    /// The disk or its budget is full.
    #[error("storage: {0}")]
    Storage(String),
    /// The part that would do it is not running in the present state.
    #[error("not available now: {0}")]
    Unavailable(String),
    /// Something of ours broke.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Result of a request.
pub type Result<T> = std::result::Result<T, ControlError>;

/// State of the daemon (design: READY when store and bus name are held).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DaemonState {
    /// Parts are being started.
    Starting,
    /// No site yet.
    Uninitialised,
    /// Asks to become a member of a site: see `JoinProgress`.
    Joining,
    /// No member: lends its ports and its packet forwarder to one.
    Bridge,
    /// A site, but its TPM does not answer: nothing is signed, sensors are buffered.
    NoTpm,
    /// Works, but something named in `reasons` does not.
    Degraded,
    /// An older copy of the disk was put back: nothing is signed until `site recover`.
    RolledBack,
    /// All well.
    Running,
}

/// What `gatewayctl status` shows. A snapshot, cheap to clone.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: &'static str,
    /// State.
    pub state: DaemonState,
    /// Why, in sentences, when it is not `running`.
    pub reasons: Vec<String>,
    /// Things always to be said: unattested site, software TPM.
    pub warnings: Vec<String>,
    /// Name of the site.
    pub site: Option<String>,
    /// `gw1…` of this gateway.
    pub gateway: Option<String>,
    /// `attested`, `stale`, `unverified` or `unattested`.
    pub attestation: Option<String>,
    /// Height of the last stored block.
    pub height: Option<u64>,
    /// Era of the ledger.
    pub era: Option<u32>,
    /// Time of the last block, ms since 1970.
    pub block_time_ms: Option<u64>,
    /// Number of members, and of voters.
    pub members: u32,
    /// Number of voters.
    pub voters: u32,
    /// How many more voters may be lost before the record stops.
    pub voters_may_fail: u32,
    /// The same as a sentence.
    pub endurance: String,
    /// Gateways that the record knows, voters first.
    pub gateways: Vec<GatewayInfo>,
    /// Voters that are not heard here now, `gw1…`.
    pub silent_voters: Vec<String>,
    /// Other gateways that are connected to this one.
    pub connected: u32,
    /// Blocks that this gateway still has to fetch.
    pub behind: u64,
    /// `gw1…` of whom it fetches them from.
    pub syncing_from: Option<String>,
    /// Where the join stands, while this gateway joins a site.
    pub join: Option<super::JoinProgress>,
    /// What this machine lends, while it is a bridge.
    pub bridge: Option<super::BridgeStatus>,
    /// The bridges of this gateway, and those that ask to be.
    pub bridges: Vec<super::BridgeInfo>,
    /// Registered sensors.
    pub sensors: u32,
    /// Sensors by presence: present, late, silent.
    pub presence: [u32; 3],
    /// Readings durable here that are not committed yet.
    pub readings_waiting: u64,
    /// Readings committed since the site began.
    pub readings_committed: u64,
    /// Readings that the record did not take (closed counters), kept here.
    pub readings_unrecorded: u64,
    /// Frames of unknown devices and bad MICs since start.
    pub strangers: u64,
    /// `synced`, `site` or `unknown`.
    pub clock: &'static str,
    /// Bytes on disk of ledger and readings, and the budget.
    pub disk_used_bytes: u64,
    /// Disk budget, bytes.
    pub disk_budget_bytes: u64,
    /// TPM in words.
    pub tpm: String,
    /// True when the TPM is a software one.
    pub tpm_software: bool,
}

/// Asks for a new site, founded by this gateway.
#[derive(Debug, Clone)]
pub struct InitSite {
    /// Name of the site, 1 to 64 characters.
    pub name: String,
    /// Operator's public key, SEC1 compressed. The private half never comes here.
    pub operator_key: [u8; 33],
    /// Found it on a software TPM: every reading and proof will say *unattested*.
    pub unattested: bool,
}

/// What `site show` and `site card` show.
#[derive(Debug, Clone, Serialize)]
pub struct SiteInfo {
    /// Name of the site.
    pub name: String,
    /// Chain ID, hex.
    pub chain_id: String,
    /// Site code: the newest certified checkpoint, `gws1…`. Also the anchor for `verify`.
    pub site_code: String,
    /// Height of that checkpoint.
    pub height: u64,
    /// Genesis as an anchor, `gws1…`.
    pub genesis_code: String,
    /// This gateway, `gw1…`.
    pub gateway: String,
    /// Operator's public key, hex, SEC1 compressed.
    pub operator_key: String,
    /// Attestation state of the founder.
    pub attestation: String,
    /// Era.
    pub era: u32,
    /// Policy as key and value, in words.
    pub policy: BTreeMap<String, String>,
}

/// One line of `doctor`.
#[derive(Debug, Clone, Serialize)]
pub struct DoctorCheck {
    /// What was looked at: `tpm`, `bus`, `ports`, `clock`, `disk`, `forwarder`, …
    pub check: &'static str,
    /// `ok`, `warning` or `failed`.
    pub result: &'static str,
    /// What was seen.
    pub detail: String,
    /// What to do about it; empty when ok.
    pub fix: String,
}

/// One member gateway.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GatewayInfo {
    /// `gw1…`.
    pub id: String,
    /// Whether it is this gateway.
    pub own: bool,
    /// Label on the record: `full, coordinator`.
    pub label: String,
    /// Standing on the record.
    pub standing: String,
    /// Height of the block that changed the standing last.
    pub standing_since: u64,
    /// The reason given then; empty for the first standing.
    pub reason: String,
    /// `attested`, `stale`, `unverified` or `unattested`.
    pub attestation: &'static str,
    /// The same as a sentence.
    pub attestation_words: String,
    /// Time of the block that recorded its attestation, ms since 1970.
    pub attested_ms: Option<u64>,
    /// Whether its vote counts.
    pub voter: bool,
    /// Whether the record counts it as online.
    pub online: bool,
    /// Block since which it counts as offline; absent while it is online, or when that is not
    /// known here.
    pub offline_since: Option<u64>,
    /// Time of that block, ms since 1970.
    pub offline_since_ms: Option<u64>,
    /// `gw1…` of the voters that have found it so.
    pub offline_by: Vec<String>,
    /// Whether this gateway hears it now; always true of itself.
    pub connected: bool,
    /// Where it is connected.
    pub address: Option<String>,
    /// Height of its newest block, as far as it is known here.
    pub height: Option<u64>,
    /// Height of the block that made it a member.
    pub member_since: u64,
    /// Counts its returns.
    pub liveness_epoch: u32,
    /// Identity public key, hex.
    pub identity_key: String,
    /// Vote public key, hex.
    pub vote_key: String,
}

/// A document that the policy names.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyDocument {
    /// `anchor` or `reference-values`.
    pub kind: &'static str,
    /// SHA-256, hex: its name.
    pub sha256: String,
    /// Of an anchor: subject of the certificate.
    pub subject: Option<String>,
    /// Of an anchor: vendor and name of the published fingerprint that it has.
    pub vendor: Option<String>,
    /// Of reference values: when they cease to hold, ms since 1970; absent when never.
    pub until_ms: Option<u64>,
    /// Length, bytes.
    pub bytes: u64,
}

/// One sensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SensorInfo {
    /// `ln1…`.
    pub id: String,
    /// Name given by the operator.
    pub name: String,
    /// `serial`, `line`, `lora`.
    pub kind: &'static str,
    /// Identity in its own notation (DevEUI, device ID, bus and unit).
    pub identity: String,
    /// Assurance level 0 to 3, and as a sentence.
    pub level: u8,
    /// The sentence.
    pub level_words: &'static str,
    /// `present`, `late`, `silent`, or `unknown` when never heard.
    pub presence: &'static str,
    /// Standing on the record.
    pub standing: String,
    /// Label on the record.
    pub label: String,
    /// Serving gateway `gw1…`.
    pub serving: Option<String>,
    /// Port or radio that hears it.
    pub link: String,
    /// `gw1…` of the bridge that its frames came over last; absent: none.
    pub bridge: Option<String>,
    /// What that means, in a sentence.
    pub bridge_words: Option<String>,
    /// Link state in words: `open`, `waiting for /dev/…`, `no session yet`.
    pub link_state: String,
    /// Session epoch on the record.
    pub epoch: u32,
    /// Highest committed counter.
    pub highest: Option<u64>,
    /// Open gaps as inclusive ranges.
    pub gaps: Vec<(u64, u64)>,
    /// When it was last heard, ms since 1970.
    pub last_heard_ms: Option<u64>,
    /// Expected interval, s.
    pub interval_s: Option<u32>,
    /// Newest durable reading.
    pub last_reading: Option<ReadingInfo>,
    /// Refused frames by reason since start.
    pub refused: BTreeMap<String, u64>,
    /// Whether its sensor can move to another gateway, in words.
    pub mobility: &'static str,
}

/// One resolved SenML record of a reading.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ValueInfo {
    /// Name.
    pub name: String,
    /// Unit, SenML.
    pub unit: Option<String>,
    /// Value: number, string, boolean, or hex of data.
    pub value: serde_json::Value,
}

/// One reading as people see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReadingInfo {
    /// `ln1…`.
    pub sensor: String,
    /// Name of the sensor.
    pub sensor_name: String,
    /// Session epoch.
    pub epoch: u32,
    /// Counter.
    pub counter: u64,
    /// Time, ms since 1970.
    pub time_ms: u64,
    /// `synced`, `site` or `unknown`.
    pub time_quality: &'static str,
    /// Assurance level.
    pub level: u8,
    /// Values.
    pub values: Vec<ValueInfo>,
    /// `durable`, `committed` or `unrecorded`.
    pub status: &'static str,
    /// Block that committed it.
    pub height: Option<u64>,
}

/// Which reading is meant.
#[derive(Debug, Clone, Default)]
pub struct ReadingSelector {
    /// Sensor: `ln1…` or its name.
    pub sensor: String,
    /// (epoch, counter); the newest committed one when absent. Epoch 0: the newest epoch.
    pub counter: Option<(u32, u64)>,
    /// Site code that the verifier holds, when it is not the newest.
    pub anchor: Option<String>,
}

/// What the operator asks for when pairing.
#[derive(Debug, Clone)]
pub struct PairingRequest {
    /// How.
    pub how: PairingHow,
    /// Name for the sensor; its ID when empty.
    pub name: String,
    /// Expected interval between readings, s; 0 when unknown.
    pub interval_s: u32,
    /// How long the window stays open, s (10 to 3600).
    pub window_s: u32,
}

/// The bridge and its secrets. No `Debug` of keys: see its implementation.
#[derive(Clone)]
pub enum PairingHow {
    /// A shared-key serial node on a port; the printed code holds device ID and key.
    Serial {
        /// Path of the port, best under /dev/serial/by-id.
        port: String,
        /// Baud rate, bit/s.
        baud: u32,
        /// Printed code.
        code: String,
    },
    /// A line source on a port.
    Line {
        /// Path of the port.
        port: String,
        /// Baud rate, bit/s.
        baud: u32,
        /// Line map, TOML text.
        map: String,
    },
    /// A LoRaWAN device, OTAA.
    Lora {
        /// DevEUI, as printed.
        dev_eui: [u8; 8],
        /// JoinEUI, as printed.
        join_eui: [u8; 8],
        /// AppKey (1.0.x root key).
        app_key: [u8; 16],
        /// `raw` or `cayenne`.
        codec: String,
        /// `1.0.4` (strict DevNonce) or `1.0.2`, `1.0.3`.
        version: String,
    },
}

impl std::fmt::Debug for PairingHow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Serial { port, .. } => write!(f, "Serial({port})"),
            Self::Line { port, .. } => write!(f, "Line({port})"),
            Self::Lora { .. } => write!(f, "Lora"),
        }
    }
}

/// Progress of the pairing window. States: `idle`, `waiting`, `preview`, `heard`, `registering`,
/// `joining`, `done`, `failed`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PairingStatus {
    /// Number of this window since start; 0: none yet.
    pub window: u64,
    /// State.
    pub state: &'static str,
    /// What is awaited or was seen, in words.
    pub message: String,
    /// Seconds until the window closes.
    pub seconds_left: u32,
    /// Name of the failure: `window-expired`, `port-missing`, `port-busy`, `wrong-key`,
    /// `already-registered`, `refused`, `cancelled`, `bad-map`, `storage`, `unavailable`.
    pub failure: Option<&'static str>,
    /// `ln1…` of the sensor once known.
    pub sensor: Option<String>,
    /// Live preview of line sources: newest decoded values.
    pub preview: Vec<ValueInfo>,
    /// Uplinks counted, not recorded, while waiting.
    pub uplinks_counted: u64,
}

/// What happens, for signals and `monitor`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A reading is durable.
    Reading(ReadingInfo),
    /// A block is stored.
    Committed {
        /// Height.
        height: u64,
        /// Transactions in it.
        transactions: u32,
        /// Readings committed by it.
        readings: u32,
    },
    /// A sensor was added, changed (name, presence, standing, link) or removed.
    Sensor {
        /// `ln1…`.
        id: String,
        /// `added`, `changed`, `removed`.
        change: &'static str,
    },
    /// A gateway went offline or came back, on the record.
    Gateway {
        /// `gw1…`.
        id: String,
        /// `offline` or `online`.
        change: &'static str,
        /// In a sentence.
        message: String,
    },
    /// The pairing window moved on.
    Pairing(PairingStatus),
    /// The daemon's state changed.
    State {
        /// New state.
        state: DaemonState,
        /// Why.
        reasons: Vec<String>,
    },
    /// Something an operator should see: refused, conflict, clone, disk.
    Alert {
        /// What, in one word.
        kind: &'static str,
        /// In a sentence.
        message: String,
    },
}

/// Block as `ledger show` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct BlockInfo {
    /// Height.
    pub height: u64,
    /// Era.
    pub era: u32,
    /// Header hash, hex.
    pub hash: String,
    /// Parent's hash, hex.
    pub parent: String,
    /// Time, ms since 1970.
    pub time_ms: u64,
    /// Proposer `gw1…`.
    pub proposer: String,
    /// State root, hex.
    pub state_root: String,
    /// Voters that signed, and voters in all.
    pub signed: (u32, u32),
    /// Transactions: kind, author, and a sentence.
    pub transactions: Vec<TransactionInfo>,
}

/// Transaction in a block.
#[derive(Debug, Clone, Serialize)]
pub struct TransactionInfo {
    /// Hash, hex.
    pub hash: String,
    /// Kind, as named in the design.
    pub kind: String,
    /// Author: `gw1…`, `operator`.
    pub author: String,
    /// In a sentence.
    pub summary: String,
}

/// What `sensor history` shows: one change on the record.
#[derive(Debug, Clone, Serialize)]
pub struct HistoryEntry {
    /// Block.
    pub height: u64,
    /// Block time, ms since 1970.
    pub time_ms: u64,
    /// What, in a sentence.
    pub what: String,
    /// Transaction hash, hex.
    pub transaction: String,
}

/// Done operator act, or any committed change.
#[derive(Debug, Clone, Serialize)]
pub struct CommittedInfo {
    /// Height of the block.
    pub height: u64,
    /// Transaction hash, hex.
    pub transaction: String,
    /// In a sentence.
    pub summary: String,
}
