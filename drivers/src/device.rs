//! Who a light node is on its own link, before any ledger knows it.
//!
//! An [`Identity`] is what the sessions prove (or, at level 0, what the port is bound to). This
//! module must not know node IDs or chains: the daemon converts.

use std::fmt;

/// The identity of a light node on its link (the five kinds of the ledger's registry).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// A node with a key of its own: P-256 public key, SEC1 compressed.
    PublicKey([u8; 33]),
    /// A LoRaWAN end device: DevEUI, most significant byte first (as printed on the label).
    DevEui([u8; 8]),
    /// A BLE node: identity address, most significant byte first, and its address type.
    Ble {
        /// Address, most significant byte first (as printed).
        addr: [u8; 6],
        /// Static random address (`true`) or public address (`false`).
        random: bool,
    },
    /// A shared-key serial node: the 8-byte device ID of its printed code.
    SerialDevice([u8; 8]),
    /// A legacy serial device: bus ID made at pairing and unit on that bus (line source: 0).
    Bus {
        /// 16 random bytes made at pairing.
        bus: [u8; 16],
        /// Unit (slave address) on the bus; 0 for a line source.
        unit: u8,
    },
}

impl Identity {
    /// Longest result of [`Identity::to_bytes`], in bytes.
    pub const MAX_BYTES: usize = 34;

    /// Type byte followed by the fields: an injective key for tables of the shell.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::MAX_BYTES);
        match self {
            Self::PublicKey(key) => {
                bytes.push(1);
                bytes.extend_from_slice(key);
            }
            Self::DevEui(eui) => {
                bytes.push(2);
                bytes.extend_from_slice(eui);
            }
            Self::Ble { addr, random } => {
                bytes.push(3);
                bytes.push(u8::from(*random));
                bytes.extend_from_slice(addr);
            }
            Self::SerialDevice(id) => {
                bytes.push(4);
                bytes.extend_from_slice(id);
            }
            Self::Bus { bus, unit } => {
                bytes.push(5);
                bytes.extend_from_slice(bus);
                bytes.push(*unit);
            }
        }
        bytes
    }

    /// Inverse of [`Identity::to_bytes`]; `None` for anything that function cannot have made.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        match kind {
            1 => Some(Self::PublicKey(rest.try_into().ok()?)),
            2 => Some(Self::DevEui(rest.try_into().ok()?)),
            3 => {
                let (random, addr) = rest.split_first()?;
                let random = match random {
                    0 => false,
                    1 => true,
                    _ => return None,
                };
                Some(Self::Ble { addr: addr.try_into().ok()?, random })
            }
            4 => Some(Self::SerialDevice(rest.try_into().ok()?)),
            5 => {
                let (unit, bus) = rest.split_last()?;
                Some(Self::Bus { bus: bus.try_into().ok()?, unit: *unit })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Identity {
    /// As people read it off labels: `DevEUI 70B3D57ED0000001`, `serial device 0011…`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PublicKey(key) => {
                f.write_str("key ")?;
                hex(f, key)
            }
            Self::DevEui(eui) => {
                f.write_str("DevEUI ")?;
                hex(f, eui)
            }
            Self::Ble { addr, random } => {
                f.write_str(if *random { "BLE random " } else { "BLE public " })?;
                for (index, byte) in addr.iter().enumerate() {
                    let colon = if index == 0 { "" } else { ":" };
                    write!(f, "{colon}{byte:02X}")?;
                }
                Ok(())
            }
            Self::SerialDevice(id) => {
                f.write_str("serial device ")?;
                hex(f, id)
            }
            Self::Bus { bus, unit } => {
                f.write_str("bus ")?;
                hex(f, bus)?;
                write!(f, " unit {unit}")
            }
        }
    }
}

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_words_of_every_kind() {
        let table = [
            (Identity::PublicKey([2; 33]), format!("key {}", "02".repeat(33))),
            (Identity::DevEui([0x70, 0xB3, 0xD5, 0, 0, 0, 0, 1]), "DevEUI 70B3D50000000001".into()),
            (
                Identity::Ble { addr: [0xC0, 1, 2, 3, 4, 5], random: true },
                "BLE random C0:01:02:03:04:05".into(),
            ),
            (Identity::SerialDevice([9; 8]), "serial device 0909090909090909".into()),
            (Identity::Bus { bus: [0xAB; 16], unit: 7 }, format!("bus {} unit 7", "AB".repeat(16))),
        ];
        for (identity, words) in table {
            assert_eq!(identity.to_string(), words);
            let bytes = identity.to_bytes();
            assert!(bytes.len() <= Identity::MAX_BYTES);
            assert_eq!(Identity::from_bytes(&bytes), Some(identity), "{words}");
            assert_eq!(Identity::from_bytes(&bytes[..bytes.len() - 1]), None, "{words}: short");
            let mut long = bytes.clone();
            long.push(0);
            assert_eq!(Identity::from_bytes(&long), None, "{words}: long");
        }
        assert_eq!(Identity::from_bytes(&[]), None);
        assert_eq!(Identity::from_bytes(&[3, 2, 0, 0, 0, 0, 0, 0]), None, "address type 2");
    }
}
