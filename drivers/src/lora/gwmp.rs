//! The Semtech UDP protocol, GWMP version 2 (PROTOCOL.TXT of `lora_pkt_fwd`): bytes to typed
//! datagrams and back.
//!
//! ```text
//! version 2 | token (2 bytes) | kind | forwarder EUI (8) | JSON
//! ```
//!
//! The protocol authenticates nobody: whom to believe is the server's business, not this module's.
//! Every length is bounded and nothing is copied: the parsed datagram borrows its bytes.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use thiserror::Error;

use super::base64;
use super::ids::ForwarderEui;
use super::region::DataRate;

/// Longest datagram that is looked at: the most that UDP carries.
pub const MAX_DATAGRAM_BYTES: usize = 65_535;

/// Most packets taken from one PUSH_DATA; later ones are counted and left out. Real forwarders
/// send at most 255 (`NB_PKT_MAX` is 8 by default).
pub const MAX_RXPK: usize = 256;

/// Longest PHYPayload (TS001-1.0.4 section 4: the radio's length field is one byte).
pub const MAX_PHY_BYTES: usize = 255;

const VERSION: u8 = 2;
const PUSH_DATA: u8 = 0;
const PUSH_ACK: u8 = 1;
const PULL_DATA: u8 = 2;
const PULL_RESP: u8 = 3;
const PULL_ACK: u8 = 4;
const TX_ACK: u8 = 5;

/// Why a datagram or one of its packets was refused: the forwarder's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GwmpError {
    /// Shorter than its header.
    #[error("datagram is shorter than its header")]
    Short,
    /// Longer than [`MAX_DATAGRAM_BYTES`].
    #[error("datagram is too long")]
    TooLong,
    /// Another protocol version than 2.
    #[error("protocol version {0} is not supported")]
    Version(u8),
    /// A kind that no forwarder sends.
    #[error("datagram kind {0} does not come from a forwarder")]
    Kind(u8),
    /// The JSON is malformed or of the wrong shape.
    #[error("malformed JSON at line {line} column {column}")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column in bytes, from 1; 0 at the end of input.
        column: usize,
    },
    /// The radio's CRC was wrong or absent (`stat` is not 1).
    #[error("packet without a good radio CRC")]
    Crc,
    /// A field that is needed is missing or out of range.
    #[error("packet field `{0}` is missing or out of range")]
    Field(&'static str),
    /// `data` is not base64 of 1 to 255 bytes, or disagrees with `size`.
    #[error("packet data is not base64 of the stated size")]
    Data,
}

/// A datagram from a forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram<'a> {
    /// Packets received by the radio, or its statistics: see [`parse_push`].
    PushData {
        /// To be repeated in the PUSH_ACK.
        token: [u8; 2],
        /// Who sent it, so it says.
        eui: ForwarderEui,
        /// The JSON object.
        json: &'a [u8],
    },
    /// Keep-alive that opens the way back: the sender's address takes PULL_RESP.
    PullData {
        /// To be repeated in the PULL_ACK.
        token: [u8; 2],
        /// Who sent it, so it says.
        eui: ForwarderEui,
    },
    /// What became of a PULL_RESP.
    TxAck {
        /// Token of the PULL_RESP.
        token: [u8; 2],
        /// Who sent it, so it says.
        eui: ForwarderEui,
        /// `Ok` when the radio took the packet.
        outcome: Result<(), TxError>,
    },
}

/// Why a forwarder did not transmit (`txpk_ack.error`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TxError {
    /// `TOO_LATE`: the time to send was already over.
    #[error("TOO_LATE")]
    TooLate,
    /// `TOO_EARLY`: too far in the future for the forwarder's queue.
    #[error("TOO_EARLY")]
    TooEarly,
    /// `COLLISION_PACKET`: another packet occupies the transmitter then.
    #[error("COLLISION_PACKET")]
    CollisionPacket,
    /// `COLLISION_BEACON`: a beacon occupies the transmitter then.
    #[error("COLLISION_BEACON")]
    CollisionBeacon,
    /// `TX_FREQ`: the radio cannot send on that frequency.
    #[error("TX_FREQ")]
    Frequency,
    /// `TX_POWER`: the radio cannot send with that power.
    #[error("TX_POWER")]
    Power,
    /// `GPS_UNLOCKED`: the time to send needs a GPS fix.
    #[error("GPS_UNLOCKED")]
    GpsUnlocked,
    /// A code that the protocol does not list, or a TX_ACK that cannot be read.
    #[error("unknown error code")]
    Unknown,
}

