//! The one writer.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, Transaction as SqlTransaction, params};

use super::meta::GENESIS;
use super::migrations::{STEPS, migrate};
use super::rows::{self, BlockRow, sql_height, sql_number};
use super::schema::FILE_NAME;
use super::{Reader, StoreError};
use crate::block::Block;
use crate::certificate::Certificate;
use crate::chain::history_leaf;
use crate::codec::{Decode, Encode};
use crate::genesis::Genesis;
use crate::header::Header;
use crate::ids::{Hash, Height};
use crate::merkle::completed;
use crate::node::Decided;
use crate::state::{Change, Event};
use crate::transaction::{Author, Body, Transaction};
use crate::validator_set::ValidatorSet;

/// What a node starts from.
pub struct Loaded {
    /// The genesis record.
    pub genesis: Genesis,
    /// Header of the highest block.
    pub tip: Header,
    /// Its certificate; none at height 0.
    pub certificate: Option<Certificate>,
    /// History subtrees that cover heights 0 to the tip, the highest level first.
    pub peaks: Vec<Hash>,
    /// Who certified the tip; at height 0 who votes on block 1.
    pub certifiers: ValidatorSet,
    /// All entries of the state.
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// The oldest block that is kept as a whole, with all that follow.
    pub first: Height,
}

/// The database, open for writing. There is one in a process, and one process.
pub struct Store {
    pub(super) connection: Connection,
    pub(super) directory: PathBuf,
}

impl Store {
    /// Opens the ledger in `directory`, migrating it when it is older than this build.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is none; see [`StoreError`] for what can be wrong.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        if !directory.join(FILE_NAME).exists() {
            return Err(StoreError::Missing);
        }
        // A ledger is never empty: this one was cut off. Opening it would make it look new.
        if std::fs::metadata(directory.join(FILE_NAME))?.len() == 0 {
            return Err(StoreError::Damaged("it is empty".into()));
        }
        let store = Self::open_file(directory)?;
        // Whoever founds a ledger comes to a file that is none yet; here it was one.
        if !store.is_founded()? {
            return Err(StoreError::Damaged("it has no genesis record".into()));
        }
        Ok(store)
    }

    pub(super) fn open_file(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE_NAME);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        migrate(&mut connection, &path, STEPS)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        check_length(&connection, &path)?;
        Ok(Self { connection, directory: directory.to_path_buf() })
    }

    pub(super) fn is_founded(&self) -> Result<bool, StoreError> {
        Ok(self.meta(GENESIS)?.is_some())
    }

    /// A reader on the same ledger, with a connection of its own.
    ///
    /// # Errors
    /// Those of opening.
    pub fn reader(&self) -> Result<Reader, StoreError> {
        Reader::open(&self.directory)
    }

    /// Reads what a node starts from. Takes as long as the state is large, whatever the height.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when something is missing or cannot be read.
    pub fn load(&self) -> Result<Loaded, StoreError> {
        let genesis = self.meta(GENESIS)?.ok_or(StoreError::Missing)?;
        let genesis = Genesis::from_bytes(&genesis)?;
        let height = rows::tip_height(&self.connection)?;
        let row = rows::block_row(&self.connection, height)?;
        let row = row.ok_or_else(|| StoreError::Damaged("no tip".into()))?;
        let mut statement = self.connection.prepare("SELECT key, value FROM state")?;
        let entries = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let peaks = rows::peaks(&self.connection, height.0 + 1)?;
        let certifiers = rows::validators(&self.connection, height)?;
        let BlockRow { header: tip, certificate, .. } = row;
        let first = self.first_block()?;
        Ok(Loaded { genesis, tip, certificate, certifiers, peaks, entries, first })
    }

    /// Writes a decided block, its state changes and its index rows; durable on return.
    ///
    /// # Errors
    /// [`StoreError::Order`] when it does not follow the tip, [`StoreError::DiskFull`] and other
    /// failures of the disk. After an error nothing of the block is stored.
    pub fn commit(&mut self, decided: &Decided) -> Result<(), StoreError> {
        self.commit_all(std::slice::from_ref(decided))
    }

    /// Writes many blocks in one transaction: catching up costs a tenth of the bytes that way.
    ///
    /// # Errors
    /// As [`Store::commit`]; then none of them is stored.
    pub fn commit_all(&mut self, blocks: &[Decided]) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        let mut tip = rows::tip_height(&transaction)?;
        for decided in blocks {
            let Block { header, transactions, last_commit } = &decided.block;
            if header.height != tip.next() {
                return Err(StoreError::Order { tip, found: header.height });
            }
            tip = header.height;
            let certificate = Some(&decided.certificate);
            if let Some(last_commit) = last_commit {
                settle_certificate(&transaction, last_commit)?;
            }
            let body = Some(rows::encode_body(transactions));
            insert_block(&transaction, header, certificate, body)?;
            for (position, each) in transactions.iter().enumerate() {
                insert_batch(&transaction, tip, position, each)?;
            }
            for (position, (_, events)) in decided.events.iter().enumerate() {
                insert_events(&transaction, tip, position, events)?;
            }
            for Change { key, value } in &decided.changes {
                write_entry(&transaction, key, value)?;
            }
            if let Some(validators) = &decided.next_validators {
                insert_validators(&transaction, tip.next(), validators)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Limits the file, so that a test can fill the disk without one.
    #[cfg(test)]
    pub(crate) fn limit_pages(&self, more: i64) -> i64 {
        let pages: i64 =
            self.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        let set = format!("PRAGMA max_page_count = {}", pages + more);
        self.connection.query_row(&set, [], |row| row.get(0)).unwrap()
    }
}

/// A reader in another process may hold a lock for moments.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// The log grows to 8 MiB before its pages move into the file: the hot ones move once, not often.
const CHECKPOINT_PAGES: u32 = 4_000;

/// SQLite notices a missing page when it is asked for one; a truncated file is found here.
fn check_length(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let pages = connection.pragma_query_value(None, "page_count", |row| rows::number(row, 0))?;
    let page = connection.pragma_query_value(None, "page_size", |row| rows::number(row, 0))?;
    let log = path.with_extension("db-wal");
    let in_log = std::fs::metadata(log).map_or(0, |file| file.len());
    let found = std::fs::metadata(path)?.len();
    // Pages that only the log holds are not missing.
    if found.saturating_add(in_log) < pages.saturating_mul(page) {
        return Err(StoreError::Damaged(format!("{found} bytes of {}", pages * page)));
    }
    Ok(())
}

/// Writes the row of a block; without a body its header alone.
pub(super) fn insert_block(
    transaction: &SqlTransaction<'_>,
    header: &Header,
    certificate: Option<&Certificate>,
    body: Option<Vec<u8>>,
) -> Result<(), StoreError> {
    let height = header.height;
    let leaf = history_leaf(&header.hash());
    let lookup = |level, index| rows::subtree(transaction, level, index).ok().flatten();
    let subtrees: Vec<u8> =
        completed(height.0, leaf, lookup).iter().flat_map(|(_, _, hash)| hash.0).collect();
    let complete = (height.0 + 1).trailing_zeros() as usize + 1;
    if subtrees.len() != complete * 32 {
        return Err(StoreError::Damaged("history tree".into()));
    }
    insert_row(transaction, header, &subtrees, certificate, body)
}

/// Writes a row as it is given; a header that is kept for itself completes no subtree here.
pub(super) fn insert_row(
    transaction: &SqlTransaction<'_>,
    header: &Header,
    subtrees: &[u8],
    certificate: Option<&Certificate>,
    body: Option<Vec<u8>>,
) -> Result<(), StoreError> {
    transaction
        .prepare_cached(
            "INSERT INTO blocks (height, header, subtrees, certificate, body)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            sql_height(header.height)?,
            header.to_bytes(),
            subtrees,
            certificate.map(Encode::to_bytes),
            body,
        ])?;
    Ok(())
}

