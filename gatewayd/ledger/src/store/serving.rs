//! What peers are given: decided blocks in a row, and snapshots in parts.

use std::path::PathBuf;

use rusqlite::{Connection, params};

use super::rows::{self, sql_height};
use super::snapshot::set_steps;
use super::{Reader, Store, StoreError};
use crate::block::Block;
use crate::certificate::Certificate;
use crate::codec::{Decode, Encode, Encoder};
use crate::header::Header;
use crate::ids::{Hash, Height};
use crate::state::Key;
use crate::state::map::{Path as MapPath, SparseMap, value_hash};
use crate::sync::wire::{Answer, MAX_PART_ENTRIES, MAX_PART_STEPS, Manifest, PART_BYTES, Request};

/// Decided blocks in a row, and why the last of them is final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Encoded blocks, ascending by height.
    pub blocks: Vec<Vec<u8>>,
    /// Encoded certificate of the last.
    pub certificate: Vec<u8>,
}

/// A row as it is stored.
struct RawBlock {
    height: u64,
    header: Vec<u8>,
    certificate: Option<Vec<u8>>,
    body: Option<Vec<u8>>,
}

impl Store {
    /// Decided blocks from `from` on, at most `count` and about `bytes`. One set of voters
    /// certifies them all: the list ends with a block that changes the voters, and one that
    /// begins an era stands alone.
    ///
    /// # Errors
    /// Those of the disk. `None` when the first is not here.
    pub fn range(
        &self,
        from: Height,
        count: usize,
        bytes: usize,
    ) -> Result<Option<Range>, StoreError> {
        let rows = self.raw_blocks(from, count)?;
        let mut rows = rows.into_iter();
        let Some(mut below) = rows.next().filter(|row| row.height.checked_add(1) == Some(from.0))
        else {
            return Ok(None);
        };
        let era = Header::from_bytes(&below.header)?.era;
        let (mut range, mut size) = (Range { blocks: Vec::new(), certificate: Vec::new() }, 0);
        for row in rows {
            let (Some(body), Some(certificate)) = (&row.body, &row.certificate) else {
                break;
            };
            let header = Header::from_bytes(&row.header)?;
            let begins_era = header.era != era;
            let block = join(&row.header, body, &header.last_commit_hash, &below.certificate);
            size += block.len();
            let full = !range.blocks.is_empty() && (size > bytes || begins_era);
            if full || row.height != below.height + 1 {
                break;
            }
            range.blocks.push(block);
            range.certificate = certificate.clone();
            if begins_era || header.validators_hash != header.next_validators_hash {
                break;
            }
            below = row;
        }
        Ok((!range.blocks.is_empty()).then_some(range))
    }

    /// A decided block with its certificate.
    ///
    /// # Errors
    /// Those of the disk. `None` when the block is not here.
    pub fn decided(&self, height: Height) -> Result<Option<(Block, Certificate)>, StoreError> {
        let Some(mut row) = rows::block_row(&self.connection, height)? else {
            return Ok(None);
        };
        let Some(certificate) = row.certificate.take() else {
            return Ok(None);
        };
        Ok(row.into_block(&self.connection)?.map(|block| (block, certificate)))
    }

    /// The row below `from` and `count` rows from there.
    fn raw_blocks(&self, from: Height, count: usize) -> Result<Vec<RawBlock>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT height, header, certificate, body FROM blocks
             WHERE height >= ?1 ORDER BY height LIMIT ?2",
        )?;
        let below = sql_height(Height(from.0.saturating_sub(1)))?;
        let limit = i64::try_from(count.saturating_add(1)).unwrap_or(i64::MAX);
        let rows = statement
            .query_map(params![below, limit], |row| {
                Ok(RawBlock {
                    height: rows::number(row, 0)?,
                    header: row.get(1)?,
                    certificate: row.get(2)?,
                    body: row.get(3)?,
                })
            })?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(rows)
    }

    /// A server of snapshots of this ledger, with a connection of its own.
    pub fn snapshot_server(&self) -> SnapshotServer {
        SnapshotServer { directory: self.directory.clone(), open: None }
    }
}

/// The canonical form of a block, from its stored parts.
fn join(
    header: &[u8],
    body: &[u8],
    last_commit_hash: &Hash,
    last_commit: &Option<Vec<u8>>,
) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.array(3);
    let mut bytes = encoder.into_bytes();
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(body);
    match last_commit {
        Some(certificate) if *last_commit_hash != Hash::ZERO => {
            bytes.extend_from_slice(certificate);
        }
        _ => {
            let mut encoder = Encoder::new();
            encoder.null();
            bytes.extend(encoder.into_bytes());
        }
    }
    bytes
}

/// Serves one snapshot at a time, from a read transaction that stays open while it is used: the
/// writer goes on meanwhile.
pub struct SnapshotServer {
    directory: PathBuf,
    open: Option<Open>,
}

struct Open {
    reader: Reader,
    height: Height,
    opened_ms: u64,
    used_ms: u64,
    /// Made when entries are asked for.
    order: Option<Order>,
}

/// The state in the order of its map, and the map itself, which proves every part that is sent.
struct Order {
    keys: Vec<(MapPath, Vec<u8>)>,
    map: SparseMap,
}

/// A snapshot that nobody asked for so long is closed.
const IDLE_MS: u64 = 60_000;
/// No snapshot stays open longer: SQLite's log grows meanwhile.
const MAX_OPEN_MS: u64 = 600_000;
/// A newcomer gets the open snapshot only if it is not older than this.
const FRESH_MS: u64 = 60_000;

