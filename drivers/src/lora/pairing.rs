//! What an operator has in hand when a LoRaWAN device is paired: its QR code (LoRa Alliance TR005)
//! and a file with its key. Text to types; reading files and asking people is the caller's part.

use serde::Deserialize;
use thiserror::Error;

use super::ids::{DevEui, JoinEui, Key};
use super::join::Version;
use crate::codec::Codec;

/// Longest QR code text, in bytes (a version 40 code holds 4,296 characters).
pub const MAX_QR_BYTES: usize = 4_296;

/// Longest key or device file, in bytes.
pub const MAX_FILE_BYTES: usize = 4_096;

/// Why text is not the QR code of a LoRaWAN device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QrError {
    /// Longer than [`MAX_QR_BYTES`].
    #[error("the code is too long")]
    TooLong,
    /// Does not start with `LW:`.
    #[error("this is not a LoRaWAN device code: it does not start with `LW:`")]
    NotLorawan,
    /// Another schema than D0.
    #[error("the code has a schema other than D0")]
    Schema,
    /// The JoinEUI is missing or not 16 hexadecimal digits.
    #[error("the JoinEUI in the code is not 16 hexadecimal digits")]
    JoinEui,
    /// The DevEUI is missing or not 16 hexadecimal digits.
    #[error("the DevEUI in the code is not 16 hexadecimal digits")]
    DevEui,
    /// The ProfileID is missing or not 8 hexadecimal digits.
    #[error("the ProfileID in the code is not 8 hexadecimal digits")]
    ProfileId,
    /// A field after the ProfileID that TR005 does not have, or has once only.
    #[error("the code has an unknown or repeated field")]
    Field,
    /// The checksum does not fit: the code was misread.
    #[error("the checksum is wrong: the code was misread")]
    Checksum,
}

/// The QR code of a device: `LW:D0:JoinEUI:DevEUI:ProfileID[:O…][:S…][:P…][:C…]`
/// (TR005 section 4.2). It holds no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceCode {
    /// JoinEUI.
    pub join_eui: JoinEui,
    /// DevEUI.
    pub dev_eui: DevEui,
    /// Vendor (high half) and that vendor's profile number.
    pub profile_id: u32,
    /// Token that proves ownership to a join server.
    pub owner_token: Option<String>,
    /// Serial number.
    pub serial_number: Option<String>,
    /// What the vendor likes.
    pub proprietary: Option<String>,
}

impl DeviceCode {
    /// Parses the text of a QR code; blanks around it are ignored.
    ///
    /// # Errors
    ///
    /// [`QrError`], a sentence that tells the operator what to look at.
    pub fn parse(text: &str) -> Result<Self, QrError> {
        let text = text.trim();
        if text.len() > MAX_QR_BYTES {
            return Err(QrError::TooLong);
        }
        let mut fields = text.split(':');
        if fields.next() != Some("LW") {
            return Err(QrError::NotLorawan);
        }
        if fields.next() != Some("D0") {
            return Err(QrError::Schema);
        }
        let mut code = Self {
            join_eui: fields.next().and_then(hex_eui).map(JoinEui).ok_or(QrError::JoinEui)?,
            dev_eui: fields.next().and_then(hex_eui).map(DevEui).ok_or(QrError::DevEui)?,
            profile_id: fields.next().and_then(hex_u32).ok_or(QrError::ProfileId)?,
            owner_token: None,
            serial_number: None,
            proprietary: None,
        };
        let mut fields = fields.peekable();
        while let Some(field) = fields.next() {
            let mut characters = field.chars();
            let tag = characters.next().ok_or(QrError::Field)?;
            let value = characters.as_str();
            let slot = match tag {
                'O' => &mut code.owner_token,
                'S' => &mut code.serial_number,
                'P' => &mut code.proprietary,
                'C' if fields.peek().is_none() => {
                    // The checksum ends the code and covers everything before its own colon.
                    let covered = &text[..text.len() - field.len() - 1];
                    if u16::from_str_radix(value, 16) != Ok(crc16_modbus(covered.as_bytes())) {
                        return Err(QrError::Checksum);
                    }
                    break;
                }
                _ => return Err(QrError::Field),
            };
            if slot.replace(value.to_owned()).is_some() {
                return Err(QrError::Field);
            }
        }
        Ok(code)
    }
}

/// 16 hexadecimal digits and nothing else.
fn hex_eui(text: &str) -> Option<[u8; 8]> {
    (text.len() == 16).then(|| DevEui::parse(text)).flatten().map(|eui| eui.0)
}

/// 8 hexadecimal digits and nothing else.
fn hex_u32(text: &str) -> Option<u32> {
    let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

/// CRC-16/MODBUS: what the example code of TR005 carries.
fn crc16_modbus(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0xA001 } else { crc >> 1 }
        })
    })
}