/// The certificate that the next block carries is the one of record, on every gateway: it may
/// have another vote than the one that this gateway decided with.
fn settle_certificate(
    transaction: &SqlTransaction<'_>,
    last_commit: &Certificate,
) -> Result<(), StoreError> {
    let bytes = last_commit.to_bytes();
    transaction
        .prepare_cached(
            "UPDATE blocks SET certificate = ?2 WHERE height = ?1 AND certificate IS NOT ?2",
        )?
        .execute(params![sql_height(last_commit.height)?, bytes])?;
    Ok(())
}

fn insert_batch(
    sql: &SqlTransaction<'_>,
    height: Height,
    position: usize,
    transaction: &Transaction,
) -> Result<(), StoreError> {
    let draft = transaction.draft();
    let (Author::Node(gateway), Body::Batch(batch)) = (draft.author, &draft.body) else {
        return Ok(());
    };
    let mut statement = sql.prepare_cached(
        "INSERT INTO batches (gateway, sequence, height, position) VALUES (?1, ?2, ?3, ?4)",
    )?;
    let sequence = sql_number(batch.sequence)?;
    statement.execute(params![gateway.0, sequence, sql_height(height)?, position as i64])?;
    Ok(())
}

fn insert_events(
    sql: &SqlTransaction<'_>,
    height: Height,
    position: usize,
    events: &[Event],
) -> Result<(), StoreError> {
    let mut statement = sql.prepare_cached(
        "INSERT INTO history (node, height, position, number, event)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    // Batches are many, have an index of their own, and change nobody's standing.
    let kept = |event: &&Event| !matches!(event, Event::BatchCommitted { .. });
    for (number, event) in events.iter().filter(kept).enumerate() {
        let bytes = event.to_bytes();
        for node in event.nodes() {
            let (height, number) = (sql_height(height)?, number as i64);
            statement.execute(params![node.0, height, position as i64, number, bytes])?;
        }
    }
    Ok(())
}

pub(super) fn write_entry(
    transaction: &SqlTransaction<'_>,
    key: &[u8],
    value: &[u8],
) -> Result<(), StoreError> {
    transaction
        .prepare_cached(
            "INSERT INTO state (key, value) VALUES (?1, ?2)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        )?
        .execute(params![key, value])?;
    Ok(())
}

pub(super) fn insert_validators(
    transaction: &SqlTransaction<'_>,
    from: Height,
    validators: &ValidatorSet,
) -> Result<(), StoreError> {
    transaction
        .prepare_cached("INSERT INTO validator_sets (height, validators) VALUES (?1, ?2)")?
        .execute(params![sql_height(from)?, validators.to_bytes()])?;
    Ok(())
}
