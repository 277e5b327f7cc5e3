//! What is kept of a sensor besides its secret: link, codec, expected interval. Stored as JSON.

use drivers::codec::Codec;
use drivers::device::Identity;
use drivers::lora::join::Version;
use drivers::reading::Level;
use serde::{Deserialize, Serialize};

use crate::control::ControlError;

/// Settings of one sensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SensorSettings {
    /// [`Identity::to_bytes`], hex.
    pub identity: String,
    /// Expected seconds between readings; 0 for unknown.
    pub interval_s: u32,
    /// Salt of the descriptor hash on the record, hex: shown with the name on export.
    pub descriptor_salt: String,
    /// How it is reached.
    pub link: LinkSettings,
}

/// How a sensor is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LinkSettings {
    /// Shared-key frames on a port.
    Serial {
        /// Path.
        port: String,
        /// Bit/s.
        baud: u32,
    },
    /// Lines on a port.
    Line {
        /// Path.
        port: String,
        /// Bit/s.
        baud: u32,
        /// Line map, TOML.
        map: String,
    },
    /// LoRaWAN.
    Lora {
        /// JoinEUI, hex as printed.
        join_eui: String,
        /// `raw` or `cayenne-lpp`.
        codec: String,
        /// `1.0.4` or `1.0.3`.
        version: String,
    },
}

/// Where a port is: `/dev/…` on this machine, `bridge:NAME/dev/…` on a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// Here.
    Here(&'a str),
    /// On this bridge, by its name or ID.
    Bridge(&'a str, &'a str),
}

impl<'a> Place<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// It names no device file: such a port is never opened.
    pub fn parse(port: &'a str) -> Result<Self, ControlError> {
        let bad = |why: &str| Err(ControlError::InvalidArgument(why.to_owned()));
        if port.len() > MAX_PORT || port.chars().any(char::is_control) {
            return bad("the port is the absolute path of a serial device");
        }
        let Some(lent) = port.strip_prefix("bridge:") else {
            return match port.starts_with('/') {
                true => Ok(Self::Here(port)),
                false => bad("the port is the absolute path of a serial device"),
            };
        };
        match lent.find('/') {
            Some(at) if at > 0 => Ok(Self::Bridge(&lent[..at], &lent[at..])),
            _ => bad("a port of a bridge is bridge:NAME/dev/… or bridge:gw1…/dev/…"),
        }
    }
}

/// Longest name of a port, bytes.
const MAX_PORT: usize = 4096;

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Here(path) => f.write_str(path),
            Self::Bridge(bridge, path) => write!(f, "bridge:{bridge}{path}"),
        }
    }
}

impl LinkSettings {
    /// The bridge whose port it is on.
    pub fn bridge(&self) -> Option<&str> {
        let (Self::Serial { port, .. } | Self::Line { port, .. }) = self else { return None };
        match Place::parse(port) {
            Ok(Place::Bridge(bridge, _)) => Some(bridge),
            Ok(Place::Here(_)) | Err(_) => None,
        }
    }

    /// Word for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Serial { .. } => "serial",
            Self::Line { .. } => "line",
            Self::Lora { .. } => "lora",
        }
    }

    /// Where it is plugged in or heard.
    pub fn place(&self) -> String {
        match self {
            Self::Serial { port, .. } | Self::Line { port, .. } => port.clone(),
            Self::Lora { .. } => "LoRaWAN".into(),
        }
    }

    /// Highest assurance level that its readings can have.
    pub fn level(&self) -> Level {
        match self {
            Self::Line { .. } => Level::Observed,
            Self::Serial { .. } | Self::Lora { .. } => Level::SharedKey,
        }
    }

    /// Device class on the record.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Serial { .. } => "serial-key",
            Self::Line { .. } => "line",
            Self::Lora { .. } => "A",
        }
    }

    /// Whether its frames carry a counter of its own.
    pub fn wire_counter(&self) -> bool {
        !matches!(self, Self::Line { .. })
    }

    /// Counter of the first reading of a session: frames of the handshake use 0 on a serial link.
    pub fn first_counter(&self) -> u64 {
        match self {
            Self::Serial { .. } | Self::Line { .. } => 1,
            Self::Lora { .. } => 0,
        }
    }

    /// Whether another gateway could serve it, in words (design §6).
    pub fn mobility(&self) -> &'static str {
        match self {
            Self::Lora { .. } => "moves to another gateway that hears it, without re-pairing",
            Self::Serial { .. } | Self::Line { .. } if self.bridge().is_some() => {
                "stays: it is on a cable of a bridge of this gateway"
            }
            Self::Serial { .. } | Self::Line { .. } => {
                "stays: it is on a cable of this gateway alone"
            }
        }
    }
}

