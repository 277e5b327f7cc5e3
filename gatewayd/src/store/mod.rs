//! What this gateway keeps besides the ledger: readings that wait, batches it has cut, sensors it
//! serves with their sealed secrets. One writer ([`Buffer`]), readers with snapshots of their own
//! ([`BufferReader`]). It seals nothing and verifies nothing.

pub mod pack;
mod reader;
mod statements;

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

pub use pack::{Entry, NodeBytes};
pub use reader::{BufferReader, StoredReading};
pub use statements::{StatementRow, Statements};

/// Schema of this build; `PRAGMA user_version`.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE pending (id INTEGER PRIMARY KEY, readings BLOB NOT NULL);
CREATE TABLE batch (
    sequence INTEGER PRIMARY KEY, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL,
    count INTEGER NOT NULL, root BLOB NOT NULL, secret BLOB NOT NULL,
    nodes BLOB NOT NULL, readings BLOB NOT NULL,
    state INTEGER NOT NULL, height INTEGER, committed_as INTEGER);
CREATE INDEX batch_open ON batch (sequence) WHERE state = 0;
CREATE TABLE sensor (
    node BLOB PRIMARY KEY, name TEXT NOT NULL, settings TEXT NOT NULL, secret BLOB NOT NULL,
    added_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE session (node BLOB PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE fact (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
";

/// Why the buffer cannot do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full: nothing of the request was kept.
    #[error("the disk is full")]
    DiskFull,
    /// The file is damaged or no database.
    #[error(
        "{file} is damaged: {detail}. Put a good copy back; or move it away, lose the readings \
         that are not on the record yet, and pair the sensors again"
    )]
    Damaged {
        /// File.
        file: String,
        /// What SQLite says.
        detail: String,
    },
    /// Written by a build that this one does not know.
    #[error("{file} has schema version {found}, this build knows up to {SCHEMA_VERSION}")]
    UnknownSchema {
        /// File.
        file: String,
        /// Version found.
        found: i64,
    },
    /// Anything else that SQLite or the disk says.
    #[error("buffer: {0}")]
    Io(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseCorrupt, DiskFull, NotADatabase};
        match error.sqlite_error_code() {
            Some(DiskFull) => Self::DiskFull,
            Some(DatabaseCorrupt | NotADatabase) => {
                Self::Damaged { file: "buffer.db".into(), detail: error.to_string() }
            }
            _ => Self::Io(error.to_string()),
        }
    }
}

impl From<minicbor::decode::Error> for StoreError {
    fn from(error: minicbor::decode::Error) -> Self {
        Self::Damaged { file: "buffer.db".into(), detail: error.to_string() }
    }
}

/// Where a batch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchState {
    /// Cut and durable, not committed yet.
    Open,
    /// In a block.
    Committed,
    /// The record did not take it: its readings are kept here, unrecorded.
    Unrecorded,
}

impl BatchState {
    fn code(self) -> i64 {
        match self {
            Self::Open => 0,
            Self::Committed => 1,
            Self::Unrecorded => 2,
        }
    }

    fn of(code: i64) -> Self {
        match code {
            0 => Self::Open,
            1 => Self::Committed,
            _ => Self::Unrecorded,
        }
    }
}

/// A batch as it is kept: everything needed to prove each of its readings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBatch {
    /// Number of this cut, local to this gateway.
    pub sequence: u64,
    /// Merkle root over the salted leaves.
    pub root: [u8; 32],
    /// Secret from which each leaf's salt is derived; erasing it makes the leaves unguessable.
    pub secret: [u8; 32],
    /// Readings, ordered by (node, epoch, counter).
    pub readings: Vec<Entry>,
    /// Where it stands.
    pub state: BatchState,
    /// Block that committed it, and its sequence among the gateway's batches on the record.
    pub committed: Option<(u64, u64)>,
}

/// A sensor this gateway holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SensorRow {
    /// Light node.
    pub node: NodeBytes,
    /// Name given by the operator.
    pub name: String,
    /// Link and codec, JSON.
    pub settings: String,
    /// Root keys, sealed under the storage key.
    pub secret: Vec<u8>,
    /// When it was paired, ms since 1970.
    pub added_ms: u64,
}

/// The one writer.
pub struct Buffer {
    connection: Connection,
}

