//! Strangers who do not keep to the protocol: each is closed, counted, and costs little.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::stage::*;
use crate::peers::wire::{Goodbye, Head, Hello, Kind, MAX_PAYLOAD, Purpose, write_request};
use crate::peers::{DialError, RequestError};

pub(super) fn frame(kind: Kind, last: bool, payload: &[u8]) -> Vec<u8> {
    let head = Head { kind, last, length: payload.len().try_into().unwrap() };
    [&head.write()[..], payload].concat()
}

pub(super) fn hello(purpose: Purpose) -> Vec<u8> {
    frame(Kind::Hello, true, &Hello { purpose, instance: [5; 16], port: 0 }.write())
}

/// Says something over TLS with a good key; gives what is answered until the end.
pub(super) async fn say(gateway: &Gateway, key: u8, what: &[u8]) -> Vec<u8> {
    let mut stream = tls(key, stranger(gateway.socket(), 9).await).await;
    // It may be closed before all of it is said.
    let _ = stream.write_all(what).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    // The other end may end the stream in any way.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it is closed");
    answer
}

pub(super) fn last_word(answer: &[u8]) -> Option<u8> {
    answer
        .ends_with(&frame(Kind::Goodbye, true, &[answer[answer.len() - 1]]))
        .then(|| answer[answer.len() - 1])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_asks_and_a_member_is_named_as_one() {
    let mut gateway = Plan::of(1).start();
    gateway.handle.set_members(&members(&[1, 2]));
    let newcomer = Plan { listen: false, ..Plan::of(7) }.start();
    let connection = newcomer.handle.dial(&gateway.address()).await.unwrap();
    assert_eq!(connection.session().identity, gateway.key.public());
    let (asked, served) =
        tokio::join!(connection.request(b"head?".to_vec(), PATIENCE), gateway.answer(b"head"));
    assert_eq!(asked.unwrap(), b"head");
    assert!(!served.session.member);
    assert_eq!(served.session.exporter, connection.session().exporter);
    assert_eq!(gateway.handle.counters().guests, 1);
    drop(connection);
    gateway.counted(|counters| counters.guests == 0).await;
    assert!(gateway.handle.peers().borrow().is_empty(), "a guest is no peer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_uses_up_its_bytes() {
    let mut gateway = Plan::of(1).start();
    let newcomer = Plan { listen: false, ..Plan::of(7) }.start();
    let connection = newcomer.handle.dial(&gateway.address()).await.unwrap();
    let (most, _) =
        tokio::join!(connection.request(vec![0; 60_000], PATIENCE), gateway.answer(b"ok"));
    assert!(most.is_ok());
    let more = connection.request(vec![0; 6_000], PATIENCE).await;
    assert_eq!(more, Err(RequestError::Closed(Goodbye::Quota.words())));
    gateway.counted(|counters| counters.over_quota == 1 && counters.guests == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_uses_up_its_time() {
    let gateway = Plan::of(1).start();
    let newcomer = Plan { listen: false, ..Plan::of(7) }.start();
    let began = Instant::now();
    let connection = newcomer.handle.dial(&gateway.address()).await.unwrap();
    let asked = connection.request(b"?".to_vec(), PATIENCE).await;
    assert_eq!(asked, Err(RequestError::Closed(Goodbye::Quota.words())));
    assert!(began.elapsed() >= quick().guest_time);
    gateway.counted(|counters| counters.over_quota == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_was_allowed_more_sends_more_and_stays() {
    let mut gateway = Plan::of(1).start();
    let newcomer = Plan { listen: false, ..Plan::of(7) }.start();
    let began = Instant::now();
    let connection = newcomer.handle.dial(&gateway.address()).await.unwrap();
    let (first, served) =
        tokio::join!(connection.request(vec![0; 60_000], PATIENCE), gateway.answer(b"ok"));
    assert!(first.is_ok());
    served.allowance.raise(201_000, Duration::from_secs(2));
    let (more, _) =
        tokio::join!(connection.request(vec![0; 200_000], PATIENCE), gateway.answer(b"ok"));
    assert!(more.is_ok(), "{more:?}");
    let late = connection.request(b"?".to_vec(), PATIENCE).await;
    assert_eq!(late, Err(RequestError::Closed(Goodbye::Quota.words())));
    assert!(began.elapsed() >= quick().guest_time + Duration::from_secs(2), "allowed");
    gateway.counted(|counters| counters.over_quota == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_gets_no_connection_of_members() {
    let gateway = Plan::of(1).start();
    gateway.handle.set_members(&members(&[1, 2]));
    let answer = say(&gateway, 7, &hello(Purpose::Link)).await;
    assert_eq!(last_word(&answer), Some(Goodbye::NoMember as u8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_out_of_bounds_end_the_connection() {
    let gateway = Plan::of(1).start();
    gateway.handle.set_members(&members(&[1, 2]));
    let oversize = {
        let mut all = hello(Purpose::Link);
        for _ in 0..20 {
            all.extend(frame(Kind::Consensus, false, &[0; MAX_PAYLOAD]));
        }
        all
    };
    let table: [(&str, u8, Vec<u8>); 7] = [
        ("garbage", 7, b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("no greeting", 7, frame(Kind::Request, true, &write_request(1, b"?"))),
        (
            "a guest's vote",
            7,
            [hello(Purpose::Requests), frame(Kind::Consensus, true, b"v")].concat(),
        ),
        ("an impossible length", 2, [hello(Purpose::Link), vec![8, 1, 0xff, 0xff]].concat()),
        ("a consensus frame without end", 2, oversize),
        (
            "credit for nothing",
            2,
            [hello(Purpose::Link), frame(Kind::Credit, true, &[0, 0, 0, 9])].concat(),
        ),
        ("a second greeting", 2, [hello(Purpose::Link), hello(Purpose::Link)].concat()),
    ];
    for (n, (what, key, bytes)) in table.into_iter().enumerate() {
        say(&gateway, key, &bytes).await;
        gateway.counted(|counters| counters.malformed == n as u64 + 1).await;
        assert!(gateway.handle.peers().borrow().is_empty(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_ignores_its_credit_is_closed() {
    let gateway = Plan::of(1).start();
    gateway.handle.set_members(&members(&[1, 2]));
    let mut all = hello(Purpose::Link);
    // Its ledger takes nothing in this test: more than the window must not be kept.
    for _ in 0..300 {
        all.extend(frame(Kind::Bulk, true, &[0; MAX_PAYLOAD]));
    }
    let answer = say(&gateway, 2, &all).await;
    assert_eq!(last_word(&answer), Some(Goodbye::Misbehaved as u8));
    gateway.counted(|counters| counters.malformed == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_slow_on_purpose_is_closed() {
    let gateway = Plan::of(1).start();
    // Before the handshake: a byte now and then.
    let mut slow = stranger(gateway.socket(), 9).await;
    for byte in [22_u8, 3, 1] {
        // It may be closed already.
        let _ = slow.write_all(&[byte]).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    gateway.counted(|counters| counters.handshakes_failed == 1).await;
    assert_eq!(gateway.key.signed.load(Ordering::Relaxed), 0, "the TPM was not asked");
    // After it: the head of a frame, and then a byte of it now and then.
    let mut slow = tls(7, stranger(gateway.socket(), 9).await).await;
    slow.write_all(&[hello(Purpose::Requests), vec![9, 1, 0x10, 0]].concat()).await.unwrap();
    slow.flush().await.unwrap();
    let dripping = async {
        loop {
            if slow.write_all(&[0]).await.is_err() || slow.flush().await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, dripping).await.expect("it is closed");
    gateway.counted(|counters| counters.silent == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_strangers_does_not_keep_members_out() {
    let second = Plan::of(2).start();
    second.handle.set_members(&members(&[1, 2]));
    let mut flood = Vec::new();
    for last in 20..60 {
        flood.push(stranger(second.socket(), last).await);
    }
    second.counted(|counters| counters.flooded >= 24).await;
    let began = Instant::now();
    let first = Plan { addresses: vec![second.address()], ..Plan::of(1) }.start();
    first.handle.set_members(&members(&[1, 2]));
    first.connected(1).await;
    // Only the strangers' places were taken, and each for the time of a first byte.
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(flood);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_are_few_and_the_next_is_told_so() {
    let gateway = Plan::of(1).start();
    let newcomer = Plan { listen: false, ..Plan::of(7) }.start();
    let mut open = Vec::new();
    let refused = loop {
        match newcomer.handle.dial(&gateway.address()).await {
            Ok(connection) => open.push(connection),
            Err(error) => break error,
        }
        // The greeting may come before the refusal: the place is taken when a request is.
        tokio::time::sleep(Duration::from_millis(20)).await;
        if open.len() > 8 {
            panic!("too many guests");
        }
        assert!(gateway.handle.counters().guests <= 4);
        if gateway.handle.counters().flooded > 0 {
            let last = open.pop().unwrap();
            let asked = last.request(b"?".to_vec(), PATIENCE).await;
            assert_eq!(asked, Err(RequestError::Closed(Goodbye::Busy.words())));
            return;
        }
    };
    assert!(matches!(refused, DialError::Handshake { .. }), "{refused:?}");
}
