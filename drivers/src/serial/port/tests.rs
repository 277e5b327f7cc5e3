//! The gateway's side against the sensor's own state machine, and against attackers.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use sensor::frame::{Kind, MAX_FRAME, MAX_PAYLOAD, MAX_WIRE, Sealed, to_wire};
use sensor::keys::{SessionKeys, SharedKey};
use sensor::node::{Event, Input, Node};

use super::*;
use crate::device::Identity;
use crate::reading::{Level, VerifiedReading};
use crate::senml::{Pack, Record, Value};
use crate::serial::session::{Committed, MAX_JUMP, RecordError};

const DEVICE: DeviceId = DeviceId(*b"sensor-1");

fn key() -> SharedKey {
    SharedKey::new(DEVICE, [7; 16])
}

fn session(record: Option<&[u8]>, committed: Committed) -> Session {
    Session::new(key(), record, committed).expect("a good record")
}

fn port() -> Port {
    let mut port = Port::new();
    port.add(session(None, Committed::default())).expect("an empty port");
    port
}

/// What a step asked for, sorted by kind.
#[derive(Default)]
struct Asked {
    written: Vec<u8>,
    readings: Vec<VerifiedReading>,
    record: Option<Vec<u8>>,
    opened: Vec<(u32, [u8; 32])>,
    refused: Vec<Refusal>,
}

fn sort(effects: Vec<Effect>) -> Asked {
    let mut asked = Asked::default();
    for effect in effects {
        match effect {
            Effect::Write { bytes, after_durable } => {
                assert!(after_durable, "every answer of this protocol speaks of the disk");
                asked.written.extend(bytes);
            }
            Effect::Deliver(reading) => asked.readings.push(reading),
            Effect::Persist { identity, record } => {
                assert_eq!(identity, Identity::SerialDevice(DEVICE.0));
                asked.record = Some(record);
            }
            Effect::SessionOpened { identity, epoch, digest } => {
                assert_eq!(identity, Identity::SerialDevice(DEVICE.0));
                asked.opened.push((epoch, digest));
            }
            Effect::Refused(refusal) => asked.refused.push(refusal),
        }
    }
    asked
}

