//! The identifiers and keys of LoRaWAN, each a type of its own.
//!
//! Held most significant byte first, as printed on labels; the wire is little-endian, and the
//! conversion is made here and nowhere else (TS001-1.0.4 section 1.2).

use std::fmt;

use zeroize::Zeroize;

macro_rules! eui {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 8]);

        impl $name {
            /// From the 8 bytes as they are on the air, least significant first.
            #[must_use]
            pub fn from_wire(mut bytes: [u8; 8]) -> Self {
                bytes.reverse();
                Self(bytes)
            }

            /// The 8 bytes as they go on the air, least significant first.
            #[must_use]
            pub fn to_wire(self) -> [u8; 8] {
                let mut bytes = self.0;
                bytes.reverse();
                bytes
            }

            /// From 16 hexadecimal digits, most significant first; `-` and `:` between bytes are
            /// skipped. `None` for anything else.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                hex_bytes(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
            }
        }
    };
}

eui! {
    /// Globally unique identifier of an end device.
    DevEui
}
eui! {
    /// Identifier of the join server that a device asks (AppEUI in LoRaWAN 1.0.2).
    JoinEui
}
eui! {
    /// Identifier of a packet forwarder (the radio part of a gateway).
    ForwarderEui
}

/// Address of a device within a session, as a number; little-endian on the air.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevAddr(pub u32);

impl DevAddr {
    /// From the 4 bytes as they are on the air.
    #[must_use]
    pub const fn from_wire(bytes: [u8; 4]) -> Self {
        Self(u32::from_le_bytes(bytes))
    }

    /// The 4 bytes as they go on the air.
    #[must_use]
    pub const fn to_wire(self) -> [u8; 4] {
        self.0.to_le_bytes()
    }
}

impl fmt::Display for DevAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}", self.0)
    }
}

/// An AES-128 key (AppKey, NwkSKey, AppSKey). Never printed; overwritten when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 16]);

impl Key {
    /// From the 16 bytes, in the order in which keys are printed.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// From 32 hexadecimal digits; `-` and `:` between bytes are skipped.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        hex_bytes(text).map(Self)
    }

    /// The bytes, for a cipher or for a record that the caller seals.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(secret)")
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Exactly `N` bytes from hexadecimal text, `-` and `:` allowed between bytes only.
fn hex_bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0_u8; N];
    let mut rest = text.as_bytes();
    for (index, byte) in bytes.iter_mut().enumerate() {
        if index > 0
            && let [b'-' | b':', after @ ..] = rest
        {
            rest = after;
        }
        let [high, low, after @ ..] = rest else { return None };
        *byte = (digit(*high)? << 4) | digit(*low)?;
        rest = after;
    }
    rest.is_empty().then_some(bytes)
}

/// The value of one hexadecimal digit.
fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        b'A'..=b'F' => Some(character - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_wire_are_each_other_reversed() {
        let eui = DevEui::parse("70B3D57ED0000001").unwrap();
        assert_eq!(eui.to_wire(), [0x01, 0, 0, 0xD0, 0x7E, 0xD5, 0xB3, 0x70]);
        assert_eq!(DevEui::from_wire(eui.to_wire()), eui);
        assert_eq!(eui.to_string(), "70B3D57ED0000001");
        // lora-packet README: DevAddr 49be7df1 is f1 7d be 49 on the air.
        assert_eq!(DevAddr::from_wire([0xF1, 0x7D, 0xBE, 0x49]), DevAddr(0x49BE_7DF1));
        assert_eq!(DevAddr(0x49BE_7DF1).to_wire(), [0xF1, 0x7D, 0xBE, 0x49]);
        assert_eq!(DevAddr(1).to_string(), "00000001");
    }

    #[test]
    fn text_of_euis_and_keys() {
        let table = [
            ("plain", "0011223344556677", true),
            ("dashes", "00-11-22-33-44-55-66-77", true),
            ("colons, lower case", "00:aa:22:33:44:55:66:77", true),
            ("short", "00112233445566", false),
            ("long", "001122334455667788", false),
            ("odd", "001122334455667", false),
            ("not hexadecimal", "0011223344556G77", false),
            ("separator first", "-0011223344556677", false),
            ("separator last", "0011223344556677-", false),
            ("two separators", "00--11223344556677", false),
            ("not ASCII", "é011223344556677", false),
        ];
        for (what, text, good) in table {
            assert_eq!(JoinEui::parse(text).is_some(), good, "{what}");
        }
        assert!(Key::parse("2B7E151628AED2A6ABF7158809CF4F3C").is_some());
        assert!(Key::parse("2B7E151628AED2A6ABF7158809CF4F").is_none());
    }

    #[test]
    fn a_key_is_not_printed() {
        assert_eq!(format!("{:?}", Key::new([0xAB; 16])), "Key(secret)");
    }
}
