//! What a node says when a member can be reached, and what it makes of a member that is ahead.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod site;

use ledger::certificate::VoteType;
use ledger::codec::{Decode, Encode};
use ledger::consensus::message::{Justification, Message, PeerTip, Proposal, Reason, Vote};
use ledger::consensus::wal::Recovery;
use ledger::crypto::Signature;
use ledger::ids::{Era, Hash, Height, NodeId};
use ledger::node::{Effect, Input, Node, Now, Progress, Refusal, Setup};
use ledger::store::Store;
use ledger::transaction::{Body, Session};
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

/// What a message of another voter makes of an idle node.
fn heard(node: &mut Node, from: NodeId, message: &Message) -> Vec<Effect> {
    node.step(at(1), Input::Message { from, bytes: message.to_bytes() })
}

#[test]
fn nothing_unsigned_begins_a_height() {
    let site = Site::new(4);
    let mut node = node(&site, 0);
    let (idle, from) = (node.next_wake(), site.nodes[1]);
    let mut vote = Vote {
        kind: VoteType::Prevote,
        height: Height(1),
        round: 0,
        block: None,
        voter: from,
        signature: Signature::from_bytes([1; 64]),
    };
    let proposal = Proposal {
        height: Height(1),
        round: 0,
        block: Hash([1; 32]),
        valid_round: None,
        proposer: from,
        signature: Signature::from_bytes([1; 64]),
    };
    let votes = vec![vote; 3];
    let (reason, height) = (Reason::Skip, Height(1));
    let lies = [
        Message::Vote(vote),
        Message::Vote(Vote { voter: NodeId([9; 20]), ..vote }),
        Message::Proposal(proposal),
        Message::Justification(Justification { reason, height, round: 0, votes }),
        Message::Body { height, round: 0, block: vec![1, 2, 3] },
    ];
    for lie in &lies {
        assert!(heard(&mut node, from, lie).is_empty(), "{lie:?}");
        assert_eq!(node.next_wake(), idle, "{lie:?}");
    }
    vote.signature = site.votes[1].sign_digest(&vote.digest(&site.chain_id(), Era(0)));
    heard(&mut node, from, &Message::Vote(vote));
    assert!(node.next_wake() < idle, "a voter has begun: so does this one");
}

#[test]
fn a_transaction_that_does_not_apply_begins_no_height() {
    let site = Site::new(4);
    let mut node = node(&site, 0);
    let (idle, from) = (node.next_wake(), site.nodes[1]);
    // Of a light node that nobody has registered: urgent, signed, and in vain.
    let session = |gateway: usize| {
        let (node, digest) = (site::light_node(1), Hash([3; 32]));
        let body = Body::Session(Session { node, expected_epoch: 0, digest, liveness_epoch: 0 });
        site.gateway_draft(gateway, 1, body).sign(&site.votes[gateway])
    };
    let gossip = Message::Transactions(vec![session(1).to_bytes()]);
    assert!(heard(&mut node, from, &gossip).is_empty());
    assert_eq!(node.next_wake(), idle, "it waits, and is no reason");
    assert_eq!(node.waiting(), 1);
    let own = session(0);
    let hash = own.hash();
    let effects = node.step(at(2), Input::Submit(Box::new(own)));
    let refused = |effect: &Effect| match effect {
        Effect::Refused { tx_hash, error: Refusal::Apply(_) } => *tx_hash == hash,
        _ => false,
    };
    assert!(effects.iter().any(refused), "its author is told at once");
    assert_eq!(node.next_wake(), idle);
    node.step(at(3), Input::Submit(Box::new(site.act(1))));
    assert!(node.next_wake() < idle, "what applies is a reason");
}
