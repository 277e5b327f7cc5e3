//! Reading the buffer: each reader has its own read-only connection and so its own snapshot.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Params};

use super::{BatchState, Entry, NodeBytes, StoreError, StoredBatch, pack, sql};

/// A reading with where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReading {
    /// The reading.
    pub entry: Entry,
    /// Batch that holds it, when one was cut: sequence, state, height.
    pub batch: Option<(u64, BatchState, Option<u64>)>,
}

/// Snapshot reads.
pub struct BufferReader {
    connection: Connection,
}

impl BufferReader {
    /// Opens the file read-only.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        Ok(Self { connection })
    }

    /// Newest readings first, of one node or of all, at most `limit`. Batches without the node are
    /// passed over by their list of nodes, without reading them.
    pub fn newest(
        &self,
        node: Option<&NodeBytes>,
        limit: usize,
    ) -> Result<Vec<StoredReading>, StoreError> {
        self.connection.execute_batch("BEGIN")?;
        let found = self.newest_in_snapshot(node, limit);
        self.connection.execute_batch("COMMIT")?;
        found
    }

    fn newest_in_snapshot(
        &self,
        node: Option<&NodeBytes>,
        limit: usize,
    ) -> Result<Vec<StoredReading>, StoreError> {
        let wanted = |entry: &Entry| node.is_none_or(|node| entry.node == *node);
        let mut found = Vec::new();
        let mut groups =
            self.connection.prepare("SELECT readings FROM pending ORDER BY id DESC")?;
        let mut rows = groups.query([])?;
        while let (true, Some(row)) = (found.len() < limit, rows.next()?) {
            let entries = pack::decode(row.get_ref(0)?.as_blob().map_err(sql)?)?;
            let newest = entries.into_iter().rev().filter(wanted);
            found.extend(newest.map(|entry| StoredReading { entry, batch: None }));
        }
        let mut batches = self.connection.prepare(
            "SELECT sequence, state, height, nodes, readings FROM batch ORDER BY sequence DESC",
        )?;
        let mut rows = batches.query([])?;
        while let (true, Some(row)) = (found.len() < limit, rows.next()?) {
            let nodes = row.get_ref(3)?.as_blob().map_err(sql)?;
            if node.is_some_and(|node| !holds(nodes, node)) {
                continue;
            }
            let batch = Some((row.get(0)?, BatchState::of(row.get(1)?), row.get(2)?));
            let mut entries = pack::decode(row.get_ref(4)?.as_blob().map_err(sql)?)?;
            entries.retain(wanted);
            entries.sort_by_key(|entry| std::cmp::Reverse((entry.time_ms, entry.counter)));
            found.extend(entries.into_iter().map(|entry| StoredReading { entry, batch }));
        }
        found.truncate(limit);
        Ok(found)
    }

    /// The batch that holds a reading and where in it, newest batch first.
    pub fn find(
        &self,
        node: &NodeBytes,
        epoch: u32,
        counter: u64,
    ) -> Result<Option<(StoredBatch, usize)>, StoreError> {
        let mut directory =
            self.connection.prepare("SELECT sequence, nodes FROM batch ORDER BY sequence DESC")?;
        let mut rows = directory.query([])?;
        while let Some(row) = rows.next()? {
            if !holds(row.get_ref(1)?.as_blob().map_err(sql)?, node) {
                continue;
            }
            let Some(batch) = self.batch(row.get(0)?)? else { continue };
            let place = batch.readings.iter().position(|entry| {
                (entry.node, entry.epoch, entry.counter) == (*node, epoch, counter)
            });
            if let Some(place) = place {
                return Ok(Some((batch, place)));
            }
        }
        Ok(None)
    }

    /// Batch by sequence.
    pub fn batch(&self, sequence: u64) -> Result<Option<StoredBatch>, StoreError> {
        Ok(batches(&self.connection, "WHERE sequence = ?1", [sequence])?.pop())
    }

    /// Cut readings by state: waiting, committed, unrecorded.
    pub fn counts(&self) -> Result<[u64; 3], StoreError> {
        let count = |state: i64| {
            self.connection.query_row(
                "SELECT coalesce(sum(count), 0) FROM batch WHERE state = ?1",
                [state],
                |row| row.get::<_, u64>(0),
            )
        };
        Ok([count(0)?, count(1)?, count(2)?])
    }
}

/// `nodes` is the sorted list of 20-byte IDs in a batch.
fn holds(nodes: &[u8], node: &NodeBytes) -> bool {
    let (ids, _) = nodes.as_chunks::<20>();
    ids.binary_search(node).is_ok()
}

pub(super) fn batches(
    connection: &Connection,
    clause: &str,
    params: impl Params,
) -> Result<Vec<StoredBatch>, StoreError> {
    let mut statement = connection.prepare(&format!(
        "SELECT sequence, root, secret, readings, state, height, committed_as FROM batch {clause}"
    ))?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(StoredBatch {
            sequence: row.get(0)?,
            root: row.get(1)?,
            secret: row.get(2)?,
            readings: pack::decode(row.get_ref(3)?.as_blob().map_err(sql)?)?,
            state: BatchState::of(row.get(4)?),
            committed: row.get::<_, Option<u64>>(5)?.zip(row.get(6)?),
        });
    }
    Ok(found)
}
