//! The checked configuration: no option is left that has a default, and every value is usable.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::ConfigError;
use super::fragment::{Fragment, Layer};

/// Configuration of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Folder of ledger, buffer and TPM blobs; absolute.
    pub data_dir: PathBuf,
    /// Least severe messages that are logged.
    pub log_level: LogLevel,
    /// Where the management interface is offered.
    pub bus: Bus,
    /// TPM, as a TCTI string: `device:/dev/tpmrm0`, `swtpm:host=…,port=…`.
    pub tcti: String,
    /// Allow sites founded on a software TPM to act as if attested. For demo and tests only.
    pub insecure_software_tpm_sites: bool,
    /// Where the root helper `gatewayd-logs` hands out the measurement logs; absolute.
    pub logs_socket: PathBuf,
    /// Most disk space for ledger and readings, bytes.
    pub disk_budget_bytes: u64,
    /// Longest wait of a reading for its batch, ms; `None`: 15 s below 10 readings/s, 500 ms above.
    pub batch_interval_ms: Option<u64>,
    /// Other gateways.
    pub peers: Peers,
    /// LoRaWAN.
    pub lora: Lora,
    /// Serial ports.
    pub serial: Serial,
}

/// Connections to other gateways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peers {
    /// TCP address that other gateways dial; none: this one only dials.
    pub listen: Option<SocketAddr>,
    /// Where other gateways are, besides what is learned: `HOST:PORT`, `[ADDRESS]:PORT`, `HOST`.
    pub addresses: Vec<String>,
    /// Whether to look for gateways by mDNS and to be found by it.
    pub discovery: bool,
    /// The only network interface for mDNS; none: all.
    pub interface: Option<String>,
}

/// LoRaWAN network server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lora {
    /// Whether packet forwarders are listened to.
    pub enabled: bool,
    /// UDP address for packet forwarders (Semtech GWMP v2, no authentication: keep it local).
    pub listen: SocketAddr,
    /// EUIs of the forwarders that are listened to, big-endian as printed; empty: any that reaches
    /// `listen`, which then must be a loopback address.
    pub forwarders: Vec<[u8; 8]>,
    /// Regional parameters.
    pub region: Region,
}

/// Serial ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serial {
    /// Baud rate when pairing names none, bit/s.
    pub baud: u32,
}

/// Which message bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bus {
    /// The system bus.
    System,
    /// A D-Bus address, for tests and the demo.
    Address(String),
}

/// LoRaWAN region (RP002).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Region {
    /// EU863-870.
    Eu868,
}

/// Least severe messages that are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What should be looked at.
    Warn,
    /// What happened.
    Info,
    /// What was decided, and why.
    Debug,
    /// Every step.
    Trace,
}

impl LogLevel {
    /// Name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Where a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A line of a file.
    File {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
    },
}

/// One setting in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownSetting {
    /// Dotted key, as in `lora.listen`.
    pub key: &'static str,
    /// Value as it would be written in TOML; `None`: not set, chosen by the daemon.
    pub value: Option<String>,
    /// Where it comes from.
    pub origin: Origin,
}

/// A value with the layer and place that set it.
struct Picked<'a, T> {
    value: &'a T,
    span: std::ops::Range<usize>,
    layer: &'a Layer,
}

impl<T> Picked<'_, T> {
    fn invalid(&self, problem: &str) -> ConfigError {
        self.layer.invalid(self.span.clone(), problem)
    }
}

/// The value of the last layer that sets it.
fn pick<'a, T>(
    layers: &'a [Layer],
    key: impl Fn(&'a Fragment) -> &'a Option<Spanned<T>>,
) -> Option<Picked<'a, T>> {
    layers.iter().rev().find_map(|layer| {
        let value = key(&layer.fragment).as_ref()?;
        Some(Picked { value: value.get_ref(), span: value.span(), layer })
    })
}

