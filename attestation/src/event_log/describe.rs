//! What an event measured, in words. A payload is worth reading only if it hashes to the event's
//! digest: firmware does so for variables, actions, separators and the like, while the digests of
//! images (PE/COFF), firmware volumes and tables are values of their own, whatever stands beside
//! them. A payload that cannot be decoded is shown as its length, and nothing stops.

use crate::crypto::sha256;
use crate::event_log::{Event, kind};
use crate::reference_values::MAX_TEXT_LEN;

/// What an event measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// In words, at most [`MAX_TEXT_LEN`] bytes without control characters.
    pub text: String,
    /// Whether the words follow from bytes that hash to the digest. Else the log merely says so.
    pub verified: bool,
}

/// Describes an event.
#[must_use]
pub fn describe(event: &Event<'_>) -> Description {
    let verified = event.sha256.is_some_and(|digest| covers(event, &digest));
    let text = match event.kind {
        kind::SEPARATOR => separator(event.data),
        kind::VARIABLE_DRIVER_CONFIG
        | kind::VARIABLE_BOOT
        | kind::VARIABLE_BOOT2
        | kind::VARIABLE_AUTHORITY => variable(event.data).map(|found| found.words()),
        kind::BOOT_SERVICES_APPLICATION
        | kind::BOOT_SERVICES_DRIVER
        | kind::RUNTIME_SERVICES_DRIVER => image(event.data),
        _ => text(event.data),
    };
    let text = text.unwrap_or_else(|| format!("{} bytes", event.data.len()));
    Description { text: bounded(&text), verified }
}

/// Whether the digest is that of the payload, or of the part of it that such events measure.
fn covers(event: &Event<'_>, digest: &[u8; 32]) -> bool {
    let hashes = |bytes: &[u8]| sha256(&[bytes]) == *digest;
    if hashes(event.data) {
        return true;
    }
    match event.kind {
        // Some firmware measures the value alone (PFP 1.05, 3.3.4.8, allows it for Boot####).
        kind::VARIABLE_BOOT | kind::VARIABLE_BOOT2 => {
            variable(event.data).is_some_and(|found| hashes(found.value))
        }
        kind::IPL => loader_parts(event.data).any(hashes),
        _ => false,
    }
}

/// What boot loaders measure of a payload in text: without its terminator, and without the word in
/// front that says what it is (`grub_cmd: `, `kernel_cmdline: `).
fn loader_parts(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let bare = data.strip_suffix(&[0]).unwrap_or(data);
    let wide = data.strip_suffix(&[0, 0]).unwrap_or(data);
    let argument = bare.windows(2).position(|pair| pair == b": ").map(|at| &bare[at + 2..]);
    [Some(bare), Some(wide), argument].into_iter().flatten()
}

fn separator(data: &[u8]) -> Option<String> {
    match data {
        [0, 0, 0, 0] | [0xff, 0xff, 0xff, 0xff] => Some("end of the firmware's part".to_owned()),
        [1, 0, 0, 0] => Some("the firmware met an error".to_owned()),
        _ => text(data),
    }
}

/// `UEFI_VARIABLE_DATA` (10.4.2.6).
struct Variable<'a> {
    name: String,
    value: &'a [u8],
}

impl Variable<'_> {
    fn words(&self) -> String {
        match self.value {
            [] => format!("variable {} is not set", self.name),
            [byte] => format!("variable {} = {byte}", self.name),
            value => format!("variable {} ({} bytes)", self.name, value.len()),
        }
    }
}

fn variable(data: &[u8]) -> Option<Variable<'_>> {
    let (_guid, rest) = data.split_at_checked(16)?;
    let (name_len, rest) = rest.split_first_chunk::<8>()?;
    let (value_len, rest) = rest.split_first_chunk::<8>()?;
    let name_len = usize::try_from(u64::from_le_bytes(*name_len)).ok()?;
    let (name, value) = rest.split_at_checked(name_len.checked_mul(2)?)?;
    (u64::try_from(value.len()).ok()? == u64::from_le_bytes(*value_len))
        .then(|| Variable { name: utf16(name), value })
}

/// `UEFI_IMAGE_LOAD_EVENT` (10.2.3): the file name in its device path.
fn image(data: &[u8]) -> Option<String> {
    let (_addresses, rest) = data.split_at_checked(24)?;
    let (_len, mut path) = rest.split_at_checked(8)?;
    let mut file = String::new();
    // A node is type, subtype and its whole length (UEFI 2.10, 10.2).
    while let [node, subtype, low, high, ..] = *path {
        let len = usize::from(u16::from_le_bytes([low, high]));
        let (this, rest) = path.split_at_checked(len).filter(|_| len >= 4)?;
        if (node, subtype) == (0x04, 0x04) {
            file.push_str(&utf16(&this[4..]));
        }
        path = rest;
    }
    Some(if file.is_empty() { "image without a file name".to_owned() } else { file })
}

/// Text, if it looks like some: ASCII, or UTF-16 of it.
fn text(data: &[u8]) -> Option<String> {
    let bare = data.strip_suffix(&[0]).unwrap_or(data);
    let graphic = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    if !bare.is_empty() && bare.iter().all(graphic) {
        return Some(String::from_utf8_lossy(bare).into_owned());
    }
    let wide = data.len() >= 4 && data.len().is_multiple_of(2);
    let (pairs, _) = data.as_chunks::<2>();
    let plain = |pair: &[u8; 2]| pair[1] == 0 && (graphic(&pair[0]) || pair[0] == 0);
    (wide && pairs.iter().all(plain)).then(|| utf16(data)).filter(|text| !text.is_empty())
}

/// UTF-16 up to its terminator.
fn utf16(bytes: &[u8]) -> String {
    let (pairs, _) = bytes.as_chunks::<2>();
    let units = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).take_while(|&unit| unit != 0);
    char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// Logs are outside data: their texts reach terminals and other logs.
pub(crate) fn bounded(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars().filter(|character| !character.is_control()) {
        if out.len() + character.len_utf8() > MAX_TEXT_LEN {
            break;
        }
        out.push(character);
    }
    out
}
