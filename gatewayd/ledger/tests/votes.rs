//! What a voter makes of a proposal: the clock rule, invalid blocks, and the log before the vote.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod site;

use ledger::block::Block;
use ledger::certificate::VoteType;
use ledger::codec::{Decode, Encode};
use ledger::consensus::message::{Message, Vote};
use ledger::consensus::record::Record;
use ledger::consensus::wal::{FILE_NAMES, Recovery};
use ledger::host::{Host, Outward};
use ledger::ids::{Hash, Height};
use ledger::node::{Effect, Input, Node, Now, Setup};
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
    node.step(clock(0), Input::Start);
    node
}

fn clock(ahead_ms: u64) -> Now {
    Now { mono_ms: 1_000, wall_ms: START_MS + 1_000 + ahead_ms, synchronised: true }
}

fn published(effects: &[Effect]) -> Vec<Message> {
    let message = |effect: &Effect| match effect {
        Effect::Publish(bytes) => Some(Message::from_bytes(bytes).unwrap()),
        _ => None,
    };
    effects.iter().filter_map(message).collect()
}

/// The first proposer of height 1, with what it publishes when its clock is ahead.
fn proposal(site: &Site, ahead_ms: u64) -> (usize, Vec<Message>) {
    for index in 0..site.voters {
        let mut node = node(site, index);
        let act = Input::Submit(Box::new(site.act(1)));
        let messages = published(&node.step(clock(ahead_ms), act));
        if messages.iter().any(|message| matches!(message, Message::Proposal(_))) {
            return (index, messages);
        }
    }
    panic!("somebody proposes");
}

/// Feeds messages to another voter; its effects.
fn witness(site: &Site, proposer: usize, messages: &[Message], now: Now) -> Vec<Effect> {
    let mut node = node(site, (proposer + 1) % site.voters);
    let mut effects = Vec::new();
    for message in messages {
        let from = site.nodes[proposer];
        effects.extend(node.step(now, Input::Message { from, bytes: message.to_bytes() }));
    }
    effects
}

fn prevote(effects: &[Effect]) -> Option<Vote> {
    let own = |message| match message {
        Message::Vote(vote) if vote.kind == VoteType::Prevote => Some(vote),
        _ => None,
    };
    published(effects).into_iter().find_map(own)
}

fn proposed(messages: &[Message]) -> Hash {
    let hash = |message: &Message| match message {
        Message::Proposal(proposal) => Some(proposal.block),
        _ => None,
    };
    messages.iter().find_map(hash).unwrap()
}

#[test]
fn a_block_from_the_future_gets_no_vote_of_a_synchronised_clock() {
    let site = Site::new(4);
    for (ahead_ms, synchronised, accepted) in
        [(0, true, true), (10_000, true, true), (10_001, true, false), (86_400_000, false, true)]
    {
        let (proposer, messages) = proposal(&site, ahead_ms);
        let now = Now { synchronised, ..clock(0) };
        let vote = prevote(&witness(&site, proposer, &messages, now)).unwrap();
        let expected = accepted.then(|| proposed(&messages));
        assert_eq!(vote.block, expected, "{ahead_ms} ms ahead, synchronised: {synchronised}");
    }
}

#[test]
fn the_body_is_logged_and_synced_before_the_vote_leaves() {
    let site = Site::new(4);
    let (proposer, messages) = proposal(&site, 0);
    let effects = witness(&site, proposer, &messages, clock(0));
    let place = |wanted: &dyn Fn(&Effect) -> bool| effects.iter().position(wanted).unwrap();
    let body = place(&|effect| match effect {
        Effect::WalAppend(bytes) => {
            matches!(Record::from_bytes(bytes), Ok(Record::Body { height: Height(1), .. }))
        }
        _ => false,
    });
    let own = place(&|effect| match effect {
        Effect::WalAppend(bytes) => match Record::from_bytes(bytes) {
            Ok(Record::Vote(vote)) => vote.voter != site.nodes[proposer],
            _ => false,
        },
        _ => false,
    });
    let sync = place(&|effect| matches!(effect, Effect::WalSync));
    let vote = place(&|effect| match effect {
        Effect::Publish(bytes) => matches!(Message::from_bytes(bytes), Ok(Message::Vote(_))),
        _ => false,
    });
    assert!(body < own && own < sync && sync < vote, "{body} {own} {sync} {vote}");
}

