//! Readers: consistent answers from the store without disturbing the writer.
//!
//! Every call reads one snapshot. Lists come in pages; nothing here loads a table.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::StoreError;
use super::rows::{self, sql_height, sql_number};
use super::schema::FILE_NAME;
use crate::block::Block;
use crate::certificate::Certificate;
use crate::codec::Decode;
use crate::genesis::Genesis;
use crate::header::Header;
use crate::ids::{Hash, Height, NodeId};
use crate::merkle::{self, path_from_subtrees};
use crate::policy::Policy;
use crate::state::{Event, Gateway, Key, LightNode, SessionRecord, Site};
use crate::transaction::Transaction;
use crate::validator_set::ValidatorSet;

/// A read-only connection of its own.
pub struct Reader {
    pub(super) connection: Connection,
}

/// Something that happened to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Where it stands: continues a list.
    pub at: HistoryPosition,
    /// Time of the block, Unix milliseconds.
    pub time_ms: u64,
    /// What happened.
    pub event: Event,
}

/// Place of an event, in order of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HistoryPosition {
    /// Height of the block.
    pub height: Height,
    /// Position of the transaction in the block.
    pub position: u32,
    /// Number of the event in the transaction.
    pub number: u32,
}

/// Where a batch stands and why that is final: the ledger's half of a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchInclusion {
    /// The batch, with its attachment.
    pub transaction: Transaction,
    /// Position of the batch in its block.
    pub position: u32,
    /// Path of the batch under `header.tx_root`.
    pub tx_path: Vec<Hash>,
    /// Header of its block.
    pub header: Header,
    /// Path of that header under `tip.history_root`; empty when it is the tip.
    pub history_path: Vec<Hash>,
    /// The newest header.
    pub tip: Header,
    /// Makes the tip final.
    pub certificate: Certificate,
    /// Who certified the tip.
    pub validators: ValidatorSet,
}

/// A block after which other voters vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetStep {
    /// Its header, which names the next set.
    pub header: Header,
    /// Makes it final under the set before.
    pub certificate: Certificate,
    /// The set after it.
    pub next: ValidatorSet,
}

/// Most entries of one page of a list.
pub const MAX_PAGE: usize = 1_000;

impl Reader {
    /// Opens a reader on the ledger in `directory`.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is none, else those of the disk.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE_NAME);
        if !path.exists() {
            return Err(StoreError::Missing);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        Ok(Self { connection })
    }

    /// The genesis record.
    ///
    /// # Errors
    /// Those of the disk; [`StoreError::Missing`] before the site was founded.
    pub fn genesis(&self) -> Result<Genesis, StoreError> {
        let bytes: Option<Vec<u8>> = self
            .connection
            .query_row("SELECT value FROM meta WHERE key = 'genesis'", [], |row| row.get(0))
            .optional()?;
        Ok(Genesis::from_bytes(&bytes.ok_or(StoreError::Missing)?)?)
    }