/// Why a file does not give a device or its key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyFileError {
    /// Longer than [`MAX_FILE_BYTES`].
    #[error("the file is too long for a key")]
    TooLong,
    /// Not 32 hexadecimal digits.
    #[error("the AppKey is not 32 hexadecimal digits")]
    AppKey,
    /// A key that is no secret: all bytes equal, or printed in a specification or an example.
    #[error("this AppKey is a well-known example, anyone could pose as the device")]
    WellKnown,
    /// The TOML is malformed, or has an unknown key.
    #[error("line {line}: {message}")]
    Toml {
        /// Line, from 1.
        line: usize,
        /// What is wrong. Never holds file content.
        message: &'static str,
    },
    /// A field is not what it should be.
    #[error("`{0}` is not valid")]
    Field(&'static str),
}

/// The AppKey in a file of one line of hexadecimal digits.
///
/// # Errors
///
/// [`KeyFileError`] `TooLong`, `AppKey` and `WellKnown`.
pub fn parse_key(text: &str) -> Result<Key, KeyFileError> {
    if text.len() > MAX_FILE_BYTES {
        return Err(KeyFileError::TooLong);
    }
    let key = Key::parse(text.trim()).ok_or(KeyFileError::AppKey)?;
    if is_well_known(key.bytes()) {
        return Err(KeyFileError::WellKnown);
    }
    Ok(key)
}

/// Keys that documents print: FIPS 197's examples, and any byte repeated.
fn is_well_known(key: &[u8; 16]) -> bool {
    const EXAMPLES: [u128; 3] = [
        0x2B7E_1516_28AE_D2A6_ABF7_1588_09CF_4F3C,
        0x0001_0203_0405_0607_0809_0A0B_0C0D_0E0F,
        0x0011_2233_4455_6677_8899_AABB_CCDD_EEFF,
    ];
    key.iter().all(|byte| *byte == key[0]) || EXAMPLES.contains(&u128::from_be_bytes(*key))
}

/// A device as an operator writes it down, in TOML:
///
/// ```toml
/// dev_eui = "70B3D57ED0000001"
/// join_eui = "0000000000000000"
/// app_key = "…32 hexadecimal digits…"
/// lorawan = "1.0.4"       # or "1.0.2", "1.0.3"
/// codec = "cayenne-lpp"   # or "raw"
/// ```
#[derive(Clone, Debug)]
pub struct DeviceFile {
    /// DevEUI.
    pub dev_eui: DevEui,
    /// JoinEUI.
    pub join_eui: JoinEui,
    /// Root key.
    pub app_key: Key,
    /// LoRaWAN version; 1.0.4 when not said.
    pub version: Version,
    /// Payload codec; raw when not said.
    pub codec: Codec,
}

impl DeviceFile {
    /// Parses the text of such a file.
    ///
    /// # Errors
    ///
    /// [`KeyFileError`]; no error holds the key.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            dev_eui: String,
            join_eui: String,
            app_key: String,
            lorawan: Option<String>,
            codec: Option<String>,
        }

        if text.len() > MAX_FILE_BYTES {
            return Err(KeyFileError::TooLong);
        }
        let fields: Fields = toml::from_str(text).map_err(|error| {
            // The message of the parser may quote the file: the key would land in a log.
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = 1 + text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count();
            let message = "expected dev_eui, join_eui, app_key, and maybe lorawan and codec, each \
                           a string in quotes";
            KeyFileError::Toml { line, message }
        })?;
        let Fields { dev_eui, join_eui, app_key, lorawan, codec } = fields;
        Ok(Self {
            dev_eui: DevEui::parse(&dev_eui).ok_or(KeyFileError::Field("dev_eui"))?,
            join_eui: JoinEui::parse(&join_eui).ok_or(KeyFileError::Field("join_eui"))?,
            app_key: parse_key(&app_key)?,
            version: match lorawan.as_deref() {
                None => Version::V1_0_4,
                Some(text) => parse_version(text).ok_or(KeyFileError::Field("lorawan"))?,
            },
            codec: match codec {
                None => Codec::Raw,
                Some(name) => name.parse().map_err(|_| KeyFileError::Field("codec"))?,
            },
        })
    }
}

/// `1.0.4`, `1.0.3` or `1.0.2`; `None` for versions that are not served.
#[must_use]
pub fn parse_version(text: &str) -> Option<Version> {
    match text {
        "1.0.4" => Some(Version::V1_0_4),
        "1.0.3" | "1.0.2" => Some(Version::V1_0_3),
        _ => None,
    }
}

