//! Single values about the ledger as a whole: where it begins, the start counter, the log.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Store, StoreError};
use crate::ids::Height;

const START_COUNTER: &str = "start-counter";
pub(super) const GENESIS: &str = "genesis";
pub(super) const FIRST_BLOCK: &str = "first-block";
const LOG_USED: &str = "log-used";
const STOPPED: &str = "stopped";
const SILENT: &str = "silent-through";

impl Store {
    /// The start counter, as last written.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn counter(&self) -> Result<Option<u64>, StoreError> {
        let Some(bytes) = self.meta(START_COUNTER)? else {
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
        put_meta(&self.connection, START_COUNTER, &counter.to_be_bytes())
    }

    /// Whether the last stop was clean: nothing was signed since the start counter was written,
    /// and every older copy of this disk has a smaller one.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn was_stopped(&self) -> Result<bool, StoreError> {
        let (counter, stopped) = (self.meta(START_COUNTER)?, self.meta(STOPPED)?);
        Ok(counter.is_some() && counter == stopped)
    }

    /// Writes the start counter for a clean stop, after which nothing is signed; durable on
    /// return.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn write_stopped(&mut self, counter: u64) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        put_meta(&transaction, START_COUNTER, &counter.to_be_bytes())?;
        put_meta(&transaction, STOPPED, &counter.to_be_bytes())?;
        transaction.commit()?;
        // The file alone is the whole ledger then, and damage to it is seen. A reader that is still
        // there keeps the log, which does no harm.
        Ok(self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
    }

    /// The last height without a vote of this gateway, of the ledger that was here before.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn silent_through(&self) -> Result<Height, StoreError> {
        let Some(bytes) = self.meta(SILENT)? else {
            return Ok(Height::GENESIS);
        };
        let bytes = bytes.try_into().map_err(|_| StoreError::Damaged("silent height".into()))?;
        Ok(Height(u64::from_be_bytes(bytes)))
    }

    /// The oldest block that is kept as a whole, with all that follow.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn first_block(&self) -> Result<Height, StoreError> {
        let Some(bytes) = self.meta(FIRST_BLOCK)? else {
            return Ok(Height(1));
        };
        let bytes = bytes.try_into().map_err(|_| StoreError::Damaged("first block".into()))?;
        Ok(Height(u64::from_be_bytes(bytes)))
    }

    /// Whether anything that rests on the write-ahead log can have left this machine: then an
    /// empty log was lost, else it was never used.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn log_was_used(&self) -> Result<bool, StoreError> {
        Ok(self.meta(LOG_USED)?.is_some())
    }

    /// Says so, once: after the log's first sync and before what rests on it leaves. Durable on
    /// return.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn mark_log_used(&mut self) -> Result<(), StoreError> {
        put_meta(&self.connection, LOG_USED, &[1])
    }

    pub(super) fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self
            .connection
            .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0))
            .optional()?;
        Ok(value)
    }
}

/// What a new ledger takes over from the one that was here before.
pub(super) fn inherit(
    connection: &Connection,
    counter: Option<u64>,
    silent: Option<Height>,
) -> Result<(), StoreError> {
    if let Some(counter) = counter {
        put_meta(connection, START_COUNTER, &counter.to_be_bytes())?;
    }
    if let Some(Height(silent)) = silent {
        put_meta(connection, SILENT, &silent.to_be_bytes())?;
    }
    Ok(())
}

pub(super) fn put_meta(connection: &Connection, key: &str, value: &[u8]) -> Result<(), StoreError> {
    connection.execute(
        "INSERT INTO meta (key, value) VALUES (?1, ?2)
         ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        params![key, value],
    )?;
    Ok(())
}

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