#[test]
fn what_leaves_together_is_synced_once() {
    let site = Site::new(4);
    let (proposer, _) = proposal(&site, 0);
    let mut node = node(&site, proposer);
    let effects = node.step(clock(0), Input::Submit(Box::new(site.act(1))));
    let syncs = effects.iter().filter(|effect| matches!(effect, Effect::WalSync)).count();
    assert_eq!(syncs, 1, "proposal and prevote are records of one sync");
    let sync = effects.iter().position(|effect| matches!(effect, Effect::WalSync)).unwrap();
    let signed = |effect: &Effect| match effect {
        Effect::Publish(bytes) => {
            matches!(Message::from_bytes(bytes), Ok(Message::Vote(_) | Message::Proposal(_)))
        }
        _ => false,
    };
    assert_eq!(effects[..sync].iter().filter(|effect| signed(effect)).count(), 0);
    assert_eq!(effects[sync..].iter().filter(|effect| signed(effect)).count(), 2);
}

#[test]
fn a_block_with_a_failing_transaction_gets_no_vote() {
    let site = Site::new(4);
    let (proposer, messages) = proposal(&site, 0);
    let forge = |message: &Message| match message {
        Message::Body { height, round, block } => {
            let mut block = Block::from_bytes(block).unwrap();
            // The same act twice: the second one's nonce is used.
            block.transactions.push(block.transactions[0].clone());
            block.header.tx_count = 2;
            block.header.tx_root = Block::tx_root(&block.transactions);
            Some((
                block.header.hash(),
                Message::Body { height: *height, round: *round, block: block.to_bytes() },
            ))
        }
        _ => None,
    };
    let (hash, body) = messages.iter().find_map(forge).unwrap();
    let mut forged = vec![body];
    for message in &messages {
        if let Message::Proposal(good) = message {
            let digest = ledger::consensus::message::proposal_digest(
                &site.chain_id(),
                ledger::ids::Era(0),
                good.height,
                good.round,
                &hash,
                good.valid_round,
            );
            let signature = site.votes[proposer].sign_digest(&digest);
            let bad = ledger::consensus::message::Proposal { block: hash, signature, ..*good };
            forged.push(Message::Proposal(bad));
        }
    }
    let vote = prevote(&witness(&site, proposer, &forged, clock(0))).unwrap();
    assert_eq!(vote.block, None);
}

#[test]
fn a_body_that_is_not_the_headers_says_nothing_about_the_block() {
    let site = Site::new(4);
    let (proposer, messages) = proposal(&site, 0);
    let empty = |message: &Message| match message {
        Message::Body { height, round, block } => {
            let mut block = Block::from_bytes(block).unwrap();
            block.transactions.clear();
            Some(Message::Body { height: *height, round: *round, block: block.to_bytes() })
        }
        _ => None,
    };
    // Somebody is quicker than the proposer.
    let mut all: Vec<_> = messages.iter().filter_map(empty).collect();
    all.extend(messages.iter().cloned());
    let vote = prevote(&witness(&site, proposer, &all, clock(0))).unwrap();
    assert_eq!(vote.block, Some(proposed(&messages)));
}

#[test]
fn a_proposal_of_somebody_else_or_with_a_wrong_signature_is_ignored() {
    let site = Site::new(4);
    let (proposer, messages) = proposal(&site, 0);
    let stranger = site::key(b"stranger", 0);
    let tampered: Vec<_> = messages
        .iter()
        .filter(|message| !matches!(message, Message::Vote(_)))
        .cloned()
        .map(|message| match message {
            Message::Proposal(mut proposal) => {
                proposal.signature = stranger.sign_digest(&Hash([1; 32]));
                Message::Proposal(proposal)
            }
            other => other,
        })
        .collect();
    assert_eq!(prevote(&witness(&site, proposer, &tampered, clock(0))), None);
}

#[test]
fn bytes_that_are_no_message_change_nothing() {
    let site = Site::new(4);
    let mut node = node(&site, 0);
    let height = node.tip().height;
    for bytes in [vec![], vec![0xff; 40], vec![0x82, 0x06], vec![0; 5_000_000]] {
        let from = site.nodes[1];
        assert!(node.step(clock(0), Input::Message { from, bytes }).is_empty());
    }
    assert_eq!(node.tip().height, height);
}

