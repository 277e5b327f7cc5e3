//! How a ledger begins: with a genesis record, or with a snapshot of one that others keep.

use std::fs;
use std::path::Path;

use rusqlite::{Transaction as SqlTransaction, params};

use super::aside::newest_aside;
use super::meta::{FIRST_BLOCK, GENESIS, inherit, put_meta};
use super::rows::{self, sql_number};
use super::schema::FILE_NAME;
use super::writer::{insert_block, insert_row, insert_validators, write_entry};
use super::{Store, StoreError};
use crate::codec::Encode;
use crate::consensus::wal;
use crate::genesis::Genesis;
use crate::header::Header;
use crate::ids::{Hash, Height};
use crate::state::State;
use crate::sync::{Snapshot, VerifiedSnapshot};
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

impl Store {
    /// Founds a ledger in `directory`.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when one is there, else those of the disk.
    pub fn found(directory: &Path, founding: &Founding) -> Result<Self, StoreError> {
        let mut store = Self::begin(directory)?;
        let transaction = store.connection.transaction()?;
        put_meta(&transaction, GENESIS, &founding.genesis.to_bytes())?;
        let body = Some(rows::encode_body(&[]));
        insert_block(&transaction, &founding.header, None, body)?;
        insert_validators(&transaction, Height(1), &founding.validators)?;
        for (key, value) in &founding.entries {
            write_entry(&transaction, key, value)?;
        }
        transaction.commit()?;
        Ok(store)
    }

    /// Founds a ledger in `directory` that goes on from a snapshot: it knows the state, the
    /// changes of the voters and the peaks of the history, and no older block.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when a ledger is there; [`StoreError::Older`] when one was set
    /// aside here that is as new, for this gateway may have voted on it; else those of the disk.
    pub fn found_from(directory: &Path, snapshot: &VerifiedSnapshot) -> Result<Self, StoreError> {
        Self::found_after(directory, snapshot, None, None)
    }

    /// As [`Store::found_from`], with what goes on from the ledger before: its start counter, and
    /// up to where this gateway is silent.
    pub(super) fn found_after(
        directory: &Path,
        snapshot: &VerifiedSnapshot,
        counter: Option<u64>,
        silent: Option<Height>,
    ) -> Result<Self, StoreError> {
        let header = snapshot.header();
        if let Some(aside) = newest_aside(directory)?.map(|aside| aside.tip)
            && (aside.chain_id, aside.era) == (header.chain_id, header.era)
            && aside.height >= header.height
        {
            return Err(StoreError::Older { aside: aside.height, found: header.height });
        }
        let mut store = Self::begin(directory)?;
        let transaction = store.connection.transaction()?;
        insert_snapshot(&transaction, snapshot.snapshot())?;
        put_meta(&transaction, FIRST_BLOCK, &header.height.next().0.to_be_bytes())?;
        inherit(&transaction, counter, silent)?;
        transaction.commit()?;
        Ok(store)
    }

    /// Keeps a header alone, for proofs to those who hold it as their site code: one that is
    /// certified, below the newest block.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn keep_header(&mut self, header: &Header) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        let known = rows::header(&transaction, header.height)?.is_some();
        if !known && header.height < rows::tip_height(&transaction)? {
            insert_row(&transaction, header, &[], None, None)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Whether a founded ledger is in `directory`.
    pub(super) fn is_at(directory: &Path) -> Result<bool, StoreError> {
        // An empty file would become a schema by being opened; it is damage, and is left as it is.
        let found = std::fs::metadata(directory.join(FILE_NAME)).is_ok_and(|file| file.len() > 0);
        Ok(found && Self::open_file(directory)?.is_founded()?)
    }

    /// An empty database and no log.
    fn begin(directory: &Path) -> Result<Self, StoreError> {
        // A founding that was cut off before its one transaction has left an empty schema.
        if Self::is_at(directory)? {
            return Err(StoreError::Exists);
        }
        // A log without a ledger is of one that was set aside or removed.
        for name in wal::FILE_NAMES {
            match fs::remove_file(directory.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Self::open_file(directory)
    }
}

fn insert_snapshot(
    transaction: &SqlTransaction<'_>,
    snapshot: &Snapshot,
) -> Result<(), StoreError> {
    let Snapshot { manifest, steps, entries } = snapshot;
    let header = &manifest.header;
    put_meta(transaction, GENESIS, &manifest.genesis.to_bytes())?;
    insert_peaks(transaction, header.height, &manifest.peaks)?;
    insert_block(transaction, header, Some(&manifest.certificate), None)?;
    insert_validators(transaction, manifest.base.next(), &manifest.validators)?;
    for step in steps {
        if step.header.height < header.height {
            insert_row(transaction, &step.header, &[], Some(&step.certificate), None)?;
        }
        insert_validators(transaction, step.header.height.next(), &step.next)?;
    }
    for (key, value) in entries {
        write_entry(transaction, key, value)?;
    }
    Ok(())
}

/// The peaks of the tree over the first `size` headers stand by themselves.
fn insert_peaks(
    transaction: &SqlTransaction<'_>,
    size: Height,
    peaks: &[Hash],
) -> Result<(), StoreError> {
    let levels = (0..u64::BITS).rev().filter(|level| size.0 >> level & 1 == 1);
    let mut covered = 0u64;
    for (level, peak) in levels.zip(peaks) {
        transaction.execute(
            "INSERT INTO peaks (level, position, hash) VALUES (?1, ?2, ?3)",
            params![level, sql_number(covered >> level)?, peak.0],
        )?;
        covered += 1 << level;
    }
    Ok(())
}
