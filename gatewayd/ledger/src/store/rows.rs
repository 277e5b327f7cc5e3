//! Rows to values and back; shared by the writer and the readers.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::StoreError;
use crate::block::{Block, MAX_BLOCK_TRANSACTIONS};
use crate::certificate::Certificate;
use crate::codec::{Decode, Decoder, Encoder};
use crate::header::Header;
use crate::ids::{Hash, Height};
use crate::transaction::Transaction;
use crate::validator_set::ValidatorSet;

/// A block's row without the subtrees.
pub(super) struct BlockRow {
    pub(super) header: Header,
    pub(super) certificate: Option<Certificate>,
    body: Option<Vec<u8>>,
}

const BLOCK_COLUMNS: &str = "header, certificate, body";

pub(super) fn block_row(
    connection: &Connection,
    height: Height,
) -> Result<Option<BlockRow>, StoreError> {
    let sql = format!("SELECT {BLOCK_COLUMNS} FROM blocks WHERE height = ?1");
    let raw = connection
        .prepare_cached(&sql)?
        .query_row([sql_height(height)?], |row| {
            let header: Vec<u8> = row.get(0)?;
            let certificate: Option<Vec<u8>> = row.get(1)?;
            Ok((header, certificate, row.get(2)?))
        })
        .optional()?;
    let Some((header, certificate, body)) = raw else {
        return Ok(None);
    };
    Ok(Some(BlockRow {
        header: Header::from_bytes(&header)?,
        certificate: certificate.as_deref().map(Certificate::from_bytes).transpose()?,
        body,
    }))
}

impl BlockRow {
    /// The block, with the parent's certificate from the row below; none where the header alone
    /// is kept.
    pub(super) fn into_block(self, connection: &Connection) -> Result<Option<Block>, StoreError> {
        let Some(body) = &self.body else {
            return Ok(None);
        };
        let transactions = decode_body(body)?;
        let last_commit = match self.header.last_commit_hash {
            Hash::ZERO => None,
            _ => certificate(connection, Height(self.header.height.0.saturating_sub(1)))?,
        };
        Ok(Some(Block { header: self.header, transactions, last_commit }))
    }

    pub(super) fn transactions(&self) -> Result<Vec<Transaction>, StoreError> {
        let missing = || StoreError::Damaged("the body of an indexed block is missing".into());
        decode_body(self.body.as_ref().ok_or_else(missing)?)
    }
}

pub(super) fn encode_body(transactions: &[Transaction]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.list(transactions);
    encoder.into_bytes()
}

fn decode_body(bytes: &[u8]) -> Result<Vec<Transaction>, StoreError> {
    let mut decoder = Decoder::new(bytes);
    let transactions = decoder.list("transactions", MAX_BLOCK_TRANSACTIONS)?;
    decoder.finish()?;
    Ok(transactions)
}

pub(super) fn header(
    connection: &Connection,
    height: Height,
) -> Result<Option<Header>, StoreError> {
    let bytes: Option<Vec<u8>> = connection
        .prepare_cached("SELECT header FROM blocks WHERE height = ?1")?
        .query_row([sql_height(height)?], |row| row.get(0))
        .optional()?;
    Ok(bytes.as_deref().map(Header::from_bytes).transpose()?)
}

pub(super) fn certificate(
    connection: &Connection,
    height: Height,
) -> Result<Option<Certificate>, StoreError> {
    let bytes: Option<Option<Vec<u8>>> = connection
        .prepare_cached("SELECT certificate FROM blocks WHERE height = ?1")?
        .query_row([sql_height(height)?], |row| row.get(0))
        .optional()?;
    Ok(bytes.flatten().as_deref().map(Certificate::from_bytes).transpose()?)
}

/// Height of the highest block.
pub(super) fn tip_height(connection: &Connection) -> Result<Height, StoreError> {
    let height: Option<i64> = connection
        .prepare_cached("SELECT max(height) FROM blocks")?
        .query_row([], |row| row.get(0))?;
    let height = height.and_then(|height| u64::try_from(height).ok());
    height.map(Height).ok_or_else(|| StoreError::Damaged("no genesis block".into()))
}

/// A stored subtree of the history, see [`crate::merkle::completed`].
pub(super) fn subtree(
    connection: &Connection,
    level: u32,
    index: u64,
) -> Result<Option<Hash>, StoreError> {
    let completing = index
        .checked_add(1)
        .and_then(|next| next.checked_shl(level))
        .and_then(|end| end.checked_sub(1));
    let Some(height) = completing else {
        return Ok(None);
    };
    let joined: Option<Vec<u8>> = connection
        .prepare_cached("SELECT subtrees FROM blocks WHERE height = ?1")?
        .query_row([sql_height(Height(height))?], |row| row.get(0))
        .optional()?;
    let at = level as usize;
    let here = joined.and_then(|joined| joined.as_chunks::<32>().0.get(at).copied().map(Hash));
    if here.is_some() {
        return Ok(here);
    }
    let peak: Option<[u8; 32]> = connection
        .prepare_cached("SELECT hash FROM peaks WHERE level = ?1 AND position = ?2")?
        .query_row(params![level, sql_number(index)?], |row| row.get(0))
        .optional()?;
    Ok(peak.map(Hash))
}

/// The block after which the first known voters began to vote, and those.
pub(super) fn first_validators(
    connection: &Connection,
) -> Result<(Height, ValidatorSet), StoreError> {
    let found = connection
        .prepare_cached("SELECT height, validators FROM validator_sets ORDER BY height LIMIT 1")?
        .query_row([], |row| Ok((number(row, 0)?, row.get::<_, Vec<u8>>(1)?)))
        .optional()?;
    let (from, bytes) = found.ok_or_else(|| StoreError::Damaged("no validator set".into()))?;
    Ok((Height(from.saturating_sub(1)), ValidatorSet::from_bytes(&bytes)?))
}

/// The peaks of the tree over the first `size` headers, the highest subtree first.
pub(super) fn peaks(connection: &Connection, size: u64) -> Result<Vec<Hash>, StoreError> {
    let mut peaks = Vec::new();
    let mut covered = 0u64;
    for level in (0..u64::BITS).rev().filter(|level| size >> level & 1 == 1) {
        let peak = subtree(connection, level, covered >> level)?;
        peaks.push(peak.ok_or_else(|| StoreError::Damaged("history tree".into()))?);
        covered += 1 << level;
    }
    Ok(peaks)
}

/// The voters of a height; of genesis those of height 1.
pub(super) fn validators(
    connection: &Connection,
    height: Height,
) -> Result<ValidatorSet, StoreError> {
    let known = known_validators(connection, height)?;
    known.ok_or_else(|| StoreError::Damaged("no validator set".into()))
}

/// As [`validators`]; none when what is kept begins above.
pub(super) fn known_validators(
    connection: &Connection,
    height: Height,
) -> Result<Option<ValidatorSet>, StoreError> {
    let bytes: Option<Vec<u8>> = connection
        .prepare_cached(
            "SELECT validators FROM validator_sets WHERE height <= ?1
             ORDER BY height DESC LIMIT 1",
        )?
        .query_row([sql_height(height.max(Height(1)))?], |row| row.get(0))
        .optional()?;
    Ok(bytes.as_deref().map(ValidatorSet::from_bytes).transpose()?)
}

/// SQLite integers are signed.
pub(super) fn sql_height(height: Height) -> Result<i64, StoreError> {
    sql_number(height.0)
}

pub(super) fn sql_number(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::Damaged("a number above 2^63".into()))
}

pub(super) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}