/// Picks a value and turns it into its checked form; the default when no layer sets it.
fn checked<'a, T: 'a, U>(
    layers: &'a [Layer],
    key: impl Fn(&'a Fragment) -> &'a Option<Spanned<T>>,
    default: U,
    check: impl Fn(&'a T) -> Result<U, String>,
) -> Result<U, ConfigError> {
    match pick(layers, key) {
        None => Ok(default),
        Some(picked) => check(picked.value).map_err(|problem| picked.invalid(&problem)),
    }
}

/// Default address for packet forwarders: theirs by convention, on this machine only.
const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1700);

/// Default address for other gateways, of both families.
const DEFAULT_PEERS: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    crate::peers::DEFAULT_PORT,
);

const MIB: u64 = 1024 * 1024;

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/gatewayd".into(),
            log_level: LogLevel::Info,
            bus: Bus::System,
            tcti: "device:/dev/tpmrm0".into(),
            insecure_software_tpm_sites: false,
            logs_socket: crate::measurement_logs::SOCKET.into(),
            disk_budget_bytes: 4096 * MIB,
            batch_interval_ms: None,
            peers: Peers {
                listen: Some(DEFAULT_PEERS),
                addresses: Vec::new(),
                discovery: true,
                interface: None,
            },
            lora: Lora {
                enabled: true,
                listen: DEFAULT_LISTEN,
                forwarders: Vec::new(),
                region: Region::Eu868,
            },
            serial: Serial { baud: 115_200 },
        }
    }
}

impl Settings {
    /// Merges the layers, later ones winning, and checks every value.
    pub(super) fn from_layers(layers: &[Layer]) -> Result<Self, ConfigError> {
        let default = Self::default();
        Ok(Self {
            data_dir: checked(layers, |f| &f.data_dir, default.data_dir, data_dir)?,
            log_level: checked(layers, |f| &f.log_level, default.log_level, log_level)?,
            bus: checked(layers, |f| &f.bus.address, default.bus, bus)?,
            tcti: checked(layers, |f| &f.tpm.tcti, default.tcti, tcti)?,
            insecure_software_tpm_sites: checked(
                layers,
                |f| &f.tpm.insecure_software_tpm_sites,
                default.insecure_software_tpm_sites,
                |allowed| Ok(*allowed),
            )?,
            logs_socket: checked(layers, |f| &f.tpm.logs_socket, default.logs_socket, socket)?,
            disk_budget_bytes: checked(
                layers,
                |f| &f.storage.disk_budget_mib,
                default.disk_budget_bytes,
                |mib| Ok(within(*mib, 16, 16 * MIB)? * MIB),
            )?,
            batch_interval_ms: checked(
                layers,
                |f| &f.readings.batch_interval_ms,
                default.batch_interval_ms,
                |ms| within(*ms, 50, 3_600_000).map(Some),
            )?,
            peers: peers(layers, default.peers)?,
            lora: lora(layers, default.lora)?,
            serial: Serial {
                baud: checked(layers, |f| &f.serial.baud, default.serial.baud, baud)?,
            },
        })
    }

