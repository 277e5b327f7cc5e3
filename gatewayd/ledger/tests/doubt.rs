//! A disk that may be an older copy of itself: what its voter signs before and after it has heard
//! what the others know.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod site;

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;

use ledger::codec::{Decode, Encode};
use ledger::consensus::message::{Message, PeerTip, Vote};
use ledger::host::{Host, Outward};
use ledger::ids::{Era, Hash, Height, NodeId};
use ledger::node::{Input, Now};
use ledger::store::Store;
use site::{START_MS, Site};
use tempfile::TempDir;

/// Voters that hear each other at once.
struct Net<'a> {
    site: &'a Site,
    directories: Vec<TempDir>,
    hosts: Vec<Option<Host>>,
    now: Now,
    queue: VecDeque<(usize, usize, Vec<u8>)>,
    /// Who hears whom.
    links: BTreeSet<(usize, usize)>,
    /// All votes that left, in order.
    votes: Vec<Vote>,
}

impl<'a> Net<'a> {
    fn new(site: &'a Site) -> Self {
        let folder = |_| {
            let directory = tempfile::tempdir().unwrap();
            drop(Store::found(directory.path(), &site.founding()).unwrap());
            directory
        };
        let now = Now { mono_ms: 1_000, wall_ms: START_MS + 1_000, synchronised: true };
        let (queue, links, votes) = (VecDeque::new(), BTreeSet::new(), Vec::new());
        let directories: Vec<_> = (0..site.voters).map(folder).collect();
        let hosts = directories.iter().map(|_| None).collect();
        Self { site, directories, hosts, now, queue, links, votes }
    }

    fn start(&mut self, gateway: usize, in_doubt: bool) {
        let key = Some(self.site.votes[gateway].clone());
        let path = self.directories[gateway].path();
        let mut host = Host::open(path, self.site.nodes[gateway], key).unwrap();
        if in_doubt {
            host.doubt_log();
        }
        self.hosts[gateway] = Some(host);
        self.links.retain(|(one, other)| *one != gateway && *other != gateway);
        self.feed(gateway, Input::Start);
    }

    /// These two can reach each other from now on.
    fn connect(&mut self, one: usize, other: usize) {
        self.links.extend([(one, other), (other, one)]);
        self.feed(one, Input::PeerUp(self.site.nodes[other]));
        self.feed(other, Input::PeerUp(self.site.nodes[one]));
        self.settle();
    }

    fn feed(&mut self, gateway: usize, input: Input) {
        let (now, nodes) = (self.now, &self.site.nodes);
        let Some(host) = &mut self.hosts[gateway] else { return };
        let (queue, votes) = (&mut self.queue, &mut self.votes);
        let mut out = |each: Outward| match each {
            Outward::Publish(bytes) => {
                if let Ok(Message::Vote(vote)) = Message::from_bytes(&bytes) {
                    votes.push(vote);
                }
                let others = (0..nodes.len()).filter(|to| *to != gateway);
                others.for_each(|to| queue.push_back((gateway, to, bytes.clone())));
            }
            Outward::Send { to, bytes } => {
                let to = nodes.iter().position(|node| *node == to).unwrap();
                queue.push_back((gateway, to, bytes));
            }
            _ => {}
        };
        host.step(now, input, &mut out).unwrap();
    }

