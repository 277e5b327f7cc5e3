//! The disk at the start: the store of a founding, and whether an older copy was put back.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use attestation::tpm::Tpm;
use ledger::genesis::Genesis;
use ledger::store::{Founding, StartCheck, Store, check_start};

use crate::identity::Folder;

/// The start counter was compared with the TPM's in this process: it is, once.
#[derive(Clone, Copy)]
pub(super) struct Counted {
    pub(super) rolled_back: bool,
    /// The last stop was not clean: the disk may be an older copy of the same run.
    pub(super) doubtful: bool,
    pub(super) counter: u64,
}

/// Makes the store where a founding has not yet, and compares the start counters: what the disk
/// says and what the TPM says differ when an older copy of the disk was put back.
pub(super) fn check_disk(dir: &Path, tpm: &Tpm, genesis: &Genesis) -> anyhow::Result<Counted> {
    let _alone = alone();
    let counter = tpm.counter_read()?;
    let folder = Folder::at(dir)?;
    if ledger::store::put_back(dir)? {
        tracing::warn!("a record that was being replaced is back as it was");
    }
    let mut doubtful = true;
    let mut store = match folder.founding_counter()? {
        Some(founding) => {
            let mut store = match Store::found(dir, &Founding::new(genesis.clone())) {
                Err(ledger::store::StoreError::Exists) => Store::open(dir)?,
                other => other?,
            };
            if store.counter()?.is_none() {
                store.write_counter(founding)?;
            }
            folder.founded()?;
            // It has signed nothing yet.
            doubtful = false;
            store
        }
        None => Store::open(dir)?,
    };
    match check_start(store.counter()?, counter) {
        StartCheck::Clean { next } => {
            doubtful &= !store.was_stopped()?;
            // A start that was cut off between disk and TPM is finished first: else a copy of the
            // disk made then would still pass after the start that follows, which votes.
            let next = if store.counter()? == Some(next) { count(tpm, next)? + 1 } else { next };
            store.write_counter(next)?;
            Ok(Counted { rolled_back: false, doubtful, counter: count(tpm, next)? })
        }
        StartCheck::RolledBack { stored, nv } => {
            tracing::error!(?stored, nv, "an older copy of the disk was put back");
            folder.destroy_vote_key(counter)?;
            Ok(Counted { rolled_back: true, doubtful, counter })
        }
    }
}

/// Why it is counted between two starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    /// Time has passed, or others vote now: copies of the disk that were made before are told from
    /// it at the next start.
    Now,
    /// Everything has stopped, nothing more is signed.
    Stopped,
}

/// Counts in one after the other: disk and TPM go together.
static COUNTING: Mutex<()> = Mutex::new(());

/// Whoever panicked with it has left disk and TPM as a crash would.
fn alone() -> MutexGuard<'static, ()> {
    COUNTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// After the vote key of an older copy of the disk has a successor: the disk says what the TPM
/// says again. Blocks.
///
/// # Errors
/// TPM or store.
pub(crate) fn agree(dir: &Path, tpm: &Tpm) -> anyhow::Result<()> {
    let _alone = alone();
    // The ledger's own connection is another writer of one row: SQLite lets one at a time.
    Ok(Store::open(dir)?.write_counter(tpm.counter_read()?)?)
}

/// Raises the start counter while no start is checked, on the disk first. Blocks.
pub(super) fn count_again(dir: &Path, tpm: &Tpm, why: Count) -> anyhow::Result<()> {
    let _alone = alone();
    let mut store = Store::open(dir)?;
    let stored = store.counter()?;
    let StartCheck::Clean { next } = check_start(stored, tpm.counter_read()?) else {
        // Put back under the running daemon: the next start says so.
        anyhow::bail!("the disk and the TPM do not agree any more");
    };
    let next = if stored == Some(next) { count(tpm, next)? + 1 } else { next };
    match why {
        Count::Now => store.write_counter(next)?,
        Count::Stopped => store.write_stopped(next)?,
    }
    count(tpm, next)?;
    Ok(())
}

/// Counts one start in the TPM.
fn count(tpm: &Tpm, next: u64) -> anyhow::Result<u64> {
    let counter = tpm.counter_increment()?;
    anyhow::ensure!(counter == next, "the TPM's start counter went to {counter}, not {next}");
    Ok(counter)
}
