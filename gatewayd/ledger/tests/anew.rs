//! Gateways that cannot go on from their ledger alone: the operator's recovery has left out their
//! blocks, or nobody has the next one any more.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod net;
mod site;

use ledger::codec::Encode;
use ledger::consensus::message::{Message, PeerTip};
use ledger::host::{Host, Outward};
use ledger::ids::{Era, Height};
use ledger::node::{Behind, Input};
use ledger::store::{self, Reader, Store, StoreError};
use ledger::sync::wire::Answer;
use net::{Gateway, Net, fetch, liar, recovery};
use site::Site;

fn site() -> Site {
    Site::with_followers(1, 2)
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
    let mut before = Store::open(directory.path()).unwrap();
    before.write_counter(12).unwrap();
    drop(before);
    let aside = store::begin_anew(directory.path(), &snapshot.unwrap(), Some(Height(8))).unwrap();
    assert_eq!(aside.tip.height, Height(7));
    let anew = Store::open(directory.path()).unwrap();
    assert_eq!(anew.counter().unwrap(), Some(12), "the start counter goes on");
    drop(anew);
    let resubmitted = store::own_transactions(&aside.directory, &old, parent, 100).unwrap();
    assert_eq!(resubmitted, [own]);
    net.start(0, directory);
    assert_eq!(net.tip(old), net.tip(survivor));
    let silent = net.of(old).host.node().silent_through();
    assert_eq!(silent, None, "votes of another era bind nobody");
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
fn a_member_that_nobody_has_blocks_for_goes_on_from_a_snapshot() {
    let site = site();
    let mut net = Net::new(&site);
    let (leader, late) = (site.nodes[0], site.nodes[1]);
    net.found(0);
    net.found(1);
    (1..=5).for_each(|nonce| net.submit(leader, site.act(nonce)));
    let Gateway { directory: old, host, .. } = net.stop(late);
    drop(host);
    (6..=30).for_each(|nonce| net.submit(leader, site.act(nonce)));
    // The leader itself has begun anew meanwhile: it has no block below 21 any more.
    let trusted = net.tip(leader);
    let (snapshot, _) = fetch(&mut net, trusted.clone(), &[leader], |_, answer| Some(answer));
    let snapshot = snapshot.unwrap();
    let Gateway { host, .. } = net.stop(leader);
    drop(host);
    let directory = tempfile::tempdir().unwrap();
    drop(Store::found_from(directory.path(), &snapshot).unwrap());
    net.start(0, directory);
    net.submit(leader, site.act(31));
    net.start(1, old);
    let Some(Behind::NoBlocks { trusted }) = net.behind.pop() else { panic!("it is behind") };
    assert_eq!((trusted.height, net.tip(late).height), (Height(5), Height(5)));
    let (snapshot, failures) = fetch(&mut net, trusted, &[leader], |_, answer| Some(answer));
    assert_eq!(failures, []);
    let Gateway { directory, host, .. } = net.stop(late);
    drop(host);
    // Nothing older than what is here takes its place, and what is cut off is as before.
    let stale = tempfile::tempdir().unwrap();
    drop(Store::found_from(stale.path(), &snapshot.clone().unwrap()).unwrap());
    let older = store::begin_anew(stale.path(), &snapshot.clone().unwrap(), None);
    assert!(matches!(older, Err(StoreError::Older { .. })));
    store::set_aside(directory.path()).unwrap();
    assert!(store::put_back(directory.path()).unwrap());
    assert!(!store::put_back(directory.path()).unwrap());
    assert_eq!(Reader::open(directory.path()).unwrap().tip().unwrap().height, Height(5));
    let silent = Some(Height(40));
    store::begin_anew(directory.path(), &snapshot.unwrap(), silent).unwrap();
    net.start(1, directory);
    assert_eq!(net.tip(late), net.tip(leader));
    assert_eq!(net.of(late).host.node().silent_through(), silent, "silence goes on");
    net.submit(leader, site.act(32));
    assert_eq!(net.tip(late), net.tip(leader));
}

#[test]
fn a_recovery_of_before_what_is_kept_is_refused_with_the_reason() {
    let site = site();
    let mut net = Net::new(&site);
    net.found(0);
    net.found(1);
    (1..=5).for_each(|nonce| net.submit(site.nodes[0], site.act(nonce)));
    let act = recovery(&mut net, 1, 90);
    net.submit(site.nodes[1], act);
    let recovered = Store::open(net.of(site.nodes[1]).directory.path()).unwrap();
    let range = recovered.range(Height(6), 1, 1 << 20).unwrap().unwrap();
    // Another gateway keeps nothing of so long ago, not even who voted then.
    let mut other = Net::new(&site);
    other.found(0);
    (1..=40).for_each(|nonce| other.submit(site.nodes[0], site.act(nonce)));
    let trusted = other.tip(site.nodes[0]);
    let (snapshot, _) = fetch(&mut other, trusted, &[site.nodes[0]], |_, answer| {
        Some(match answer {
            Answer::Manifest(mut manifest) => {
                manifest.base = Height(20);
                Answer::Manifest(manifest)
            }
            other => other,
        })
    });
    let directory = tempfile::tempdir().unwrap();
    drop(Store::found_from(directory.path(), &snapshot.unwrap()).unwrap());
    let mut host = Host::open(directory.path(), site.nodes[2], None).unwrap();
    let mut refused = Vec::new();
    let message = Message::Decided { blocks: range.blocks, certificate: range.certificate };
    for input in [Input::Start, liar(&message)] {
        let mut out = |each: Outward| {
            if let Outward::Refused { error, .. } = each {
                refused.push(error.to_string());
            }
        };
        host.step(other.now, input, &mut out).unwrap();
    }
    let why = "the recovery at height 6 is older than the voters that are known here";
    assert_eq!(refused, [why]);
}