    /// The newest header.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn tip(&self) -> Result<Header, StoreError> {
        let snapshot = self.connection.unchecked_transaction()?;
        let height = rows::tip_height(&snapshot)?;
        rows::header(&snapshot, height)?.ok_or_else(|| StoreError::Damaged("no tip".into()))
    }

    /// The header of a height; `None` when there is no such block.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn header(&self, height: Height) -> Result<Option<Header>, StoreError> {
        rows::header(&self.connection, height)
    }

    /// The block of a height; `None` when there is no such block, or its header alone is kept.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn block(&self, height: Height) -> Result<Option<Block>, StoreError> {
        let snapshot = self.connection.unchecked_transaction()?;
        match rows::block_row(&snapshot, height)? {
            Some(row) => row.into_block(&snapshot),
            None => Ok(None),
        }
    }

    /// The certificate of a height; none for genesis.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn certificate(&self, height: Height) -> Result<Option<Certificate>, StoreError> {
        rows::certificate(&self.connection, height)
    }

    /// The voters of a height; of height 0, on which nobody votes, those of height 1.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn validators(&self, height: Height) -> Result<ValidatorSet, StoreError> {
        rows::validators(&self.connection, height)
    }

    /// As [`Reader::validators`]; `None` when what is kept begins above.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn known_validators(&self, height: Height) -> Result<Option<ValidatorSet>, StoreError> {
        rows::known_validators(&self.connection, height)
    }

    /// The path of the header at `height` under the `history_root` of the header at `tip`.
    ///
    /// # Errors
    /// Those of the disk. `None` unless `height` is below `tip`.
    pub fn history_path(
        &self,
        height: Height,
        tip: Height,
    ) -> Result<Option<Vec<Hash>>, StoreError> {
        let snapshot = self.connection.unchecked_transaction()?;
        history_path(&snapshot, height, tip)
    }

    /// The blocks above `after` that changed the voters, oldest first, at most `limit`.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn set_steps(&self, after: Height, limit: usize) -> Result<Vec<SetStep>, StoreError> {
        let snapshot = self.connection.unchecked_transaction()?;
        set_steps(&snapshot, after, limit)
    }

    /// What happened to a node, newest first: registrations, assignments, sessions, changes of
    /// standing and keys; batches left out. `before` continues a list behind its last entry.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn history(
        &self,
        node: &NodeId,
        before: Option<HistoryPosition>,
        limit: usize,
    ) -> Result<Vec<HistoryEntry>, StoreError> {
        let snapshot = self.connection.unchecked_transaction()?;
        let end = HistoryPosition { height: Height(i64::MAX as u64), position: 0, number: 0 };
        let HistoryPosition { height, position, number } = before.unwrap_or(end);
        let mut statement = snapshot.prepare_cached(
            "SELECT height, position, number, event FROM history
             WHERE node = ?1 AND (height, position, number) < (?2, ?3, ?4)
             ORDER BY height DESC, position DESC, number DESC LIMIT ?5",
        )?;
        let height = sql_height(height)?;
        let found = statement
            .query_map(params![node.0, height, position, number, page(limit)], |row| {
                let height = Height(rows::number(row, 0)?);
                let at = HistoryPosition { height, position: row.get(1)?, number: row.get(2)? };
                Ok((at, row.get::<_, Vec<u8>>(3)?))
            })?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let missing = || StoreError::Damaged("an indexed block is missing".into());
        let entry = |(at, event): (HistoryPosition, Vec<u8>)| {
            let header = rows::header(&snapshot, at.height)?.ok_or_else(missing)?;
            let event = Event::from_bytes(&event)?;
            Ok(HistoryEntry { at, time_ms: header.time_ms, event })
        };
        found.into_iter().map(entry).collect()
    }

    /// A gateway as of the newest block.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn gateway(&self, node: &NodeId) -> Result<Option<Gateway>, StoreError> {
        self.entry(&Key::Gateway(*node))
    }

    /// A light node as of the newest block, retired ones included.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn light_node(&self, node: &NodeId) -> Result<Option<LightNode>, StoreError> {
        self.entry(&Key::LightNode(*node))
    }

    /// Session, counters and windows of a light node as of the newest block.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn session(&self, node: &NodeId) -> Result<Option<SessionRecord>, StoreError> {
        self.entry(&Key::Session(*node))
    }

    /// The policy as of the newest block.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn policy(&self) -> Result<Policy, StoreError> {
        self.entry(&Key::Policy)?.ok_or_else(|| StoreError::Damaged("no policy".into()))
    }

    /// Chain, era and operator key as of the newest block.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn site(&self) -> Result<Site, StoreError> {
        self.entry(&Key::Site)?.ok_or_else(|| StoreError::Damaged("no site".into()))
    }

    /// The gateways in order of their IDs, behind `after`, at most `limit`.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn gateways(
        &self,
        after: Option<&NodeId>,
        limit: usize,
    ) -> Result<Vec<(NodeId, Gateway)>, StoreError> {
        self.entries_after(Key::Gateway, after, limit)
    }

    /// The light nodes in order of their IDs, behind `after`, at most `limit`; retired ones
    /// included.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn light_nodes(
        &self,
        after: Option<&NodeId>,
        limit: usize,
    ) -> Result<Vec<(NodeId, LightNode)>, StoreError> {
        self.entries_after(Key::LightNode, after, limit)
    }

    fn entry<T: Decode>(&self, key: &Key) -> Result<Option<T>, StoreError> {
        let value: Option<Vec<u8>> = self
            .connection
            .prepare_cached("SELECT value FROM state WHERE key = ?1")?
            .query_row([key.to_bytes()], |row| row.get(0))
            .optional()?;
        Ok(value.as_deref().map(T::from_bytes).transpose()?)
    }

    fn entries_after<T: Decode>(
        &self,
        key: fn(NodeId) -> Key,
        after: Option<&NodeId>,
        limit: usize,
    ) -> Result<Vec<(NodeId, T)>, StoreError> {
        // The stored form of these keys is a type byte and the ID.
        let first = match after {
            Some(node) => key(*node).to_bytes(),
            None => key(NodeId([0; 20])).to_bytes()[..1].to_vec(),
        };
        let last = key(NodeId([0xff; 20])).to_bytes();
        let mut statement = self.connection.prepare_cached(
            "SELECT key, value FROM state WHERE key > ?1 AND key <= ?2 ORDER BY key LIMIT ?3",
        )?;
        let found = statement
            .query_map(params![first, last, page(limit)], |row| {
                Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?))
            })?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let entry = |(key, value): (Vec<u8>, Vec<u8>)| {
            let id = key.get(1..).and_then(|id| <[u8; 20]>::try_from(id).ok());
            let id = id.ok_or_else(|| StoreError::Damaged("state key".into()))?;
            Ok((NodeId(id), T::from_bytes(&value)?))
        };
        found.into_iter().map(entry).collect()
    }

    /// Height and position of a gateway's batch; `None` when it is not committed.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn batch_position(
        &self,
        gateway: &NodeId,
        sequence: u64,
    ) -> Result<Option<(Height, u32)>, StoreError> {
        batch_position(&self.connection, gateway, sequence)
    }

    /// Everything that proves a gateway's batch final under the newest header.
    ///
    /// # Errors
    /// Those of the disk. `None` when the batch is not committed.
    pub fn batch_inclusion(
        &self,
        gateway: &NodeId,
        sequence: u64,
    ) -> Result<Option<BatchInclusion>, StoreError> {
        let snapshot = self.connection.unchecked_transaction()?;
        let Some((height, position)) = batch_position(&snapshot, gateway, sequence)? else {
            return Ok(None);
        };
        let missing = || StoreError::Damaged("an indexed batch is missing".into());
        let row = rows::block_row(&snapshot, height)?.ok_or_else(missing)?;
        let mut transactions = row.transactions()?;
        let hashes = Block::tx_hashes(&transactions);
        let tx_path = merkle::path(&hashes, position as usize).ok_or_else(missing)?;
        let transaction = transactions.swap_remove(position as usize);
        let tip_height = rows::tip_height(&snapshot)?;
        let tip = rows::block_row(&snapshot, tip_height)?.ok_or_else(missing)?;
        let history_path = history_path(&snapshot, height, tip_height)?.unwrap_or_default();
        Ok(Some(BatchInclusion {
            transaction,
            position,
            tx_path,
            header: row.header,
            history_path,
            certificate: tip.certificate.ok_or_else(missing)?,
            tip: tip.header,
            validators: rows::validators(&snapshot, tip_height)?,
        }))
    }
}

