//! The node against a gateway made of the key schedule alone.

extern crate std;
use std::vec::Vec;

use super::*;
use crate::frame::DeviceId;

const KEY: [u8; 16] = [7; 16];

fn key() -> SharedKey {
    SharedKey::new(DeviceId(*b"device-1"), KEY)
}

/// What was transmitted, out of its COBS.
fn sent(step: &Step<'_>) -> Vec<u8> {
    let mut wire = step.transmit.expect("something is transmitted");
    let mut framer = Framer::new();
    let frame = framer.next(&mut wire).expect("one frame").expect("good COBS");
    frame.to_vec()
}

fn wire(frame: &[u8]) -> Vec<u8> {
    let mut wire = [0; MAX_WIRE];
    let length = to_wire(frame, &mut wire);
    wire[..length].to_vec()
}

fn acknowledgement(keys: &SessionKeys, counter: u64) -> Vec<u8> {
    let mut frame = [0; MAX_FRAME];
    let length = keys.seal(Kind::Acknowledge, counter, &[], &mut frame);
    wire(&frame[..length])
}

/// Runs a handshake and returns the session's keys.
fn join(node: &mut Node, now_ms: u64, nonce: u8, last: LastStored) -> SessionKeys {
    let hello = sent(&node.step(now_ms, Input::Nonce([nonce; 16])));
    let hello: [u8; HELLO] = hello.try_into().expect("a HELLO");
    assert_eq!(key().check_hello(&hello), Ok(()));
    let challenge = key().challenge(&hello, &[nonce ^ 0xFF; 16], last);
    let keys = key().session(&hello, &challenge);
    let confirm = sent(&node.step(now_ms, Input::Received(&wire(&challenge))));
    let mut expected = [0; MAX_FRAME];
    let length = keys.seal(Kind::Confirm, 0, &[], &mut expected);
    assert_eq!(confirm, expected[..length]);
    keys
}

fn opened(keys: &SessionKeys, frame: &[u8]) -> (Kind, u64, Vec<u8>) {
    let Ok(Frame::Sealed(sealed)) = Frame::parse(frame) else { panic!("a sealed frame") };
    let mut out = [0; MAX_PAYLOAD];
    let payload = keys.open(&sealed, &mut out).expect("the session's key").to_vec();
    (sealed.kind, sealed.counter, payload)
}

#[test]
fn joins_sends_and_is_acknowledged() {
    let mut node = Node::new(key());
    assert_eq!(node.step(0, Input::Wake).event, Some(Event::NeedNonce));
    let keys = join(&mut node, 0, 1, LastStored::NONE);
    let ack = acknowledgement(&keys, 0);
    let step = node.step(10, Input::Received(&ack));
    assert_eq!((step.event, step.transmit, step.wake_ms), (Some(Event::Joined), None, None));
    for counter in 1..=3 {
        let frame = sent(&node.step(20, Input::Reading { senml: true, payload: b"\x81" }));
        assert_eq!(opened(&keys, &frame), (Kind::Senml, counter, b"\x81".to_vec()));
        let busy = node.step(20, Input::Reading { senml: true, payload: b"" });
        assert_eq!((busy.event, busy.transmit), (Some(Event::Busy), None));
        let step = node.step(30, Input::Received(&acknowledgement(&keys, counter - 1)));
        assert_eq!(step.event, None, "an old acknowledgement says nothing");
        let step = node.step(30, Input::Received(&acknowledgement(&keys, counter)));
        assert_eq!((step.event, step.wake_ms), (Some(Event::Acknowledged), None));
    }
}

#[test]
fn repeats_the_same_bytes_then_joins_anew_with_the_same_reading() {
    let mut node = Node::new(key());
    let keys = join(&mut node, 0, 1, LastStored::NONE);
    node.step(0, Input::Received(&acknowledgement(&keys, 0)));
    let first = sent(&node.step(0, Input::Reading { senml: false, payload: b"raw" }));
    let mut waits = Vec::new();
    let mut now_ms = 0;
    loop {
        let wake_ms = node.step(now_ms, Input::Received(&[])).wake_ms.expect("a deadline");
        waits.push(wake_ms - now_ms);
        now_ms = wake_ms;
        let early = node.step(now_ms - 1, Input::Wake);
        assert_eq!((early.transmit, early.event), (None, None), "not before its time");
        let step = node.step(now_ms, Input::Wake);
        if step.event == Some(Event::NeedNonce) {
            break;
        }
        assert_eq!(sent(&step), first);
    }
    assert_eq!(waits, [500, 1000, 2000, 4000, 4000]);
    let keys = join(&mut node, now_ms, 2, LastStored::NONE);
    let ack = acknowledgement(&keys, 0);
    let step = node.step(now_ms, Input::Received(&ack));
    assert_eq!(step.event, Some(Event::Joined));
    assert_eq!(opened(&keys, &sent(&step)), (Kind::Bytes, 1, b"raw".to_vec()));
}

