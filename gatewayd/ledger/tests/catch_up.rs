//! Gateways that were away: ranges of blocks, and snapshots.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod net;
mod site;

use std::path::Path;

use ledger::block::Block;
use ledger::codec::{Decode, Encode};
use ledger::consensus::message::{Message, PeerTip};
use ledger::ids::{Era, Height, NodeId};
use ledger::node::Input;
use ledger::store::{self, Reader, Store, StoreError};
use ledger::sync::SnapshotError;
use ledger::sync::client::ClientError;
use ledger::sync::wire::{Answer, Request};
use net::{Gateway, Net, fetch, liar};
use site::Site;

fn site() -> Site {
    Site::with_followers(1, 2)
}

#[test]
fn a_gateway_that_was_away_takes_many_blocks_at_once() {
    let site = site();
    let mut net = Net::new(&site);
    let (leader, late) = (site.nodes[0], site.nodes[1]);
    net.found(0);
    (1..=500).for_each(|nonce| net.submit(leader, site.act(nonce)));
    net.found(1);
    assert_eq!(net.tip(late), net.tip(leader));
    assert_eq!(net.tip(late).height, Height(500));
    let (at_leader, at_late) = (&net.gateways[0].directory, &net.gateways[1].directory);
    let readers = [at_leader, at_late].map(|dir| Reader::open(dir.path()).unwrap());
    for height in [1, 77, 499] {
        let [one, other] = readers.each_ref().map(|reader| reader.block(Height(height)).unwrap());
        assert_eq!(one, other);
        let header = other.unwrap().header;
        let certificate = readers[1].certificate(header.height).unwrap().unwrap();
        certificate.verify(&header, &site.validators()).unwrap();
    }
    // Each of the questions doubles: 500 blocks in few answers.
    assert!(net.of(late).sent < 600, "{} bytes asked", net.of(late).sent);
    net.submit(leader, site.act(501));
    assert_eq!(net.tip(late).height, Height(501));
    let now = net.now;
    assert_eq!(net.of(late).host.next_wake(now), None, "a follower sleeps");
}

/// A follower builds no block in which it would show that its transaction does not apply; and the
/// telling of one that does may have been lost, where a sole voter sends blocks and nothing else.
#[test]
fn a_follower_tells_again_what_applies_and_refuses_what_does_not() {
    let site = site();
    let mut net = Net::new(&site);
    let (leader, follower) = (site.nodes[0], site.nodes[1]);
    net.found(0);
    net.found(1);
    for nonce in [1, 2] {
        net.feed(follower, Input::Submit(Box::new(site.act(nonce))));
    }
    net.forget_messages();
    net.pass(2_000);
    // Another act with the first nonce was quicker.
    net.submit(
        leader,
        site.operator_draft(1, site.act(2).draft().body.clone()).sign(&site.operator),
    );
    assert_eq!(net.refused, [site.act(1).hash()]);
    net.pass(2_000);
    let tip = net.tip(leader);
    assert_eq!((tip.height, tip.tx_count), (Height(2), 1));
    assert_eq!(net.of(follower).host.node().waiting(), 0);
    net.pass(2_000);
    assert_eq!(net.tip(leader).height, Height(2), "nothing is left to make a block of");
}

#[test]
fn a_liar_is_left_out_and_the_next_one_asked() {
    let site = site();
    let mut net = Net::new(&site);
    let (leader, late) = (site.nodes[0], site.nodes[1]);
    net.found(0);
    (1..=50).for_each(|nonce| net.submit(leader, site.act(nonce)));
    let range = store::Store::open(net.gateways[0].directory.path()).unwrap();
    let range = range.range(Height(1), 50, 1 << 20).unwrap().unwrap();
    let gone = net.stop(leader);
    net.found(1);
    let far = PeerTip { height: Height(1_000), era: Era(0), first: Height(1) };
    net.feed(late, liar(&Message::Tip(far)));
    let progress = net.of(late).host.node().progress();
    assert_eq!((progress.behind, progress.from), (1_000, Some(NodeId([9; 20]))));
    let mut cut = range.blocks.clone();
    cut.remove(3);
    let mut flipped = range.certificate.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut highest = Block::from_bytes(&range.blocks[0]).unwrap();
    highest.header.height = Height(u64::MAX);
    let lies = [
        Message::Decided { blocks: Vec::new(), certificate: Vec::new() },
        Message::Decided {
            blocks: vec![highest.to_bytes()],
            certificate: range.certificate.clone(),
        },
        Message::Decided { blocks: cut, certificate: range.certificate.clone() },
        Message::Decided { blocks: range.blocks.clone(), certificate: flipped },
        Message::Decided { blocks: vec![vec![1]], certificate: vec![2] },
        // A certificate of another block of the list.
        Message::Decided { blocks: range.blocks[..9].to_vec(), certificate: range.certificate },
    ];
    for lie in &lies {
        net.feed(late, liar(&Message::Tip(far)));
        net.pass(60_000);
        net.feed(late, liar(lie));
        assert_eq!(net.tip(late).height, Height(0));
    }
    let Gateway { directory, host, .. } = gone;
    drop(host);
    net.start(0, directory);
    net.pass(60_000);
    assert_eq!(net.tip(late), net.tip(leader));
}

