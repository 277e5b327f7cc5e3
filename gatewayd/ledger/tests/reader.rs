//! What readers see of a ledger with light nodes and batches: positions, paths, pages, histories.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod site;

use ledger::host::Host;
use ledger::ids::{Height, NodeId};
use ledger::merkle::{Tag, root_from_path};
use ledger::node::{Input, Now};
use ledger::state::Event;
use ledger::store::{Reader, Store};
use ledger::transaction::Transaction;
use site::{START_MS, Site, light_node};

/// Four light nodes, paired and with three batches of one reading each, then heartbeats.
fn recorded(site: &Site, directory: &std::path::Path) -> Vec<NodeId> {
    Store::found(directory, &site.founding()).unwrap();
    let vote_key = site.votes[0].clone();
    let mut host = Host::open(directory, site.nodes[0], Some(vote_key)).unwrap();
    let mut now = Now { mono_ms: 0, wall_ms: START_MS, synchronised: true };
    let mut step = |input, ms| {
        now.mono_ms += ms;
        now.wall_ms += ms;
        let mut refused = Vec::new();
        host.step(now, input, &mut |out| {
            if let ledger::host::Outward::Refused { error, .. } = out {
                refused.push(error);
            }
        })
        .unwrap();
        assert_eq!(refused, []);
    };
    step(Input::Start, 0);
    let nodes: Vec<_> = (0..4).map(light_node).collect();
    let mut nonce = 1;
    for node in &nodes {
        for transaction in site.pair(0, nonce, *node) {
            step(Input::Submit(Box::new(transaction)), 1);
            nonce += 1;
        }
    }
    for sequence in 1..=3 {
        let batch: Transaction = site.batch(0, nonce, sequence, &nodes, sequence);
        step(Input::Submit(Box::new(batch)), 1);
        step(Input::Wake, 500);
        nonce += 1;
    }
    for _ in 0..5 {
        step(Input::Wake, 60_000);
    }
    nodes
}

#[test]
fn a_batch_is_found_with_its_paths_to_the_certified_tip() {
    let (site, directory) = (Site::new(1), tempfile::tempdir().unwrap());
    recorded(&site, directory.path());
    let reader = Reader::open(directory.path()).unwrap();
    for sequence in 1..=3 {
        let found = reader.batch_inclusion(&site.nodes[0], sequence).unwrap().unwrap();
        let (position, count) = (u64::from(found.position), u64::from(found.header.tx_count));
        let root = root_from_path(&found.transaction.hash(), position, count, &found.tx_path);
        assert_eq!(root, Some(found.header.tx_root));
        assert!(found.transaction.attachment().is_some());
        let leaf = Tag::HISTORY.leaf(&[&found.header.hash().0]);
        let (height, size) = (found.header.height.0, found.tip.height.0);
        let root = root_from_path(&leaf, height, size, &found.history_path);
        assert_eq!(root, Some(found.tip.history_root));
        found.certificate.verify(&found.tip, &found.validators).unwrap();
    }
    assert_eq!(reader.batch_position(&site.nodes[0], 4).unwrap(), None);
    assert!(reader.batch_inclusion(&light_node(0), 1).unwrap().is_none());
}

#[test]
fn histories_and_lists_come_in_pages() {
    let (site, directory) = (Site::new(1), tempfile::tempdir().unwrap());
    let mut nodes = recorded(&site, directory.path());
    let reader = Reader::open(directory.path()).unwrap();
    let whole = reader.history(&nodes[1], None, 100).unwrap();
    let kinds: Vec<_> = whole
        .iter()
        .map(|entry| match entry.event {
            Event::SessionOpened { .. } => "session",
            Event::Assigned { .. } => "assigned",
            Event::Registered { .. } => "registered",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["session", "assigned", "registered"], "newest first");
    let mut paged = Vec::new();
    while let Some(entry) = reader
        .history(&nodes[1], paged.last().map(|last: &ledger::store::HistoryEntry| last.at), 1)
        .unwrap()
        .pop()
    {
        paged.push(entry);
    }
    assert_eq!(paged, whole);
    nodes.sort_unstable();
    let first = reader.light_nodes(None, 3).unwrap();
    assert_eq!(first.iter().map(|(id, _)| *id).collect::<Vec<_>>(), nodes[..3]);
    let rest = reader.light_nodes(Some(&nodes[2]), 3).unwrap();
    assert_eq!(rest.iter().map(|(id, _)| *id).collect::<Vec<_>>(), nodes[3..]);
    assert_eq!(reader.light_node(&nodes[3]).unwrap().as_ref(), Some(&rest[0].1));
    assert_eq!(reader.gateways(None, 10).unwrap().len(), 1);
    assert!(reader.gateway(&site.nodes[0]).unwrap().is_some());
    assert_eq!(reader.session(&nodes[0]).unwrap().unwrap().counters.epoch, 1);
    assert_eq!(reader.validators(Height(0)).unwrap(), site.validators());
}
