//! The saved record of a device: what must survive a restart, as strict CBOR (RFC 8949).
//!
//! It holds session keys, so the caller seals it. The AppKey is not in it: that is configuration.
//! Uplink counters are saved only when something else is: the readings themselves carry them.

use minicbor::data::Type;
use minicbor::decode::Error as CborError;
use minicbor::encode::Write;
use minicbor::{Decoder, Encoder};
use thiserror::Error;

use super::ids::{DevAddr, Key};
use super::join::{DevNonces, MAX_USED_NONCES, SessionKeys, Version};
use super::registry::{Device, MAX_PENDING_SESSIONS, Saved};
use super::session::{Session, Window, session_digest};

/// Format of the record.
const FORMAT: u8 = 1;

/// Longest record: 1,024 DevNonces of three bytes and three sessions fit by far.
pub const MAX_RECORD_BYTES: usize = 8 * 1024;

/// Why a saved record cannot be used: it was damaged, or made by another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Longer than [`MAX_RECORD_BYTES`].
    #[error("saved record is too long")]
    TooLong,
    /// Not the CBOR that this version writes.
    #[error("saved record is malformed")]
    Malformed,
    /// Another format number.
    #[error("saved record has format {0}, known is {FORMAT}")]
    Format(u8),
    /// The device is configured for another LoRaWAN version than the record was made for.
    #[error("saved record belongs to another LoRaWAN version")]
    Version,
}

/// The record of `device` as of now. Marks the downlink counters that it covers.
pub(crate) fn encode(device: &mut Device) -> Vec<u8> {
    let mut out = Vec::with_capacity(192);
    // Writing to a Vec cannot fail.
    let _ = encode_into(&mut Encoder::new(&mut out), device);
    out
}

type EncodeResult<W> = Result<(), minicbor::encode::Error<<W as Write>::Error>>;

fn encode_into<W: Write>(e: &mut Encoder<W>, device: &mut Device) -> EncodeResult<W> {
    e.array(6)?.u8(FORMAT)?.u32(device.last_epoch)?;
    match &device.nonces {
        DevNonces::Counter(highest) => {
            e.encode(highest)?;
        }
        DevNonces::Used(used) => {
            e.array(used.len() as u64)?;
            for nonce in used {
                e.u16(*nonce)?;
            }
        }
    }
    encode_window(e, &device.join_window, device.join_window.next)?;
    match &mut device.current {
        Some(session) => encode_session(e, session)?,
        None => {
            e.null()?;
        }
    }
    e.array(device.pending.len() as u64)?;
    device.pending.iter_mut().try_for_each(|session| encode_session(e, session))
}

fn encode_window<W: Write>(e: &mut Encoder<W>, window: &Window, next: u32) -> EncodeResult<W> {
    let (from, end) = window.following.unwrap_or((0, 0));
    e.array(4)?.u32(next)?.u32(window.end)?.u32(from)?.u32(end)?;
    Ok(())
}

fn encode_session<W: Write>(e: &mut Encoder<W>, session: &mut Session) -> EncodeResult<W> {
    let next = session.save_down();
    e.array(8)?.u32(session.dev_addr.0)?;
    e.bytes(session.keys.nwk_s_key.bytes())?.bytes(session.keys.app_s_key.bytes())?;
    e.u16(session.dev_nonce)?.u32(session.join_nonce)?.u32(session.epoch)?;
    e.encode(session.fcnt_up)?;
    encode_window(e, &session.down, next)
}

/// Epoch and digest of the session in use: what its [`super::effect::Effect::SessionOpened`] said.
/// `None` when there is none, and for anything that is no record.
#[must_use]
pub fn opened(record: &[u8], version: Version) -> Option<(u32, [u8; 32])> {
    let session = decode(record, version).ok()?.current?;
    Some((session.epoch, session_digest(session.dev_nonce, session.join_nonce)))
}

