//! Gateways with their folders, which hear each other at once, and what a client fetches of them.

#![allow(dead_code, reason = "each test binary uses another part")]

use std::collections::VecDeque;

use ledger::codec::{Decode, Encode};
use ledger::consensus::message::Message;
use ledger::header::Header;
use ledger::host::{Host, Outward};
use ledger::ids::{Hash, NodeId};
use ledger::node::{Behind, Input, Now};
use ledger::store::Store;
use ledger::sync::VerifiedSnapshot;
use ledger::sync::client::{self, Client, ClientError};
use ledger::sync::wire::Answer;
use ledger::transaction::{Survivor, Transaction};
use tempfile::TempDir;

use crate::site::{self, START_MS, Site};

/// A gateway with its folder.
pub(crate) struct Gateway {
    pub(crate) directory: TempDir,
    pub(crate) id: NodeId,
    pub(crate) host: Host,
    pub(crate) sent: usize,
}

/// Gateways that hear each other at once, as far as they are connected.
pub(crate) struct Net<'a> {
    pub(crate) site: &'a Site,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) now: Now,
    queue: VecDeque<(NodeId, NodeId, Vec<u8>)>,
    pub(crate) behind: Vec<Behind>,
    pub(crate) refused: Vec<Hash>,
}

impl<'a> Net<'a> {
    pub(crate) fn new(site: &'a Site) -> Self {
        let now = Now { mono_ms: 1_000, wall_ms: START_MS + 1_000, synchronised: true };
        let (gateways, queue) = (Vec::new(), VecDeque::new());
        Self { site, gateways, now, queue, behind: Vec::new(), refused: Vec::new() }
    }

    /// Founds the ledger of the gateway `index` and starts it.
    pub(crate) fn found(&mut self, index: usize) {
        let directory = tempfile::tempdir().unwrap();
        Store::found(directory.path(), &self.site.founding()).unwrap();
        self.start(index, directory);
    }

    pub(crate) fn start(&mut self, index: usize, directory: TempDir) {
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

    pub(crate) fn stop(&mut self, id: NodeId) -> Gateway {
        let at = self.gateways.iter().position(|gateway| gateway.id == id).unwrap();
        let gone = self.gateways.remove(at);
        let left: Vec<_> = self.gateways.iter().map(|gateway| gateway.id).collect();
        left.into_iter().for_each(|other| self.feed(other, Input::PeerDown(id)));
        gone
    }

    pub(crate) fn of(&mut self, id: NodeId) -> &mut Gateway {
        self.gateways.iter_mut().find(|gateway| gateway.id == id).unwrap()
    }

    pub(crate) fn feed(&mut self, id: NodeId, input: Input) {
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
                Outward::Refused { tx_hash, .. } => self.refused.push(tx_hash),
                _ => {}
            }
        }
    }

    /// What is on its way is lost.
    pub(crate) fn forget_messages(&mut self) {
        self.queue.clear();
    }

    pub(crate) fn settle(&mut self) {
        while let Some((from, to, bytes)) = self.queue.pop_front() {
            if self.gateways.iter().any(|gateway| gateway.id == to) {
                self.feed(to, Input::Message { from, bytes });
            }
        }
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        let all: Vec<_> = self.gateways.iter().map(|gateway| gateway.id).collect();
        all.into_iter().for_each(|id| self.feed(id, Input::Wake));
        self.settle();
    }

    pub(crate) fn submit(&mut self, id: NodeId, transaction: Transaction) {
        self.now.mono_ms += 1;
        self.now.wall_ms += 1;
        self.feed(id, Input::Submit(Box::new(transaction)));
        self.settle();
    }

    pub(crate) fn tip(&mut self, id: NodeId) -> Header {
        self.of(id).host.node().tip().clone()
    }
}

pub(crate) fn liar(message: &Message) -> Input {
    Input::Message { from: NodeId([9; 20]), bytes: message.to_bytes() }
}

/// Lets a client fetch a snapshot from gateways of the net, each through its own `twist`.
pub(crate) fn fetch(
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

/// A recovery on top of the tip of the gateway `at`, which gives it the only vote.
pub(crate) fn recovery(net: &mut Net<'_>, at: usize, nonce: u64) -> Transaction {
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
