//! The firmware's event log (TCG PC Client Platform Firmware Profile 1.05, section 10): what was
//! extended into which register, and what the firmware says it was.
//!
//! Parsing takes the log apart and believes nothing of it. The digests are proven by replaying
//! them into the quoted registers ([`EventLog::replay`]); type and payload of an event are covered
//! by nothing, unless the payload hashes to the digest ([`describe`]).

pub mod describe;
pub mod kind;

use crate::bytes::{ParseError, Reader};
use crate::crypto::sha256;
use crate::logs::MAX_EVENT_LOG_LEN;

/// Registers of a bank.
pub const REGISTERS: usize = 24;

const ALG_SHA1: u16 = 0x0004;
const ALG_SHA256: u16 = 0x000b;
const SHA1_LEN: usize = 20;

/// Digest algorithms that a log may use at once; there are five in the TCG's registry.
const MAX_ALGORITHMS: usize = 16;
/// Longest digest of any algorithm.
const MAX_DIGEST_LEN: usize = 64;

const SPEC_ID_EVENT_03: &[u8; 16] = b"Spec ID Event03\0";
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

/// A value of a register.
pub type Register = [u8; 32];

/// Why an event log cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventLogError {
    /// Longer than any that is looked at.
    #[error("{len} bytes are too many ({MAX_EVENT_LOG_LEN} is the most)")]
    TooLong {
        /// Length in bytes.
        len: usize,
    },
    /// An event does not parse.
    #[error("event {index} (at byte {offset}): {error}")]
    Event {
        /// Its number, from 0.
        index: usize,
        /// Where it begins.
        offset: usize,
        /// What is wrong.
        error: ParseError,
    },
}

/// A parsed log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog<'a> {
    events: Vec<Event<'a>>,
    startup_locality: u8,
}

/// One event, as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its number in the log, from 0; the header counts.
    pub index: usize,
    /// Its register. Above 23 only in events that extend nothing.
    pub pcr: u32,
    /// Its type. The TPM does not vouch for it.
    pub kind: u32,
    /// What was extended into the SHA-256 bank, if the log says.
    pub sha256: Option<[u8; 32]>,
    /// The payload.
    pub data: &'a [u8],
}

impl Event<'_> {
    /// Whether it extended its register. Which events do not is known by their type alone: a type
    /// that lies makes the replay fail.
    #[must_use]
    pub fn extends(&self) -> bool {
        self.kind != kind::NO_ACTION
    }
}

impl<'a> EventLog<'a> {
    /// Parses a log: crypto agile (its first event is `Spec ID Event03`) or of SHA-1 alone.
    /// Padding at the end, all `00` or all `FF`, is no event.
    ///
    /// # Errors
    /// Too long; an event that is cut short or out of bounds.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EventLogError> {
        if bytes.len() > MAX_EVENT_LOG_LEN {
            return Err(EventLogError::TooLong { len: bytes.len() });
        }
        let mut reader = Reader::new(bytes);
        let mut log = Self { events: Vec::new(), startup_locality: 0 };
        let mut algorithms: Option<Vec<(u16, usize)>> = None;
        while !is_padding(reader.rest()) {
            let index = log.events.len();
            let offset = bytes.len() - reader.rest().len();
            let failed = |error| EventLogError::Event { index, offset, error };
            let event = match &algorithms {
                None => read_legacy(&mut reader, index),
                Some(algorithms) => read_agile(&mut reader, index, algorithms),
            }
            .map_err(failed)?;
            if index == 0 && event.kind == kind::NO_ACTION {
                algorithms = read_header(event.data).map_err(failed)?;
            }
            log.push(event);
        }
        Ok(log)
    }

    fn push(&mut self, event: Event<'a>) {
        if let Some(locality) = startup_locality(&event) {
            self.startup_locality = locality;
        }
        self.events.push(event);
    }

    /// All events in order, the header among them.
    #[must_use]
    pub fn events(&self) -> &[Event<'a>] {
        &self.events
    }

    /// The events that extended a register, in order.
    pub fn extending(&self, pcr: u8) -> impl Iterator<Item = &Event<'a>> {
        self.events.iter().filter(move |event| event.extends() && event.pcr == u32::from(pcr))
    }

    /// The SHA-256 registers as the log leaves them; `None` when an event has no SHA-256 digest.
    #[must_use]
    pub fn replay(&self) -> Option<[Register; REGISTERS]> {
        let mut registers = std::array::from_fn(|pcr| initial_value(pcr as u8));
        registers[0][31] = self.startup_locality;
        for event in self.events.iter().filter(|event| event.extends()) {
            let register = registers.get_mut(event.pcr as usize)?;
            *register = sha256(&[register.as_slice(), event.sha256.as_ref()?]);
        }
        Some(registers)
    }
}

