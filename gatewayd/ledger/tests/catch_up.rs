//! Gateways that were away: ranges of blocks, snapshots, a recovery that leaves out blocks.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod site;

use std::collections::VecDeque;
use std::path::Path;

use ledger::block::Block;
use ledger::codec::{Decode, Encode};
use ledger::consensus::message::{Message, PeerTip};
use ledger::header::Header;
use ledger::host::{Host, Outward};
use ledger::ids::{Era, Height, NodeId};
use ledger::node::{Behind, Input, Now};
use ledger::store::{self, Reader, Store, StoreError};
use ledger::sync::client::{self, Client, ClientError};
use ledger::sync::wire::{Answer, Request};
use ledger::sync::{SnapshotError, VerifiedSnapshot};
use ledger::transaction::{Survivor, Transaction};
use site::{START_MS, Site};
use tempfile::TempDir;

/// A gateway with its folder.
struct Gateway {
    directory: TempDir,
    id: NodeId,
    host: Host,
    sent: usize,
}

/// Gateways that hear each other at once, as far as they are connected.
struct Net<'a> {
    site: &'a Site,
    gateways: Vec<Gateway>,
    now: Now,
    queue: VecDeque<(NodeId, NodeId, Vec<u8>)>,
    behind: Vec<Behind>,
}

impl<'a> Net<'a> {
    fn new(site: &'a Site) -> Self {
        let now = Now { mono_ms: 1_000, wall_ms: START_MS + 1_000, synchronised: true };
        Self { site, gateways: Vec::new(), now, queue: VecDeque::new(), behind: Vec::new() }
    }

    /// Founds the ledger of the gateway `index` and starts it.
    fn found(&mut self, index: usize) {
        let directory = tempfile::tempdir().unwrap();
        Store::found(directory.path(), &self.site.founding()).unwrap();
        self.start(index, directory);
    }

    fn start(&mut self, index: usize, directory: TempDir) {
        let (id, vote) = (self.site.nodes[index], self.site.votes[index].clone());
        let host = Host::open(directory.path(), id, Some(vote)).unwrap();
        self.gateways.push(Gateway { directory, id, host, sent: 0 });
        self.feed(id, Input::Start);
        let others: Vec<_> = self.gateways.iter().map(|g| g.id).filter(|g| *g != id).collect();
        for other in others {
            self.feed(id, Input::PeerUp(other));
            self.feed(other, Input::PeerUp(id));
        }
        self.settle();
    }

    fn stop(&mut self, id: NodeId) -> Gateway {
        let at = self.gateways.iter().position(|gateway| gateway.id == id).unwrap();
        let gone = self.gateways.remove(at);
        let left: Vec<_> = self.gateways.iter().map(|gateway| gateway.id).collect();
        left.into_iter().for_each(|other| self.feed(other, Input::PeerDown(id)));
        gone
    }

    fn of(&mut self, id: NodeId) -> &mut Gateway {
        self.gateways.iter_mut().find(|gateway| gateway.id == id).unwrap()
    }

    fn feed(&mut self, id: NodeId, input: Input) {
        let now = self.now;
        let mut out = Vec::new();
        self.of(id).host.step(now, input, &mut |each| out.push(each)).unwrap();
        for each in out {
            match each {
                Outward::Publish(bytes) => {
                    let others = self.gateways.iter().map(|gateway| gateway.id);
                    let others: Vec<_> = others.filter(|other| *other != id).collect();
                    for to in others {
                        self.queue.push_back((id, to, bytes.clone()));
                    }
                }
                Outward::Send { to, bytes } => {
                    self.of(id).sent += bytes.len();
                    self.queue.push_back((id, to, bytes));
                }
                Outward::Behind(behind) => self.behind.push(*behind),
                _ => {}
            }
        }
    }