    /// Every setting as it would be written, with its origin.
    pub(super) fn shown(&self, layers: &[Layer]) -> Vec<ShownSetting> {
        let Self {
            data_dir,
            log_level,
            bus,
            tcti,
            insecure_software_tpm_sites,
            logs_socket,
            disk_budget_bytes,
            batch_interval_ms,
            peers,
            lora: Lora { enabled, listen, forwarders, region },
            serial: Serial { baud },
        } = self;
        let text = |value: &str| Some(toml::Value::String(value.into()).to_string());
        let bus = match bus {
            Bus::System => "system",
            Bus::Address(address) => address,
        };
        let forwarders: Vec<String> =
            forwarders.iter().map(|eui| format!("{:016x}", u64::from_be_bytes(*eui))).collect();
        let Region::Eu868 = region;
        let shown = |key, value, origin| ShownSetting { key, value, origin };
        let mut all = vec![
            shown("data_dir", text(&data_dir.to_string_lossy()), from(layers, |f| &f.data_dir)),
            shown("log_level", text(log_level.name()), from(layers, |f| &f.log_level)),
            shown("bus.address", text(bus), from(layers, |f| &f.bus.address)),
            shown("tpm.tcti", text(tcti), from(layers, |f| &f.tpm.tcti)),
            shown(
                "tpm.insecure_software_tpm_sites",
                Some(insecure_software_tpm_sites.to_string()),
                from(layers, |f| &f.tpm.insecure_software_tpm_sites),
            ),
            shown(
                "tpm.logs_socket",
                text(&logs_socket.to_string_lossy()),
                from(layers, |f| &f.tpm.logs_socket),
            ),
            shown(
                "storage.disk_budget_mib",
                Some((disk_budget_bytes / MIB).to_string()),
                from(layers, |f| &f.storage.disk_budget_mib),
            ),
            shown(
                "readings.batch_interval_ms",
                batch_interval_ms.map(|ms| ms.to_string()),
                from(layers, |f| &f.readings.batch_interval_ms),
            ),
        ];
        all.extend(shown_peers(peers, layers));
        all.extend([
            shown("lora.enabled", Some(enabled.to_string()), from(layers, |f| &f.lora.enabled)),
            shown("lora.listen", text(&listen.to_string()), from(layers, |f| &f.lora.listen)),
            shown(
                "lora.forwarders",
                Some(toml::Value::from(forwarders).to_string()),
                from(layers, |f| &f.lora.forwarders),
            ),
            shown("lora.region", text("EU868"), from(layers, |f| &f.lora.region)),
            shown("serial.baud", Some(baud.to_string()), from(layers, |f| &f.serial.baud)),
        ]);
        all
    }
}

fn shown_peers(peers: &Peers, layers: &[Layer]) -> [ShownSetting; 4] {
    let Peers { listen, addresses, discovery, interface } = peers;
    let text = |value: String| Some(toml::Value::String(value).to_string());
    let shown = |key, value, origin| ShownSetting { key, value, origin };
    let listen = listen.map_or_else(String::new, |address| address.to_string());
    let addresses = toml::Value::from(addresses.clone()).to_string();
    let interface = interface.clone().unwrap_or_default();
    [
        shown("peers.listen", text(listen), from(layers, |f| &f.peers.listen)),
        shown("peers.addresses", Some(addresses), from(layers, |f| &f.peers.addresses)),
        shown("peers.discovery", Some(discovery.to_string()), from(layers, |f| &f.peers.discovery)),
        shown("peers.interface", text(interface), from(layers, |f| &f.peers.interface)),
    ]
}

fn peers(layers: &[Layer], default: Peers) -> Result<Peers, ConfigError> {
    let listen = |text: &String| match text.as_str() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| format!("`{text}` is not ADDRESS:PORT")),
    };
    let interface = |text: &String| Ok(Some(text.clone()).filter(|name| !name.is_empty()));
    Ok(Peers {
        listen: checked(layers, |f| &f.peers.listen, default.listen, listen)?,
        addresses: addresses(layers)?,
        discovery: checked(layers, |f| &f.peers.discovery, default.discovery, |on| Ok(*on))?,
        interface: checked(layers, |f| &f.peers.interface, default.interface, interface)?,
    })
}

fn addresses(layers: &[Layer]) -> Result<Vec<String>, ConfigError> {
    /// Most addresses in the list.
    const MAX_ADDRESSES: usize = 128;
    let Some(picked) = pick(layers, |f| &f.peers.addresses) else { return Ok(Vec::new()) };
    if picked.value.len() > MAX_ADDRESSES {
        return Err(picked.invalid(&format!("more than {MAX_ADDRESSES} addresses")));
    }
    let address = |text: &Spanned<String>| {
        let wrong = |error: crate::peers::AddressError| {
            picked.layer.invalid(text.span(), &error.to_string())
        };
        crate::peers::check_address(text.get_ref()).map_err(wrong)?;
        Ok(text.get_ref().clone())
    };
    picked.value.iter().map(address).collect()
}

