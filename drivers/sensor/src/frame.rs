//! Frames on the wire: COBS between zero bytes, five layouts inside (`PROTOCOL.md` section 2).
//!
//! [`Framer`] cuts a byte stream of any quality into frames; [`Frame::parse`] checks every bound
//! once. Nothing here knows a key.

use core::fmt;

/// Longest frame before COBS, in bytes. Up to 254 bytes COBS costs exactly one more.
pub const MAX_FRAME: usize = 254;

/// Longest frame after COBS, without delimiters, in bytes.
pub const MAX_ENCODED: usize = MAX_FRAME + 1;

/// Longest frame on the wire: delimiter, COBS, delimiter, in bytes.
pub const MAX_WIRE: usize = MAX_ENCODED + 2;

/// Header of a sealed frame: type, device, session, counter, in bytes.
pub const SEALED_HEADER: usize = 1 + 8 + 4 + 8;

/// Length of an AEAD tag and of a handshake MAC, in bytes.
pub const TAG: usize = 16;

/// Longest payload of a reading, in bytes.
pub const MAX_PAYLOAD: usize = MAX_FRAME - SEALED_HEADER - TAG;

/// Length of a HELLO frame, in bytes.
pub const HELLO: usize = 1 + 8 + 16 + TAG;

/// Length of a CHALLENGE frame, in bytes.
pub const CHALLENGE: usize = 1 + 8 + 16 + 4 + 8 + TAG;

/// Type byte of HELLO; the high nibble of every type byte is the protocol version, 1.
pub const TYPE_HELLO: u8 = 0x11;

/// Type byte of CHALLENGE.
pub const TYPE_CHALLENGE: u8 = 0x12;

/// The 8 bytes that name a node on the wire; printed on its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub [u8; 8]);

impl fmt::Display for DeviceId {
    /// Sixteen hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

/// The 4 bytes that name a session of one node, derived with its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 4]);

/// What a sealed frame carries; the value is its type byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Last step of the handshake, from the sensor: counter 0, empty payload.
    Confirm = 0x13,
    /// A reading as SenML CBOR (RFC 8428), from the sensor.
    Senml = 0x14,
    /// A reading as bytes without a codec, from the sensor.
    Bytes = 0x15,
    /// The frame with this counter is stored, from the gateway; empty payload.
    Acknowledge = 0x16,
}

impl Kind {
    /// The kind of a type byte.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0x13 => Some(Self::Confirm),
            0x14 => Some(Self::Senml),
            0x15 => Some(Self::Bytes),
            0x16 => Some(Self::Acknowledge),
            _ => None,
        }
    }
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameError {
    /// More than [`MAX_ENCODED`] bytes without a delimiter.
    Oversize,
    /// Not COBS.
    Cobs,
    /// Shorter than its type demands.
    Truncated,
    /// Longer than its type allows.
    TooLong,
    /// Another protocol version (high nibble of the type byte).
    Version,
    /// A type byte of this version that is not known.
    UnknownType,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Oversize => "frame is longer than the protocol allows",
            Self::Cobs => "frame is not COBS",
            Self::Truncated => "frame is truncated",
            Self::TooLong => "frame is too long for its type",
            Self::Version => "frame is of another protocol version",
            Self::UnknownType => "frame type is unknown",
        })
    }
}

impl core::error::Error for FrameError {}

/// A frame whose lengths are right; nothing in it is authenticated yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Sensor to gateway: begins a handshake.
    Hello {
        /// Who calls.
        device: DeviceId,
        /// The whole frame.
        bytes: &'a [u8; HELLO],
    },
    /// Gateway to sensor: second step of the handshake.
    Challenge {
        /// Who is challenged.
        device: DeviceId,
        /// The whole frame.
        bytes: &'a [u8; CHALLENGE],
    },
    /// Either way, under session keys.
    Sealed(Sealed<'a>),
}

