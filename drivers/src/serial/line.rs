//! Line sources (level 0): devices that print a value, a JSON object or CSV on each line.
//!
//! Nothing on such a wire can be authenticated: the readings say *observed*. The gateway numbers
//! them itself. A line that was cut at its start, by opening the port, is dropped: the rest of a
//! number is a wrong number that looks right.

pub mod mapping;
mod suggest;

pub use mapping::{LineError, Mapping, MappingError};
pub use suggest::suggest;

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::effect::{Counts, Effect, Refusal};
use super::session::Committed;
use crate::device::Identity;
use crate::reading::{Checked, Level, VerifiedReading};
use crate::senml::{Pack, Record};

/// Longest line, in bytes, without its end. A longer one is dropped up to the next line end.
pub const MAX_LINE: usize = 1024;

/// Most lines of a preview.
pub const MAX_PREVIEW: usize = 16;

/// Length of a line source's record, in bytes.
pub const RECORD: usize = 1 + 16 + 1 + 4 + 8;

const RECORD_VERSION: u8 = 1;

/// Why a saved record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Not a record of this version.
    #[error("line source record has another length or version")]
    Shape,
    /// The record of another bus or unit.
    #[error("line source record is of another device")]
    Device,
}

/// One line source: bytes in, readings out.
#[derive(Debug)]
pub struct Source {
    bus: [u8; 16],
    unit: u8,
    mapping: Mapping,
    lines: Lines,
    epoch: u32,
    /// Counter of the last reading; 0 if the epoch has none yet.
    counter: u64,
    last_ms: Option<u64>,
    counts: Counts,
}

impl Source {
    /// A line source after pairing (no record), or at start with the record of the last
    /// `Persist`. Without one, or with one older than the ledger, a new epoch begins.
    ///
    /// # Errors
    /// [`RecordError`]; go on without the record then, and say so.
    pub fn new(
        bus: [u8; 16],
        unit: u8,
        mapping: Mapping,
        record: Option<&[u8]>,
        committed: Committed,
    ) -> Result<Self, RecordError> {
        let saved = record.map(|record| from_record(bus, unit, record)).transpose()?;
        let saved =
            saved.filter(|saved| (saved.0, saved.1) >= (committed.epoch, committed.highest));
        let (epoch, counter) = saved.unwrap_or((committed.epoch.saturating_add(1), 0));
        Ok(Self {
            bus,
            unit,
            mapping,
            lines: Lines::new(),
            epoch,
            counter,
            last_ms: None,
            counts: Counts::default(),
        })
    }

    /// The source's identity.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        Identity::Bus { bus: self.bus, unit: self.unit }
    }

    /// Present epoch and the counter of its last reading.
    #[must_use]
    pub const fn position(&self) -> (u32, u64) {
        (self.epoch, self.counter)
    }

    /// What happened since start.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The port was closed and opened again: a line under way is dropped, and so is the rest of
    /// the line that is on the wire now.
    pub fn reopened(&mut self) {
        self.lines = Lines::new();
    }

    /// Takes bytes in pieces of any size; `now_ms` is the time of the gateway, in milliseconds
    /// since 1970.
    pub fn feed(&mut self, now_ms: u64, mut bytes: &[u8]) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut lines = std::mem::take(&mut self.lines);
        let before = self.counter;
        while let Some(line) = lines.next(&mut bytes) {
            let records = line.and_then(|line| self.mapping.apply(line));
            match records {
                Ok(records) if records.is_empty() => {}
                Ok(records) => self.deliver(now_ms, records, &mut effects),
                Err(error) => {
                    let refusal = Refusal::Line(error);
                    self.counts.refuse(refusal.name());
                    effects.push(Effect::Refused(refusal));
                }
            }
        }
        self.lines = lines;
        if self.counter != before {
            effects.push(Effect::Persist { identity: self.identity(), record: self.record() });
        }
        effects
    }

    fn deliver(&mut self, now_ms: u64, records: Vec<Record>, effects: &mut Vec<Effect>) {
        let rest = self.mapping.min_interval_ms();
        // A clock that was set back must not silence the source until it has caught up.
        let too_soon = |last_ms: u64| now_ms.checked_sub(last_ms).is_some_and(|ms| ms < rest);
        if rest > 0 && self.last_ms.is_some_and(too_soon) {
            self.counts.refuse("thinned");
            return;
        }
        let Some(counter) = self.counter.checked_add(1) else { return };
        if counter == 1 {
            effects.push(Effect::SessionOpened {
                identity: self.identity(),
                epoch: self.epoch,
                digest: digest(&self.identity(), self.epoch),
            });
            self.counts.sessions += 1;
        }
        self.counter = counter;
        self.last_ms = Some(now_ms);
        self.counts.readings = self.counts.readings.saturating_add(1);
        effects.push(Effect::Deliver(VerifiedReading::new(Checked {
            identity: self.identity(),
            epoch: self.epoch,
            counter,
            received_ms: now_ms,
            level: Level::Observed,
            senml: Pack(records).to_cbor(),
            device_signature: None,
        })));
    }

    fn record(&self) -> Vec<u8> {
        let mut record = vec![RECORD_VERSION];
        record.extend_from_slice(&self.bus);
        record.push(self.unit);
        record.extend_from_slice(&self.epoch.to_be_bytes());
        record.extend_from_slice(&self.counter.to_be_bytes());
        record
    }
}