fn lora(layers: &[Layer], default: Lora) -> Result<Lora, ConfigError> {
    let lora = Lora {
        enabled: checked(layers, |f| &f.lora.enabled, default.enabled, |enabled| Ok(*enabled))?,
        listen: checked(
            layers,
            |f| &f.lora.listen,
            default.listen,
            |text| text.parse().map_err(|_| format!("`{text}` is not ADDRESS:PORT")),
        )?,
        forwarders: forwarders(layers)?,
        region: checked(
            layers,
            |f| &f.lora.region,
            default.region,
            |text| match text.as_str() {
                "EU868" => Ok(Region::Eu868),
                _ => Err(format!("`{text}` is not a region this version knows; known: EU868")),
            },
        )?,
    };
    // The forwarders' protocol has no authentication (GWMP v2), so the network must not reach it
    // unless the operator says which forwarders are theirs.
    if let Some(picked) = pick(layers, |f| &f.lora.listen)
        && !lora.listen.ip().is_loopback()
        && lora.forwarders.is_empty()
    {
        return Err(picked.invalid(
            "an address that is not loopback needs `lora.forwarders`: the protocol of packet \
             forwarders has no authentication",
        ));
    }
    Ok(lora)
}

fn forwarders(layers: &[Layer]) -> Result<Vec<[u8; 8]>, ConfigError> {
    /// Most forwarders in the list.
    const MAX_FORWARDERS: usize = 64;
    let Some(picked) = pick(layers, |f| &f.lora.forwarders) else { return Ok(Vec::new()) };
    if picked.value.len() > MAX_FORWARDERS {
        return Err(picked.invalid(&format!("more than {MAX_FORWARDERS} forwarders")));
    }
    let eui = |text: &Spanned<String>| {
        let hex: String =
            text.get_ref().chars().filter(|c| !matches!(c, ':' | '-' | '.')).collect();
        let is_eui = hex.len() == 16 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u64::from_str_radix(&hex, 16) {
            Ok(eui) if is_eui => Ok(eui.to_be_bytes()),
            _ => Err(picked.layer.invalid(text.span(), "an EUI is 16 hexadecimal digits")),
        }
    };
    picked.value.iter().map(eui).collect()
}

fn from<'a, T: 'a>(
    layers: &'a [Layer],
    key: impl Fn(&'a Fragment) -> &'a Option<Spanned<T>>,
) -> Origin {
    pick(layers, key).map_or(Origin::Default, |picked| Origin::File {
        file: picked.layer.file.clone(),
        line: picked.layer.line(picked.span.start),
    })
}

fn data_dir(text: &String) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if path.is_absolute() && !text.contains('\0') {
        Ok(path.into())
    } else {
        Err(format!("`{text}` is not an absolute path"))
    }
}

fn log_level(text: &String) -> Result<LogLevel, String> {
    [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace]
        .into_iter()
        .find(|level| level.name() == text)
        .ok_or_else(|| format!("`{text}` is none of error, warn, info, debug, trace"))
}

fn bus(text: &String) -> Result<Bus, String> {
    match text.as_str() {
        "system" => Ok(Bus::System),
        address if address.contains(':') => Ok(Bus::Address(text.clone())),
        _ => Err(format!("`{text}` is neither `system` nor a D-Bus address (`unix:path=…`)")),
    }
}

fn tcti(text: &String) -> Result<String, String> {
    /// The TCTIs that a gateway can use; `tabrmd` holds sessions that we want to own ourselves.
    const KNOWN: [&str; 3] = ["device:", "swtpm:", "mssim:"];
    if KNOWN.iter().any(|known| text.starts_with(known)) && !text.contains('\0') {
        Ok(text.clone())
    } else {
        Err(format!("`{text}` is no TCTI; known: device:PATH, swtpm:host=…,port=…, mssim:…"))
    }
}

fn socket(text: &String) -> Result<PathBuf, String> {
    match Path::new(text).is_absolute() && !text.contains('\0') {
        true => Ok(text.into()),
        false => Err(format!("`{text}` is no absolute path of a socket")),
    }
}

fn baud(value: &i64) -> Result<u32, String> {
    let baud = within(*value, 300, 4_000_000)?;
    u32::try_from(baud).map_err(|_| "out of range".into())
}

fn within(value: i64, least: u64, most: u64) -> Result<u64, String> {
    match u64::try_from(value) {
        Ok(value) if (least..=most).contains(&value) => Ok(value),
        _ => Err(format!("{value} is not between {least} and {most}")),
    }
}