/// A sealed frame that has not been opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed<'a> {
    /// What it says it carries.
    pub kind: Kind,
    /// Which node it is from or for.
    pub device: DeviceId,
    /// Under which session.
    pub session: SessionId,
    /// Number within session and direction.
    pub counter: u64,
    /// The whole frame: header, ciphertext, tag.
    pub bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Parses one frame, after COBS.
    ///
    /// # Errors
    /// All of [`FrameError`] but `Oversize` (bounded by [`Framer`]) and `Cobs`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let (&kind, rest) = bytes.split_first().ok_or(FrameError::Truncated)?;
        if kind >> 4 != 1 {
            return Err(FrameError::Version);
        }
        let (device, rest) = rest.split_first_chunk().ok_or(FrameError::Truncated)?;
        let device = DeviceId(*device);
        match kind {
            TYPE_HELLO => Ok(Self::Hello { device, bytes: exactly(bytes)? }),
            TYPE_CHALLENGE => Ok(Self::Challenge { device, bytes: exactly(bytes)? }),
            _ => {
                let kind = Kind::from_byte(kind).ok_or(FrameError::UnknownType)?;
                let (session, rest) = rest.split_first_chunk().ok_or(FrameError::Truncated)?;
                let (counter, rest) = rest.split_first_chunk().ok_or(FrameError::Truncated)?;
                if rest.len() < TAG {
                    return Err(FrameError::Truncated);
                }
                let empty = matches!(kind, Kind::Confirm | Kind::Acknowledge);
                if bytes.len() > MAX_FRAME || (empty && rest.len() > TAG) {
                    return Err(FrameError::TooLong);
                }
                let counter = u64::from_be_bytes(*counter);
                Ok(Self::Sealed(Sealed {
                    kind,
                    device,
                    session: SessionId(*session),
                    counter,
                    bytes,
                }))
            }
        }
    }
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<&[u8; N], FrameError> {
    let error = if bytes.len() < N { FrameError::Truncated } else { FrameError::TooLong };
    bytes.try_into().map_err(|_| error)
}

/// Writes `frame` for the wire: delimiter, COBS, delimiter. Returns the length used.
///
/// The leading delimiter ends whatever noise came before.
///
/// # Panics
/// If `frame` is longer than [`MAX_FRAME`]: frames are made by this crate only.
#[must_use]
pub fn to_wire(frame: &[u8], out: &mut [u8; MAX_WIRE]) -> usize {
    assert!(frame.len() <= MAX_FRAME, "a frame is at most MAX_FRAME bytes");
    out[0] = 0;
    let length = cobs::encode(frame, &mut out[1..=MAX_ENCODED]);
    out[1 + length] = 0;
    length + 2
}

/// Cuts a stream of bytes into frames, with a fixed buffer and resynchronisation at each zero.
#[derive(Clone, Debug)]
pub struct Framer {
    buffer: [u8; MAX_ENCODED],
    length: usize,
    /// Inside a run that was already reported as oversize: skip to the next delimiter.
    skipping: bool,
}

impl Default for Framer {
    fn default() -> Self {
        Self::new()
    }
}

impl Framer {
    /// An empty framer. Bytes before the first delimiter are taken as a frame, too: if they are
    /// the tail of one they are refused by COBS, length or tag.
    #[must_use]
    pub const fn new() -> Self {
        Self { buffer: [0; MAX_ENCODED], length: 0, skipping: false }
    }

    /// Forgets a partial frame, for a port that was closed and opened again.
    pub fn clear(&mut self) {
        self.length = 0;
        self.skipping = false;
    }