/// See [`Reader::set_steps`].
pub(super) fn set_steps(
    connection: &Connection,
    after: Height,
    limit: usize,
) -> Result<Vec<SetStep>, StoreError> {
    // Peers ask too: above every height that a row can have there is nothing, and no damage.
    let after = Height(after.0.min(i64::MAX as u64 - 1));
    let mut statement = connection.prepare_cached(
        "SELECT height, validators FROM validator_sets WHERE height > ?1 + 1
         ORDER BY height LIMIT ?2",
    )?;
    let found = statement
        .query_map(params![sql_height(after)?, page(limit)], |row| {
            Ok((rows::number(row, 0)?, row.get::<_, Vec<u8>>(1)?))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let missing = || StoreError::Damaged("a block that changed the voters is missing".into());
    let step = |(from, validators): (u64, Vec<u8>)| {
        let row = rows::block_row(connection, Height(from.saturating_sub(1)))?;
        let row = row.ok_or_else(missing)?;
        Ok(SetStep {
            header: row.header,
            certificate: row.certificate.ok_or_else(missing)?,
            next: ValidatorSet::from_bytes(&validators)?,
        })
    };
    found.into_iter().map(step).collect()
}

fn batch_position(
    connection: &Connection,
    gateway: &NodeId,
    sequence: u64,
) -> Result<Option<(Height, u32)>, StoreError> {
    let found = connection
        .prepare_cached(
            "SELECT height, position FROM batches WHERE gateway = ?1 AND sequence = ?2",
        )?
        .query_row(params![gateway.0, sql_number(sequence)?], |row| {
            Ok((Height(rows::number(row, 0)?), row.get(1)?))
        })
        .optional()?;
    Ok(found)
}

fn history_path(
    connection: &Connection,
    height: Height,
    tip: Height,
) -> Result<Option<Vec<Hash>>, StoreError> {
    if height >= tip {
        return Ok(None);
    }
    let lookup = |level, index| rows::subtree(connection, level, index).ok().flatten();
    let path = path_from_subtrees(height.0, tip.0, lookup);
    path.map(Some).ok_or_else(|| StoreError::Damaged("history tree".into()))
}

fn page(limit: usize) -> i64 {
    limit.min(MAX_PAGE) as i64
}
