//! The disk at the start: the store of a founding, and whether an older copy was put back.

use std::path::Path;

use attestation::tpm::Tpm;
use ledger::genesis::Genesis;
use ledger::store::{Founding, StartCheck, Store, check_start};

use crate::identity::Folder;

/// The start counter was compared with the TPM's in this process: it is, once.
#[derive(Clone, Copy)]
pub(super) struct Counted {
    pub(super) rolled_back: bool,
    pub(super) counter: u64,
}

/// Makes the store where a founding has not yet, and compares the start counters: what the disk
/// says and what the TPM says differ when an older copy of the disk was put back.
pub(super) fn check_disk(
    dir: &Path,
    tpm: &Tpm,
    genesis: &Genesis,
    counter: u64,
) -> anyhow::Result<Counted> {
    let folder = Folder::at(dir)?;
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
            store
        }
        None => Store::open(dir)?,
    };
    match check_start(store.counter()?, counter) {
        StartCheck::Clean { next } => {
            // A start that was cut off between disk and TPM is finished first: else a copy of the
            // disk made then would still pass after the start that follows, which votes.
            let next = if store.counter()? == Some(next) { count(tpm, next)? + 1 } else { next };
            store.write_counter(next)?;
            Ok(Counted { rolled_back: false, counter: count(tpm, next)? })
        }
        StartCheck::RolledBack { stored, nv } => {
            tracing::error!(?stored, nv, "an older copy of the disk was put back");
            folder.destroy_vote_key(counter)?;
            Ok(Counted { rolled_back: true, counter })
        }
    }
}

/// Counts one start in the TPM.
fn count(tpm: &Tpm, next: u64) -> anyhow::Result<u64> {
    let counter = tpm.counter_increment()?;
    anyhow::ensure!(counter == next, "the TPM's start counter went to {counter}, not {next}");
    Ok(counter)
}
