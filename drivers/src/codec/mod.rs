//! Payload codecs: what a sensor's bytes mean, as SenML (RFC 8428).
//!
//! A codec never loses a payload: what it cannot read becomes the raw bytes with a note beside
//! them. Codecs are pure and know nothing of keys, counters or links.

use std::fmt;
use std::str::FromStr;

use minicbor::Encoder;
use minicbor::encode::Write;
use thiserror::Error;

use crate::senml::{Pack, Record, Value};

pub mod cayenne;

/// Name of the record that says why a payload was kept raw.
pub const NOTE: &str = "decode_error";

/// How payloads of a device are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// Not at all: one SenML data value, named after the port.
    #[default]
    Raw,
    /// Cayenne Low Power Payload.
    CayenneLpp,
}

/// A codec name that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("unknown codec, known are `raw` and `cayenne-lpp`")]
pub struct UnknownCodec;

impl FromStr for Codec {
    type Err = UnknownCodec;

    fn from_str(name: &str) -> Result<Self, UnknownCodec> {
        match name {
            "raw" => Ok(Self::Raw),
            "cayenne-lpp" => Ok(Self::CayenneLpp),
            _ => Err(UnknownCodec),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::CayenneLpp => "cayenne-lpp",
        })
    }
}

/// An application payload as a SenML pack in CBOR (RFC 8428 section 6). `port` is LoRaWAN's FPort,
/// or any number that tells a device's payload formats apart.
#[must_use]
pub fn decode(codec: Codec, port: u8, payload: &[u8]) -> Vec<u8> {
    match codec {
        Codec::Raw => raw(port, payload),
        Codec::CayenneLpp => match cayenne::decode(payload) {
            Ok(pack) => pack.to_cbor(),
            Err(error) => Pack(vec![
                Record::data(&raw_name(port), payload),
                Record::new(NOTE, None, Value::Text(error.to_string())),
            ])
            .to_cbor(),
        },
    }
}

/// `fport2`: the name of a raw payload.
fn raw_name(port: u8) -> String {
    format!("fport{port}")
}

/// `[{n: "fport2", vd: payload}]`, written at once: this is the hot path.
fn raw(port: u8, payload: &[u8]) -> Vec<u8> {
    const NAME: i8 = 0;
    const DATA_VALUE: i8 = 8;

    fn write<W: Write>(
        e: &mut Encoder<W>,
        name: &str,
        payload: &[u8],
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.array(1)?.map(2)?.i8(NAME)?.str(name)?.i8(DATA_VALUE)?.bytes(payload)?;
        Ok(())
    }

    let mut name = *b"fport000";
    let digits = [port / 100, port / 10 % 10, port % 10].map(|digit| b'0' + digit);
    let count = 1 + usize::from(port > 9) + usize::from(port > 99);
    name[5..5 + count].copy_from_slice(&digits[3 - count..]);
    let name = std::str::from_utf8(&name[..5 + count]).unwrap_or("fport");
    let mut out = Vec::with_capacity(payload.len() + 16);
    // Writing to a Vec cannot fail.
    let _ = write(&mut Encoder::new(&mut out), name, payload);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_is_what_the_pack_would_write() {
        for port in 0..=u8::MAX {
            let payload = vec![port; usize::from(port)];
            let pack = Pack(vec![Record::data(&raw_name(port), &payload)]);
            assert_eq!(decode(Codec::Raw, port, &payload), pack.to_cbor(), "port {port}");
        }
    }

    #[test]
    fn what_cannot_be_decoded_is_kept_with_a_note() {
        let payload = [3, 0x67, 1];
        let pack = Pack::from_cbor(&decode(Codec::CayenneLpp, 2, &payload)).unwrap();
        assert_eq!(pack.0[0], Record::data("fport2", &payload));
        assert_eq!(pack.0[1].name.as_deref(), Some(NOTE));
        assert!(pack.resolve(1.7e9).is_ok());
    }

    #[test]
    fn names() {
        for codec in [Codec::Raw, Codec::CayenneLpp] {
            assert_eq!(codec.to_string().parse(), Ok(codec));
        }
        assert_eq!("javascript".parse::<Codec>(), Err(UnknownCodec));
    }
}
