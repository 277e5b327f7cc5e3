//! The write-ahead log: what this node signed or saw at the height that is not decided yet.
//!
//! ```text
//! record:  length u32 | sequence u64 | crc32 of the first 12 bytes u32
//!          payload (length bytes) | crc32 of the payload u32 | 0xA5
//! file:    records, then zeros up to the allocated end
//! ```
//!
//! Each record goes to two files; damage in one is read from the other. A bad tail is cut only if
//! it is short or zero to its end: such a record was never synced, hence nothing that rests on it
//! was published. Everything else is [`Recovery::Damaged`], and the node stays silent for the
//! height. This module knows bytes and files; it must not know what a record means.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Names of the two copies below the data directory.
pub const FILE_NAMES: [&str; 2] = ["wal-a", "wal-b"];

/// Where one copy lives: a file, or the simulated disk of the tests.
pub trait Medium {
    /// Everything that is stored, zeros behind the records included.
    ///
    /// # Errors
    /// The operating system's, and [`io::ErrorKind::FileTooLarge`] above 64 MiB.
    fn read_all(&mut self) -> io::Result<Vec<u8>>;
    /// Overwrites or extends at `offset` bytes from the start.
    ///
    /// # Errors
    /// The operating system's.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes the copy empty.
    ///
    /// # Errors
    /// The operating system's.
    fn clear(&mut self) -> io::Result<()>;
    /// Returns when everything written so far survives a power cut.
    ///
    /// # Errors
    /// The operating system's.
    fn sync(&mut self) -> io::Result<()>;
}

/// What opening found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Both copies are empty or missing: a first start, or a log that was lost.
    Empty,
    /// Every record that can have been synced was read.
    Complete,
    /// A synced record may be missing: what this node signed at the open height is not known.
    Damaged,
}

/// The log, open for appending.
pub struct Wal<M = FileMedium> {
    copies: [Copy<M>; 2],
    next_sequence: u64,
    /// The newest record as it is framed.
    last: Vec<u8>,
}

struct Copy<M> {
    medium: M,
    written: u64,
    allocated: u64,
    dirty: bool,
}

impl Wal<FileMedium> {
    /// Opens or creates both files in `directory`. They stay locked: two logs for one vote key
    /// would be two votes for one place.
    ///
    /// # Errors
    /// As [`Wal::open`] and [`FileMedium::open`].
    pub fn open_in(directory: &Path) -> io::Result<(Self, Vec<Vec<u8>>, Recovery)> {
        let [a, b] = FILE_NAMES;
        let media = [FileMedium::open(&directory.join(a))?, FileMedium::open(&directory.join(b))?];
        // The names too must survive a power cut, before a record does.
        File::open(directory)?.sync_all()?;
        Self::open(media)
    }
}

impl<M: Medium> Wal<M> {
    /// Reads both copies, merges them, and rewrites them when they were not equal and whole.
    /// After [`Recovery::Damaged`] the records are those that could be read, and the log is empty.
    ///
    /// # Errors
    /// Those of the medium. An oversized copy counts as damaged, not as an error.
    pub fn open(media: [M; 2]) -> io::Result<(Self, Vec<Vec<u8>>, Recovery)> {
        let mut copies =
            media.map(|medium| Copy { medium, written: 0, allocated: 0, dirty: false });
        let mut scans = Vec::with_capacity(2);
        for copy in &mut copies {
            let (bytes, oversized) = match copy.medium.read_all() {
                Ok(bytes) => (bytes, false),
                Err(error) if error.kind() == io::ErrorKind::FileTooLarge => (Vec::new(), true),
                Err(error) => return Err(error),
            };
            let mut scan = scan(&bytes);
            if oversized {
                scan.end = End::Damaged;
            }
            copy.written = scan.whole;
            copy.allocated = bytes.len() as u64;
            scans.push(scan);
        }
        let (records, recovery) = merge(&scans);
        let (next_sequence, last) = match records.last_key_value() {
            Some((sequence, payload)) => (sequence + 1, frame(*sequence, payload)?),
            None => (1, Vec::new()),
        };
        let mut wal = Self { copies, next_sequence, last };
        wal.heal(&scans, &records, recovery)?;
        Ok((wal, records.into_values().collect(), recovery))
    }

