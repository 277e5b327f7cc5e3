//! The one writer.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction as SqlTransaction, params};

use super::migrations::{STEPS, migrate};
use super::rows::{self, BlockRow, sql_height, sql_number};
use super::schema::FILE_NAME;
use super::{Reader, StoreError};
use crate::block::Block;
use crate::certificate::Certificate;
use crate::codec::{Decode, Encode};
use crate::genesis::Genesis;
use crate::header::Header;
use crate::ids::{Hash, Height};
use crate::merkle::{Tag, completed};
use crate::node::Decided;
use crate::state::{Change, Event, State};
use crate::transaction::{Author, Body, Transaction};
use crate::validator_set::ValidatorSet;

/// What a new ledger begins with.
pub struct Founding {
    /// The genesis record.
    pub genesis: Genesis,
    /// The header of height 0.
    pub header: Header,
    /// Who votes on block 1.
    pub validators: ValidatorSet,
    /// The first entries of the state.
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Founding {
    /// What a genesis record founds.
    pub fn new(genesis: Genesis) -> Self {
        Self {
            header: State::genesis_header(&genesis),
            validators: genesis.validator_set(),
            entries: State::from_genesis(&genesis).entries().collect(),
            genesis,
        }
    }
}

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
    connection: Connection,
    directory: PathBuf,
}

impl Store {
    /// Founds a ledger in `directory`.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when one is there, else those of the disk.
    pub fn found(directory: &Path, founding: &Founding) -> Result<Self, StoreError> {
        let path = directory.join(FILE_NAME);
        if path.exists() {
            let store = Self::open_file(directory)?;
            // A founding that was cut off before its one transaction has left an empty schema.
            if store.is_founded()? {
                return Err(StoreError::Exists);
            }
        }
        let mut store = Self::open_file(directory)?;
        let transaction = store.connection.transaction()?;
        transaction.execute(
            "INSERT INTO meta (key, value) VALUES ('genesis', ?1)",
            [founding.genesis.to_bytes()],
        )?;
        let no_transactions: &[Transaction] = &[];
        insert_block(&transaction, &founding.header, None, None, no_transactions)?;
        insert_validators(&transaction, Height(1), &founding.validators)?;
        for (key, value) in &founding.entries {
            write_entry(&transaction, key, value)?;
        }
        transaction.commit()?;
        Ok(store)
    }

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
        if !store.is_founded()? {
            return Err(StoreError::Missing);
        }
        Ok(store)
    }

    fn open_file(directory: &Path) -> Result<Self, StoreError> {
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

    fn is_founded(&self) -> Result<bool, StoreError> {
        Ok(self.meta("genesis")?.is_some())
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
        let genesis = self.meta("genesis")?.ok_or(StoreError::Missing)?;
        let genesis = Genesis::from_bytes(&genesis)?;
        let height = rows::tip_height(&self.connection)?;
        let row = rows::block_row(&self.connection, height)?;
        let row = row.ok_or_else(|| StoreError::Damaged("no tip".into()))?;
        let mut statement = self.connection.prepare("SELECT key, value FROM state")?;
        let entries = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let peaks = self.peaks(height.0 + 1)?;
        let certifiers = rows::validators(&self.connection, height)?;
        let BlockRow { header: tip, certificate, .. } = row;
        let first = self.first_block()?;
        Ok(Loaded { genesis, tip, certificate, certifiers, peaks, entries, first })
    }

    /// The peaks of the tree over the first `size` headers.
    fn peaks(&self, size: u64) -> Result<Vec<Hash>, StoreError> {
        let mut peaks = Vec::new();
        let mut covered = 0u64;
        for level in (0..u64::BITS).rev().filter(|level| size >> level & 1 == 1) {
            let peak = rows::subtree(&self.connection, level, covered >> level)?;
            peaks.push(peak.ok_or_else(|| StoreError::Damaged("history tree".into()))?);
            covered += 1 << level;
        }
        Ok(peaks)
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
            let last_commit = last_commit.as_ref();
            let certificate = Some(&decided.certificate);
            insert_block(&transaction, header, certificate, last_commit, transactions)?;
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

    /// A decided block with its certificate, for a peer that is behind.
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
        Ok(Some((row.into_block(&self.connection)?, certificate)))
    }

    /// The oldest block that is kept as a whole, with all that follow.
    fn first_block(&self) -> Result<Height, StoreError> {
        let Some(bytes) = self.meta("first-block")? else {
            return Ok(Height(1));
        };
        let bytes = bytes.try_into().map_err(|_| StoreError::Damaged("first block".into()))?;
        Ok(Height(u64::from_be_bytes(bytes)))
    }

    /// The start counter, as last written.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn counter(&self) -> Result<Option<u64>, StoreError> {
        let Some(bytes) = self.meta("start-counter")? else {
            return Ok(None);
        };
        let bytes = bytes.try_into().map_err(|_| StoreError::Damaged("start counter".into()))?;
        Ok(Some(u64::from_be_bytes(bytes)))
    }

    /// Writes the start counter; durable on return.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn write_counter(&mut self, counter: u64) -> Result<(), StoreError> {
        self.connection.execute(
            "INSERT INTO meta (key, value) VALUES ('start-counter', ?1)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            [counter.to_be_bytes()],
        )?;
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

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self
            .connection
            .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
            .optional()?;
        Ok(value)
    }
}

