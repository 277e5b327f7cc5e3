//! The printed code of a shared-key node (`drivers/PROTOCOL.md` section 7): text and QR form, and
//! the key file that takes it past the command line.
//!
//! The code holds the key. It is never logged, never an argument of a command, and erased from
//! memory when dropped.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32m, Hrp};
use sensor::frame::DeviceId;
use sensor::keys::{PSK, SharedKey};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

/// Bytes in a code: device ID and pre-shared key.
pub const CODE_BYTES: usize = 8 + PSK;

/// Longest text that is looked at as a code, in bytes; the code has 49, plus blanks.
pub const MAX_TEXT: usize = 256;

const HRP: Hrp = Hrp::parse_unchecked("gwk");

/// Why a text is not a printed code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CodeError {
    /// It does not begin with `gwk1`.
    #[error("not a sensor's code: it should begin with gwk1")]
    NotACode,
    /// A character is wrong or missing: the checksum does not agree.
    #[error("the code has a mistake: its checksum does not agree; compare it with the label")]
    Checksum,
    /// Well-formed, with another number of bytes.
    #[error("the code has another length than a sensor's code")]
    Length,
}

/// Why a key file was not read or written.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// The file is not there, or cannot be read or written.
    #[error("key file: {0}")]
    Io(#[from] std::io::Error),
    /// Others than the owner may read it.
    #[error("the key file can be read by others (mode {0:03o}): chmod 600 it")]
    Exposed(u32),
    /// Its first line is not a code.
    #[error("key file: {0}")]
    Code(#[from] CodeError),
}

/// A node's device ID and key, as printed on it.
#[derive(Clone)]
pub struct PrintedCode {
    bytes: [u8; CODE_BYTES],
}

impl Drop for PrintedCode {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl fmt::Debug for PrintedCode {
    /// The device only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrintedCode({})", self.device())
    }
}

impl PrintedCode {
    /// A code of device ID (8 bytes) and key (16 bytes): from a sealed store, or from a random
    /// number generator for a new node.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; CODE_BYTES]) -> Self {
        Self { bytes }
    }

    /// Device ID and key, for a sealed store. Secret.
    #[must_use]
    pub const fn to_bytes(&self) -> [u8; CODE_BYTES] {
        self.bytes
    }

    /// Reads a code as typed or scanned: any case, blanks, line ends and `-` are dropped.
    ///
    /// # Errors
    /// [`CodeError`].
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        if text.len() > MAX_TEXT {
            return Err(CodeError::Length);
        }
        let kept = text.chars().filter(|c| !c.is_whitespace() && *c != '-');
        let text = Zeroizing::new(kept.collect::<String>().to_lowercase());
        if !text.starts_with("gwk1") {
            return Err(CodeError::NotACode);
        }
        let checked = CheckedHrpstring::new::<Bech32m>(&text).map_err(|_| CodeError::Checksum)?;
        let bytes = Zeroizing::new(checked.byte_iter().collect::<Vec<u8>>());
        let code = Self { bytes: bytes.as_slice().try_into().map_err(|_| CodeError::Length)? };
        // Spare bits that are not zero would give one key two codes.
        if *code.text() != *text {
            return Err(CodeError::Checksum);
        }
        Ok(code)
    }

    /// The code as text, lower case. Secret. In upper case it makes the smaller QR code.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let text = bech32::encode::<Bech32m>(HRP, &self.bytes);
        Zeroizing::new(text.expect("24 bytes are within the limit of bech32m"))
    }

    /// The device ID, which is not secret.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        let (device, _) = self.bytes.split_first_chunk().expect("8 of 24 bytes");
        DeviceId(*device)
    }

    /// The key for [`super::session::Session`].
    #[must_use]
    pub fn key(&self) -> SharedKey {
        let (_, psk) = self.bytes.split_last_chunk().expect("16 of 24 bytes");
        SharedKey::new(self.device(), *psk)
    }
}

/// Reads a code from the first line of a file that its owner alone may read.
///
/// # Errors
/// [`KeyFileError`].
pub fn read_key_file(path: &Path) -> Result<PrintedCode, KeyFileError> {
    let file = OpenOptions::new().read(true).open(path)?;
    let mode = file.metadata()?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Exposed(mode));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_TEXT + 1));
    file.take(MAX_TEXT as u64 + 1).read_to_end(&mut bytes)?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let text = std::str::from_utf8(line).map_err(|_| CodeError::NotACode)?;
    Ok(PrintedCode::parse(text)?)
}

/// Writes a code to a new file that its owner alone may read; an existing file is not touched.
///
/// # Errors
/// [`KeyFileError::Io`].
pub fn write_key_file(path: &Path, code: &PrintedCode) -> Result<(), KeyFileError> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(code.text().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    Ok(())
}