    fn settle(&mut self) {
        while let Some((from, to, bytes)) = self.queue.pop_front() {
            if self.gateways.iter().any(|gateway| gateway.id == to) {
                self.feed(to, Input::Message { from, bytes });
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        let all: Vec<_> = self.gateways.iter().map(|gateway| gateway.id).collect();
        all.into_iter().for_each(|id| self.feed(id, Input::Wake));
        self.settle();
    }

    fn submit(&mut self, id: NodeId, transaction: Transaction) {
        self.now.mono_ms += 1;
        self.now.wall_ms += 1;
        self.feed(id, Input::Submit(Box::new(transaction)));
        self.settle();
    }

    fn tip(&mut self, id: NodeId) -> Header {
        self.of(id).host.node().tip().clone()
    }
}

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

fn liar(message: &Message) -> Input {
    Input::Message { from: NodeId([9; 20]), bytes: message.to_bytes() }
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

/// Lets a client fetch a snapshot from gateways of the net, each through its own `twist`.
fn fetch(
    net: &mut Net<'_>,
    trusted: Header,
    servers: &[NodeId],
    twist: impl Fn(NodeId, Answer) -> Option<Answer>,
) -> (Option<VerifiedSnapshot>, Vec<(NodeId, ClientError)>) {
    let mut client = Client::new(trusted);
    let (mut failures, mut found) = (Vec::new(), None);
    let mut effects = VecDeque::new();
    for server in servers {
        effects.extend(client.step(net.now.mono_ms, client::Input::PeerUp(*server)));
    }
    while found.is_none() && failures.len() < 20 {
        let Some(effect) = effects.pop_front() else {
            let wake = client.next_wake().unwrap();
            net.now.mono_ms = net.now.mono_ms.max(wake);
            effects.extend(client.step(net.now.mono_ms, client::Input::Wake));
            continue;
        };
        match effect {
            client::Effect::Request { to, bytes } => {
                let Ok(Message::SnapshotRequest(request)) = Message::from_bytes(&bytes) else {
                    panic!("another message")
                };
                let now = net.now;
                let answer = net.of(to).host.snapshot(now, &request).unwrap();
                if let Some(answer) = twist(to, answer) {
                    let bytes = Message::Snapshot(answer).to_bytes();
                    let input = client::Input::Answer { from: to, bytes };
                    effects.extend(client.step(now.mono_ms, input));
                }
            }
            client::Effect::Failed { peer, error } => failures.push((peer, error)),
            client::Effect::Done(snapshot) => found = Some(*snapshot),
        }
    }
    (found, failures)
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
    let lies: [(&str, Twist); 6] = [
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

/// A recovery on top of the tip of the gateway `at`, which gives it the only vote.
fn recovery(net: &mut Net<'_>, at: usize, nonce: u64) -> Transaction {
    let site = net.site;
    let proof = site::prove_vote_key(
        &site.chain_id().0,
        &site.identities[at],
        &site::key(b"vote after recovery", at),
    );
    let survivors = vec![Survivor { node: site.nodes[at], new_vote_key: Some(proof) }];
    let node = net.of(site.nodes[at]).host.node();
    node.prepare_recovery(survivors, nonce, u64::MAX).unwrap().sign(&site.operator)
}

#[test]
fn a_member_ahead_of_a_recovery_begins_anew_and_keeps_what_it_had() {
    let site = site();
    let mut net = Net::new(&site);
    let (old, survivor) = (site.nodes[0], site.nodes[1]);
    net.found(0);
    net.found(1);
    (1..=5).for_each(|nonce| net.submit(old, site.act(nonce)));
    let gone = net.stop(old);
    // The old voter goes on alone, unseen; the operator recovers without it.
    let mut alone = Net::new(&site);
    alone.gateways.push(gone);
    alone.now = net.now;
    alone.submit(old, site.act(6));
    let own = site.refusal(0, 1);
    alone.submit(old, own.clone());
    alone.pass(1_000);
    assert_eq!(alone.tip(old).height, Height(7));
    let act = recovery(&mut net, 1, 90);
    net.submit(survivor, act);
    assert_eq!((net.tip(survivor).height, net.tip(survivor).era), (Height(6), Era(1)));
    let key = site::key(b"vote after recovery", 1);
    net.of(survivor).host.set_vote_key(Some(key));
    net.submit(survivor, site.act(91));
    assert_eq!(net.tip(survivor).height, Height(7));
    // They meet again.
    let Gateway { directory, host, .. } = alone.gateways.remove(0);
    drop(host);
    net.start(0, directory);
    let expected = net.behind.pop().unwrap();
    let Behind::Recovered { trusted, parent } = expected else { panic!("{expected:?}") };
    assert_eq!((trusted.height, trusted.era, parent), (Height(6), Era(1), Height(5)));
    let (snapshot, _) = fetch(&mut net, trusted, &[survivor], |_, answer| Some(answer));
    let Gateway { directory, host, .. } = net.stop(old);
    drop(host);
    let aside = store::set_aside(directory.path()).unwrap();
    assert_eq!(aside.tip.height, Height(7));
    drop(Store::found_from(directory.path(), &snapshot.unwrap()).unwrap());
    let resubmitted = store::own_transactions(&aside.directory, &old, parent, 100).unwrap();
    assert_eq!(resubmitted, [own]);
    net.start(0, directory);
    assert_eq!(net.tip(old), net.tip(survivor));
    resubmitted.into_iter().for_each(|transaction| net.submit(old, transaction));
    net.pass(1_000);
    let tip = net.tip(survivor);
    assert_eq!((tip.tx_count, tip.height), (1, Height(8)));
    assert_eq!(net.tip(old), tip);
}

#[test]
fn a_member_that_has_the_parent_of_a_recovery_follows_it() {
    let site = site();
    let mut net = Net::new(&site);
    let (voter, behind) = (site.nodes[1], site.nodes[2]);
    net.found(0);
    net.found(1);
    net.found(2);
    (1..=3).for_each(|nonce| net.submit(site.nodes[0], site.act(nonce)));
    let late = net.stop(behind);
    (4..=6).for_each(|nonce| net.submit(site.nodes[0], site.act(nonce)));
    drop(net.stop(site.nodes[0]));
    let act = recovery(&mut net, 1, 90);
    net.submit(voter, act);
    net.of(voter).host.set_vote_key(Some(site::key(b"vote after recovery", 1)));
    (91..=95).for_each(|nonce| net.submit(voter, site.act(nonce)));
    let Gateway { directory, host, .. } = late;
    drop(host);
    net.start(2, directory);
    assert_eq!(net.tip(behind), net.tip(voter));
    assert_eq!((net.tip(behind).height, net.tip(behind).era), (Height(12), Era(1)));
    assert!(net.behind.is_empty());
}

#[test]
fn what_was_set_aside_is_never_older_than_what_follows_in_one_era() {
    let site = site();
    let mut net = Net::new(&site);
    let leader = site.nodes[0];
    net.found(0);
    (1..=5).for_each(|nonce| net.submit(leader, site.act(nonce)));
    let trusted = site.founding().header;
    let (snapshot, _) = fetch(&mut net, trusted, &[leader], |_, answer| Some(answer));
    let snapshot = snapshot.unwrap();
    let Gateway { directory, host, .. } = net.stop(leader);
    drop(host);
    let aside = store::set_aside(directory.path()).unwrap();
    assert!(matches!(Store::open(directory.path()), Err(StoreError::Missing)));
    assert_eq!(store::newest_aside(directory.path()).unwrap(), Some(aside));
    // This gateway may have voted above the snapshot, and its log is gone.
    let refused = Store::found_from(directory.path(), &snapshot);
    assert!(matches!(refused, Err(StoreError::Older { .. })));
}

#[test]
fn members_that_all_began_above_the_next_block_are_reported() {
    let site = site();
    let mut net = Net::new(&site);
    net.found(1);
    let node = site.nodes[1];
    let tip = PeerTip { height: Height(90), era: Era(0), first: Height(80) };
    net.feed(node, Input::Message { from: site.nodes[0], bytes: Message::Tip(tip).to_bytes() });
    let trusted = site.founding().header;
    assert_eq!(net.behind, [Behind::NoBlocks { trusted }]);
    net.pass(1_000);
    assert_eq!(net.behind.len(), 1, "once");
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