/// For a fuzzer: every parser of this module.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = (DeviceCode::parse(text), DeviceFile::parse(text), parse_key(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of TR005 section 4.2.
    const EXAMPLE: &str = "LW:D0:1122334455667788:AABBCCDDEEFF0011:AABB1122:OAABBCCDDEEFF:\
                           SYYWWNNNNNN:PFOOBAR:CAF2C";

    #[test]
    fn the_example_of_tr005() {
        let expected = DeviceCode {
            join_eui: JoinEui([0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]),
            dev_eui: DevEui([0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF, 0x00, 0x11]),
            profile_id: 0xAABB_1122,
            owner_token: Some("AABBCCDDEEFF".into()),
            serial_number: Some("YYWWNNNNNN".into()),
            proprietary: Some("FOOBAR".into()),
        };
        assert_eq!(DeviceCode::parse(EXAMPLE), Ok(expected.clone()));
        assert_eq!(DeviceCode::parse(&format!(" {EXAMPLE}\n")), Ok(expected));
        let short = DeviceCode::parse("LW:D0:1122334455667788:AABBCCDDEEFF0011:AABB1122").unwrap();
        assert_eq!(short.owner_token, None);
    }

    #[test]
    fn what_is_wrong_with_a_code() {
        let table = [
            ("empty", "", QrError::NotLorawan),
            ("a web address", "https://example.org/?a=1", QrError::NotLorawan),
            ("schema", "LW:D1:1122334455667788:AABBCCDDEEFF0011:AABB1122", QrError::Schema),
            ("no JoinEUI", "LW:D0", QrError::JoinEui),
            ("short JoinEUI", "LW:D0:11:AABBCCDDEEFF0011:AABB1122", QrError::JoinEui),
            ("no DevEUI", "LW:D0:1122334455667788", QrError::DevEui),
            ("bad DevEUI", "LW:D0:1122334455667788:AABBCCDDEEFF001G:AABB1122", QrError::DevEui),
            ("no profile", "LW:D0:1122334455667788:AABBCCDDEEFF0011", QrError::ProfileId),
            ("signed", "LW:D0:1122334455667788:AABBCCDDEEFF0011:+ABB1122", QrError::ProfileId),
            ("field", "LW:D0:1122334455667788:AABBCCDDEEFF0011:AABB1122:X1", QrError::Field),
            ("empty field", "LW:D0:1122334455667788:AABBCCDDEEFF0011:AABB1122:", QrError::Field),
            ("twice", "LW:D0:1122334455667788:AABBCCDDEEFF0011:AABB1122:S1:S2", QrError::Field),
            ("misread", &EXAMPLE.replace("FOOBAR", "FOOBAZ"), QrError::Checksum),
            ("after checksum", &format!("{EXAMPLE}:S1"), QrError::Field),
            ("too long", &format!("{EXAMPLE}{}", "A".repeat(5_000)), QrError::TooLong),
        ];
        for (what, text, error) in table {
            assert_eq!(DeviceCode::parse(text), Err(error), "{what}");
        }
    }

    const KEY: &str = "8D5C1F2E3A4B69788796A5B4C3D2E1F0";

    #[test]
    fn keys() {
        assert!(parse_key(&format!("{KEY}\n")).is_ok());
        assert!(parse_key("8D:5C:1F:2E:3A:4B:69:78:87:96:A5:B4:C3:D2:E1:F0").is_ok());
        let table = [
            ("empty", "", KeyFileError::AppKey),
            ("short", &KEY[1..], KeyFileError::AppKey),
            ("zeros", &"00".repeat(16), KeyFileError::WellKnown),
            ("FIPS 197", "2b7e151628aed2a6abf7158809cf4f3c", KeyFileError::WellKnown),
            ("long", &"0".repeat(5_000), KeyFileError::TooLong),
        ];
        for (what, text, error) in table {
            assert_eq!(parse_key(text), Err(error), "{what}");
        }
    }

    fn file(extra: &str) -> String {
        format!("dev_eui = \"70B3D57ED0000001\"\njoin_eui = \"0000000000000001\"\n{extra}")
    }

    #[test]
    fn device_files() {
        let text = file(&format!("app_key = \"{KEY}\"\nlorawan = \"1.0.3\"\ncodec = \"raw\""));
        let device = DeviceFile::parse(&text).unwrap();
        assert_eq!(device.dev_eui.to_string(), "70B3D57ED0000001");
        assert_eq!((device.version, device.codec), (Version::V1_0_3, Codec::Raw));
        let device = DeviceFile::parse(&file(&format!("app_key = \"{KEY}\""))).unwrap();
        assert_eq!(device.version, Version::V1_0_4);
        let key = format!("app_key = \"{KEY}\"\n");
        let table = [
            ("version", format!("{key}lorawan = \"1.1\""), "`lorawan` is not valid"),
            ("codec", format!("{key}codec = \"js\""), "`codec` is not valid"),
            ("key", "app_key = \"12\"".to_owned(), "the AppKey is not 32 hexadecimal digits"),
        ];
        for (what, extra, message) in table {
            assert_eq!(
                DeviceFile::parse(&file(&extra)).unwrap_err().to_string(),
                message,
                "{what}"
            );
        }
        let unknown = DeviceFile::parse(&file(&format!("{key}colour = \"{KEY}\""))).unwrap_err();
        let KeyFileError::Toml { line, .. } = unknown else { panic!("{unknown:?}") };
        assert_eq!(line, 4);
        assert!(!unknown.to_string().contains(KEY), "the file is not quoted");
    }
}