    fn settle(&mut self) {
        while let Some((from, to, bytes)) = self.queue.pop_front() {
            if self.links.contains(&(from, to)) {
                self.feed(to, Input::Message { from: self.site.nodes[from], bytes });
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        (0..self.hosts.len()).for_each(|gateway| self.feed(gateway, Input::Wake));
        self.settle();
    }

    fn submit(&mut self, gateway: usize, nonce: u64) {
        let act = self.site.act(nonce);
        self.feed(gateway, Input::Submit(Box::new(act)));
        self.settle();
    }

    fn host(&self, gateway: usize) -> &Host {
        self.hosts[gateway].as_ref().unwrap()
    }

    fn height(&self, gateway: usize) -> Height {
        self.host(gateway).node().tip().height
    }

    fn said(&self, gateway: usize) -> Vec<Vote> {
        let node = self.site.nodes[gateway];
        self.votes.iter().filter(|vote| vote.voter == node).copied().collect()
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Nobody says two things at one place.
fn check(votes: &[Vote]) {
    for (index, one) in votes.iter().enumerate() {
        assert!(!votes[index..].iter().any(|other| one.contradicts(other)), "{votes:?}");
    }
}

#[test]
fn a_voter_whose_disk_was_put_back_in_mid_run_signs_nothing_where_it_has_signed() {
    let site = Site::new(4);
    let mut net = Net::new(&site);
    (0..4).for_each(|gateway| net.start(gateway, false));
    (0..4).for_each(|one| (one + 1..4).for_each(|other| net.connect(one, other)));
    (1..=3).for_each(|nonce| net.submit(0, nonce));
    assert_eq!(net.height(3), Height(3));
    // A copy of the running disk; votes on block 4 leave afterwards, and then the power is cut.
    let image = tempfile::tempdir().unwrap();
    copy(net.directories[3].path(), image.path());
    net.hosts[2] = None;
    let before = net.said(3).len();
    // With gateway 2 away one more block is decided.
    net.submit(0, 4);
    (0..60).for_each(|_| net.pass(100));
    assert!(net.said(3).len() > before);
    let height = net.height(0);
    assert!(height >= Height(4));
    net.hosts[3] = None;
    net.directories[3] = image;
    net.start(3, true);
    assert!(net.host(3).node().is_in_doubt());
    assert_eq!(net.height(3), Height(3));
    // It does not begin by itself, whatever waits.
    let silent = net.said(3).len();
    net.submit(3, 90);
    (0..30).for_each(|_| net.pass(100));
    assert_eq!(net.said(3).len(), silent);
    net.connect(3, 0);
    assert!(net.host(3).node().is_in_doubt(), "one is no quorum");
    net.connect(3, 1);
    assert!(!net.host(3).node().is_in_doubt());
    net.submit(0, 5);
    net.submit(1, 6);
    (0..60).for_each(|_| net.pass(100));
    assert!(net.height(3) > height, "it follows and votes again: a quorum needs it");
    check(&net.said(3));
}

#[test]
fn all_voters_in_doubt_at_once_go_on() {
    let site = Site::new(4);
    let mut net = Net::new(&site);
    (0..4).for_each(|gateway| net.start(gateway, false));
    (0..4).for_each(|one| (one + 1..4).for_each(|other| net.connect(one, other)));
    net.submit(0, 1);
    // The lights go out in the middle of a height.
    net.submit(1, 2);
    let act = site.act(3);
    net.feed(2, Input::Submit(Box::new(act)));
    for _ in 0..9 {
        if let Some((from, to, bytes)) = net.queue.pop_front() {
            net.feed(to, Input::Message { from: site.nodes[from], bytes });
        }
    }
    net.queue.clear();
    net.hosts.iter_mut().for_each(|host| *host = None);
    (0..4).for_each(|gateway| net.start(gateway, true));
    let height = net.height(0);
    (0..3).for_each(|one| (one + 1..3).for_each(|other| net.connect(one, other)));
    assert!((0..3).all(|gateway| !net.host(gateway).node().is_in_doubt()), "three are a quorum");
    assert!((0..3).all(|gateway| net.host(gateway).node().silent_through().is_none()));
    net.submit(0, 4);
    (0..80).for_each(|_| net.pass(100));
    assert!(net.height(0) > height);
    check(&net.votes);
}

/// A voter alone with what others tell it.
fn told(site: &Site, known: &[(usize, PeerTip, Vec<Vote>)]) -> Option<Height> {
    let directory = tempfile::tempdir().unwrap();
    drop(Store::found(directory.path(), &site.founding()).unwrap());
    let open = |in_doubt: bool| {
        let key = Some(site.votes[3].clone());
        let mut host = Host::open(directory.path(), site.nodes[3], key).unwrap();
        if in_doubt {
            host.doubt_log();
        }
        let now = Now { mono_ms: 1, wall_ms: START_MS, synchronised: true };
        host.step(now, Input::Start, &mut |_| {}).unwrap();
        (host, now)
    };
    let (mut host, now) = open(true);
    for (from, tip, votes) in known {
        let from: NodeId = site.nodes[*from];
        host.step(now, Input::PeerUp(from), &mut |_| {}).unwrap();
        let message = Message::KnownVotes { tip: *tip, votes: votes.clone() };
        let input = Input::Message { from, bytes: message.to_bytes() };
        host.step(now, input, &mut |_| {}).unwrap();
    }
    assert!(!host.node().is_in_doubt());
    let silent = host.node().silent_through();
    drop(host);
    assert_eq!(open(false).0.node().silent_through(), silent, "over another start");
    silent
}

#[test]
fn its_own_signature_silences_a_voter_and_nobody_elses() {
    let site = Site::new(4);
    let tip = |height| PeerTip { height: Height(height), era: Era(0), first: Height(1) };
    let mut vote = Vote {
        kind: ledger::certificate::VoteType::Prevote,
        height: Height(7),
        round: 0,
        block: Some(Hash([1; 32])),
        voter: site.nodes[3],
        signature: ledger::crypto::Signature::from_bytes([1; 64]),
    };
    let forged = vec![vote; 2];
    let liar = |votes| (0, tip(u64::MAX), votes);
    assert_eq!(told(&site, &[liar(forged), (1, tip(0), vec![])]), None);
    // What is said to be decided counts as far as an honest voter must have said it.
    assert_eq!(told(&site, &[liar(vec![]), (1, tip(5), vec![])]), Some(Height(5)));
    vote.signature = site.votes[3].sign_digest(&vote.digest(&site.chain_id(), Era(0)));
    assert_eq!(told(&site, &[(0, tip(0), vec![vote]), (1, tip(0), vec![])]), Some(Height(7)));
}