    /// Writes one record to both copies. It is durable after [`Wal::sync`].
    ///
    /// # Errors
    /// Those of the medium, and [`io::ErrorKind::InvalidInput`] for an empty or oversized record.
    /// After an error the caller must stop: a later sync would not cover this record.
    pub fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        self.last = frame(self.next_sequence, payload)?;
        self.next_sequence += 1;
        let last = &self.last;
        self.copies.iter_mut().try_for_each(|copy| copy.append(last))
    }

    /// Makes all appended records durable in both copies.
    ///
    /// # Errors
    /// Those of the medium; the caller must stop and publish nothing.
    pub fn sync(&mut self) -> io::Result<()> {
        self.copies.iter_mut().try_for_each(Copy::sync)
    }

    /// Says that no record is needed any more. The files are emptied once they have grown, so
    /// that most heights cost no truncation; the reader tells old heights by their number.
    ///
    /// The newest record stays, and one copy is durable before the other is touched: a log that
    /// was in use is never found empty, so an empty one was lost.
    ///
    /// # Errors
    /// Those of the medium.
    pub fn discard(&mut self) -> io::Result<()> {
        for copy in &mut self.copies {
            if copy.written >= DISCARD_ABOVE {
                copy.clear()?;
                copy.append(&self.last)?;
                copy.sync()?;
            }
        }
        Ok(())
    }

    /// The worse copy is rewritten first, so that a crash here finds the better one intact.
    fn heal(
        &mut self,
        scans: &[Scan],
        records: &BTreeMap<u64, Vec<u8>>,
        recovery: Recovery,
    ) -> io::Result<()> {
        let whole = |scan: &Scan| scan.end == End::Clean && scan.records.len() == records.len();
        if recovery == Recovery::Damaged {
            for copy in &mut self.copies {
                copy.clear()?;
                copy.sync()?;
            }
            return Ok(());
        }
        let mut order = [0, 1];
        order.sort_by_key(|&index| scans[index].records.len());
        for index in order {
            if whole(&scans[index]) {
                continue;
            }
            let copy = &mut self.copies[index];
            copy.clear()?;
            for (sequence, payload) in records {
                copy.append(&frame(*sequence, payload)?)?;
            }
            copy.sync()?;
        }
        Ok(())
    }
}

/// Files above this are emptied at the next height.
const DISCARD_ABOVE: u64 = 1024 * 1024;

impl<M: Medium> Copy<M> {
    fn append(&mut self, framed: &[u8]) -> io::Result<()> {
        let end = self.written + framed.len() as u64;
        if end > self.allocated {
            // Zeros are written ahead, so that a sync of one record flushes data pages and no
            // file size.
            let target = end.next_multiple_of(CHUNK);
            while self.allocated < target {
                let zeros = (target - self.allocated).min(PAGE as u64) as usize;
                self.medium.write_at(self.allocated, &[0; PAGE][..zeros])?;
                self.allocated += zeros as u64;
            }
        }
        self.medium.write_at(self.written, framed)?;
        self.written = end;
        self.dirty = true;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.dirty {
            self.medium.sync()?;
            self.dirty = false;
        }
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.medium.clear()?;
        self.written = 0;
        self.allocated = 0;
        self.dirty = true;
        Ok(())
    }
}

const CHUNK: u64 = 64 * 1024;

/// Zeros are written page by page: a file system that caches a large write as one large folio would
/// count, and may write, all of it again with each record that is synced into it.
const PAGE: usize = 4096;

/// One copy in the file system.
pub struct FileMedium(File);

impl FileMedium {
    /// Opens or creates the file and locks it, for as long as it is open.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when another process, or another node of this one, has it;
    /// the operating system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.try_lock().map_err(io::Error::from)?;
        Ok(Self(file))
    }
}

