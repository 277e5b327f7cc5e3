//! Data uplinks: what is delivered, what is refused, and how often.

use super::*;

#[test]
fn an_uplink_becomes_a_reading() {
    let mut site = Site::joined();
    let effects = site.up(PLAIN);
    let reading = readings(&effects)[0];
    assert_eq!(reading.identity(), identity(&site.device));
    assert_eq!((reading.level(), reading.received_ms()), (Level::SharedKey, site.now_ms));
    let pack = Pack::from_cbor(reading.senml()).unwrap();
    assert_eq!(pack.0, [Record::data("fport2", &[1, 2, 3])]);
    assert_eq!(sent(&site.after(1_000)).len(), 0, "an unconfirmed uplink is not answered");
}

#[test]
fn an_uplink_without_application_payload_is_an_empty_reading() {
    let mut site = Site::joined();
    let table = [
        ("no port", Up { port: None, payload: &[], ..PLAIN }),
        ("MAC commands in FOpts", Up { port: None, payload: &[], fopts: &[3, 7], ..PLAIN }),
        ("MAC commands as payload", Up { port: Some(0), payload: &[3, 7], ..PLAIN }),
    ];
    for (counter, (what, up)) in table.into_iter().enumerate() {
        let effects = site.up(up);
        let readings = readings(&effects);
        assert_eq!(readings.len(), 1, "{what}");
        assert_eq!(
            (readings[0].senml(), readings[0].counter()),
            (&[][..], counter as u64),
            "{what}"
        );
    }
    assert_eq!(site.server.counters().mac_commands, 2);
    let effects = site.up(Up { payload: &[], ..PLAIN });
    let pack = Pack::from_cbor(readings(&effects)[0].senml()).unwrap();
    assert_eq!(pack.0, [Record::data("fport2", &[])], "an empty payload is a payload");
}

#[test]
fn mac_commands_are_read_and_counted() {
    let mut site = Site::joined();
    let effects = site.up(Up { fopts: &[6, 200, 0x3F, 3, 7], ..PLAIN });
    let identity = identity(&site.device);
    let status = Effect::DeviceStatus { identity, battery: 200, margin_db: -1 };
    assert!(effects.contains(&status), "{effects:?}");
    site.up(Up { fopts: &[3, 7, 6, 1], ..PLAIN });
    site.up(Up { fopts: &[0xFF], ..PLAIN });
    let counted = site.server.counters();
    assert_eq!((counted.mac_commands, counted.bad_mac_commands, counted.readings), (3, 2, 3));
}

#[test]
fn copies_of_other_forwarders_are_one_reading() {
    let mut site = Site::joined();
    let phy = site.device.up(PLAIN);
    assert_eq!(readings(&site.hear(1, 5.0, &phy)).len(), 1);
    site.now_ms += 150;
    let effects = site.hear(2, 9.0, &phy);
    assert!(matches!(effects[..], [Effect::Heard { snr_db: 9.0, .. }]), "{effects:?}");
    site.now_ms += 500;
    let effects = site.hear(3, 1.0, &phy);
    assert!(readings(&effects).is_empty(), "a slow copy is a retransmission");
    let counted = site.server.counters();
    assert_eq!((counted.copies, counted.retransmissions, counted.readings), (1, 1, 1));
}

#[test]
fn counters_only_grow() {
    let mut site = Site::joined();
    let session = site.device.session.clone().unwrap();
    let mut hear = |fcnt: u32, payload: &[u8]| {
        site.now_ms += 1_000;
        let effects = site.hear(1, 5.0, &session.up(fcnt, Up { payload, ..PLAIN }));
        (readings(&effects).len(), refusals(&effects), strangers(&effects).len())
    };
    let table = [
        ("first", 5, &[1][..], (1, vec![], 0)),
        ("the same again", 5, &[1], (0, vec![], 0)),
        ("another payload", 5, &[2], (0, vec![Refusal::Conflict(5)], 0)),
        ("a gap", 9, &[1], (1, vec![], 0)),
        ("a replay", 5, &[1], (0, vec![Refusal::Replayed(5)], 0)),
        ("just before", 8, &[1], (0, vec![Refusal::Replayed(8)], 0)),
        ("a large gap", 60_000, &[1], (1, vec![], 0)),
        ("over 65535", 65_536, &[1], (1, vec![], 0)),
        ("a replay from before", 65_535, &[1], (0, vec![Refusal::Replayed(65_535)], 0)),
        ("next", 65_537, &[1], (1, vec![], 0)),
        ("the sixteen bits of a later one", 65_538 + 65_536, &[1], (0, vec![], 1)),
    ];
    for (what, fcnt, payload, expected) in table {
        assert_eq!(hear(fcnt, payload), expected, "{what}");
    }
}