impl SnapshotServer {
    /// Answers a question at monotonic time `now_ms`.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn answer(&mut self, now_ms: u64, request: &Request) -> Result<Answer, StoreError> {
        self.close_idle(now_ms);
        match request {
            Request::Newest { at_least } => self.newest(now_ms, *at_least),
            Request::Steps { height, after } => match self.opened(now_ms, *height) {
                Some(open) => open.steps(*after),
                None => Ok(Answer::Gone { height: *height }),
            },
            Request::Entries { height, after } => match self.opened(now_ms, *height) {
                Some(open) => open.entries(after),
                None => Ok(Answer::Gone { height: *height }),
            },
        }
    }

    /// Closes a snapshot that nobody uses any more.
    pub fn close_idle(&mut self, now_ms: u64) {
        let over = |open: &Open| {
            now_ms.saturating_sub(open.used_ms) >= IDLE_MS
                || now_ms.saturating_sub(open.opened_ms) >= MAX_OPEN_MS
        };
        if self.open.as_ref().is_some_and(over) {
            self.open = None;
        }
    }

    fn opened(&mut self, now_ms: u64, height: Height) -> Option<&mut Open> {
        let open = self.open.as_mut().filter(|open| open.height == height)?;
        open.used_ms = now_ms;
        Some(open)
    }

    fn newest(&mut self, now_ms: u64, at_least: Height) -> Result<Answer, StoreError> {
        let usable = |open: &Open| {
            open.height >= at_least && now_ms.saturating_sub(open.opened_ms) < FRESH_MS
        };
        if !self.open.as_ref().is_some_and(usable) {
            let reader = Reader::open(&self.directory)?;
            reader.connection.execute_batch("BEGIN")?;
            let height = rows::tip_height(&reader.connection)?;
            if height < at_least || height == Height::GENESIS {
                return Ok(Answer::Gone { height: at_least });
            }
            let (opened_ms, used_ms, order) = (now_ms, now_ms, None);
            self.open = Some(Open { reader, height, opened_ms, used_ms, order });
        }
        match &self.open {
            Some(open) => open.manifest(),
            None => Ok(Answer::Gone { height: at_least }),
        }
    }
}

impl Open {
    fn manifest(&self) -> Result<Answer, StoreError> {
        let connection = &self.reader.connection;
        let missing = || StoreError::Damaged("no certificate of the tip".into());
        let row = rows::block_row(connection, self.height)?.ok_or_else(missing)?;
        let (base, validators) = rows::first_validators(connection)?;
        let entries =
            connection.query_row("SELECT count(*) FROM state", [], |row| rows::number(row, 0))?;
        Ok(Answer::Manifest(Box::new(Manifest {
            genesis: self.reader.genesis()?,
            header: row.header,
            certificate: row.certificate.ok_or_else(missing)?,
            peaks: rows::peaks(connection, self.height.0)?,
            base,
            validators,
            entries,
        })))
    }

    fn steps(&self, after: Height) -> Result<Answer, StoreError> {
        let connection = &self.reader.connection;
        let (mut steps, mut size) = (Vec::new(), 0);
        for step in set_steps(connection, after, MAX_PART_STEPS)? {
            size += step.to_bytes().len();
            steps.push(step);
            if size >= PART_BYTES {
                break;
            }
        }
        let more = match steps.last() {
            Some(last) => !set_steps(connection, last.header.height, 1)?.is_empty(),
            None => false,
        };
        Ok(Answer::Steps { height: self.height, after, steps, more })
    }

    fn entries(&mut self, after: &[u8]) -> Result<Answer, StoreError> {
        let order = match &mut self.order {
            Some(order) => order,
            none => none.insert(Order::read(&self.reader.connection)?),
        };
        let height = self.height;
        let begin = match Key::from_bytes(after) {
            _ if after.is_empty() => 0,
            Ok(key) => order.keys.partition_point(|(path, _)| *path <= key.path()),
            Err(_) => return Ok(Answer::Gone { height }),
        };
        let mut statement =
            self.reader.connection.prepare_cached("SELECT value FROM state WHERE key = ?1")?;
        let (mut entries, mut size) = (Vec::<(Vec<u8>, Vec<u8>)>::new(), 0);
        let mut rest = order.keys[begin..].iter();
        let mut last = None;
        while size < PART_BYTES && entries.len() < MAX_PART_ENTRIES {
            let Some((path, key)) = rest.next() else { break };
            let value: Vec<u8> = statement.query_row([key], |row| row.get(0))?;
            size += key.len() + value.len();
            entries.push((key.clone(), value));
            last = Some(path);
        }
        let more = last.filter(|_| !rest.as_slice().is_empty());
        let more = more.map(|path| order.map.prove(path));
        Ok(Answer::Entries { height, after: after.to_vec(), entries, more })
    }
}

impl Order {
    fn read(connection: &Connection) -> Result<Self, StoreError> {
        let mut statement = connection.prepare("SELECT key, value FROM state")?;
        let mut rows = statement.query([])?;
        let (mut keys, mut leaves) = (Vec::new(), Vec::new());
        while let Some(row) = rows.next()? {
            let key: Vec<u8> = row.get(0)?;
            let value: Vec<u8> = row.get(1)?;
            let path = Key::from_bytes(&key)?.path();
            leaves.push((path, Some(value_hash(&value))));
            keys.push((path, key));
        }
        keys.sort_unstable();
        let mut map = SparseMap::new();
        map.update(leaves);
        Ok(Self { keys, map })
    }
}
