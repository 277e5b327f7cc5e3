//! Base64 (RFC 4648 section 4) as packet forwarders use it: into a caller's buffer, no allocation.
//!
//! Padding may be missing (some forwarders leave it out); everything else is strict: no blanks, no
//! other alphabet, no bits after the last byte.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Marks a character outside the alphabet in [`VALUES`].
const NONE: u8 = 0xFF;

/// Value of each character.
const VALUES: [u8; 256] = {
    let mut values = [NONE; 256];
    let mut index = 0;
    while index < ALPHABET.len() {
        values[ALPHABET[index] as usize] = index as u8;
        index += 1;
    }
    values
};

/// Decodes `text` into the front of `out` and gives that part; `None` when the text is not base64
/// or does not fit.
pub(crate) fn decode<'a>(text: &str, out: &'a mut [u8]) -> Option<&'a [u8]> {
    let bytes = text.as_bytes();
    let bytes = match bytes {
        [head @ .., b'=', b'='] | [head @ .., b'='] if bytes.len().is_multiple_of(4) => head,
        _ => bytes,
    };
    let length = bytes.len() / 4 * 3 + (bytes.len() % 4).saturating_sub(1);
    if bytes.len() % 4 == 1 || length > out.len() {
        return None;
    }
    let (groups, tail) = bytes.as_chunks::<4>();
    for (group, out) in groups.iter().zip(out.chunks_exact_mut(3)) {
        let [a, b, c, d] = group.map(|byte| VALUES[usize::from(byte)]);
        // No value uses the two high bits, so they are set only by a character that is none.
        if (a | b | c | d) & 0xC0 != 0 {
            return None;
        }
        out.copy_from_slice(&[a << 2 | b >> 4, b << 4 | c >> 2, c << 6 | d]);
    }
    if !tail.is_empty() {
        decode_tail(tail, &mut out[groups.len() * 3..length])?;
    }
    Some(&out[..length])
}

/// The last two or three characters.
fn decode_tail(tail: &[u8], out: &mut [u8]) -> Option<()> {
    let mut values = [0_u8; 3];
    for (value, byte) in values.iter_mut().zip(tail) {
        *value = VALUES[usize::from(*byte)];
        if *value == NONE {
            return None;
        }
    }
    let [a, b, c] = values;
    let spare = if tail.len() == 2 { b & 0x0F } else { c & 0x03 };
    if spare != 0 {
        return None;
    }
    out[0] = a << 2 | b >> 4;
    if let Some(second) = out.get_mut(1) {
        *second = b << 4 | c >> 2;
    }
    Some(())
}

/// Appends the base64 text of `bytes`, padded.
pub(crate) fn encode(bytes: &[u8], out: &mut String) {
    let character = |index: u32| char::from(ALPHABET[(index & 0x3F) as usize]);
    for chunk in bytes.chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|index| u32::from(chunk.get(index).copied().unwrap_or(0)));
        let group = a << 16 | b << 8 | c;
        out.push(character(group >> 18));
        out.push(character(group >> 12));
        out.push(if chunk.len() > 1 { character(group >> 6) } else { '=' });
        out.push(if chunk.len() > 2 { character(group) } else { '=' });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_4648_section_10() {
        let table = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, text) in table {
            let mut encoded = String::new();
            encode(plain.as_bytes(), &mut encoded);
            assert_eq!(encoded, text);
            let mut out = [0; 8];
            assert_eq!(decode(text, &mut out), Some(plain.as_bytes()), "{text}");
            let bare = text.trim_end_matches('=');
            assert_eq!(decode(bare, &mut out), Some(plain.as_bytes()), "{bare} without padding");
        }
    }

    #[test]
    fn every_byte_value_there_and_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut text = String::new();
        encode(&bytes, &mut text);
        let mut out = [0; 256];
        assert_eq!(decode(&text, &mut out), Some(&bytes[..]));
    }

    #[test]
    fn what_is_not_base64() {
        let table = [
            ("one character", "Z"),
            ("five characters", "Zm9vY"),
            ("blank", "Zm9 "),
            ("URL alphabet", "Zm9_"),
            ("padding inside", "Zg==Zm9v"),
            ("padding only", "===="),
            ("stray padding", "Zg="),
            ("spare bits, one byte", "Zh=="),
            ("spare bits, two bytes", "Zm9="),
            ("not ASCII", "Zmé="),
        ];
        for (what, text) in table {
            assert_eq!(decode(text, &mut [0; 16]), None, "{what}");
        }
        assert_eq!(decode("Zm9vYmFy", &mut [0; 5]), None, "does not fit");
    }
}