impl TxError {
    fn from_code(code: &str) -> Result<(), Self> {
        Err(match code {
            "" | "NONE" => return Ok(()),
            "TOO_LATE" => Self::TooLate,
            "TOO_EARLY" => Self::TooEarly,
            "COLLISION_PACKET" => Self::CollisionPacket,
            "COLLISION_BEACON" => Self::CollisionBeacon,
            "TX_FREQ" => Self::Frequency,
            "TX_POWER" => Self::Power,
            "GPS_UNLOCKED" => Self::GpsUnlocked,
            _ => Self::Unknown,
        })
    }
}

/// Splits a datagram into its parts; the JSON of a PUSH_DATA is left for [`parse_push`].
///
/// # Errors
///
/// [`GwmpError`] `Short`, `TooLong`, `Version` and `Kind`.
pub fn parse(bytes: &[u8]) -> Result<Datagram<'_>, GwmpError> {
    if bytes.len() > MAX_DATAGRAM_BYTES {
        return Err(GwmpError::TooLong);
    }
    let Some((&[version, token0, token1, kind], rest)) = bytes.split_first_chunk::<4>() else {
        return Err(GwmpError::Short);
    };
    if version != VERSION {
        return Err(GwmpError::Version(version));
    }
    if !matches!(kind, PUSH_DATA | PULL_DATA | TX_ACK) {
        return Err(GwmpError::Kind(kind));
    }
    let (eui, json) = rest.split_first_chunk::<8>().ok_or(GwmpError::Short)?;
    let (token, eui) = ([token0, token1], ForwarderEui(*eui));
    Ok(match kind {
        PUSH_DATA => Datagram::PushData { token, eui, json },
        PULL_DATA => Datagram::PullData { token, eui },
        _ => Datagram::TxAck { token, eui, outcome: parse_tx_ack(json) },
    })
}

/// The JSON of a TX_ACK: absent or empty means that all went well; a `warn` is no error.
fn parse_tx_ack(json: &[u8]) -> Result<(), TxError> {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        txpk_ack: Option<Ack<'a>>,
    }
    #[derive(Deserialize)]
    struct Ack<'a> {
        #[serde(borrow)]
        error: Option<Cow<'a, str>>,
    }

    if json.iter().all(|byte| matches!(byte, 0 | b' ' | b'\t' | b'\r' | b'\n')) {
        return Ok(());
    }
    let body: Body<'_> = serde_json::from_slice(json).map_err(|_| TxError::Unknown)?;
    TxError::from_code(body.txpk_ack.and_then(|ack| ack.error).as_deref().unwrap_or(""))
}

/// The object of a PUSH_DATA.
#[derive(Debug, Deserialize)]
pub struct PushData<'a> {
    /// Packets, at most [`MAX_RXPK`].
    #[serde(borrow, default)]
    pub rxpk: Packets<'a>,
    /// Whether the forwarder's statistics came along.
    #[serde(default, deserialize_with = "present")]
    pub stat: bool,
}

/// The packets of a PUSH_DATA, and how many were beyond the limit.
#[derive(Debug, Default)]
pub struct Packets<'a> {
    /// The first [`MAX_RXPK`].
    pub list: Vec<Rxpk<'a>>,
    /// Those left out.
    pub left_out: usize,
}

/// One received packet as the forwarder wrote it; [`Rxpk::uplink`] checks it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Rxpk<'a> {
    tmst: Option<u32>,
    freq: Option<f64>,
    stat: Option<i32>,
    #[serde(borrow)]
    datr: Option<Rate<'a>>,
    rssi: Option<f32>,
    lsnr: Option<f32>,
    size: Option<u32>,
    #[serde(borrow)]
    data: Option<Cow<'a, str>>,
    rsig: Option<Antennas>,
}