    /// Takes bytes off the front of `input` up to the end of the next frame.
    ///
    /// Returns `None` when `input` is used up; call until then. An endless run without delimiter
    /// is one [`FrameError::Oversize`].
    pub fn next<'s>(&'s mut self, input: &mut &[u8]) -> Option<Result<&'s [u8], FrameError>> {
        while !input.is_empty() {
            let end = input.iter().position(|byte| *byte == 0);
            let (run, rest) = input.split_at(end.unwrap_or(input.len()));
            *input = rest.get(usize::from(end.is_some())..).unwrap_or(&[]);
            if !self.skipping {
                if self.length + run.len() > MAX_ENCODED {
                    // The delimiter, if it is here already, ends the oversize run as well.
                    self.skipping = end.is_none();
                    self.length = 0;
                    return Some(Err(FrameError::Oversize));
                }
                self.buffer[self.length..self.length + run.len()].copy_from_slice(run);
                self.length += run.len();
            }
            if end.is_some() {
                self.skipping = false;
                let length = core::mem::take(&mut self.length);
                if length > 0 {
                    return Some(self.decode(length));
                }
            }
        }
        None
    }

    fn decode(&mut self, length: usize) -> Result<&[u8], FrameError> {
        let encoded = &mut self.buffer[..length];
        let decoded = cobs::decode_in_place(encoded).map_err(|_| FrameError::Cobs)?;
        Ok(&self.buffer[..decoded])
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec;
    use std::vec::Vec;

    use super::*;

    /// First row: the packet of S. Cheshire and M. Baker, "Consistent Overhead Byte Stuffing"
    /// (IEEE/ACM Transactions on Networking 7(2), 1999), figure 3. The others follow its rules.
    #[test]
    fn cobs_of_the_paper() {
        let table: [(&[u8], &[u8]); 5] = [
            (
                b"\x45\x00\x00\x2C\x4C\x79\x00\x00\x40\x06\x4F\x37",
                b"\x02\x45\x01\x04\x2C\x4C\x79\x01\x05\x40\x06\x4F\x37",
            ),
            (b"\x00", b"\x01\x01"),
            (b"\x00\x00", b"\x01\x01\x01"),
            (b"\x11\x22\x00\x33", b"\x03\x11\x22\x02\x33"),
            (b"\x11\x00\x00\x00", b"\x02\x11\x01\x01\x01"),
        ];
        for (plain, coded) in table {
            let mut wire = [0xEE; MAX_WIRE];
            let length = to_wire(plain, &mut wire);
            assert_eq!(&wire[1..length - 1], coded);
            assert_eq!((wire[0], wire[length - 1]), (0, 0));
            assert_eq!(frames(&wire[..length], 1), vec![Ok(plain.to_vec())]);
        }
    }

    #[test]
    fn longest_frame_costs_one_byte_more() {
        for filler in [0, 1, 255] {
            let frame = [filler; MAX_FRAME];
            let mut wire = [0; MAX_WIRE];
            let length = to_wire(&frame, &mut wire);
            assert_eq!(length, MAX_WIRE);
            assert_eq!(frames(&wire, 7), vec![Ok(frame.to_vec())]);
        }
    }

    #[test]
    fn stream_is_cut_whatever_the_pieces() {
        let mut stream = vec![0, 0, 9, 9, 0];
        let mut wire = [0; MAX_WIRE];
        let length = to_wire(b"one", &mut wire);
        stream.extend_from_slice(&wire[..length]);
        stream.extend(std::iter::repeat_n(7, 1000));
        let length = to_wire(b"two\0", &mut wire);
        stream.extend_from_slice(&wire[..length]);
        let expected = vec![
            Err(FrameError::Cobs),
            Ok(b"one".to_vec()),
            Err(FrameError::Oversize),
            Ok(b"two\0".to_vec()),
        ];
        for piece in [1, 2, 3, 100, 255, 256, 257, 5000] {
            assert_eq!(frames(&stream, piece), expected, "pieces of {piece}");
        }
    }

    #[test]
    fn parse_names_each_fault() {
        let hello = [TYPE_HELLO; HELLO];
        let sealed = |kind: u8, length: usize| {
            let mut bytes = vec![1; length];
            bytes[0] = kind;
            bytes
        };
        let shortest = SEALED_HEADER + TAG;
        let table: [(Vec<u8>, Option<FrameError>); 12] = [
            (vec![], Some(FrameError::Truncated)),
            (vec![0x21], Some(FrameError::Version)),
            (vec![0x11], Some(FrameError::Truncated)),
            (sealed(0x1F, 60), Some(FrameError::UnknownType)),
            (hello.to_vec(), None),
            (hello[..HELLO - 1].to_vec(), Some(FrameError::Truncated)),
            (sealed(TYPE_HELLO, HELLO + 1), Some(FrameError::TooLong)),
            (sealed(0x14, shortest), None),
            (sealed(0x14, shortest - 1), Some(FrameError::Truncated)),
            (sealed(0x14, MAX_FRAME), None),
            (sealed(0x14, MAX_FRAME + 1), Some(FrameError::TooLong)),
            (sealed(0x13, shortest + 1), Some(FrameError::TooLong)),
        ];
        for (bytes, expected) in table {
            assert_eq!(Frame::parse(&bytes).err(), expected, "{bytes:?}");
        }
        let bytes = sealed(0x15, shortest + 3);
        let Ok(Frame::Sealed(sealed)) = Frame::parse(&bytes) else { panic!("a sealed frame") };
        assert_eq!((sealed.kind, sealed.device), (Kind::Bytes, DeviceId([1; 8])));
        assert_eq!((sealed.session, sealed.counter), (SessionId([1; 4]), 0x0101_0101_0101_0101));
    }

    fn frames(stream: &[u8], piece: usize) -> Vec<Result<Vec<u8>, FrameError>> {
        let mut framer = Framer::new();
        let mut out = Vec::new();
        for mut input in stream.chunks(piece) {
            while let Some(frame) = framer.next(&mut input) {
                out.push(frame.map(<[u8]>::to_vec));
            }
        }
        out
    }
}
