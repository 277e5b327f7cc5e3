//! The messages between a bridge and the member that serves it: read without trust, in canonical
//! CBOR (`ledger::codec`), each field with its limit. A message is `[number, fields…]`; numbers
//! are never used again for something else.

use drivers::serial::link::{LinkError, READ_BYTES};
use ledger::codec::{Decode, DecodeError, Decoder, Encode, Encoder, Text};

use crate::admission::messages::Bytes;
use crate::peers;

/// Longest datagram, bytes: what UDP takes.
pub const MAX_DATAGRAM: usize = 65_507;

/// Ports that a bridge names, and that a member has open there at a time.
pub const MAX_PORTS: usize = 64;

/// Longest name of a port, bytes.
pub const MAX_PATH: usize = 400;

/// Bytes that a port may have under way to the member, each message costing [`MESSAGE_COST`] more.
pub const WINDOW: u32 = 16 * 1024;

/// What a message from a port costs of its window beside its bytes.
pub const MESSAGE_COST: u32 = 64;

/// A datagram of a packet forwarder, in either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Radio {
    /// Which forwarder; numbers are the bridge's, and never used twice by one process.
    pub forwarder: u32,
    /// What it said, or is told.
    pub datagram: Bytes<MAX_DATAGRAM>,
}

/// What a bridge says about its serial ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromBridge {
    /// 1: All its ports, whenever they have changed.
    Ports(Vec<Text<MAX_PATH>>),
    /// 2: A port is open.
    Opened(u16),
    /// 3: A port is not open, and why; it is tried again.
    Gone(u16, LinkError),
    /// 4: Bytes of a port, within its window.
    Bytes(u16, Bytes<READ_BYTES>),
}

/// What a member says about them. It chooses the numbers of open ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromMember {
    /// 1: The bridge is let in, by a gateway of this site.
    Welcome(Text<64>),
    /// 2: Open a port.
    Open {
        /// What it is called from now on.
        port: u16,
        /// Device file.
        path: Text<MAX_PATH>,
        /// Bit/s.
        baud: u32,
    },
    /// 3: Close it.
    Close(u16),
    /// 4: Write to it.
    Write(u16, Bytes<READ_BYTES>),
    /// 5: So much of what came from it has been taken.
    Taken(u16, u32),
}

/// What bytes of a port cost of its window.
pub fn cost(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).saturating_add(MESSAGE_COST)
}

impl Encode for Radio {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(2).value(&self.forwarder).value(&self.datagram);
    }
}

impl Decode for Radio {
    const MAX_BYTES: usize = peers::MAX_RADIO;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("radio", 2)?;
        Ok(Self { forwarder: u32::decode(decoder)?, datagram: Bytes::decode(decoder)? })
    }
}

impl Encode for FromBridge {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Ports(ports) => encoder.array(2).uint(1).list(ports),
            Self::Opened(port) => encoder.array(2).uint(2).value(port),
            Self::Gone(port, why) => encoder.array(3).uint(3).value(port).uint(code(*why)),
            Self::Bytes(port, bytes) => encoder.array(3).uint(4).value(port).value(bytes),
        };
    }
}

impl Decode for FromBridge {
    const MAX_BYTES: usize = peers::MAX_SERIAL;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let fields = decoder.array("from a bridge", 3)?;
        Ok(match (decoder.uint("from a bridge")?, fields) {
            (1, 2) => Self::Ports(decoder.list("ports", MAX_PORTS)?),
            (2, 2) => Self::Opened(u16::decode(decoder)?),
            (3, 3) => Self::Gone(u16::decode(decoder)?, reason(decoder.uint("reason")?)?),
            (4, 3) => Self::Bytes(u16::decode(decoder)?, Bytes::decode(decoder)?),
            _ => return Err(DecodeError::Invalid("from a bridge")),
        })
    }
}

impl Encode for FromMember {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Welcome(site) => encoder.array(2).uint(1).value(site),
            Self::Open { port, path, baud } => {
                encoder.array(4).uint(2).value(port).value(path).value(baud)
            }
            Self::Close(port) => encoder.array(2).uint(3).value(port),
            Self::Write(port, bytes) => encoder.array(3).uint(4).value(port).value(bytes),
            Self::Taken(port, cost) => encoder.array(3).uint(5).value(port).value(cost),
        };
    }
}

impl Decode for FromMember {
    const MAX_BYTES: usize = peers::MAX_SERIAL;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let fields = decoder.array("from a member", 4)?;
        Ok(match (decoder.uint("from a member")?, fields) {
            (1, 2) => Self::Welcome(Text::decode(decoder)?),
            (2, 4) => Self::Open {
                port: u16::decode(decoder)?,
                path: Text::decode(decoder)?,
                baud: u32::decode(decoder)?,
            },
            (3, 2) => Self::Close(u16::decode(decoder)?),
            (4, 3) => Self::Write(u16::decode(decoder)?, Bytes::decode(decoder)?),
            (5, 3) => Self::Taken(u16::decode(decoder)?, u32::decode(decoder)?),
            _ => return Err(DecodeError::Invalid("from a member")),
        })
    }
}

