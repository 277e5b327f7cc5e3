//! The tables, and how a value stands in a row.
//!
//! A block is one row, its state changes are rows of `state`, and few pages are touched: flash
//! wears by the page. Interior nodes of the history tree stand in the row of the block that
//! completes them, so that the tree has no table and no row of its own.

/// Marks the file as ours (`PRAGMA application_id`): "gwld".
pub(super) const APPLICATION_ID: i32 = 0x6777_6c64;

/// File name below the data directory.
pub const FILE_NAME: &str = "ledger.db";

/// Version 1. `meta` holds the genesis record, the start counter and what `meta.rs` says.
pub(super) const VERSION_1: &str = "
    CREATE TABLE meta (
        key TEXT NOT NULL PRIMARY KEY,
        value BLOB NOT NULL
    ) WITHOUT ROWID;

    -- subtrees: the history subtrees that this header's hash completes, level 0 first, 32 bytes
    --   each. Level l, index i stands in the row of height ((i + 1) << l) - 1.
    -- certificate: the one that the block above carries, once that is stored.
    -- body: null where the header alone is kept.
    CREATE TABLE blocks (
        height INTEGER PRIMARY KEY,
        header BLOB NOT NULL,
        subtrees BLOB NOT NULL,
        certificate BLOB,
        body BLOB
    );

    -- History subtrees whose blocks are not here: from the snapshot that the ledger began with.
    CREATE TABLE peaks (
        level INTEGER NOT NULL,
        position INTEGER NOT NULL,
        hash BLOB NOT NULL,
        PRIMARY KEY (level, position)
    ) WITHOUT ROWID;

    CREATE TABLE state (
        key BLOB NOT NULL PRIMARY KEY,
        value BLOB NOT NULL
    ) WITHOUT ROWID;

    -- The voters from a height on; kept for ever.
    CREATE TABLE validator_sets (
        height INTEGER PRIMARY KEY,
        validators BLOB NOT NULL
    );

    CREATE TABLE batches (
        gateway BLOB NOT NULL,
        sequence INTEGER NOT NULL,
        height INTEGER NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (gateway, sequence)
    ) WITHOUT ROWID;

    -- What happened to a node, batches left out: event `number` of the transaction at `position`.
    CREATE TABLE history (
        node BLOB NOT NULL,
        height INTEGER NOT NULL,
        position INTEGER NOT NULL,
        number INTEGER NOT NULL,
        event BLOB NOT NULL,
        PRIMARY KEY (node, height, position, number)
    ) WITHOUT ROWID;
";

/// Bytes a database page. Rows are small and a commit touches few of them; a small page keeps
/// the bytes written low.
pub(super) const PAGE_BYTES: u32 = 2048;
