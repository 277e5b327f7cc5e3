//! Blocks a second with one voter, bytes written for a block, the time from the files to a node
//! that answers, and how fast one that was away follows. `cargo bench -p ledger --bench ledger`,
//! with `-- BLOCKS` for another length of the chain (10,000).
//!
//! Prints one object a line: `{"figure","value","unit","how"}`.

#![allow(clippy::unwrap_used, reason = "a measurement stops at the first surprise")]
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

#[path = "../tests/site/mod.rs"]
mod site;

use std::path::Path;
use std::time::Instant;

use ledger::block::Block;
use ledger::certificate::{Certificate, Signers, VoteType, Votes, vote_digest};
use ledger::chain::{Tip, begin, history_leaf};
use ledger::header::Header;
use ledger::host::{Host, Outward};
use ledger::ids::NodeId;
use ledger::merkle::Frontier;
use ledger::node::{Decided, Input, Now};
use ledger::state::State;
use ledger::store::Store;
use ledger::transaction::Transaction;
use site::{START_MS, Site, light_node};

fn main() {
    let blocks = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(10_000);
    let site = Site::new(1);
    unthrottled(&site, 2_000);
    batches(&site, 100, 300);
    start(&site, blocks);
    catch_up(&Site::new(4), blocks);
}

fn print(figure: &str, value: f64, unit: &str, how: &str) {
    println!(r#"{{"figure":"{figure}","value":{value:.3},"unit":"{unit}","how":"{how}"}}"#);
}

/// A host that submits and says how many blocks came of it.
struct Load {
    host: Host,
    now: Now,
    blocks: u64,
}

impl Load {
    fn open(site: &Site, directory: &Path) -> Self {
        let vote_key = site.votes[0].clone();
        let host = Host::open(directory, site.nodes[0], Some(vote_key)).unwrap();
        let now = Now { mono_ms: 0, wall_ms: START_MS, synchronised: true };
        let mut load = Self { host, now, blocks: 0 };
        load.step(Input::Start, 0);
        load
    }

    fn step(&mut self, input: Input, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        let blocks = &mut self.blocks;
        let mut count = |out| match out {
            Outward::Committed(_) => *blocks += 1,
            Outward::Refused { error, .. } => panic!("{error}"),
            _ => {}
        };
        self.host.step(self.now, input, &mut count).unwrap();
    }

    fn submit(&mut self, transaction: Transaction) {
        self.step(Input::Submit(Box::new(transaction)), 1);
    }
}

fn unthrottled(site: &Site, blocks: u64) {
    let directory = tempfile::tempdir().unwrap();
    Store::found(directory.path(), &site.founding()).unwrap();
    let mut load = Load::open(site, directory.path());
    let acts: Vec<_> = (1..=blocks).map(|nonce| site.act(nonce)).collect();
    let (begun, before) = (Instant::now(), written());
    acts.into_iter().for_each(|act| load.submit(act));
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(load.blocks, blocks);
    let how = "one voter, one act a block, disk syncs on";
    print("ledger_blocks_per_s_n1", blocks as f64 / seconds, "1/s", how);
    print("ledger_written_per_block", (written() - before) / blocks as f64, "B", how);
}

/// One batch of one reading of each light node in a block of its own, as at low rates.
fn batches(site: &Site, nodes: u64, blocks: u64) {
    let directory = tempfile::tempdir().unwrap();
    Store::found(directory.path(), &site.founding()).unwrap();
    let mut load = Load::open(site, directory.path());
    let nodes: Vec<NodeId> = (0..nodes).map(light_node).collect();
    let mut nonce = 1;
    for node in &nodes {
        for transaction in site.pair(0, nonce, *node) {
            load.submit(transaction);
            nonce += 1;
        }
    }
    let made: Vec<_> = (1..=blocks)
        .map(|sequence| site.batch(0, nonce + sequence, sequence, &nodes, sequence))
        .collect();
    let (begun, before) = (Instant::now(), written());
    for batch in made {
        load.submit(batch);
        load.step(Input::Wake, 500);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let how = format!("one voter, a batch of {} light nodes a block, disk syncs on", nodes.len());
    print("ledger_batch_blocks_per_s", blocks as f64 / seconds, "1/s", &how);
    print("ledger_written_per_batch_block", (written() - before) / blocks as f64, "B", &how);
}

fn start(site: &Site, blocks: u64) {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::found(directory.path(), &site.founding()).unwrap();
    grow(site, &mut store, blocks);
    drop(store);
    let begun = Instant::now();
    let load = Load::open(site, directory.path());
    let milliseconds = begun.elapsed().as_secs_f64() * 1_000.0;
    assert_eq!(load.host.node().tip().height.0, blocks);
    let how = format!("open store and log, rebuild the state, {blocks} blocks");
    print("ledger_start_ms", milliseconds, "ms", &how);
    let bytes = std::fs::metadata(directory.path().join("ledger.db")).unwrap().len();
    print("ledger_bytes_per_empty_block", bytes as f64 / blocks as f64, "B", &how);
}

/// Heartbeat blocks, stored in groups. Their certificates hold no signatures: a start verifies
/// none, and a million would take an hour to make.
fn grow(site: &Site, store: &mut Store, blocks: u64) {
    let state = State::from_genesis(&site.genesis);
    let mut tip = Tip::genesis(&site.genesis);
    let mut last_commit: Option<Certificate> = None;
    let mut group: Vec<Decided> = Vec::new();
    for height in 1..=blocks {
        let time_ms = tip.header.time_ms + 60_000;
        let outcome = state.begin(tip.next_context(time_ms)).finish();
        let commit = last_commit.as_ref();
        let header = tip.next_header(&state, &outcome, &[], commit, time_ms, site.nodes[0]);
        let votes = Votes { round: 0, bitmap: vec![0], signatures: Vec::new() };
        let signers = Signers::Votes(votes);
        let certificate = Certificate { height: header.height, block_hash: header.hash(), signers };
        tip = tip.advance(header.clone());
        let last_commit = last_commit.replace(certificate.clone());
        let block = Block { header, transactions: Vec::new(), last_commit };
        let (changes, events) = (outcome.changes, outcome.events);
        group.push(Decided { block, certificate, changes, events, next_validators: None });
        if group.len() == 1_000 || height == blocks {
            store.commit_all(&group).unwrap();
            group.clear();
        }
    }
}

/// A gateway without blocks follows one that has them: four voters, one act a block.
fn catch_up(site: &Site, blocks: u64) {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut store = Store::found(directories[0].path(), &site.founding()).unwrap();
    grow_by_four(site, &mut store, blocks);
    drop(store);
    drop(Store::found(directories[1].path(), &site.founding()).unwrap());
    let now = Now { mono_ms: 0, wall_ms: START_MS, synchronised: true };
    let mut hosts = [0, 1].map(|index: usize| {
        let key = Some(site.votes[index].clone());
        Host::open(directories[index].path(), site.nodes[index], key).unwrap()
    });
    let mut queue = std::collections::VecDeque::new();
    for (index, host) in hosts.iter_mut().enumerate() {
        queue.push_back((index, Input::Start));
        queue.push_back((index, Input::PeerUp(site.nodes[1 - index])));
        assert_eq!(host.node().tip().height.0, if index == 0 { blocks } else { 0 });
    }
    let begun = Instant::now();
    while hosts[1].node().tip().height.0 < blocks {
        let (index, input) = queue.pop_front().unwrap();
        let mut send = |out| {
            if let Outward::Send { bytes, .. } = out {
                let from = site.nodes[index];
                queue.push_back((1 - index, Input::Message { from, bytes }));
            }
        };
        hosts[index].step(now, input, &mut send).unwrap();
    }
    let seconds = begun.elapsed().as_secs_f64();
    let how = "both ends in one thread, four voters, one act a block, disk syncs on";
    print("catch_up_blocks_per_s", blocks as f64 / seconds, "1/s", how);
}

/// Blocks of one act each, certified by three of four.
fn grow_by_four(site: &Site, store: &mut Store, blocks: u64) {
    let mut loaded = store.load().unwrap();
    let mut state =
        State::from_entries(std::mem::take(&mut loaded.entries), &loaded.tip.state_root).unwrap();
    let set = site.validators();
    let mut tip = Tip { hash: loaded.tip.hash(), history: Frontier::new(), header: loaded.tip };
    tip.history.push(history_leaf(&tip.hash));
    let mut last_commit: Option<Certificate> = None;
    let mut group: Vec<Decided> = Vec::new();
    for height in 1..=blocks {
        let time_ms = tip.header.time_ms + 500;
        let transaction = site.act(height);
        let commit = last_commit.as_ref();
        let mut execution = begin(&state, &tip, &set, commit, time_ms);
        execution.apply(&state.verify(transaction.clone()).unwrap()).unwrap();
        let mut outcome = execution.finish();
        let list = [transaction];
        let header = tip.next_header(&state, &outcome, &list, commit, time_ms, site.nodes[0]);
        let certificate = certify(site, &header);
        let last_commit = last_commit.replace(certificate.clone());
        let block = Block { header, transactions: list.into(), last_commit };
        let (changes, events) =
            (std::mem::take(&mut outcome.changes), std::mem::take(&mut outcome.events));
        state.commit(outcome);
        tip = tip.advance(block.header.clone());
        group.push(Decided { block, certificate, changes, events, next_validators: None });
        if group.len() == 1_000 || height == blocks {
            store.commit_all(&group).unwrap();
            group.clear();
        }
    }
}

fn certify(site: &Site, header: &Header) -> Certificate {
    let (hash, set) = (header.hash(), site.validators());
    let (chain, era, height) = (&header.chain_id, header.era, header.height);
    let digest = vote_digest(chain, era, VoteType::Precommit, height, 0, Some(&hash));
    let votes = site.nodes.iter().zip(&site.votes).take(3);
    let votes = votes.map(|(node, key)| (set.position(node).unwrap(), key.sign_digest(&digest)));
    let votes = Votes::collect(0, set.count(), votes.collect::<Vec<_>>());
    Certificate { height, block_hash: hash, signers: Signers::Votes(votes) }
}

/// Bytes that this process has sent towards the disk so far.
fn written() -> f64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let bytes = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap();
    bytes.parse().unwrap()
}