impl Buffer {
    /// Opens the file; makes it where there is none. One that is there and cannot be used is left
    /// as it is.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.try_exists().map_err(io)? {
            make(path)?;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let file = || path.display().to_string();
        match found {
            SCHEMA_VERSION => {}
            // It is made with its version: an empty one was cut off.
            0 => return Err(StoreError::Damaged { file: file(), detail: "it is empty".into() }),
            _ => return Err(StoreError::UnknownSchema { file: file(), found }),
        }
        check_length(&connection, path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "journal_size_limit", 8 << 20)?;
        Ok(Self { connection })
    }

    /// Makes readings and session records durable in one synced transaction. Returns the ID of the
    /// pending group (0 when there were no readings).
    pub fn append(
        &mut self,
        readings: &[Entry],
        sessions: &[(NodeBytes, Vec<u8>)],
    ) -> Result<i64, StoreError> {
        let transaction = self.connection.transaction()?;
        let mut id = 0;
        if !readings.is_empty() {
            transaction
                .prepare_cached("INSERT INTO pending (readings) VALUES (?1)")?
                .execute([pack::encode(readings)])?;
            id = transaction.last_insert_rowid();
        }
        for (node, record) in sessions {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO session VALUES (?1, ?2)")?
                .execute(params![node, record])?;
        }
        transaction.commit()?;
        Ok(id)
    }

    /// Readings that wait, oldest first, with the ID of the newest group.
    pub fn pending(&self) -> Result<(Vec<Entry>, i64), StoreError> {
        let mut statement =
            self.connection.prepare("SELECT id, readings FROM pending ORDER BY id")?;
        let mut rows = statement.query([])?;
        let (mut entries, mut newest) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            newest = row.get(0)?;
            entries.append(&mut pack::decode(row.get_ref(1)?.as_blob().map_err(sql)?)?);
        }
        Ok((entries, newest))
    }

    /// Keeps a cut batch and lets go of the pending groups up to `newest_group`, at once. What of
    /// those groups did not fit into the batch comes back as `rest`.
    pub fn cut(
        &mut self,
        batch: &StoredBatch,
        newest_group: i64,
        rest: &[Entry],
    ) -> Result<i64, StoreError> {
        let transaction = self.connection.transaction()?;
        put_batch(&transaction, batch)?;
        transaction
            .prepare_cached("DELETE FROM pending WHERE id <= ?1")?
            .execute([newest_group])?;
        let mut id = newest_group;
        if !rest.is_empty() {
            // A fixed ID above the deleted ones: the order of groups is the order of arrival.
            transaction
                .prepare_cached("INSERT INTO pending (id, readings) VALUES (?1, ?2)")?
                .execute(params![newest_group + 1, pack::encode(rest)])?;
            id = newest_group + 1;
        }
        transaction.commit()?;
        Ok(id)
    }

    /// Notes that a batch is committed at (height, sequence on the record).
    pub fn mark_committed(
        &mut self,
        sequence: u64,
        committed: (u64, u64),
    ) -> Result<(), StoreError> {
        self.connection
            .prepare_cached(
                "UPDATE batch SET state = 1, height = ?2, committed_as = ?3 WHERE sequence = ?1",
            )?
            .execute(params![sequence, committed.0, committed.1])?;
        Ok(())
    }

    /// Splits a batch that the record does not take whole: `taken` goes on in its place, `left`
    /// stays here as a batch of its own, unrecorded. Either may be empty.
    pub fn split(&mut self, taken: &StoredBatch, left: &StoredBatch) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        transaction.execute("DELETE FROM batch WHERE sequence = ?1", [taken.sequence])?;
        for part in [taken, left] {
            if !part.readings.is_empty() {
                put_batch(&transaction, part)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Batch by sequence.
    pub fn batch(&self, sequence: u64) -> Result<Option<StoredBatch>, StoreError> {
        Ok(reader::batches(&self.connection, "WHERE sequence = ?1", [sequence])?.pop())
    }

    /// Bytes in use on disk, without what SQLite keeps for reuse.
    pub fn used_bytes(&self) -> Result<u64, StoreError> {
        let pragma = |name| {
            self.connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, u64>(0))
        };
        let pages = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
        Ok(pages * pragma("page_size")?)
    }

    /// Batches that are cut and not committed, oldest first.
    pub fn open_batches(&self) -> Result<Vec<StoredBatch>, StoreError> {
        reader::batches(&self.connection, "WHERE state = 0 ORDER BY sequence", [])
    }

    /// Highest sequence ever cut; 0 when none.
    pub fn last_sequence(&self) -> Result<u64, StoreError> {
        let highest = self
            .connection
            .query_row("SELECT max(sequence) FROM batch", [], |row| row.get::<_, Option<u64>>(0))?;
        Ok(highest.unwrap_or(0))
    }

    /// Lets go of the oldest committed batches until `bytes` are freed; returns what was freed.
    pub fn drop_oldest(&mut self, bytes: u64) -> Result<u64, StoreError> {
        let transaction = self.connection.transaction()?;
        let mut freed = 0;
        {
            let mut oldest = transaction.prepare(
                "SELECT sequence, length(readings) FROM batch WHERE state = 1 ORDER BY sequence",
            )?;
            let mut rows = oldest.query([])?;
            while let (true, Some(row)) = (freed < bytes, rows.next()?) {
                freed += row.get::<_, u64>(1)?;
                transaction
                    .prepare_cached("DELETE FROM batch WHERE sequence = ?1")?
                    .execute([row.get::<_, u64>(0)?])?;
            }
        }
        transaction.commit()?;
        Ok(freed)
    }

    /// Adds or changes a sensor.
    pub fn put_sensor(&mut self, sensor: &SensorRow) -> Result<(), StoreError> {
        self.connection.execute(
            "INSERT OR REPLACE INTO sensor VALUES (?1, ?2, ?3, ?4, ?5)",
            params![sensor.node, sensor.name, sensor.settings, sensor.secret, sensor.added_ms],
        )?;
        Ok(())
    }

    /// Gives a sensor another name; false when there is none.
    pub fn rename_sensor(&mut self, node: &NodeBytes, name: &str) -> Result<bool, StoreError> {
        let changed = self
            .connection
            .execute("UPDATE sensor SET name = ?2 WHERE node = ?1", params![node, name])?;
        Ok(changed == 1)
    }

    /// Forgets a sensor with its secrets and session.
    pub fn remove_sensor(&mut self, node: &NodeBytes) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        transaction.execute("DELETE FROM sensor WHERE node = ?1", [node])?;
        transaction.execute("DELETE FROM session WHERE node = ?1", [node])?;
        transaction.commit()?;
        Ok(())
    }

    /// All sensors.
    pub fn sensors(&self) -> Result<Vec<SensorRow>, StoreError> {
        let mut statement = self
            .connection
            .prepare("SELECT node, name, settings, secret, added_ms FROM sensor ORDER BY node")?;
        let rows = statement.query_map([], |row| {
            Ok(SensorRow {
                node: row.get(0)?,
                name: row.get(1)?,
                settings: row.get(2)?,
                secret: row.get(3)?,
                added_ms: row.get(4)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Sealed session record of a sensor.
    pub fn session(&self, node: &NodeBytes) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self
            .connection
            .query_row("SELECT record FROM session WHERE node = ?1", [node], |row| row.get(0))
            .optional()?)
    }

    /// A small fact about this gateway, by name.
    pub fn fact(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self
            .connection
            .query_row("SELECT value FROM fact WHERE name = ?1", [name], |row| row.get(0))
            .optional()?)
    }

    /// Sets a fact.
    pub fn set_fact(&mut self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        self.connection
            .execute("INSERT OR REPLACE INTO fact VALUES (?1, ?2)", params![name, value])?;
        Ok(())
    }
}

/// Makes an empty buffer. It takes its name when it is whole and on the disk.
fn make(path: &Path) -> Result<(), StoreError> {
    let new = path.with_extension("db.new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let connection = Connection::open(&new)?;
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
    ))?;
    drop(connection);
    std::fs::rename(&new, path).map_err(io)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
}