/// Entry for fuzzing: any bytes as a printed code. A code that is taken has one text only.
///
/// # Panics
/// Only if the parser is wrong.
pub fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(code) = PrintedCode::parse(&text) {
        assert!(PrintedCode::parse(&code.text()).is_ok_and(|again| again.bytes == code.bytes));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use bech32::Fe32;
    use bech32::primitives::iter::{ByteIterExt as _, Fe32IterExt as _};
    use proptest::prelude::*;

    use super::*;

    /// `PROTOCOL.md` section 8.
    const CODE: &str = "gwk15zs69gay5kn2wyq3zgf3g9gkzuvpjxsmrsw3u8c2c0vkd";

    fn bytes() -> [u8; CODE_BYTES] {
        let mut bytes = [0; CODE_BYTES];
        bytes[..8].iter_mut().zip(0xA0..).for_each(|(byte, value)| *byte = value);
        bytes[8..].iter_mut().zip(0x10..).for_each(|(byte, value)| *byte = value);
        bytes
    }

    #[test]
    fn code_of_protocol_md() {
        let code = PrintedCode::from_bytes(bytes());
        assert_eq!(code.text().as_str(), CODE);
        assert!(include_str!("../../PROTOCOL.md").contains(&format!("code = {CODE}\n")));
        let typed =
            format!(" {}-{} {}\r\n", &CODE[..10], &CODE[10..20], &CODE[20..]).to_uppercase();
        let parsed = PrintedCode::parse(&typed).expect("blanks, dashes and case do not matter");
        assert_eq!(parsed.to_bytes(), bytes());
        assert_eq!(format!("{parsed:?}"), "PrintedCode(A0A1A2A3A4A5A6A7)");
    }

    #[test]
    fn mistakes_are_named() {
        let mut wrong = CODE.to_owned();
        wrong.replace_range(20..21, if &CODE[20..21] == "q" { "p" } else { "q" });
        let old = bech32::encode::<bech32::Bech32>(HRP, &bytes()).expect("encodes");
        let short = bech32::encode::<Bech32m>(HRP, &[0; 23]).expect("encodes");
        let long = "gwk1".repeat(100);
        let table = [
            ("", CodeError::NotACode),
            ("gw1qqqq", CodeError::NotACode),
            (&CODE[..48], CodeError::Checksum),
            (&wrong, CodeError::Checksum),
            (&old, CodeError::Checksum),
            (&short, CodeError::Length),
            (&long, CodeError::Length),
        ];
        for (text, expected) in table {
            assert_eq!(PrintedCode::parse(text).err(), Some(expected), "{text}");
        }
    }

    #[test]
    fn one_key_has_one_code() {
        let mut letters: Vec<Fe32> = bytes().iter().copied().bytes_to_fes().collect();
        let text = |letters: &[Fe32]| -> String {
            letters.iter().copied().with_checksum::<Bech32m>(&HRP).chars().collect()
        };
        assert_eq!(text(&letters), CODE);
        // 39 letters hold 195 bits: three are spare.
        let last = letters.last_mut().expect("39 letters");
        *last += Fe32::P;
        assert_eq!(PrintedCode::parse(&text(&letters)).err(), Some(CodeError::Checksum));
    }

    #[test]
    fn key_files_are_private() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sensor.key");
        write_key_file(&path, &PrintedCode::from_bytes(bytes())).expect("written");
        assert_eq!(read_key_file(&path).expect("read").to_bytes(), bytes());
        let again = write_key_file(&path, &PrintedCode::from_bytes([0; CODE_BYTES]));
        assert!(matches!(again, Err(KeyFileError::Io(_))), "never overwritten");
        let mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode));
        mode(0o640).expect("chmod");
        assert!(matches!(read_key_file(&path), Err(KeyFileError::Exposed(0o640))));
        mode(0o600).expect("chmod");
        std::fs::write(&path, [0xFF; 5000]).expect("written");
        assert!(matches!(read_key_file(&path), Err(KeyFileError::Code(_))));
    }

    proptest! {
        #[test]
        fn every_code_round_trips_and_one_wrong_letter_is_seen(
            bytes in any::<[u8; CODE_BYTES]>(), place in 4usize..49, letter in 0usize..32,
        ) {
            let text = PrintedCode::from_bytes(bytes).text();
            prop_assert_eq!(PrintedCode::parse(&text).map(|code| code.to_bytes()), Ok(bytes));
            let letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";
            let mut wrong = text.to_string();
            wrong.replace_range(place..=place, &letters[letter..=letter]);
            let same = wrong == *text;
            prop_assert_eq!(PrintedCode::parse(&wrong).is_ok(), same);
        }

        #[test]
        fn any_text_is_answered(text in ".{0,80}") {
            let _ = PrintedCode::parse(&text);
            let _ = PrintedCode::parse(&format!("gwk1{text}"));
        }
    }
}