#[test]
fn a_fresh_gateway_begins_from_a_snapshot_and_serves_proofs_and_heads() {
    let site = site();
    let mut net = Net::new(&site);
    let (leader, fresh) = (site.nodes[0], site.nodes[1]);
    net.found(0);
    for nonce in 1..=77 {
        net.submit(leader, site.act(nonce));
    }
    let trusted = net.tip(leader);
    net.submit(leader, site.act(78));
    let (snapshot, failures) = fetch(&mut net, trusted, &[leader], |_, answer| Some(answer));
    assert_eq!(failures, []);
    let snapshot = snapshot.unwrap();
    assert_eq!(snapshot.header().height, Height(78));
    // Whatever is asked for, the server goes on.
    let (now, after) = (net.now, Height(u64::MAX));
    let beyond = Request::Steps { height: Height(78), after };
    let answer = net.of(leader).host.snapshot(now, &beyond).unwrap();
    assert!(matches!(answer, Answer::Steps { steps, more: false, .. } if steps.is_empty()));
    let directory = tempfile::tempdir().unwrap();
    drop(Store::found_from(directory.path(), &snapshot).unwrap());
    let again = Store::found_from(directory.path(), &snapshot);
    assert!(matches!(again, Err(StoreError::Exists)));
    (79..=90).for_each(|nonce| net.submit(leader, site.act(nonce)));
    net.start(1, directory);
    (91..=140).for_each(|nonce| net.submit(leader, site.act(nonce)));
    assert_eq!(net.tip(fresh), net.tip(leader));
    let path = net.of(fresh).directory.path().to_owned();
    check_history(&path, 78);
    // It serves a snapshot of its own, and blocks from where it began.
    let trusted = net.tip(leader);
    let (second, failures) = fetch(&mut net, trusted, &[fresh], |_, answer| Some(answer));
    assert_eq!(failures, []);
    let directory = tempfile::tempdir().unwrap();
    drop(Store::found_from(directory.path(), &second.unwrap()).unwrap());
    net.start(2, directory);
    assert_eq!(net.tip(site.nodes[2]), net.tip(leader));
    let reopened = Store::open(&path).unwrap();
    assert_eq!(reopened.first_block().unwrap(), Height(79));
}

/// Every header from `first` on has its path under the newest one.
fn check_history(directory: &Path, first: u64) {
    let reader = Reader::open(directory).unwrap();
    let tip = reader.tip().unwrap();
    for height in first..tip.height.0 {
        let header = reader.header(Height(height)).unwrap().unwrap();
        let path = reader.history_path(Height(height), tip.height).unwrap().unwrap();
        let leaf = ledger::chain::history_leaf(&header.hash());
        let root = ledger::merkle::root_from_path(&leaf, height, tip.height.0, &path);
        assert_eq!(root, Some(tip.history_root), "height {height}");
    }
    assert!(reader.block(Height(first)).unwrap().is_none());
    assert!(reader.block(Height(first + 1)).unwrap().is_some());
    assert!(reader.certificate(Height(first)).unwrap().is_some());
}

type Twist = fn(Answer) -> Option<Answer>;