/// The name of a LoRaWAN version in settings and on the command line.
pub fn version(text: &str) -> Option<Version> {
    match text {
        "1.0.4" => Some(Version::V1_0_4),
        "1.0.2" | "1.0.3" => Some(Version::V1_0_3),
        _ => None,
    }
}

/// The name of a codec in settings and on the command line.
pub fn codec(text: &str) -> Option<Codec> {
    match text {
        "cayenne" => Some(Codec::CayenneLpp),
        other => other.parse().ok(),
    }
}

/// Identity in its own notation, for people.
pub fn identity_words(identity: &Identity) -> String {
    match identity {
        Identity::PublicKey(key) => format!("key {}", hex(key)),
        Identity::DevEui(eui) => format!("DevEUI {}", hex(eui).to_uppercase()),
        Identity::Ble { addr, .. } => {
            let bytes: Vec<_> = addr.iter().map(|byte| format!("{byte:02X}")).collect();
            format!("BLE {}", bytes.join(":"))
        }
        Identity::SerialDevice(id) => format!("device {}", hex(id)),
        Identity::Bus { bus, unit } => format!("bus {} unit {unit}", hex(bus)),
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

/// Inverse of [`hex`]; either case.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    text.as_bytes()
        .chunks(2)
        .map(|pair| {
            let digit = |c: u8| char::from(c).to_digit(16);
            u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()
        })
        .collect()
}

impl SensorSettings {
    /// Settings of a sensor.
    pub fn new(
        identity: &Identity,
        interval_s: u32,
        descriptor_salt: [u8; 16],
        link: LinkSettings,
    ) -> Self {
        let (identity, descriptor_salt) = (hex(&identity.to_bytes()), hex(&descriptor_salt));
        Self { identity, interval_s, descriptor_salt, link }
    }

    /// The identity.
    pub fn identity(&self) -> Option<Identity> {
        Identity::from_bytes(&unhex(&self.identity)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_back_from_json() {
        let link = LinkSettings::Lora {
            join_eui: "70b3d57ed0000001".into(),
            codec: "raw".into(),
            version: "1.0.4".into(),
        };
        let identity = Identity::DevEui([1, 2, 3, 4, 5, 6, 7, 8]);
        let settings = SensorSettings::new(&identity, 60, [7; 16], link);
        let json = serde_json::to_string(&settings).unwrap();
        let back: SensorSettings = serde_json::from_str(&json).unwrap();
        assert_eq!(back, settings);
        assert_eq!(back.identity(), Some(identity));
        assert!(serde_json::from_str::<SensorSettings>(r#"{"identity":"","other":1}"#).is_err());
    }

    #[test]
    fn a_port_is_here_or_on_a_bridge() {
        assert_eq!(Place::parse("/dev/ttyUSB0").ok(), Some(Place::Here("/dev/ttyUSB0")));
        let lent = Place::parse("bridge:barn/dev/ttyUSB0").unwrap();
        assert_eq!(lent, Place::Bridge("barn", "/dev/ttyUSB0"));
        assert_eq!(lent.to_string(), "bridge:barn/dev/ttyUSB0");
        for port in
            ["", "dev/x", "bridge:", "bridge:barn", "bridge:/dev/x", "/dev/\u{0}", "http:/x"]
        {
            assert!(Place::parse(port).is_err(), "{port:?}");
        }
        let link = |port: &str| LinkSettings::Serial { port: port.into(), baud: 9600 };
        assert_eq!(link("bridge:gw1x/dev/a").bridge(), Some("gw1x"));
        assert_eq!(link("/dev/bridge:x/y").bridge(), None);
    }

    #[test]
    fn hex_goes_both_ways() {
        assert_eq!(unhex("00fF"), Some(vec![0, 255]));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("zz"), None);
        assert_eq!(unhex("ä"), None);
        assert_eq!(hex(&[0, 255]), "00ff");
    }
}
