//! A ledger that is set aside: kept whole in a folder of its own, beside the one that follows.
//!
//! A recovery may leave out blocks that this gateway has. They are evidence, and its own
//! transactions in them are submitted again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::schema::FILE_NAME;
use super::{Reader, Store, StoreError};
use crate::consensus::wal;
use crate::header::Header;
use crate::ids::{Height, NodeId};
use crate::sync::VerifiedSnapshot;
use crate::transaction::{Author, Transaction};

/// A ledger that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// The folder that holds it.
    pub directory: PathBuf,
    /// Its newest header.
    pub tip: Header,
}

/// Folders of this kind below the data directory.
const PREFIX: &str = "aside-";
/// Most of them; more is a loop, and a person must look.
const MAX_ASIDE: usize = 100;

/// Moves the ledger in `directory`, which nobody has open, and its log into a new folder there.
///
/// # Errors
/// [`StoreError::Missing`] when there is none; those of the disk. After a crash in between the
/// ledger is either still here or set aside; a log that stayed is removed by the next founding.
pub fn set_aside(directory: &Path) -> Result<Aside, StoreError> {
    let store = Store::open(directory)?;
    let tip = store.reader()?.tip()?;
    // Everything into the one file: SQLite's own log must not stay behind for another database.
    store.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    drop(store);
    let name = |n| format!("{PREFIX}{}-{}-{n}", tip.era, tip.height);
    let target = (1..=MAX_ASIDE).map(|n| directory.join(name(n))).find(|path| !path.exists());
    let target = target.ok_or_else(|| StoreError::Damaged("too often set aside".into()))?;
    fs::create_dir(&target)?;
    for suffix in ["-shm", "-wal", ""] {
        move_file(directory, &target, &format!("{FILE_NAME}{suffix}"))?;
    }
    wal::FILE_NAMES.iter().try_for_each(|name| move_file(directory, &target, name))?;
    File::open(&target)?.sync_all()?;
    File::open(directory)?.sync_all()?;
    Ok(Aside { directory: target, tip })
}

/// Begins the ledger in `directory` anew from a snapshot, as one step: the old one is set aside,
/// and the start counter goes on. `silent` is the last height at which this gateway must not vote;
/// it binds within an era.
///
/// # Errors
/// [`StoreError::Older`], and the ledger is as before, when the snapshot is not newer within its
/// era; those of the disk. After a crash in between [`put_back`] makes it as before.
pub fn begin_anew(
    directory: &Path,
    snapshot: &VerifiedSnapshot,
    silent: Option<Height>,
) -> Result<Aside, StoreError> {
    let (header, store) = (snapshot.header(), Store::open(directory)?);
    let (tip, counter) = (store.reader()?.tip()?, store.counter()?);
    if (tip.era, tip.height) >= (header.era, header.height) {
        return Err(StoreError::Older { aside: tip.height, found: header.height });
    }
    drop(store);
    let aside = set_aside(directory)?;
    let silent = silent.filter(|_| tip.era == header.era);
    match Store::found_after(directory, snapshot, counter, silent) {
        Ok(store) => drop(store),
        Err(error) => {
            put_back(directory)?;
            return Err(error);
        }
    }
    Ok(aside)
}

/// Where there is no ledger and one was set aside, a change was cut off: it is put back. Whether
/// it was.
///
/// # Errors
/// Those of the disk.
pub fn put_back(directory: &Path) -> Result<bool, StoreError> {
    if Store::is_at(directory)? {
        return Ok(false);
    }
    let Some(Aside { directory: from, .. }) = newest_aside(directory)? else {
        return Ok(false);
    };
    // An empty schema may be there; the log of the ledger may not have gone with it.
    for suffix in ["-shm", "-wal", ""] {
        remove_file(&directory.join(format!("{FILE_NAME}{suffix}")))?;
    }
    // The ledger last: until it is here the next start does all of this once more.
    wal::FILE_NAMES.iter().try_for_each(|name| move_file(&from, directory, name))?;
    ["-shm", "-wal", ""]
        .iter()
        .try_for_each(|suffix| move_file(&from, directory, &format!("{FILE_NAME}{suffix}")))?;
    File::open(directory)?.sync_all()?;
    fs::remove_dir_all(from)?;
    Ok(true)
}

fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn move_file(from: &Path, to: &Path, name: &str) -> Result<(), StoreError> {
    match fs::rename(from.join(name), to.join(name)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// The newest of the ledgers that were set aside in `directory`, by era and height.
///
/// # Errors
/// Those of the disk. A folder without a readable ledger is passed over.
pub fn newest_aside(directory: &Path) -> Result<Option<Aside>, StoreError> {
    let mut newest: Option<Aside> = None;
    if !directory.exists() {
        return Ok(None);
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let directory = entry.path();
        let Ok(tip) = Reader::open(&directory).and_then(|reader| reader.tip()) else {
            continue;
        };
        let place = |tip: &Header| (tip.era, tip.height);
        if newest.as_ref().is_none_or(|known| place(&known.tip) < place(&tip)) {
            newest = Some(Aside { directory, tip });
        }
    }
    Ok(newest)
}

/// A gateway's own transactions in the blocks above `parent` of a ledger that was set aside, in
/// their order, at most `limit`: to be submitted again. Those that are recorded anyway are
/// refused by their nonce.
///
/// # Errors
/// Those of the disk.
pub fn own_transactions(
    directory: &Path,
    node: &NodeId,
    parent: Height,
    limit: usize,
) -> Result<Vec<Transaction>, StoreError> {
    let reader = Reader::open(directory)?;
    let tip = reader.tip()?.height;
    let mut found = Vec::new();
    for height in parent.0.saturating_add(1)..=tip.0 {
        let Some(block) = reader.block(Height(height))? else {
            continue;
        };
        let own = |each: &Transaction| each.draft().author == Author::Node(*node);
        found.extend(block.transactions.into_iter().filter(own));
        if found.len() >= limit {
            found.truncate(limit);
            break;
        }
    }
    Ok(found)
}