/// Epoch and digest of the session in a record: what its [`Effect::SessionOpened`] said. `None` for
/// anything that is no record.
#[must_use]
pub fn opened(record: &[u8]) -> Option<(u32, [u8; 32])> {
    let bus = *record.get(1..)?.first_chunk()?;
    let unit = *record.get(17)?;
    let (epoch, _) = from_record(bus, unit, record).ok()?;
    Some((epoch, digest(&Identity::Bus { bus, unit }, epoch)))
}

fn digest(identity: &Identity, epoch: u32) -> [u8; 32] {
    Sha256::new_with_prefix("gatewayd/line-session/1")
        .chain_update(identity.to_bytes())
        .chain_update(epoch.to_be_bytes())
        .finalize()
        .into()
}

fn from_record(bus: [u8; 16], unit: u8, record: &[u8]) -> Result<(u32, u64), RecordError> {
    let record: &[u8; RECORD] = record.try_into().map_err(|_| RecordError::Shape)?;
    let [RECORD_VERSION, rest @ ..] = record else { return Err(RecordError::Shape) };
    let (device, rest) = rest.split_at(17);
    if device[..16] != bus || device[16] != unit {
        return Err(RecordError::Device);
    }
    let (epoch, counter) = rest.split_at(4);
    let fits = "the record's length was checked";
    let epoch = u32::from_be_bytes(epoch.try_into().expect(fits));
    Ok((epoch, u64::from_be_bytes(counter.try_into().expect(fits))))
}

/// Cuts a stream into lines, with bounded buffers.
#[derive(Debug, Default)]
struct Lines {
    /// The line that is arriving.
    arriving: Vec<u8>,
    /// The last whole line.
    whole: Vec<u8>,
    /// Drop everything up to the next line end.
    skipping: bool,
}

impl Lines {
    /// The first line of an opened port may be the rest of one: it is skipped.
    const fn new() -> Self {
        Self { arriving: Vec::new(), whole: Vec::new(), skipping: true }
    }

    /// The next whole line without its end, off the front of `input`; `None` when that is used up.
    fn next<'s>(&'s mut self, input: &mut &[u8]) -> Option<Result<&'s [u8], LineError>> {
        while !input.is_empty() {
            let end = input.iter().position(|byte| *byte == b'\n');
            let (run, rest) = input.split_at(end.unwrap_or(input.len()));
            *input = rest.get(usize::from(end.is_some())..).unwrap_or(&[]);
            if self.skipping {
                self.skipping = end.is_none();
                continue;
            }
            if self.arriving.len() + run.len() > MAX_LINE {
                self.skipping = end.is_none();
                self.arriving.clear();
                return Some(Err(LineError::Endless));
            }
            self.arriving.extend_from_slice(run);
            if end.is_some() {
                std::mem::swap(&mut self.arriving, &mut self.whole);
                self.arriving.clear();
                return Some(Ok(&self.whole));
            }
        }
        None
    }
}

/// One line of a preview.
#[derive(Clone, Debug, PartialEq)]
pub struct PreviewLine {
    /// The line as text, with what is not UTF-8 replaced, at most 120 characters.
    pub text: String,
    /// What the mapping makes of it.
    pub records: Result<Vec<Record>, LineError>,
}

/// What a mapping makes of the bytes a port has sent, for the pairing dialogue: at most
/// [`MAX_PREVIEW`] whole lines. Nothing of it is recorded.
#[must_use]
pub fn preview(mapping: &Mapping, mut bytes: &[u8]) -> Vec<PreviewLine> {
    let mut lines = Lines::new();
    let mut out = Vec::new();
    while out.len() < MAX_PREVIEW {
        let Some(line) = lines.next(&mut bytes) else { break };
        let text = String::from_utf8_lossy(line.unwrap_or_default());
        let text = text.trim().chars().take(120).collect::<String>();
        let records = line.and_then(|line| mapping.apply(line));
        if records != Ok(Vec::new()) {
            out.push(PreviewLine { text, records });
        }
    }
    out
}

/// Entry for fuzzing: the bytes up to a NUL as a mapping, the rest as what its port sends; and
/// all of it as a record.
///
/// # Panics
/// Only if a parser is wrong.
pub fn fuzz(bytes: &[u8]) {
    let (text, wire) = bytes.split_at(bytes.iter().position(|byte| *byte == 0).unwrap_or(0));
    let written = std::str::from_utf8(text).ok().and_then(|text| Mapping::from_toml(text).ok());
    let suggested = suggest(wire).map(|text| Mapping::from_toml(&text));
    let suggested = suggested.map(|mapping| mapping.expect("a suggestion is a mapping"));
    for mapping in [written, suggested].into_iter().flatten() {
        let _lines = preview(&mapping, wire);
        let source = Source::new([0; 16], 0, mapping, None, Committed::default());
        let mut source = source.expect("there is no record");
        for piece in wire.chunks(100) {
            for effect in source.feed(0, piece) {
                if let Effect::Deliver(reading) = effect {
                    let pack = Pack::from_cbor(reading.senml()).expect("our own CBOR");
                    assert!(pack.resolve(0.0).is_ok(), "a reading always resolves");
                }
            }
        }
    }
    let _record = from_record([0; 16], 0, bytes);
}

#[cfg(test)]
mod tests;