#[test]
fn a_log_that_contradicts_itself_silences_a_voter_for_one_height() {
    let site = Site::new(4);
    let (proposer, messages) = proposal(&site, 0);
    let effects = witness(&site, proposer, &messages, clock(0));
    let me = (proposer + 1) % site.voters;
    // The own prevote for the block turns into one for no block.
    let tampered = |bytes: Vec<u8>| match Record::from_bytes(&bytes) {
        Ok(Record::Vote(vote)) if vote.voter == site.nodes[me] => {
            Record::Vote(Vote { block: None, ..vote }).to_bytes()
        }
        _ => bytes,
    };
    let records = effects.into_iter().filter_map(|effect| match effect {
        Effect::WalAppend(bytes) => Some(tampered(bytes)),
        _ => None,
    });
    let directory = tempfile::tempdir().unwrap();
    let store = Store::found(directory.path(), &site.founding()).unwrap();
    let setup = Setup {
        node: site.nodes[me],
        vote_key: Some(site.votes[me].clone()),
        loaded: store.load().unwrap(),
        records: records.collect(),
        recovery: Recovery::Complete,
    };
    let mut node = Node::new(setup).unwrap();
    let effects = node.step(clock(0), Input::Start);
    assert_eq!(node.silent_through(), Some(Height(1)));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Fault(_))));
    assert_eq!(prevote(&effects), None);
    let logged = effects.iter().any(|effect| match effect {
        Effect::WalAppend(bytes) => matches!(Record::from_bytes(bytes), Ok(Record::Silent { .. })),
        _ => false,
    });
    assert!(logged, "it stays silent over another restart");
}

#[test]
fn a_lost_log_silences_a_voter_only_when_it_was_used() {
    let site = Site::new(4);
    let (proposer, messages) = proposal(&site, 0);
    let me = (proposer + 1) % site.voters;
    for used in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        drop(Store::found(directory.path(), &site.founding()).unwrap());
        let open = || {
            let key = Some(site.votes[me].clone());
            let mut host = Host::open(directory.path(), site.nodes[me], key).unwrap();
            host.step(clock(0), Input::Start, &mut |_| {}).unwrap();
            host
        };
        let mut host = open();
        let mut said = 0;
        for message in messages.iter().filter(|_| used) {
            let input = Input::Message { from: site.nodes[proposer], bytes: message.to_bytes() };
            host.step(clock(0), input, &mut |_| said += 1).unwrap();
        }
        assert_eq!(said > 0, used);
        drop(host);
        FILE_NAMES.iter().for_each(|name| {
            std::fs::remove_file(directory.path().join(name)).unwrap();
        });
        let silent = used.then_some(Height(1));
        assert_eq!(open().node().silent_through(), silent);
        assert_eq!(open().node().silent_through(), silent, "over another restart");
    }
}

#[test]
fn a_vote_key_that_comes_late_votes_at_once_and_never_twice() {
    let site = Site::new(4);
    let (proposer, messages) = proposal(&site, 0);
    let me = (proposer + 1) % site.voters;
    let key = || Some(site.votes[me].clone());
    // What was signed before a restart without the key is what is said again with it.
    for voted_before in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        drop(Store::found(directory.path(), &site.founding()).unwrap());
        let first = key().filter(|_| voted_before);
        let mut before = None;
        for key_at_start in [first, None] {
            let mut host =
                Host::open(directory.path(), site.nodes[me], key_at_start.clone()).unwrap();
            let mut votes = Vec::new();
            let mut out = |each: Outward| {
                if let Outward::Publish(bytes) = each
                    && let Ok(Message::Vote(vote)) = Message::from_bytes(&bytes)
                {
                    votes.push(vote);
                }
            };
            host.step(clock(0), Input::Start, &mut out).unwrap();
            for message in &messages {
                let from = site.nodes[proposer];
                let input = Input::Message { from, bytes: message.to_bytes() };
                host.step(clock(0), input, &mut out).unwrap();
            }
            if key_at_start.is_none() {
                host.set_vote_key(key());
                host.step(clock(1), Input::Wake, &mut out).unwrap();
                for message in &messages {
                    let from = site.nodes[proposer];
                    let input = Input::Message { from, bytes: message.to_bytes() };
                    host.step(clock(2), input, &mut out).unwrap();
                }
                let own = votes.iter().find(|vote| vote.voter == site.nodes[me]);
                let own = own.expect("it votes at this very height");
                assert_eq!(own.block, Some(proposed(&messages)));
                assert!(before.is_none_or(|before: Vote| before == *own));
            }
            before = votes.into_iter().find(|vote| vote.voter == site.nodes[me]);
        }
    }
}