#[test]
fn the_last_counter_of_all() {
    let mut site = Site::joined();
    let saved = record(&site.up(PLAIN)).unwrap().clone();
    let highest = Highest { epoch: 1, counter: Some(u64::from(u32::MAX)) };
    let mut site = site.restarted(&saved, Some(highest));
    let session = site.device.session.clone().unwrap();
    let effects = site.hear(1, 5.0, &session.up(u32::MAX, PLAIN));
    assert!(readings(&effects).is_empty() && refusals(&effects).is_empty(), "a retransmission");
    site.now_ms += 1_000;
    // An old capture is still told from a new frame that has no counter left.
    let effects = site.hear(1, 5.0, &session.up(u32::MAX - 3, PLAIN));
    assert_eq!(refusals(&effects), [Refusal::Replayed(u32::MAX - 3)]);
}

#[test]
fn a_wrong_mic_is_a_strangers() {
    let mut site = Site::joined();
    let mut phy = site.device.up(PLAIN);
    let last = phy.len() - 1;
    phy[last] ^= 1;
    let dev_addr = DevAddr(site.device.session.as_ref().unwrap().dev_addr);
    assert_eq!(site.hear(1, 5.0, &phy), [Effect::Stranger(Stranger::DataBadMic(dev_addr))]);
    phy[last] ^= 1;
    assert_eq!(readings(&site.hear(1, 5.0, &phy)).len(), 1, "and does no harm to the true one");
}

#[test]
fn counters_survive_a_restart() {
    let mut site = Site::joined();
    let replay = site.device.session.clone().unwrap();
    let saved = record(&site.up(PLAIN)).unwrap().clone();
    for _ in 0..4 {
        site.up(PLAIN);
    }
    // The record is of counter 0; what the readings say is newer.
    let mut site = site.restarted(&saved, Some(Highest { epoch: 1, counter: Some(4) }));
    let effects = site.hear(1, 5.0, &replay.up(3, PLAIN));
    assert_eq!(refusals(&effects), [Refusal::Replayed(3)]);
    let effects = site.hear(1, 5.0, &replay.up(4, CONFIRMED));
    assert!(readings(&effects).is_empty());
    assert_eq!(sent(&site.after(200)).len(), 1, "the last one is acknowledged again");
    assert_eq!(readings(&site.up(PLAIN))[0].counter(), 5);
}

#[test]
fn a_record_older_than_the_ledger_gives_no_session() {
    let mut site = Site::joined();
    let old = record(&site.up(PLAIN)).unwrap().clone();
    let mut site = site.restarted(&old, Some(Highest { epoch: 2, counter: Some(7) }));
    assert!(matches!(strangers(&site.up(PLAIN))[..], [Stranger::UnknownDevAddr(_)]));
    site.server.grant_join(DevEui(site.device.dev_eui), 16, JOIN_WINDOW);
    site.join();
    assert_eq!(readings(&site.up(PLAIN))[0].epoch(), 3, "above what is durable");
}

#[test]
fn devices_that_share_an_address_are_told_apart_by_their_keys() {
    let mut site = Site::joined();
    let mut other = TestDevice::new(2);
    site.server.add_device(config(&other), None, None).unwrap();
    let shared = DevAddr(site.device.session.as_ref().unwrap().dev_addr);
    let activation = Activation {
        join_eui: JoinEui(other.join_eui),
        dev_nonce: other.dev_nonce,
        join_nonce: 9,
        dev_addr: shared,
    };
    let key = Key::new(other.app_key);
    other.join_request();
    assert!(other.join_accept(&activation.join_accept(&key).unwrap()));
    let keys = activation.session_keys(&key).unwrap();
    let slot = site.server.registry.slot(DevEui(other.dev_eui)).unwrap();
    site.server.registry.add_pending(slot, Session::new(shared, keys, 1, 9));

    for _ in 0..3 {
        let phy = other.up(PLAIN);
        assert_eq!(readings(&site.hear(1, 5.0, &phy))[0].identity(), identity(&other));
        assert_eq!(readings(&site.up(PLAIN))[0].identity(), identity(&site.device));
    }
    assert!(site.server.remove_device(DevEui(other.dev_eui)));
    assert_eq!(readings(&site.up(PLAIN)).len(), 1, "the other one's session stays");
}

#[test]
fn an_uplink_of_a_device_that_is_not_admitted_is_refused() {
    let mut site = Site::joined();
    let saved = record(&site.up(PLAIN)).unwrap().clone();
    let waiting = DeviceConfig { admitted: false, ..config(&site.device) };
    site.server.remove_device(waiting.dev_eui);
    site.server.add_device(waiting, Some(&saved), None).unwrap();
    let effects = site.up(PLAIN);
    assert_eq!((readings(&effects).len(), refusals(&effects)), (0, vec![Refusal::NotAdmitted]));
}