/// One received packet, checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Uplink<'a> {
    /// The forwarder's microsecond counter at the end of reception (it wraps around);
    /// without it no answer can be scheduled.
    pub tmst: Option<u32>,
    /// Centre frequency in Hz.
    pub frequency_hz: u32,
    /// Data rate of EU868.
    pub data_rate: DataRate,
    /// Received signal strength in dBm.
    pub rssi_dbm: f32,
    /// Signal-to-noise ratio in dB.
    pub snr_db: f32,
    /// PHYPayload, 1 to 255 bytes.
    pub phy: &'a [u8],
}

/// Parses the JSON of a PUSH_DATA.
///
/// # Errors
///
/// [`GwmpError::Json`] when it is not the object that the protocol describes.
pub fn parse_push(json: &[u8]) -> Result<PushData<'_>, GwmpError> {
    serde_json::from_slice(json)
        .map_err(|error| GwmpError::Json { line: error.line(), column: error.column() })
}

impl Rxpk<'_> {
    /// Checks every field and decodes the payload into `buffer`.
    ///
    /// # Errors
    ///
    /// [`GwmpError`] `Crc`, `Field` and `Data`.
    pub fn uplink<'b>(&self, buffer: &'b mut [u8; MAX_PHY_BYTES]) -> Result<Uplink<'b>, GwmpError> {
        if self.stat.is_some_and(|stat| stat != 1) {
            return Err(GwmpError::Crc);
        }
        let frequency = self.freq.filter(|mhz| (1.0..10_000.0).contains(mhz));
        let frequency = frequency.ok_or(GwmpError::Field("freq"))?;
        let rate = self.datr.as_ref().ok_or(GwmpError::Field("datr"))?;
        let data_rate = match rate {
            Rate::Lora(text) => DataRate::from_datr(text),
            Rate::Fsk(bits) => DataRate::from_bit_rate(*bits),
        };
        let antenna = self.rsig.unwrap_or_default();
        let text = self.data.as_deref().ok_or(GwmpError::Field("data"))?;
        let phy = base64::decode(text, buffer).ok_or(GwmpError::Data)?;
        if phy.is_empty() || self.size.is_some_and(|size| size as usize != phy.len()) {
            return Err(GwmpError::Data);
        }
        Ok(Uplink {
            tmst: self.tmst,
            frequency_hz: (frequency * 1e6).round() as u32,
            data_rate: data_rate.ok_or(GwmpError::Field("datr"))?,
            rssi_dbm: level(self.rssi.or(antenna.rssi)).ok_or(GwmpError::Field("rssi"))?,
            snr_db: level(self.lsnr.or(antenna.snr)).ok_or(GwmpError::Field("lsnr"))?,
            phy,
        })
    }
}

/// A level in dB, absent (FSK has no SNR) being 0; `None` outside what a radio can report.
fn level(value: Option<f32>) -> Option<f32> {
    let value = value.unwrap_or(0.0);
    (-200.0..=100.0).contains(&value).then_some(value)
}

/// `datr`: text for LoRa, bits per second for FSK.
#[derive(Debug)]
enum Rate<'a> {
    Lora(Cow<'a, str>),
    Fsk(u64),
}

impl<'de: 'a, 'a> Deserialize<'de> for Rate<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RateVisitor;
        impl<'de> Visitor<'de> for RateVisitor {
            type Value = Rate<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a data rate")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Rate::Lora(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Rate::Lora(Cow::Owned(text.to_owned())))
            }
            fn visit_u64<E>(self, bits: u64) -> Result<Self::Value, E> {
                Ok(Rate::Fsk(bits))
            }
        }
        deserializer.deserialize_any(RateVisitor)
    }
}

/// `rsig` of protocol 2.1 (several antennas): the strongest one's levels.
#[derive(Clone, Copy, Debug, Default)]
struct Antennas {
    rssi: Option<f32>,
    snr: Option<f32>,
}