#[test]
fn a_reading_stored_before_its_acknowledgement_was_lost_is_not_sent_again() {
    for (stored, expected) in [(1, Some(Event::Acknowledged)), (0, None)] {
        let mut node = Node::new(key());
        let old = join(&mut node, 0, 1, LastStored::NONE);
        node.step(0, Input::Received(&acknowledgement(&old, 0)));
        node.step(0, Input::Reading { senml: false, payload: b"once" });
        let hello = sent(&node.step(0, Input::Nonce([2; 16])));
        let hello: [u8; HELLO] = hello.try_into().expect("a HELLO");
        let last = LastStored { session: old.id(), counter: stored };
        let challenge = key().challenge(&hello, &[3; 16], last);
        let step = node.step(0, Input::Received(&wire(&challenge)));
        assert_eq!(step.event, expected, "gateway has stored {stored}");
        let keys = key().session(&hello, &challenge);
        let ack = acknowledgement(&keys, 0);
        let joined = node.step(0, Input::Received(&ack));
        assert_eq!(joined.transmit.is_some(), expected.is_none());
    }
}

#[test]
fn a_hello_is_repeated_for_ever_and_an_unanswered_confirm_is_not() {
    let mut node = Node::new(key());
    let hello = sent(&node.step(0, Input::Nonce([1; 16])));
    let mut now_ms = 0;
    for _ in 0..50 {
        now_ms += LONGEST_WAIT_MS;
        let step = node.step(now_ms, Input::Wake);
        assert_eq!(sent(&step), hello);
    }
    join(&mut node, now_ms, 1, LastStored::NONE);
    let mut events = Vec::new();
    for _ in 0..ATTEMPTS {
        now_ms += LONGEST_WAIT_MS;
        events.push(node.step(now_ms, Input::Wake).event);
    }
    assert_eq!(events.last(), Some(&Some(Event::NeedNonce)));
    assert_eq!(events.iter().flatten().count(), 1);
}

#[test]
fn noise_forgeries_and_other_sessions_change_nothing() {
    let mut node = Node::new(key());
    let hello = sent(&node.step(0, Input::Nonce([1; 16])));
    let hello: [u8; HELLO] = hello.try_into().expect("a HELLO");
    let forged =
        SharedKey::new(key().device(), [8; 16]).challenge(&hello, &[2; 16], LastStored::NONE);
    let stale = key().challenge(&key().hello(&[9; 16]), &[2; 16], LastStored::NONE);
    for bytes in [&wire(&forged), &wire(&stale), &wire(&hello), &[0xFF; 3000][..]] {
        let step = node.step(1, Input::Received(bytes));
        assert_eq!((step.transmit, step.event), (None, None));
    }
    let challenge = key().challenge(&hello, &[2; 16], LastStored::NONE);
    let mut good = Vec::from([0]);
    good.extend_from_slice(&wire(&challenge));
    let keys = key().session(&hello, &challenge);
    assert!(node.step(1, Input::Received(&good)).transmit.is_some());
    let other = key().session(&hello, &stale);
    let step = node.step(1, Input::Received(&acknowledgement(&other, 0)));
    assert_eq!(step.event, None, "another session's acknowledgement");
    let mut exported = keys.export();
    exported[20] ^= 1;
    let forged = SessionKeys::import(key().device(), &exported);
    let step = node.step(1, Input::Received(&acknowledgement(&forged, 0)));
    assert_eq!(step.event, None, "this session's header, another key's tag");
    let ack = acknowledgement(&keys, 0);
    assert_eq!(node.step(1, Input::Received(&ack)).event, Some(Event::Joined));
    assert_eq!(node.step(1, Input::Received(&ack)).event, None, "only once");
    let long = [0; MAX_PAYLOAD + 1];
    let step = node.step(1, Input::Reading { senml: true, payload: &long });
    assert_eq!(step.event, Some(Event::TooLong));
    let step = node.step(1, Input::Reading { senml: true, payload: &long[1..] });
    assert_eq!(step.transmit.map(<[u8]>::len), Some(MAX_WIRE));
}

#[test]
fn a_node_fits_a_small_microcontroller() {
    assert!(size_of::<Node>() <= 1024, "{} bytes", size_of::<Node>());
}