/// SQLite notices a missing page when it is asked for one; a truncated file is found here.
fn check_length(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    let wanted = pragma("page_count")?.saturating_mul(pragma("page_size")?);
    // Pages that only the log holds are not missing.
    let in_log = std::fs::metadata(path.with_extension("db-wal")).map_or(0, |file| file.len());
    let found = std::fs::metadata(path).map_err(io)?.len();
    if found.saturating_add(in_log) < wanted {
        let detail = format!("{found} bytes of {wanted}");
        return Err(StoreError::Damaged { file: path.display().to_string(), detail });
    }
    Ok(())
}

fn io(error: std::io::Error) -> StoreError {
    match error.kind() {
        std::io::ErrorKind::StorageFull => StoreError::DiskFull,
        _ => StoreError::Io(error.to_string()),
    }
}

fn put_batch(connection: &Connection, batch: &StoredBatch) -> Result<(), StoreError> {
    let first = batch.readings.iter().map(|entry| entry.time_ms).min().unwrap_or(0);
    let last = batch.readings.iter().map(|entry| entry.time_ms).max().unwrap_or(0);
    let mut nodes: Vec<u8> = Vec::new();
    for group in batch.readings.chunk_by(|a, b| a.node == b.node) {
        nodes.extend_from_slice(&group[0].node);
    }
    connection
        .prepare_cached("INSERT INTO batch VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,NULL,NULL)")?
        .execute(params![
        batch.sequence,
        first,
        last,
        batch.readings.len() as u64,
        batch.root,
        batch.secret,
        nodes,
        pack::encode(&batch.readings),
        batch.state.code(),
    ])?;
    Ok(())
}

fn sql(error: rusqlite::types::FromSqlError) -> StoreError {
    StoreError::Damaged { file: "buffer.db".into(), detail: error.to_string() }
}

#[cfg(test)]
mod tests;
