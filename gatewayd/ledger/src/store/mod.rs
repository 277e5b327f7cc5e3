//! The store: blocks, state values and indexes in one SQLite database.
//!
//! One writer ([`Store`]), any number of [`Reader`]s on snapshots. What was committed survives a
//! power cut (`synchronous = FULL`); a block, its state changes and its index rows are one
//! transaction. The state is rebuilt from its values at start, so nothing here grows with the
//! number of blocks but the file. It must not judge: whether a block is valid was decided before.

mod aside;
mod founding;
mod meta;
mod migrations;
mod rows;
pub mod schema;
mod serving;
mod snapshot;
mod writer;

use std::io;

use rusqlite::ErrorCode;
use thiserror::Error;

#[cfg(test)]
mod tests;

pub use aside::{Aside, begin_anew, newest_aside, own_transactions, put_back, set_aside};
pub use founding::Founding;
pub use meta::{StartCheck, check_start};
pub use serving::{Range, SnapshotServer};
pub use snapshot::{BatchInclusion, HistoryEntry, HistoryPosition, MAX_PAGE, Reader, SetStep};
pub use writer::{Loaded, Store};

use crate::codec::DecodeError;
use crate::ids::Height;

/// What the store can answer instead of doing its work.
#[derive(Debug, Error)]
pub enum StoreError {
    /// There is no database in the directory: no site was founded or joined here.
    #[error("there is no ledger here")]
    Missing,
    /// A ledger exists; it is never overwritten.
    #[error("a ledger exists here already")]
    Exists,
    /// Written by a newer version.
    #[error(
        "the ledger has schema version {found}; this build knows up to {known}: update gatewayd"
    )]
    UnknownSchema {
        /// Version of the file.
        found: i64,
        /// Newest version of this build.
        known: i64,
    },
    /// A database of another program.
    #[error("the file is not a gatewayd ledger")]
    NotOurs,
    /// The file is truncated or holds values that cannot have been written.
    #[error("the ledger file is damaged ({0}): restore a backup or rejoin the site")]
    Damaged(String),
    /// No space is left; nothing of the transaction was kept, it can be tried again.
    #[error("the disk is full: the ledger cannot grow")]
    DiskFull,
    /// The block does not follow the stored tip.
    #[error("block {found} does not follow the tip {tip}")]
    Order {
        /// Height of the tip.
        tip: Height,
        /// Height of the block.
        found: Height,
    },
    /// A ledger that was set aside here is as new as the snapshot.
    #[error(
        "the ledger that was set aside here reached height {aside}; the snapshot is of {found}"
    )]
    Older {
        /// Height of the one that was set aside.
        aside: Height,
        /// Height of the snapshot.
        found: Height,
    },
    /// The path is not valid UTF-8.
    #[error("the path of the ledger is not valid UTF-8")]
    Path,
    /// Files could not be handled.
    #[error("file system: {0}")]
    Io(#[from] io::Error),
    /// Any other failure of the database.
    #[error("database: {0}")]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Sqlite(error),
        }
    }
}

impl From<DecodeError> for StoreError {
    fn from(error: DecodeError) -> Self {
        Self::Damaged(error.to_string())
    }
}
