//! What a stopped gateway has on its disk: its buffer and its ledger, compared.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use drivers::senml::{Pack, Value as Measured};
use gatewayd::store::{BatchState, Buffer, BufferReader, Entry, StoredReading};
use ledger::ids::{Hash, Height, NodeId};
use ledger::store::Reader;
use ledger::transaction::{Author, Body};

use crate::gateway::Gateway;

/// Waits until every reading on the disk is on the record, by looking at the disk: the status is
/// a snapshot and may be seconds old.
pub fn wait_recorded(gateway: &Gateway) -> Result<()> {
    let path = gateway.data_dir().join("buffer.db");
    let recorded = |reading: &StoredReading| {
        reading.batch.is_some_and(|(_, state, _)| state == BatchState::Committed)
    };
    gateway.wait_for("all to be on the record", |_| {
        let all = BufferReader::open(&path).and_then(|reader| reader.newest(None, usize::MAX));
        all.is_ok_and(|all| all.iter().all(recorded))
    })
}

/// The number in a reading.
pub fn value(entry: &Entry) -> Result<u64> {
    let pack = Pack::from_cbor(&entry.senml).map_err(|error| anyhow::anyhow!("{error}"))?;
    match pack.0.first().and_then(|record| record.value.clone()) {
        Some(Measured::Number(number)) => Ok(number as u64),
        other => bail!("no number but {other:?}"),
    }
}

/// All readings of the buffer, after checking that buffer and ledger agree: the same batches, each
/// once, and in them the same counters, each once. The daemon is stopped. Of the ledger, what
/// `own` wrote counts, or everything where there is no other gateway.
pub fn batches(gateway: &Gateway, own: Option<NodeId>) -> Result<Vec<Entry>> {
    batches_in(gateway, own, &gateway.data_dir())
}

/// As [`batches`], on the record in the folder of another gateway: one that began anew from a
/// snapshot has no older blocks itself.
pub fn batches_in(gateway: &Gateway, own: Option<NodeId>, record: &Path) -> Result<Vec<Entry>> {
    let directory = gateway.data_dir();
    let mut in_buffer = BTreeMap::new();
    let mut entries = Vec::new();
    let buffer = BufferReader::open(&directory.join("buffer.db"))?;
    let last = Buffer::open(&directory.join("buffer.db"))?.last_sequence()?;
    for sequence in 1..=last {
        let Some(batch) = buffer.batch(sequence)? else { continue };
        ensure!(batch.state == BatchState::Committed, "batch {sequence} is {:?}", batch.state);
        ensure!(in_buffer.insert(Hash(batch.root), batch.readings.len()).is_none(), "twice");
        entries.extend(batch.readings);
    }
    let mut counters = BTreeSet::new();
    for entry in &entries {
        let place = (entry.node, entry.epoch, entry.counter);
        ensure!(counters.insert(place), "counter {}:{} twice", entry.epoch, entry.counter);
    }
    let mut recorded = BTreeSet::new();
    let reader = Reader::open(record)?;
    for height in 1..=reader.tip()?.height.0 {
        let Some(block) = reader.block(Height(height))? else {
            // A record that began with a snapshot has none before it, nor had its gateway.
            ensure!(own.is_some() && recorded.is_empty(), "block {height} is missing");
            continue;
        };
        for transaction in &block.transactions {
            let draft = transaction.draft();
            let Body::Batch(head) = &draft.body else { continue };
            if own.is_some_and(|own| draft.author != Author::Node(own)) {
                continue;
            }
            ensure!(in_buffer.remove(&head.root).is_some(), "a batch twice, or of nobody");
            for node in &transaction.attachment().context("no list")?.list {
                for range in &node.ranges {
                    for counter in range.first..=range.last {
                        let place = (node.node.0, range.epoch, counter);
                        ensure!(recorded.insert(place), "a counter is on the record twice");
                    }
                }
            }
        }
    }
    ensure!(in_buffer.is_empty(), "committed batches that the ledger does not know");
    ensure!(recorded == counters, "ledger and buffer differ");
    Ok(entries)
}