/// A register before anything is extended into it: those of the dynamic root of trust are all ones
/// (PC Client Platform TPM Profile, 4.6.2).
#[must_use]
pub fn initial_value(pcr: u8) -> Register {
    if (17..=22).contains(&pcr) { [0xff; 32] } else { [0; 32] }
}

/// Firmware tables are longer than what was written into them.
fn is_padding(rest: &[u8]) -> bool {
    match rest.first() {
        None => true,
        Some(&first) => (first == 0 || first == 0xff) && rest.iter().all(|&byte| byte == first),
    }
}

/// `TCG_PCClientPCREvent`, the form of TPM 1.2 and of the header.
fn read_legacy<'a>(reader: &mut Reader<'a>, index: usize) -> Result<Event<'a>, ParseError> {
    let (pcr, kind) = read_register(reader)?;
    reader.take(SHA1_LEN, "event.digest")?;
    let data = reader.sized_le(MAX_EVENT_LOG_LEN, "event.data")?;
    Ok(Event { index, pcr, kind, sha256: None, data })
}

/// `TCG_PCR_EVENT2`.
fn read_agile<'a>(
    reader: &mut Reader<'a>,
    index: usize,
    algorithms: &[(u16, usize)],
) -> Result<Event<'a>, ParseError> {
    let (pcr, kind) = read_register(reader)?;
    let count = reader.u32_le("event.digests.count")? as usize;
    if count > algorithms.len() {
        let (len, max) = (count, algorithms.len());
        return Err(ParseError::TooLong { field: "event.digests.count", len, max });
    }
    let mut seen = Vec::with_capacity(count);
    let mut sha256 = None;
    for _ in 0..count {
        let id = reader.u16_le("event.digest.algorithm")?;
        let known = algorithms.iter().find(|(known, _)| *known == id);
        let (_, len) = known
            .ok_or(ParseError::Unsupported { field: "event.digest.algorithm", value: id.into() })?;
        if seen.contains(&id) {
            return Err(ParseError::Invalid { field: "event.digest.algorithm" });
        }
        seen.push(id);
        let digest = reader.take(*len, "event.digest")?;
        if id == ALG_SHA256 {
            sha256 = digest.try_into().ok();
        }
    }
    let data = reader.sized_le(MAX_EVENT_LOG_LEN, "event.data")?;
    Ok(Event { index, pcr, kind, sha256, data })
}

/// Register and type. Events that extend nothing may name a register that is none.
fn read_register(reader: &mut Reader<'_>) -> Result<(u32, u32), ParseError> {
    let pcr = reader.u32_le("event.pcrIndex")?;
    let kind = reader.u32_le("event.eventType")?;
    if pcr as usize >= REGISTERS && kind != kind::NO_ACTION {
        return Err(ParseError::Unsupported { field: "event.pcrIndex", value: pcr });
    }
    Ok((pcr, kind))
}

/// `TCG_EfiSpecIdEvent` (10.4.5.1): the algorithms of the log and the lengths of their digests.
/// `None` for the header of another format: the log is of SHA-1 alone.
fn read_header(data: &[u8]) -> Result<Option<Vec<(u16, usize)>>, ParseError> {
    let Some(rest) = data.strip_prefix(SPEC_ID_EVENT_03) else { return Ok(None) };
    let mut reader = Reader::new(rest);
    reader.take(8, "specId.version")?;
    let count = reader.u32_le("specId.numberOfAlgorithms")? as usize;
    if count == 0 || count > MAX_ALGORITHMS {
        let field = "specId.numberOfAlgorithms";
        return Err(ParseError::TooLong { field, len: count, max: MAX_ALGORITHMS });
    }
    let mut algorithms = Vec::with_capacity(count);
    for _ in 0..count {
        let id = reader.u16_le("specId.algorithmId")?;
        let len = usize::from(reader.u16_le("specId.digestSize")?);
        let fits = match id {
            ALG_SHA1 => len == SHA1_LEN,
            ALG_SHA256 => len == 32,
            _ => (1..=MAX_DIGEST_LEN).contains(&len),
        };
        if !fits || algorithms.iter().any(|&(known, _)| known == id) {
            return Err(ParseError::Invalid { field: "specId.digestSize" });
        }
        algorithms.push((id, len));
    }
    let vendor = usize::from(reader.u8("specId.vendorInfoSize")?);
    reader.take(vendor, "specId.vendorInfo")?;
    reader.finish("specId")?;
    Ok(Some(algorithms))
}

/// The locality from which the TPM was started (10.4.5.3): register 0 begins with it.
fn startup_locality(event: &Event<'_>) -> Option<u8> {
    if event.kind != kind::NO_ACTION {
        return None;
    }
    match event.data.strip_prefix(STARTUP_LOCALITY) {
        Some([locality @ (0 | 3 | 4)]) => Some(*locality),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