fn feed(port: &mut Port, bytes: &[u8]) -> Asked {
    // Fresh at each call, as a random number generator would be.
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let mut entropy = [0; 32];
    entropy[..8].copy_from_slice(&CALLS.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    sort(port.feed(1_000, bytes, &entropy))
}

/// The node joins through the port; its answers and the port's are carried both ways.
fn join(node: &mut Node, port: &mut Port, nonce: u8) -> Asked {
    let hello = node.step(0, Input::Nonce([nonce; 16])).transmit.expect("HELLO").to_vec();
    let challenge = feed(port, &hello).written;
    let confirm = node.step(0, Input::Received(&challenge)).transmit.expect("CONFIRM").to_vec();
    let asked = feed(port, &confirm);
    assert_eq!(node.step(0, Input::Received(&asked.written)).event, Some(Event::Joined));
    asked
}

fn send(node: &mut Node, port: &mut Port, payload: &[u8]) -> Asked {
    let frame = node.step(0, Input::Reading { senml: true, payload }).transmit;
    let asked = feed(port, frame.expect("a frame"));
    assert_eq!(node.step(0, Input::Received(&asked.written)).event, Some(Event::Acknowledged));
    asked
}

fn pack(value: f64) -> Vec<u8> {
    Pack(vec![Record::number("temperature", Some("Cel"), value)]).to_cbor()
}

#[test]
fn a_node_joins_and_its_readings_are_delivered_persisted_and_acknowledged() {
    let (mut node, mut port) = (Node::new(key()), port());
    let joined = join(&mut node, &mut port, 1);
    assert_eq!(joined.opened.len(), 1);
    assert_eq!(joined.opened[0].0, 1, "first epoch");
    assert!(joined.readings.is_empty());
    let opened = joined.record.as_deref().and_then(crate::serial::session::opened);
    assert_eq!(opened, Some(joined.opened[0]), "a record says what its session is");
    for counter in 1..=3 {
        let payload = pack(counter as f64);
        let asked = send(&mut node, &mut port, &payload);
        let [reading] = &asked.readings[..] else { panic!("one reading") };
        assert_eq!((reading.epoch(), reading.counter()), (1, counter));
        assert_eq!((reading.level(), reading.received_ms()), (Level::SharedKey, 1_000));
        assert_eq!(reading.senml(), payload);
        assert!(asked.record.is_some() && asked.refused.is_empty());
    }
    let session = port.sessions().next().expect("one");
    assert_eq!((session.counts().readings, session.counts().sessions), (3, 1));
    assert_eq!(session.position(), Some((1, 3)));
}

#[test]
fn a_handshake_opens_the_next_epoch_and_a_lost_acknowledgement_doubles_nothing() {
    let (mut node, mut port) = (Node::new(key()), port());
    let first = join(&mut node, &mut port, 1).opened[0];
    let frame = node.step(0, Input::Reading { senml: true, payload: &pack(1.0) }).transmit;
    let frame = frame.expect("a frame").to_vec();
    assert_eq!(feed(&mut port, &frame).readings.len(), 1);
    // The acknowledgement is lost: the same bytes again are acknowledged, not delivered.
    let again = feed(&mut port, &frame);
    assert!(again.readings.is_empty() && again.record.is_none() && again.refused.is_empty());
    assert!(!again.written.is_empty());
    // That one is lost, too, and the node loses its session: the CHALLENGE tells it.
    let hello = node.step(0, Input::Nonce([2; 16])).transmit.expect("HELLO").to_vec();
    let challenge = feed(&mut port, &hello).written;
    let step = node.step(0, Input::Received(&challenge));
    assert_eq!(step.event, Some(Event::Acknowledged));
    let confirm = step.transmit.expect("CONFIRM").to_vec();
    let asked = feed(&mut port, &confirm);
    assert_eq!(asked.opened[0].0, 2);
    assert_ne!(asked.opened[0].1, first.1);
    let session = port.sessions().next().expect("one");
    assert_eq!((session.counts().readings, session.counts().repeated), (1, 1));
}

#[test]
fn a_lost_confirm_acknowledgement_and_a_repeated_hello_are_answered_alike() {
    let (mut node, mut port) = (Node::new(key()), port());
    let hello = node.step(0, Input::Nonce([1; 16])).transmit.expect("HELLO").to_vec();
    let challenge = feed(&mut port, &hello).written;
    assert_eq!(feed(&mut port, &hello).written, challenge, "the node may have the first one");
    let confirm = node.step(0, Input::Received(&challenge)).transmit.expect("CONFIRM").to_vec();
    let first = feed(&mut port, &confirm);
    let again = feed(&mut port, &confirm);
    assert_eq!(again.written, first.written);
    assert_eq!((first.opened.len(), again.opened.len()), (1, 0));
}

#[test]
fn a_recorded_handshake_opens_nothing() {
    let (mut node, mut port) = (Node::new(key()), port());
    let hello = node.step(0, Input::Nonce([1; 16])).transmit.expect("HELLO").to_vec();
    let challenge = feed(&mut port, &hello).written;
    let confirm = node.step(0, Input::Received(&challenge)).transmit.expect("CONFIRM").to_vec();
    let acknowledged = feed(&mut port, &confirm).written;
    node.step(0, Input::Received(&acknowledged));
    send(&mut node, &mut port, &pack(1.0));
    let mut recording = hello.clone();
    recording.extend_from_slice(&confirm);
    recording.extend_from_slice(&hello);
    recording.extend_from_slice(&confirm);
    let asked = feed(&mut port, &recording);
    assert!(asked.opened.is_empty() && asked.readings.is_empty());
    assert_eq!(asked.refused.len(), 2, "a CONFIRM of the old handshake is a replay");
    assert!(matches!(asked.refused[0], Refusal::Replay { counter: 0, highest: 1, .. }));
    // The session goes on as if nothing had been.
    send(&mut node, &mut port, &pack(2.0));
}

/// A node's own keys in the tester's hand.
fn open_session(port: &mut Port) -> SessionKeys {
    let hello = key().hello(&[5; 16]);
    let challenge = feed(port, &on_wire(&hello)).written;
    let mut framer = Framer::new();
    let mut rest = &challenge[..];
    let frame = framer.next(&mut rest).expect("one frame").expect("COBS").to_vec();
    let Ok(Frame::Challenge { bytes, .. }) = Frame::parse(&frame) else { panic!("a CHALLENGE") };
    let keys = key().session(&hello, bytes);
    assert_eq!(feed(port, &sealed(&keys, Kind::Confirm, 0, &[])).opened.len(), 1);
    keys
}

fn on_wire(frame: &[u8]) -> Vec<u8> {
    let mut wire = [0; MAX_WIRE];
    let length = to_wire(frame, &mut wire);
    wire[..length].to_vec()
}

fn sealed(keys: &SessionKeys, kind: Kind, counter: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = [0; MAX_FRAME];
    let length = keys.seal(kind, counter, payload, &mut frame);
    on_wire(&frame[..length])
}

#[test]
fn counters_that_are_wrong_are_refused_by_name_and_not_answered() {
    let mut port = port();
    let keys = open_session(&mut port);
    let device = DEVICE;
    let reading = |counter, value| sealed(&keys, Kind::Senml, counter, &pack(value));
    assert_eq!(feed(&mut port, &reading(1, 1.0)).readings.len(), 1);
    assert_eq!(feed(&mut port, &reading(10, 2.0)).readings.len(), 1, "a gap is allowed");
    let table = [
        (reading(1, 1.0), Refusal::Replay { device, counter: 1, highest: 10 }),
        (reading(9, 3.0), Refusal::Replay { device, counter: 9, highest: 10 }),
        (reading(10, 3.0), Refusal::Conflict { device, counter: 10 }),
        (
            reading(11 + MAX_JUMP, 3.0),
            Refusal::Jump { device, counter: 11 + MAX_JUMP, highest: 10 },
        ),
        (reading(u64::MAX, 3.0), Refusal::Jump { device, counter: u64::MAX, highest: 10 }),
        (sealed(&keys, Kind::Acknowledge, 10, &[]), Refusal::Echo(device)),
    ];
    for (frame, refusal) in table {
        let asked = feed(&mut port, &frame);
        assert_eq!(asked.refused, [refusal]);
        assert!(asked.written.is_empty() && asked.readings.is_empty() && asked.record.is_none());
    }
    assert_eq!(feed(&mut port, &reading(10 + MAX_JUMP, 4.0)).readings.len(), 1, "just within");
    let counts = port.sessions().next().expect("one").counts();
    let named = ["replay", "conflict", "jump", "echo"].map(|name| counts.refused(name));
    assert_eq!(named, [2, 1, 2, 1]);
}

#[test]
fn other_keys_sessions_devices_and_versions_are_refused_by_name() {
    let mut port = port();
    let keys = open_session(&mut port);
    let wrong = SharedKey::new(DEVICE, [8; 16]);
    let stranger = SharedKey::new(DeviceId([9; 8]), [7; 16]);
    let other = {
        let hello = key().hello(&[6; 16]);
        let last = sensor::keys::LastStored::NONE;
        key().session(&hello, &key().challenge(&hello, &[6; 16], last))
    };
    let mut exported = keys.export();
    exported[4] ^= 1;
    let forged = SessionKeys::import(DEVICE, &exported);
    let mut truncated = sealed(&keys, Kind::Senml, 1, &pack(1.0));
    truncated.truncate(30);
    truncated.push(0);
    let table = [
        ("wrong-key", on_wire(&wrong.hello(&[1; 16]))),
        ("unknown-device", on_wire(&stranger.hello(&[1; 16]))),
        ("unknown-session", sealed(&other, Kind::Senml, 1, &[])),
        ("unknown-session", sealed(&other, Kind::Confirm, 0, &[])),
        ("bad-tag", sealed(&forged, Kind::Senml, 1, &[])),
        ("unknown-version", on_wire(&[0x21; 60])),
        ("unknown-type", on_wire(&[0x1E; 60])),
        ("too-long", on_wire(&[0x11; 60])),
        ("truncated", on_wire(&[0x14; 36])),
        ("not-cobs", truncated),
        ("oversize", [&[1; 5_000][..], &[0]].concat()),
    ];
    for (name, bytes) in table {
        let asked = feed(&mut port, &bytes);
        assert_eq!(asked.refused.iter().map(Refusal::name).collect::<Vec<_>>(), [name]);
        assert!(!asked.refused[0].to_string().is_empty());
        assert!(asked.written.is_empty() && asked.readings.is_empty(), "{name}");
    }
    let reading = sealed(&keys, Kind::Senml, 1, &pack(1.0));
    assert_eq!(feed(&mut port, &reading).readings.len(), 1, "the session goes on");
}

#[test]
fn payloads_without_codec_or_of_bad_senml_are_kept_as_bytes() {
    let mut port = port();
    let keys = open_session(&mut port);
    let table: [(Kind, &[u8], u64); 4] = [
        (Kind::Bytes, &[1, 2, 3], 0),
        (Kind::Bytes, &[], 0),
        (Kind::Senml, &[0xFF], 1),
        (Kind::Senml, &[], 2),
    ];
    for (counter, (kind, payload, not_senml)) in (1..).zip(table) {
        let asked = feed(&mut port, &sealed(&keys, kind, counter, payload));
        let pack = Pack::from_cbor(asked.readings[0].senml()).expect("always a pack");
        let resolved = pack.resolve(0.0).expect("resolves");
        assert_eq!(resolved[0].value, Some(Value::Data(payload.to_vec())));
        assert_eq!(port.sessions().next().expect("one").counts().not_senml, not_senml);
    }
}

#[test]
fn a_restart_goes_on_with_the_session_where_it_was() {
    let (mut node, mut port) = (Node::new(key()), port());
    let record = join(&mut node, &mut port, 1).record.expect("persisted");
    let restarted = |record: &[u8], committed| {
        let mut port = Port::new();
        port.add(session(Some(record), committed)).expect("an empty port");
        port
    };
    port = restarted(&record, Committed { epoch: 1, highest: 0 });
    let asked = send(&mut node, &mut port, &pack(1.0));
    assert_eq!((asked.readings[0].epoch(), asked.readings[0].counter()), (1, 1));
    let newest = asked.record.expect("persisted");
    // The ledger is ahead of an old record: what it has committed is not taken again.
    let frame = node.step(0, Input::Reading { senml: true, payload: &pack(2.0) }).transmit;
    let frame = frame.expect("a frame").to_vec();
    let mut old = restarted(&newest, Committed { epoch: 1, highest: 2 });
    assert!(matches!(feed(&mut old, &frame).refused[..], [Refusal::Conflict { counter: 2, .. }]));
    let mut newer_epoch = restarted(&newest, Committed { epoch: 4, highest: 0 });
    assert!(matches!(feed(&mut newer_epoch, &frame).refused[..], [Refusal::UnknownSession(_)]));
    assert_eq!(join(&mut Node::new(key()), &mut newer_epoch, 9).opened[0].0, 5);
    let session = |record: &[u8], key| Session::new(key, Some(record), Committed::default()).err();
    let other = SharedKey::new(DeviceId([1; 8]), [7; 16]);
    assert_eq!(session(&newest, other), Some(RecordError::Device));
    assert_eq!(session(&newest[1..], key()), Some(RecordError::Shape));
    assert_eq!(session(&[&[2], &newest[1..]].concat(), key()), Some(RecordError::Shape));
}

#[test]
fn a_held_node_proves_itself_and_its_reading_waits() {
    let (mut node, mut port) = (Node::new(key()), port());
    port.session(DEVICE).expect("added").hold_readings(true);
    assert_eq!(join(&mut node, &mut port, 1).opened.len(), 1, "the identity is proved");
    let frame = node.step(0, Input::Reading { senml: true, payload: &pack(1.0) }).transmit;
    let frame = frame.expect("a frame").to_vec();
    let held = feed(&mut port, &frame);
    assert_eq!(held.refused, [Refusal::Held(DEVICE)]);
    assert!(held.written.is_empty() && held.readings.is_empty() && held.record.is_none());
    port.session(DEVICE).expect("added").hold_readings(false);
    assert_eq!(feed(&mut port, &frame).readings.len(), 1);
}

#[test]
fn many_nodes_share_a_port_and_two_handshakes_in_one_piece_share_no_nonce() {
    let mut port = Port::new();
    let keys: Vec<SharedKey> =
        (0..MAX_DEVICES as u8).map(|n| SharedKey::new(DeviceId([n + 1; 8]), [n; 16])).collect();
    let session = |key: &SharedKey| Session::new(key.clone(), None, Committed::default());
    for key in &keys {
        port.add(session(key).expect("no record")).expect("room");
    }
    let known = port.add(session(&keys[0]).expect("no record"));
    assert_eq!(known.err(), Some(AddError::Known));
    let one_more = SharedKey::new(DeviceId([99; 8]), [0; 16]);
    let full = port.add(session(&one_more).expect("no record"));
    assert_eq!(full.err(), Some(AddError::Full));
    let hellos: Vec<u8> = keys.iter().flat_map(|key| on_wire(&key.hello(&[1; 16]))).collect();
    let asked = sort(port.feed(0, &hellos, &[3; 32]));
    let mut framer = Framer::new();
    let mut rest = &asked.written[..];
    let mut nonces = std::collections::BTreeSet::new();
    while let Some(frame) = framer.next(&mut rest) {
        let frame = frame.expect("COBS").to_vec();
        let Ok(Frame::Challenge { bytes, .. }) = Frame::parse(&frame) else { panic!("CHALLENGE") };
        nonces.insert(bytes[9..25].to_vec());
    }
    assert_eq!(nonces.len(), MAX_DEVICES);
    assert!(port.remove(DeviceId([1; 8])).is_some());
    let gone = sort(port.feed(0, &on_wire(&keys[0].hello(&[2; 16])), &[4; 32]));
    assert_eq!(gone.refused, [Refusal::UnknownDevice(DeviceId([1; 8]))]);
}

/// The session of a port, from outside.
fn fresh_frames(port: &mut Port) -> (SessionKeys, Vec<Vec<u8>>) {
    let keys = open_session(port);
    let frames = (1..=20).map(|n| sealed(&keys, Kind::Senml, n, &pack(n as f64))).collect();
    (keys, frames)
}

proptest! {
    #[test]
    fn any_bytes_are_answered(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 0..8)
    ) {
        let mut port = port();
        let _ = open_session(&mut port);
        for piece in &pieces {
            let asked = feed(&mut port, piece);
            prop_assert!(asked.readings.is_empty() && asked.written.is_empty());
        }
    }

    /// Frames in any order, repeated, damaged and cut: each counter is delivered at most once,
    /// counters rise, and every answer is to a frame that was delivered.
    #[test]
    fn no_schedule_delivers_twice(
        schedule in proptest::collection::vec((0usize..20, 0u8..4, any::<u16>()), 0..60)
    ) {
        let mut port = port();
        let (keys, frames) = fresh_frames(&mut port);
        let mut delivered = Vec::new();
        for (index, treatment, place) in schedule {
            let mut frame = frames[index].clone();
            let place = 1 + usize::from(place) % (frame.len() - 2);
            match treatment {
                0 => frame[place] ^= 0x40,
                1 => { frame.remove(place); }
                _ => {}
            }
            let asked = feed(&mut port, &frame);
            delivered.extend(asked.readings.iter().map(VerifiedReading::counter));
            if !asked.written.is_empty() {
                let mut framer = Framer::new();
                let mut rest = &asked.written[..];
                let answer = framer.next(&mut rest).expect("one").expect("COBS").to_vec();
                let Ok(Frame::Sealed(answer)) = Frame::parse(&answer) else { panic!("an ACK") };
                let Sealed { kind, counter, .. } = answer;
                prop_assert_eq!(kind, Kind::Acknowledge);
                prop_assert!(keys.open(&answer, &mut [0; MAX_PAYLOAD]).is_ok());
                prop_assert!(delivered.contains(&counter));
            }
        }
        prop_assert!(delivered.is_sorted_by(|a, b| a < b), "{:?}", delivered);
    }

    #[test]
    fn any_record_is_answered(bytes in proptest::collection::vec(any::<u8>(), 0..150)) {
        let _ = Session::new(key(), Some(&bytes), Committed::default());
    }
}

/// The fuzz entries themselves, so that they never rot.
#[test]
fn fuzz_entries_take_what_the_tests_know() {
    let frames =
        [on_wire(&key().hello(&[1; 16])), vec![0x14; 300], b"gwk1\0{\"a\":1}\n1;2\n".to_vec()];
    let schedule: Vec<u8> =
        (0..200u8).flat_map(|n| [n.wrapping_mul(37), n / 3, n.wrapping_mul(11)]).collect();
    for bytes in frames.iter().chain([&schedule]) {
        super::fuzz(bytes);
        crate::serial::session::fuzz(bytes);
        crate::serial::line::fuzz(bytes);
        crate::serial::pairing::fuzz(bytes);
        crate::senml::fuzz(bytes);
        sensor::node::fuzz(bytes);
    }
    // A handshake and its readings, as ops of the schedule.
    crate::serial::session::fuzz(&[0, 1, 0, 1, 0, 0, 2, 1, 9, 2, 1, 9, 2, 3, 9, 2, 2, 9]);
}
