//! Bridges and the member that serves them.

use std::time::Instant;

use tokio::time::timeout;

use super::abuse::{frame, hello, last_word, say};
use super::stage::*;
use crate::peers::wire::{Goodbye, Kind, MAX_PAYLOAD, Purpose};
use crate::peers::{BridgeEnd, BridgeFrame, BridgeLink, MAX_RADIO};

async fn next(link: &BridgeLink) -> Result<BridgeFrame, BridgeEnd> {
    timeout(PATIENCE, link.next()).await.expect("in time")
}

fn machine(number: u8) -> Gateway {
    Plan { listen: false, ..Plan::of(number) }.start()
}

/// A member and a bridge that it let in, connected.
async fn served() -> (Gateway, Gateway, BridgeLink, BridgeLink) {
    let (mut member, bridge) = (Plan::of(1).start(), machine(7));
    member.handle.set_bridges(&members(&[7]));
    let lent = bridge.handle.offer_bridge(&member.address()).await.unwrap();
    let taken = timeout(PATIENCE, member.bridges.recv()).await.expect("in time").unwrap();
    assert_eq!(taken.session().identity, bridge.key.public());
    assert_eq!(lent.session().identity, member.key.public());
    (member, bridge, lent, taken)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_that_was_not_let_in_waits_and_gets_no_byte_through() {
    let (mut member, bridge) = (Plan::of(1).start(), machine(7));
    let lent = bridge.handle.offer_bridge(&member.address()).await.unwrap();
    // It may be told before this leaves.
    let _ = lent.sender().radio(b"uplink".to_vec());
    assert_eq!(next(&lent).await, Err(BridgeEnd::NotLetIn));
    let waiting = member.handle.waiting_bridges();
    assert_eq!((waiting.len(), waiting[0].identity), (1, bridge.key.public()));
    assert!(member.bridges.try_recv().is_err(), "it came through");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_talk_until_the_bridge_is_forgotten() {
    let (member, _bridge, lent, taken) = served().await;
    lent.sender().radio(vec![5; MAX_RADIO]).unwrap();
    assert_eq!(next(&taken).await, Ok(BridgeFrame::Radio(vec![5; MAX_RADIO])));
    taken.sender().serial(b"open".to_vec()).unwrap();
    assert_eq!(next(&lent).await, Ok(BridgeFrame::Serial(b"open".to_vec())));
    member.handle.set_bridges(&[]);
    assert_eq!(next(&lent).await, Err(BridgeEnd::NotLetIn));
    assert_eq!(next(&taken).await, Err(BridgeEnd::Other("the bridge was forgotten here")));
    assert_eq!(member.handle.counters().expelled, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_machines_with_one_identity_the_second_is_refused() {
    let (member, _bridge, lent, taken) = served().await;
    let copy = machine(7);
    let second = copy.handle.offer_bridge(&member.address()).await.unwrap();
    let why = BridgeEnd::Other(Goodbye::Duplicate.words());
    assert_eq!(next(&second).await, Err(why));
    assert_eq!(member.handle.counters().duplicates, 1);
    lent.sender().radio(b"on".to_vec()).unwrap();
    assert_eq!(next(&taken).await, Ok(BridgeFrame::Radio(b"on".to_vec())), "the first goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_bridge_may_not_send_ends_its_connection() {
    let member = Plan::of(1).start();
    member.handle.set_bridges(&members(&[7]));
    let endless: Vec<u8> =
        (0..6).flat_map(|_| frame(Kind::Radio, false, &[0; MAX_PAYLOAD])).collect();
    let table: [(&str, Vec<u8>); 4] = [
        ("a vote", frame(Kind::Consensus, true, b"v")),
        ("a request", frame(Kind::Request, true, b"0000?")),
        ("garbage", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("a datagram without end", endless),
    ];
    for (number, (what, bytes)) in table.into_iter().enumerate() {
        let answer = say(&member, 7, &[hello(Purpose::Bridge), bytes].concat()).await;
        assert_eq!(last_word(&answer), Some(Goodbye::Misbehaved as u8), "{what}");
        member.counted(|counters| counters.malformed == number as u64 + 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_bounded_and_others_are_served_meanwhile() {
    let (mut member, bridge, lent, taken) = served().await;
    let sender = lent.sender();
    let flood = tokio::spawn(async move {
        loop {
            for _ in 0..200 {
                if sender.radio(vec![0; 2_000]).is_err() {
                    return;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    let began = Instant::now();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let read = taken.sender().received_bytes();
    // The burst, and a MiB a second: what else was sent was dropped where it came from.
    let most = 256 * 1024 + 1024 * 1024 * (began.elapsed().as_millis() as u64 + 500) / 1000;
    assert!(read > 0 && read < most, "{read} of {most} bytes were read");
    assert!(lent.sender().dropped() > 0 && taken.sender().dropped() > 0);
    let other = machine(8);
    let connection = other.handle.dial(&member.address()).await.unwrap();
    let (asked, _) = tokio::join!(connection.request(b"?".to_vec(), PATIENCE), member.answer(b"!"));
    assert_eq!(asked.unwrap(), b"!");
    drop(taken);
    flood.await.unwrap();
    drop(bridge);
}