impl Medium for FileMedium {
    fn read_all(&mut self) -> io::Result<Vec<u8>> {
        if self.0.metadata()?.len() > MAX_FILE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.seek(SeekFrom::Start(0))?;
        let mut bytes = Vec::new();
        (&self.0).take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.seek(SeekFrom::Start(offset))?;
        self.0.write_all(bytes)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.0.set_len(0)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// A height's votes and bodies are far below this; a larger file is not ours.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// One copy as read: the records by sequence number, and what stood behind the last one.
#[derive(Debug)]
struct Scan {
    records: BTreeMap<u64, Vec<u8>>,
    /// Sequence numbers whose header is right and whose payload is not.
    holes: BTreeSet<u64>,
    end: End,
    /// Bytes up to the end of the last whole record.
    whole: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing but zeros.
    Clean,
    /// A record that was never completed.
    Torn,
    /// Bytes that are neither.
    Damaged,
}

/// Feeds arbitrary bytes to the reader of one copy: for the fuzzer.
pub fn fuzz(bytes: &[u8]) {
    let _ = scan_bytes(bytes);
}

/// Number of whole records in the bytes of one copy; total for any input.
pub fn scan_bytes(bytes: &[u8]) -> usize {
    scan(bytes).records.len()
}

fn scan(bytes: &[u8]) -> Scan {
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let mut scan =
        Scan { records: BTreeMap::new(), holes: BTreeSet::new(), end: End::Clean, whole: 0 };
    let mut position = 0;
    while position < used {
        let rest = &bytes[position..];
        let Some(header) = rest.first_chunk::<HEADER>() else {
            scan.end = End::Torn;
            break;
        };
        let Some((length, sequence)) = open_header(header) else {
            let unfinished = used <= position + HEADER;
            scan.end = if unfinished { End::Torn } else { End::Damaged };
            break;
        };
        let size = HEADER + length + TRAILER;
        if size > rest.len() || used < position + size {
            scan.end = End::Torn;
            break;
        }
        let payload = &rest[HEADER..HEADER + length];
        let (crc, last) = rest[HEADER + length..size].split_at(4);
        if crc == crc32(payload).to_le_bytes() && last == [END_MARK] {
            scan.records.insert(sequence, payload.to_vec());
        } else {
            scan.holes.insert(sequence);
        }
        position += size;
        scan.whole = position as u64;
    }
    scan
}

/// Joins the copies. Whatever is not whole in one is read from the other; where the other, sound
/// to its end, stops before the damage, the damaged record was not in both and so never synced.
fn merge(scans: &[Scan]) -> (BTreeMap<u64, Vec<u8>>, Recovery) {
    let mut records: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut contradiction = false;
    for (sequence, payload) in scans.iter().flat_map(|scan| &scan.records) {
        let known = records.entry(*sequence).or_insert_with(|| payload.clone());
        contradiction |= known != payload;
    }
    // The first sequence number that neither copy can give; 0 when there is not even a first one.
    let seen = scans.iter().flat_map(|scan| scan.records.keys().chain(&scan.holes));
    let first = seen.min().copied().unwrap_or(0);
    let gap = (first..).find(|sequence| !records.contains_key(sequence)).unwrap_or(u64::MAX);
    let beyond = |scan: &Scan| {
        scan.end == End::Damaged
            || scan.records.range(gap..).next().is_some()
            || scan.holes.range(gap..).next().is_some()
    };
    let doubtful: Vec<usize> = (0..scans.len()).filter(|index| beyond(&scans[*index])).collect();
    let damaged = contradiction
        || match doubtful[..] {
            [] => false,
            [one] => {
                let sound = &scans[1 - one];
                // A copy that lacks what the other still has was lost, not cut.
                sound.records.keys().next_back().map(|last| last + 1) != Some(gap)
            }
            _ => true,
        };
    records.split_off(&gap);
    let recovery = match (damaged, records.is_empty()) {
        (true, _) => Recovery::Damaged,
        (false, true) => Recovery::Empty,
        (false, false) => Recovery::Complete,
    };
    (records, recovery)
}

fn frame(sequence: u64, payload: &[u8]) -> io::Result<Vec<u8>> {
    let length =
        u32::try_from(payload.len()).ok().filter(|length| *length > 0 && *length <= MAX_RECORD);
    let length = length.ok_or(io::ErrorKind::InvalidInput)?;
    let mut framed = Vec::with_capacity(HEADER + payload.len() + TRAILER);
    framed.extend_from_slice(&length.to_le_bytes());
    framed.extend_from_slice(&sequence.to_le_bytes());
    framed.extend_from_slice(&crc32(&framed).to_le_bytes());
    framed.extend_from_slice(payload);
    framed.extend_from_slice(&crc32(payload).to_le_bytes());
    framed.push(END_MARK);
    Ok(framed)
}

fn open_header(header: &[u8; HEADER]) -> Option<(usize, u64)> {
    let (fields, crc) = header.split_at(12);
    if crc != crc32(fields).to_le_bytes() {
        return None;
    }
    let length = u32::from_le_bytes(*fields.first_chunk()?);
    let sequence = u64::from_le_bytes(*fields[4..].first_chunk()?);
    (length > 0 && length <= MAX_RECORD).then_some((length as usize, sequence))
}

const HEADER: usize = 16;
const TRAILER: usize = 5;
const END_MARK: u8 = 0xA5;
/// Above the largest block body with its frame.
const MAX_RECORD: u32 = 8 * 1024 * 1024;

/// CRC-32 of IEEE 802.3, reflected.
fn crc32(bytes: &[u8]) -> u32 {
    let fold =
        |crc: u32, byte: &u8| CRC_TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8);
    !bytes.iter().fold(!0, fold)
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

#[cfg(test)]
#[path = "wal_tests.rs"]
mod tests;