/// A reader in another process may hold a lock for moments.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// The log grows to 8 MiB before its pages move into the file: the hot ones move once, not often.
const CHECKPOINT_PAGES: u32 = 4_000;

/// What the start counter says about the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartCheck {
    /// Write `next` with [`Store::write_counter`], then increment the NV counter once.
    Clean {
        /// The value that both have afterwards.
        next: u64,
    },
    /// The disk is an old copy: the vote key must not be used again.
    RolledBack {
        /// What the store holds.
        stored: Option<u64>,
        /// What the TPM holds.
        nv: u64,
    },
}

/// Compares the stored start counter with the TPM's. The store is written first, so a crash
/// between the two leaves it one ahead.
pub fn check_start(stored: Option<u64>, nv: u64) -> StartCheck {
    match stored {
        Some(stored) if stored == nv || stored.checked_sub(1) == Some(nv) => {
            StartCheck::Clean { next: nv.saturating_add(1) }
        }
        stored => StartCheck::RolledBack { stored, nv },
    }
}

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

fn insert_block(
    transaction: &SqlTransaction<'_>,
    header: &Header,
    certificate: Option<&Certificate>,
    last_commit: Option<&Certificate>,
    transactions: &[Transaction],
) -> Result<(), StoreError> {
    let height = header.height;
    let leaf = Tag::HISTORY.leaf(&[&header.hash().0]);
    let lookup = |level, index| rows::subtree(transaction, level, index).ok().flatten();
    let subtrees: Vec<u8> =
        completed(height.0, leaf, lookup).iter().flat_map(|(_, _, hash)| hash.0).collect();
    let complete = (height.0 + 1).trailing_zeros() as usize + 1;
    if subtrees.len() != complete * 32 {
        return Err(StoreError::Damaged("history tree".into()));
    }
    let stored = match height.0.checked_sub(1) {
        Some(parent) => rows::certificate(transaction, Height(parent))?,
        None => None,
    };
    let last_commit = match last_commit {
        Some(last_commit) if stored.as_ref() != Some(last_commit) => Some(last_commit.to_bytes()),
        _ => None,
    };
    transaction
        .prepare_cached(
            "INSERT INTO blocks (height, header, subtrees, certificate, last_commit, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            sql_height(height)?,
            header.to_bytes(),
            subtrees,
            certificate.map(Encode::to_bytes),
            last_commit,
            rows::encode_body(transactions),
        ])?;
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

fn write_entry(
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

fn insert_validators(
    transaction: &SqlTransaction<'_>,
    from: Height,
    validators: &ValidatorSet,
) -> Result<(), StoreError> {
    transaction
        .prepare_cached("INSERT INTO validator_sets (height, validators) VALUES (?1, ?2)")?
        .execute(params![sql_height(from)?, validators.to_bytes()])?;
    Ok(())
}
