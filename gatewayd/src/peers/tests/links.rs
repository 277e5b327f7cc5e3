//! Members among themselves.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use super::stage::*;
use crate::peers::{DialError, Direction, Lane, PeerEvent, RequestError, SendError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_members_talk() {
    let (mut first, mut second) = pair().await;
    assert_eq!(first.event().await, PeerEvent::Up(second.node));
    assert_eq!(second.event().await, PeerEvent::Up(first.node));
    let block = vec![7; 3 * 1024 * 1024];
    first.handle.publish(Lane::Bulk, block.clone());
    first.handle.publish(Lane::Consensus, b"vote".to_vec());
    second.handle.send(first.node, Lane::Consensus, b"back".to_vec()).unwrap();
    let from = first.node;
    let mut heard = [second.event().await, second.event().await];
    heard.sort_by_key(|event| matches!(event, PeerEvent::Frame { bytes, .. } if bytes.len() > 4));
    assert_eq!(heard[0], PeerEvent::Frame { from, bytes: b"vote".to_vec() });
    assert_eq!(heard[1], PeerEvent::Frame { from, bytes: block });
    let from = second.node;
    assert_eq!(first.event().await, PeerEvent::Frame { from, bytes: b"back".to_vec() });
    let nobody = first.handle.send(first.node, Lane::Bulk, vec![]);
    assert_eq!(nobody, Err(SendError::NotConnected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_of_a_request_have_the_same_exporter() {
    let (first, mut second) = pair().await;
    let (asked, served) =
        tokio::join!(first.handle.request(second.node, b"what?".to_vec(), PATIENCE), async {
            second.answer(b"that").await
        });
    let answer = asked.unwrap();
    assert_eq!((answer.bytes, served.bytes), (b"that".to_vec(), b"what?".to_vec()));
    assert_eq!(answer.session.exporter, served.session.exporter);
    assert_ne!(answer.session.exporter, [0; 32]);
    assert!(answer.session.member && served.session.member);
    assert_eq!(served.session.identity, first.key.public());
    let other = first.handle.dial(&second.address()).await.unwrap();
    assert_ne!(other.session().exporter, answer.session.exporter, "of another connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_have_deadlines_and_bounds() {
    let (first, mut second) = pair().await;
    let soon = Duration::from_millis(100);
    let late = first.handle.request(second.node, vec![1], soon).await;
    assert_eq!(late, Err(RequestError::Timeout(soon)));
    let long = first.handle.request(second.node, vec![0; 1024 * 1024 + 1], soon).await;
    assert_eq!(long, Err(RequestError::TooLong));
    // Who serves drops the request: there is no answer, and that is said.
    drop(second.incoming.recv().await.unwrap());
    let (asked, ()) = tokio::join!(first.handle.request(second.node, vec![2], PATIENCE), async {
        drop(second.incoming.recv().await.unwrap());
    });
    assert_eq!(asked, Err(RequestError::Unanswered));
    // Nobody takes requests: after sixteen the seventeenth is told to come later.
    let asked: Vec<_> = (0..17)
        .map(|n| {
            let handle = first.handle.clone();
            let (to, limit) = (second.node, Duration::from_secs(2));
            tokio::spawn(async move { handle.request(to, vec![n], limit).await })
        })
        .collect();
    let mut outcomes = Vec::new();
    for each in asked {
        outcomes.push(each.await.unwrap());
    }
    let busy = outcomes.iter().filter(|outcome| **outcome == Err(RequestError::Busy)).count();
    assert_eq!(busy, 1, "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_that_dial_each_other_keep_one_connection_each() {
    let mut gateways: Vec<Gateway> = (1..=3).map(|n| Plan::of(n).start()).collect();
    let addresses: Vec<String> = gateways.iter().map(Gateway::address).collect();
    for gateway in &gateways {
        gateway.handle.set_members(&members(&[1, 2, 3]));
    }
    for gateway in &gateways {
        for address in &addresses {
            gateway.handle.add_address(address).unwrap();
        }
    }
    for gateway in &gateways {
        gateway.connected(2).await;
    }
    // Crossed calls may still be under way.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut directions = Vec::new();
    for gateway in &gateways {
        gateway.connected(2).await;
        let peers = gateway.handle.peers();
        let peers = peers.borrow().clone();
        assert!(peers.iter().all(|peer| peer.duplicates == 0));
        directions.extend(peers.iter().map(|peer| peer.direction));
    }
    let dialed = directions.iter().filter(|each| **each == Direction::Outgoing).count();
    assert_eq!((directions.len(), dialed), (6, 3), "each connection has one caller");
    gateways[0].handle.publish(Lane::Consensus, b"to all".to_vec());
    let from = gateways[0].node;
    for gateway in &mut gateways[1..] {
        while gateway.event().await != (PeerEvent::Frame { from, bytes: b"to all".to_vec() }) {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_tell_each_other_where_members_are() {
    // The third knows the second alone, and the first nobody.
    let (first, second) = pair().await;
    let third = Plan { addresses: vec![second.address()], ..Plan::of(3) }.start();
    for gateway in [&first, &second, &third] {
        gateway.handle.set_members(&members(&[1, 2, 3]));
    }
    for gateway in [&first, &second, &third] {
        gateway.connected(2).await;
    }
    let known = third.handle.addresses();
    assert!(known.contains(&(first.node, first.address())), "{known:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_standing_ends_connections_at_once() {
    let (mut first, mut second) = pair().await;
    first.event().await;
    second.event().await;
    let open = tokio::spawn({
        let (handle, to) = (first.handle.clone(), second.node);
        async move { handle.request(to, vec![1], PATIENCE).await }
    });
    let kept = second.incoming.recv().await.unwrap();
    second.handle.set_members(&members(&[2]));
    assert_eq!(second.event().await, PeerEvent::Down(first.node));
    assert_eq!(first.event().await, PeerEvent::Down(second.node));
    assert!(matches!(open.await.unwrap(), Err(RequestError::Closed(_))));
    drop(kept);
    assert_eq!(second.handle.counters().expelled, 1);
    // It goes on dialing, and is not let in as a member.
    tokio::time::sleep(Duration::from_millis(800)).await;
    second.connected(0).await;
    second.handle.set_members(&members(&[1, 2]));
    second.connected(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_is_refused_before_anything_is_signed() {
    let impostor = Plan::of(9).start();
    let first = Plan { addresses: vec![impostor.address()], ..Plan::of(1) }.start();
    first.handle.set_members(&members(&[1, 2]));
    first.counted(|counters| counters.handshakes_failed >= 2).await;
    assert_eq!(first.key.signed.load(Ordering::Relaxed), 0, "the TPM was not asked");
    assert!(first.handle.peers().borrow().is_empty());
    let tries = first.handle.counters().dialed;
    assert!(tries < 8, "{tries} dials: the waits grow");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_dialed_when_there_is_nobody_to_find() {
    let other = Plan::of(2).start();
    let alone = Plan { addresses: vec![other.address()], ..Plan::of(1) }.start();
    alone.handle.set_members(&members(&[1]));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(alone.handle.counters().dialed, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_own_address_is_told_apart() {
    let alone = Plan::of(1).start();
    let own = alone.handle.dial(&alone.address()).await;
    assert!(matches!(own, Err(DialError::Itself(_))), "{own:?}");
    assert_eq!(alone.handle.counters().duplicates, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_machine_with_the_same_identity_is_reported() {
    let (first, mut second) = pair().await;
    assert_eq!(second.event().await, PeerEvent::Up(first.node));
    let copy = Plan { addresses: vec![second.address()], ..Plan::of(1) }.start();
    copy.handle.set_members(&members(&[1, 2]));
    let event = second.event().await;
    let PeerEvent::DuplicateIdentity { node, addresses } = event else { panic!("{event:?}") };
    assert_eq!(node, first.node);
    assert_ne!(addresses[0], addresses[1]);
    second.connected(1).await;
    assert!(second.handle.peers().borrow()[0].duplicates > 0);
    first.connected(1).await;
    copy.connected(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_member_takes_its_place_again() {
    let (first, mut second) = pair().await;
    assert_eq!(second.event().await, PeerEvent::Up(first.node));
    let (node, address) = (first.node, second.address());
    drop(first);
    assert_eq!(second.event().await, PeerEvent::Down(node));
    let again = Plan { addresses: vec![address], ..Plan::of(1) }.start();
    again.handle.set_members(&members(&[1, 2]));
    assert_eq!(second.event().await, PeerEvent::Up(node));
    assert_eq!(second.handle.counters().duplicates, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_carries_nothing_any_more_is_found_dead() {
    let mut second = Plan::of(2).start();
    second.handle.set_members(&members(&[1, 2]));
    // A cable between the two that can be cut without either end being told.
    let cable = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (between, to) = (cable.local_addr().unwrap().to_string(), second.socket());
    let (cut, mut is_cut) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        let (mut near, _) = cable.accept().await.unwrap();
        let mut far = TcpStream::connect(to).await.unwrap();
        tokio::select! {
            _ = copy_bidirectional(&mut near, &mut far) => {}
            _ = is_cut.wait_for(|cut| *cut) => {}
        }
        // Both sockets stay open, and nothing passes.
        std::future::pending::<()>().await;
        drop((near, far));
    });
    let plan = Plan { addresses: vec![between], listen: false, ..Plan::of(1) };
    let mut first = plan.start();
    first.handle.set_members(&members(&[1, 2]));
    assert_eq!(first.event().await, PeerEvent::Up(second.node));
    assert_eq!(second.event().await, PeerEvent::Up(first.node));
    // Silence alone is no reason to part.
    tokio::time::sleep(2 * quick().silent).await;
    first.connected(1).await;
    cut.send_replace(true);
    assert_eq!(first.event().await, PeerEvent::Down(second.node));
    assert_eq!(second.event().await, PeerEvent::Down(first.node));
    first.counted(|counters| counters.silent == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn learned_addresses_outlive_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let second = Plan::of(2).start();
    second.handle.set_members(&members(&[1, 2]));
    let data_dir = Some(folder.path().to_owned());
    let plan = Plan { addresses: vec![second.address()], data_dir, ..Plan::of(1) };
    let first = plan.start();
    first.handle.set_members(&members(&[1, 2]));
    first.connected(1).await;
    let file = folder.path().join("peers");
    let written = async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.unwrap();
    drop(first);
    let data_dir = Some(folder.path().to_owned());
    let again = Plan { data_dir, ..Plan::of(1) }.start();
    again.handle.set_members(&members(&[1, 2]));
    again.connected(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_reads_nothing_holds_up_nobody() {
    let (first, mut second) = pair().await;
    assert_eq!(second.event().await, PeerEvent::Up(first.node));
    // The ledger of the second takes nothing: bulk waits at the first, votes still arrive.
    let mut full = 0;
    for _ in 0..64 {
        let sent = first.handle.send(second.node, Lane::Bulk, vec![0; 1024 * 1024]);
        full += usize::from(sent == Err(SendError::Full));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(full > 0, "the queue is bounded");
    first.handle.publish(Lane::Consensus, b"vote".to_vec());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let PeerEvent::Frame { bytes, .. } = second.event().await else { panic!("a frame") };
    assert_eq!(bytes, b"vote", "consensus is read first");
    let mut blocks = 0;
    while blocks + full < 64 {
        let PeerEvent::Frame { bytes, .. } = second.event().await else { panic!("a frame") };
        assert_eq!(bytes.len(), 1024 * 1024);
        blocks += 1;
    }
    first.connected(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beats_arrive_and_a_flood_of_them_is_cut() {
    let (first, mut second) = pair().await;
    first.handle.beat(second.node, b"here");
    let beat = tokio::time::timeout(PATIENCE, second.beats.recv()).await.unwrap().unwrap();
    assert_eq!(beat, crate::peers::Beat { from: first.node, bytes: b"here".to_vec() });
    // Who is not connected loses it, and nobody waits.
    first.handle.beat(member(9).node, b"here");
    for _ in 0..10 {
        (0..20).for_each(|_| first.handle.beat(second.node, b"flood"));
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    first.handle.publish(Lane::Consensus, b"vote".to_vec());
    while !matches!(second.event().await, PeerEvent::Frame { .. }) {}
    let taken = std::iter::from_fn(|| second.beats.try_recv().ok()).count();
    assert!((1..=100).contains(&taken), "{taken} of 200 were taken");
}