#[test]
fn a_server_that_lies_is_named_and_the_next_one_is_asked() {
    let site = site();
    let mut net = Net::new(&site);
    let (leader, liar) = (site.nodes[0], site.nodes[1]);
    net.found(0);
    net.found(1);
    (1..=20).for_each(|nonce| net.submit(leader, site.act(nonce)));
    let lies: [(&str, Twist); 7] = [
        ("another state", |answer| match answer {
            Answer::Entries { height, after, mut entries, more } => {
                entries.pop();
                Some(Answer::Entries { height, after, entries, more })
            }
            other => Some(other),
        }),
        ("garbage", |answer| match answer {
            Answer::Entries { height, after, more, .. } => {
                let entries = vec![(vec![0x77], vec![1])];
                Some(Answer::Entries { height, after, entries, more })
            }
            other => Some(other),
        }),
        ("a part of another state", |answer| match answer {
            Answer::Entries { height, after, mut entries, .. } => {
                entries.truncate(1);
                let proof = ledger::state::map::SparseMap::new().prove(&[0; 32]);
                Some(Answer::Entries { height, after, entries, more: Some(proof) })
            }
            other => Some(other),
        }),
        ("no end", |answer| match answer {
            Answer::Steps { height, after, steps, .. } => {
                Some(Answer::Steps { height, after, steps, more: true })
            }
            other => Some(other),
        }),
        ("another header", |answer| match answer {
            Answer::Manifest(mut manifest) => {
                manifest.header.time_ms += 1;
                Some(Answer::Manifest(manifest))
            }
            other => Some(other),
        }),
        ("another history", |answer| match answer {
            Answer::Manifest(mut manifest) => {
                manifest.peaks.pop();
                Some(Answer::Manifest(manifest))
            }
            other => Some(other),
        }),
        ("silence", |_| None),
    ];
    for (name, lie) in lies {
        let trusted = site.founding().header;
        let twist = |server, answer| if server == liar { lie(answer) } else { Some(answer) };
        // Asked first, for it has the lower ID or not: both orders end well.
        let (snapshot, failures) = fetch(&mut net, trusted, &[liar, leader], twist);
        let height = snapshot.map(|snapshot| snapshot.header().height);
        assert_eq!(height, Some(Height(20)), "{name}");
        assert!(failures.iter().all(|(peer, _)| *peer == liar), "{name}");
        assert_eq!(failures.len(), 1, "{name}: {failures:?}");
    }
}

#[test]
fn a_stale_snapshot_is_not_taken() {
    let site = site();
    let mut net = Net::new(&site);
    let (leader, stale) = (site.nodes[0], site.nodes[1]);
    net.found(0);
    net.found(1);
    (1..=5).for_each(|nonce| net.submit(leader, site.act(nonce)));
    let gone = net.stop(stale);
    (6..=9).for_each(|nonce| net.submit(leader, site.act(nonce)));
    let trusted = net.tip(leader);
    net.gateways.push(gone);
    // It says itself that it has nothing so new; and one that claims otherwise is found out.
    let (none, failures) = fetch(&mut net, trusted.clone(), &[stale], |_, answer| Some(answer));
    assert!(none.is_none());
    assert_eq!(failures[0], (stale, ClientError::Nothing));
    let old = {
        let request = Request::Newest { at_least: Height(0) };
        let now = net.now;
        net.of(stale).host.snapshot(now, &request).unwrap()
    };
    let (none, failures) = fetch(&mut net, trusted, &[stale], |_, _| Some(old.clone()));
    assert!(none.is_none());
    let error = SnapshotError::Stale { found: Height(5), trusted: Height(9) };
    assert_eq!(failures[0], (stale, error.into()));
}

#[test]
fn a_voter_that_is_gone_soon_costs_no_time() {
    let site = Site::new(4);
    let mut net = Net::new(&site);
    (0..3).for_each(|index| net.found(index));
    let one = site.nodes[0];
    let mut waited = Vec::new();
    for nonce in 1..=60 {
        net.submit(one, site.act(nonce));
        while net.tip(one).height < Height(nonce) {
            waited.push(nonce);
            net.pass(100);
            assert!(waited.len() < 10_000, "no progress at {nonce}");
        }
    }
    assert!(!waited.is_empty(), "at first its turns are waited for");
    let last = *waited.last().unwrap();
    assert!((20..=26).contains(&last), "the last wait was at height {last}");
    // It comes back, signs once, and has its turn again.
    net.found(3);
    assert_eq!(net.tip(site.nodes[3]), net.tip(one));
    let mut proposers = std::collections::BTreeSet::new();
    for nonce in 61..=70 {
        net.submit(one, site.act(nonce));
        assert_eq!(net.tip(one).height, Height(nonce));
        proposers.insert(net.tip(one).proposer);
    }
    assert_eq!(proposers.len(), 4);
}