/// Reads a record back.
///
/// # Errors
///
/// [`RecordError`] for anything that [`encode`] did not make for this LoRaWAN version.
pub(crate) fn decode(bytes: &[u8], version: Version) -> Result<Saved, RecordError> {
    if bytes.len() > MAX_RECORD_BYTES {
        return Err(RecordError::TooLong);
    }
    let d = &mut Decoder::new(bytes);
    expect_array(d, 6)?;
    let format = d.u8().map_err(malformed)?;
    if format != FORMAT {
        return Err(RecordError::Format(format));
    }
    let saved = decode_fields(d)?;
    if d.position() != bytes.len() {
        return Err(RecordError::Malformed);
    }
    match (version, &saved.nonces) {
        (Version::V1_0_4, DevNonces::Counter(_)) | (Version::V1_0_3, DevNonces::Used(_)) => {
            Ok(saved)
        }
        _ => Err(RecordError::Version),
    }
}

fn decode_fields(d: &mut Decoder<'_>) -> Result<Saved, RecordError> {
    let last_epoch = d.u32().map_err(malformed)?;
    let nonces = if d.datatype().map_err(malformed)? == Type::Array {
        let count = array_up_to(d, MAX_USED_NONCES)?;
        let used: Result<Vec<u16>, _> = (0..count).map(|_| d.u16().map_err(malformed)).collect();
        DevNonces::Used(used?)
    } else {
        DevNonces::Counter(d.decode().map_err(malformed)?)
    };
    let join_window = decode_window(d)?;
    let current = if d.datatype().map_err(malformed)? == Type::Null {
        d.null().map_err(malformed)?;
        None
    } else {
        Some(decode_session(d)?)
    };
    let count = array_up_to(d, MAX_PENDING_SESSIONS)?;
    let pending = (0..count).map(|_| decode_session(d)).collect::<Result<_, _>>()?;
    Ok(Saved { last_epoch, nonces, join_window, current, pending })
}

fn decode_window(d: &mut Decoder<'_>) -> Result<Window, RecordError> {
    expect_array(d, 4)?;
    let mut next_u32 = || d.u32().map_err(malformed);
    let (next, end, from, last) = (next_u32()?, next_u32()?, next_u32()?, next_u32()?);
    let following = (from < last).then_some((from, last));
    Ok(Window { next, end, following, asked_ms: None })
}

fn decode_session(d: &mut Decoder<'_>) -> Result<Session, RecordError> {
    expect_array(d, 8)?;
    let dev_addr = DevAddr(d.u32().map_err(malformed)?);
    let nwk_s_key = decode_key(d)?;
    let app_s_key = decode_key(d)?;
    let keys = SessionKeys { nwk_s_key, app_s_key };
    let dev_nonce = d.u16().map_err(malformed)?;
    let join_nonce = d.u32().map_err(malformed)?;
    let epoch = d.u32().map_err(malformed)?;
    let fcnt_up = d.decode().map_err(malformed)?;
    let down = decode_window(d)?;
    let down_saved = 0;
    let (last, answers) = (None, 0);
    Ok(Session {
        dev_addr,
        keys,
        dev_nonce,
        join_nonce,
        epoch,
        fcnt_up,
        last,
        answers,
        down,
        down_saved,
    })
}

fn decode_key(d: &mut Decoder<'_>) -> Result<Key, RecordError> {
    let bytes = d.bytes().map_err(malformed)?;
    bytes.try_into().map(Key::new).map_err(|_| RecordError::Malformed)
}

fn expect_array(d: &mut Decoder<'_>, length: u64) -> Result<(), RecordError> {
    match d.array().map_err(malformed)? {
        Some(found) if found == length => Ok(()),
        _ => Err(RecordError::Malformed),
    }
}

fn array_up_to(d: &mut Decoder<'_>, most: usize) -> Result<usize, RecordError> {
    match d.array().map_err(malformed)?.map(usize::try_from) {
        Some(Ok(found)) if found <= most => Ok(found),
        _ => Err(RecordError::Malformed),
    }
}

fn malformed(_: CborError) -> RecordError {
    RecordError::Malformed
}

/// For a fuzzer: reads a record of either version.
pub fn fuzz(bytes: &[u8]) {
    let _ = (decode(bytes, Version::V1_0_4), decode(bytes, Version::V1_0_3));
}
