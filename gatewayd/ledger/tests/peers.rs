//! What a node says when a member can be reached, and what it makes of a member that is ahead.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod site;

use ledger::codec::{Decode, Encode};
use ledger::consensus::message::{Message, PeerTip};
use ledger::consensus::wal::Recovery;
use ledger::ids::{Era, Height, NodeId};
use ledger::node::{Effect, Input, Node, Now, Progress, Setup};
use ledger::store::Store;
use site::{START_MS, Site};

fn node(site: &Site, index: usize) -> Node {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::found(directory.path(), &site.founding()).unwrap();
    let setup = Setup {
        node: site.nodes[index],
        vote_key: Some(site.votes[index].clone()),
        loaded: store.load().unwrap(),
        records: Vec::new(),
        recovery: Recovery::Empty,
    };
    let mut node = Node::new(setup).unwrap();
    node.step(at(0), Input::Start);
    node
}

fn at(mono_ms: u64) -> Now {
    Now { mono_ms, wall_ms: START_MS + mono_ms, synchronised: true }
}

fn sent(effects: &[Effect]) -> Vec<(NodeId, Message)> {
    let message = |effect: &Effect| match effect {
        Effect::Send { to, bytes } => Some((*to, Message::from_bytes(bytes).unwrap())),
        _ => None,
    };
    effects.iter().filter_map(message).collect()
}

fn tip(height: u64) -> PeerTip {
    PeerTip { height: Height(height), era: Era(0), first: Height(1) }
}

#[test]
fn a_member_that_comes_is_told_the_tip() {
    let site = Site::new(4);
    let mut node = node(&site, 0);
    let peer = site.nodes[1];
    let effects = node.step(at(1), Input::PeerUp(peer));
    assert_eq!(sent(&effects), [(peer, Message::Tip(tip(0)))]);
}

#[test]
fn blocks_are_asked_of_a_member_that_is_ahead_until_it_goes() {
    let site = Site::new(4);
    let mut node = node(&site, 0);
    let peer = site.nodes[1];
    let idle = node.next_wake();
    node.step(at(1), Input::PeerUp(peer));
    let bytes = Message::Tip(tip(7)).to_bytes();
    let effects = node.step(at(2), Input::Message { from: peer, bytes });
    assert!(matches!(sent(&effects)[..], [(to, Message::Fetch { .. })] if to == peer));
    let expected = Progress { height: Height(0), behind: 7, from: Some(peer) };
    assert_eq!(node.progress(), expected);
    assert!(node.next_wake() < idle, "the question is asked again");
    node.step(at(3), Input::PeerDown(peer));
    assert_eq!(node.progress(), Progress { height: Height(0), behind: 0, from: None });
    assert_eq!(node.next_wake(), idle, "nobody is left to ask: no timer runs");
}