impl<'de> Deserialize<'de> for Antennas {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Signal {
            rssic: Option<f32>,
            lsnr: Option<f32>,
        }
        struct SignalVisitor;
        impl<'de> Visitor<'de> for SignalVisitor {
            type Value = Antennas;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of antenna signals")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Antennas, A::Error> {
                let mut best = Antennas::default();
                while let Some(Signal { rssic, lsnr }) = list.next_element::<Signal>()? {
                    if lsnr > best.snr || best.snr.is_none() {
                        best = Antennas { rssi: rssic, snr: lsnr };
                    }
                }
                Ok(best)
            }
        }
        deserializer.deserialize_seq(SignalVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Packets<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PacketsVisitor;
        impl<'de> Visitor<'de> for PacketsVisitor {
            type Value = Packets<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of packets")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Packets<'de>, A::Error> {
                let mut packets = Packets::default();
                while packets.list.len() < MAX_RXPK {
                    let Some(packet) = list.next_element()? else { return Ok(packets) };
                    packets.list.push(packet);
                }
                while list.next_element::<IgnoredAny>()?.is_some() {
                    packets.left_out += 1;
                }
                Ok(packets)
            }
        }
        deserializer.deserialize_seq(PacketsVisitor)
    }
}

/// Whether a value is there, whatever it is.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// The PUSH_ACK for a PUSH_DATA: acknowledges the datagram, no more than that.
#[must_use]
pub fn push_ack(token: [u8; 2]) -> [u8; 4] {
    [VERSION, token[0], token[1], PUSH_ACK]
}

/// The PULL_ACK for a PULL_DATA.
#[must_use]
pub fn pull_ack(token: [u8; 2]) -> [u8; 4] {
    [VERSION, token[0], token[1], PULL_ACK]
}

/// A packet for the forwarder to transmit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Txpk<'a> {
    /// When, in the forwarder's microsecond counter.
    pub tmst: u32,
    /// Centre frequency in Hz.
    pub frequency_hz: u32,
    /// Data rate of EU868.
    pub data_rate: DataRate,
    /// Power in dBm.
    pub power_dbm: u8,
    /// PHYPayload.
    pub phy: &'a [u8],
}

/// A PULL_RESP that carries `txpk`: polarisation inverted and without payload CRC, as LoRaWAN
/// downlinks are (TS001-1.0.4 section 3.2).
#[must_use]
pub fn pull_resp(token: [u8; 2], txpk: &Txpk<'_>) -> Vec<u8> {
    let Txpk { tmst, frequency_hz, data_rate, power_dbm, phy } = *txpk;
    let (mhz, hz) = (frequency_hz / 1_000_000, frequency_hz % 1_000_000);
    let mut json = String::with_capacity(256 + phy.len() * 4 / 3);
    // Writing into a String cannot fail.
    let _ = write!(
        json,
        r#"{{"txpk":{{"imme":false,"tmst":{tmst},"freq":{mhz}.{hz:06},"rfch":0,"powe":{power_dbm},"#
    );
    let _ = match data_rate.lora() {
        Some((spreading_factor, bandwidth_khz)) => write!(
            json,
            r#""modu":"LORA","datr":"SF{spreading_factor}BW{bandwidth_khz}","codr":"4/5","#
        ),
        None => write!(json, r#""modu":"FSK","datr":50000,"fdev":25000,"#),
    };
    let _ = write!(json, r#""ipol":true,"ncrc":true,"size":{},"data":""#, phy.len());
    base64::encode(phy, &mut json);
    json.push_str(r#""}}"#);
    let mut datagram = vec![VERSION, token[0], token[1], PULL_RESP];
    datagram.extend_from_slice(json.as_bytes());
    datagram
}

/// For a fuzzer: everything that a forwarder's bytes can reach in this module.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(Datagram::PushData { json, .. }) = parse(bytes)
        && let Ok(push) = parse_push(json)
    {
        let mut buffer = [0; MAX_PHY_BYTES];
        for packet in &push.rxpk.list {
            if let Ok(uplink) = packet.uplink(&mut buffer) {
                assert!((1..=MAX_PHY_BYTES).contains(&uplink.phy.len()), "payload length");
            }
        }
    }
}

#[cfg(test)]
mod tests;
