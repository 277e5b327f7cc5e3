//! The store alone: order, a full disk, damage, the start counter, the history tree.

use std::path::Path;

use super::*;
use crate::block::Block;
use crate::certificate::{Certificate, Signers, Votes};
use crate::chain::Tip;
use crate::codec::Encode;
use crate::fixture::Fixture;
use crate::merkle::{Tag, root_from_path};
use crate::node::Decided;
use crate::state::State;

/// Blocks without transactions, one on top of the other.
struct Chain {
    state: State,
    tip: Tip,
    certificate: Option<Certificate>,
}

impl Chain {
    fn found(directory: &Path) -> (Self, Store) {
        let genesis = Fixture::new().genesis;
        let chain = Self {
            state: State::from_genesis(&genesis),
            tip: Tip::genesis(&genesis),
            certificate: None,
        };
        (chain, Store::found(directory, &Founding::new(genesis)).unwrap())
    }

    fn next(&mut self) -> Decided {
        let time_ms = self.tip.header.time_ms + 1;
        let outcome = self.state.begin(self.tip.next_context(time_ms)).finish();
        let last_commit = self.certificate.take();
        let header = self.tip.next_header(
            &self.state,
            &outcome,
            &[],
            last_commit.as_ref(),
            time_ms,
            self.tip.header.proposer,
        );
        let block_hash = header.hash();
        let votes = Votes { round: 0, bitmap: vec![0], signatures: Vec::new() };
        let certificate =
            Certificate { height: header.height, block_hash, signers: Signers::Votes(votes) };
        self.certificate = Some(certificate.clone());
        self.tip = self.tip.advance(header.clone());
        let block = Block { header, transactions: Vec::new(), last_commit };
        let (changes, events) = (outcome.changes, outcome.events);
        Decided { block, certificate, changes, events, next_validators: None }
    }
}

#[test]
fn blocks_are_stored_in_order_and_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let (mut chain, mut store) = Chain::found(directory.path());
    let blocks: Vec<_> = (0..20).map(|_| chain.next()).collect();
    store.commit(&blocks[0]).unwrap();
    let skipped = store.commit(&blocks[2]);
    assert!(matches!(skipped, Err(StoreError::Order { tip: Height(1), found: Height(3) })));
    store.commit_all(&blocks[1..]).unwrap();
    let reader = store.reader().unwrap();
    for decided in &blocks {
        let height = decided.block.header.height;
        assert_eq!(reader.block(height).unwrap().as_ref(), Some(&decided.block));
        assert_eq!(reader.certificate(height).unwrap().as_ref(), Some(&decided.certificate));
        let range = store.range(height, 1, 0).unwrap().unwrap();
        assert_eq!(range.blocks, [decided.block.to_bytes()]);
        assert_eq!(range.certificate, decided.certificate.to_bytes());
    }
    assert_eq!(reader.tip().unwrap(), chain.tip.header);
    assert!(reader.block(Height(21)).unwrap().is_none());
    assert_eq!(store.range(Height(21), 5, 1_000).unwrap(), None);
    let range = store.range(Height(3), 1_000, 1 << 20).unwrap().unwrap();
    let rest: Vec<_> = blocks[2..].iter().map(|decided| decided.block.to_bytes()).collect();
    assert_eq!(range.blocks, rest);
    let size = rest[0].len() + rest[1].len();
    assert_eq!(store.range(Height(3), 1_000, size).unwrap().unwrap().blocks, rest[..2]);
    let loaded = store.load().unwrap();
    assert_eq!(loaded.tip, chain.tip.header);
}

#[test]
fn every_history_path_leads_to_the_root_in_the_newest_header() {
    let directory = tempfile::tempdir().unwrap();
    let (mut chain, mut store) = Chain::found(directory.path());
    let blocks: Vec<_> = (0..70).map(|_| chain.next()).collect();
    store.commit_all(&blocks).unwrap();
    let reader = store.reader().unwrap();
    for tip in [1u64, 2, 3, 8, 33, 64, 70] {
        let root = reader.header(Height(tip)).unwrap().unwrap().history_root;
        for height in 0..tip {
            let header = reader.header(Height(height)).unwrap().unwrap();
            let path = reader.history_path(Height(height), Height(tip)).unwrap().unwrap();
            let leaf = Tag::HISTORY.leaf(&[&header.hash().0]);
            assert_eq!(root_from_path(&leaf, height, tip, &path), Some(root), "{height} in {tip}");
        }
        assert_eq!(reader.history_path(Height(tip), Height(tip)).unwrap(), None);
    }
}