/// Number of a reason: what the system says besides these is one of them.
fn code(why: LinkError) -> u64 {
    match why {
        LinkError::NotFound => 1,
        LinkError::Busy => 2,
        LinkError::Permission => 3,
        LinkError::NotASerialPort => 4,
        LinkError::Settings => 5,
        LinkError::Unplugged => 6,
        LinkError::Away => 7,
        LinkError::Io(_) => 8,
    }
}

fn reason(code: u64) -> Result<LinkError, DecodeError> {
    Ok(match code {
        1 => LinkError::NotFound,
        2 => LinkError::Busy,
        3 => LinkError::Permission,
        4 => LinkError::NotASerialPort,
        5 => LinkError::Settings,
        6 => LinkError::Unplugged,
        7 => LinkError::Away,
        8 => LinkError::Io(std::io::ErrorKind::Other),
        _ => return Err(DecodeError::Invalid("reason")),
    })
}

/// For fuzzing: bytes of the other end, as each of the messages.
///
/// # Panics
/// When one message has two encodings.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(radio) = Radio::from_bytes(bytes) {
        assert_eq!(radio.to_bytes(), bytes, "one message, one encoding");
    }
    if let Ok(message) = FromBridge::from_bytes(bytes) {
        assert_eq!(message.to_bytes(), bytes, "one message, one encoding");
    }
    if let Ok(message) = FromMember::from_bytes(bytes) {
        assert_eq!(message.to_bytes(), bytes, "one message, one encoding");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensors::settings::hex;

    fn bytes<const MAX: usize>(bytes: &[u8]) -> Bytes<MAX> {
        Bytes::new(bytes.to_vec()).unwrap()
    }

    /// Round trip, the pinned encoding, and no other.
    fn pinned<T: Encode + Decode + PartialEq + std::fmt::Debug>(value: &T, encoding: &str) {
        let bytes = value.to_bytes();
        assert_eq!(hex(&bytes), encoding, "{value:?}");
        assert_eq!(T::from_bytes(&bytes).as_ref(), Ok(value));
        for cut in 0..bytes.len() {
            assert!(T::from_bytes(&bytes[..cut]).is_err(), "{value:?} cut at {cut}");
        }
        assert!(T::from_bytes(&[&bytes[..], &[0]].concat()).is_err(), "{value:?} and more");
    }

    #[test]
    fn encodings_are_pinned() {
        let path = Text::new("/dev/ttyUSB0").unwrap();
        pinned(&Radio { forwarder: 7, datagram: bytes(&[2, 1, 2, 0]) }, "82074402010200");
        let ports = FromBridge::Ports(vec![path.clone()]);
        pinned(&ports, "8201816c2f6465762f74747955534230");
        pinned(&FromBridge::Opened(3), "820203");
        pinned(&FromBridge::Gone(3, LinkError::Busy), "83030302");
        pinned(&FromBridge::Bytes(3, bytes(b"ab")), "830403426162");
        pinned(&FromMember::Welcome(Text::new("orchard").unwrap()), "8201676f726368617264");
        let open = FromMember::Open { port: 3, path, baud: 9600 };
        pinned(&open, "8402036c2f6465762f7474795553423019 2580".replace(' ', "").as_str());
        pinned(&FromMember::Close(3), "820303");
        pinned(&FromMember::Write(3, bytes(b"ab")), "830403426162");
        pinned(&FromMember::Taken(3, 66), "8305031842");
    }

    #[test]
    fn every_reason_comes_back() {
        for code_of in 1..=8 {
            assert_eq!(reason(code_of).map(code), Ok(code_of));
        }
        assert!(reason(0).is_err() && reason(9).is_err());
    }

    #[test]
    fn the_longest_messages_fit_their_frames() {
        let radio = Radio { forwarder: u32::MAX, datagram: bytes(&[0; MAX_DATAGRAM]) };
        assert!(radio.to_bytes().len() <= peers::MAX_RADIO);
        let name = Text::new("p".repeat(MAX_PATH)).unwrap();
        let ports = FromBridge::Ports(vec![name; MAX_PORTS]);
        assert!(ports.to_bytes().len() <= peers::MAX_SERIAL);
        let whole = FromBridge::Bytes(u16::MAX, bytes(&[0; READ_BYTES])).to_bytes();
        assert!(whole.len() <= peers::MAX_SERIAL);
        assert!(FromBridge::from_bytes(&whole).is_ok());
    }
}