#[test]
fn a_full_disk_is_named_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (mut chain, mut store) = Chain::found(directory.path());
    store.commit(&chain.next()).unwrap();
    store.limit_pages(2);
    let (mut stored, mut blocked) = (1, None);
    for _ in 0..40 {
        let decided = chain.next();
        match store.commit(&decided) {
            Ok(()) => stored += 1,
            Err(StoreError::DiskFull) => {
                blocked = Some(decided);
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    let blocked = blocked.expect("the disk is full at last");
    assert_eq!(store.reader().unwrap().tip().unwrap().height, Height(stored));
    store.limit_pages(1_000);
    store.commit(&blocked).unwrap();
    assert_eq!(store.load().unwrap().tip, chain.tip.header);
}

#[test]
fn a_truncated_or_foreign_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (mut chain, mut store) = Chain::found(directory.path());
    let blocks: Vec<_> = (0..200).map(|_| chain.next()).collect();
    store.commit_all(&blocks).unwrap();
    drop(store);
    let path = directory.path().join(schema::FILE_NAME);
    let whole = std::fs::read(&path).unwrap();
    for keep in [whole.len() / 2, whole.len() - 2048, 700, 0] {
        std::fs::write(&path, &whole[..keep]).unwrap();
        let opened = Store::open(directory.path()).map(drop);
        assert!(matches!(opened, Err(StoreError::Damaged(_))), "{keep}: {opened:?}");
    }
    std::fs::write(&path, b"this is no database, only a file of that name").unwrap();
    let opened = Store::open(directory.path()).map(drop);
    assert!(matches!(opened, Err(StoreError::Damaged(_))), "{opened:?}");
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(Store::open(directory.path()).unwrap().load().unwrap().tip, chain.tip.header);
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (_, store) = Chain::found(directory.path());
    drop(store);
    let path = directory.path().join(schema::FILE_NAME);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let before = std::fs::read(&path).unwrap();
    let opened = Store::open(directory.path()).map(drop);
    assert!(matches!(opened, Err(StoreError::UnknownSchema { found: 99, known: 1 })));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn changed_state_values_are_noticed_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let (_, store) = Chain::found(directory.path());
    let root = store.load().unwrap().tip.state_root;
    drop(store);
    let path = directory.path().join(schema::FILE_NAME);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute("DELETE FROM state WHERE key = x'11' OR length(key) = 33", []).unwrap();
    drop(connection);
    let loaded = Store::open(directory.path()).unwrap().load().unwrap();
    assert!(State::from_entries(loaded.entries, &root).is_err());
}

#[test]
fn an_old_copy_put_back_is_noticed_by_the_start_counter() {
    let directory = tempfile::tempdir().unwrap();
    let (_, mut store) = Chain::found(directory.path());
    assert_eq!(store.counter().unwrap(), None);
    let mut nv = 41;
    store.write_counter(nv).unwrap();
    for crash_before_increment in [false, true, true, false] {
        let StartCheck::Clean { next } = check_start(store.counter().unwrap(), nv) else {
            panic!("{nv}");
        };
        store.write_counter(next).unwrap();
        if !crash_before_increment {
            nv += 1;
        }
    }
    assert_eq!(store.counter().unwrap(), Some(43));
    let old = StartCheck::RolledBack { stored: Some(42), nv: 43 };
    assert_eq!(check_start(Some(42), 43), old);
    assert!(matches!(check_start(Some(45), 43), StartCheck::RolledBack { .. }));
    assert!(matches!(check_start(None, 43), StartCheck::RolledBack { .. }));
    assert!(matches!(check_start(Some(0), u64::MAX), StartCheck::RolledBack { .. }));
}
