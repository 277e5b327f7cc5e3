//! Over-the-air activation.

use super::*;

#[test]
fn a_join_is_proved_then_saved_then_answered() {
    let mut site = Site::new();
    site.tmst = 4_294_000_000;
    let request = site.device.join_request();
    let effects = site.hear(1, 5.0, &request);
    let identity = identity(&site.device);
    assert!(matches!(effects[0], Effect::Heard { .. }));
    assert_eq!(effects[1..], [Effect::JoinProved { identity, admitted: true }]);
    assert_eq!(site.server.next_wake(), Some(1_200), "after the window for copies");
    assert_eq!(site.after(199), []);
    let effects = site.after(1);
    assert!(matches!(effects[0], Effect::Persist { .. }), "first the record: {effects:?}");
    let accept = &sent(&effects)[0];
    assert_eq!((accept.mhz, accept.datr.as_str()), (868.1, "SF7BW125"), "RX1");
    assert_eq!(accept.tmst, 4_032_704, "5 s later, wrapped around");
    assert_eq!(accept.deadline_ms, 1_000 + 5_000 - 50);
    assert!(site.device.join_accept(&accept.phy));
    let session = site.device.session.clone().unwrap();
    assert_eq!(session.join_nonce, 1, "0 is where a device of 1.0.4 starts");
    let dev_addr = DevAddr(session.dev_addr);
    assert_eq!(effects[2], Effect::JoinAnswered { identity, dev_addr });
}

#[test]
fn who_may_not_join() {
    let mut site = Site::new();
    let good = site.device.clone();
    let dev_eui = DevEui(good.dev_eui);
    let mut unknown = TestDevice::new(7);
    let mut wrong_join_eui = TestDevice { join_eui: [9; 8], ..good.clone() };
    let mut wrong_key = TestDevice { app_key: [9; 16], ..good };
    let table = [
        ("unknown", unknown.join_request(), Stranger::UnknownDevEui(DevEui(unknown.dev_eui))),
        ("JoinEUI", wrong_join_eui.join_request(), Stranger::WrongJoinEui(dev_eui)),
        ("MIC", wrong_key.join_request(), Stranger::JoinBadMic(dev_eui)),
    ];
    for (what, request, expected) in table {
        assert_eq!(site.hear(1, 5.0, &request), [Effect::Stranger(expected)], "{what}");
    }
    assert_eq!(site.server.next_wake(), None, "nobody is answered");
}

#[test]
fn a_dev_nonce_is_used_once() {
    let mut site = Site::new();
    site.device.dev_nonce = 10;
    let replay = site.device.clone().join_request();
    site.join();
    site.now_ms += 10_000;
    assert_eq!(refusals(&site.hear(1, 5.0, &replay)), [Refusal::DevNonceReused(10)]);
    site.device.dev_nonce = 9;
    let lower = site.device.join_request();
    assert_eq!(refusals(&site.hear(1, 5.0, &lower)), [Refusal::DevNonceReused(9)]);
    site.device.dev_nonce = 11;
    site.join();
}

#[test]
fn dev_nonces_survive_a_restart() {
    let mut site = Site::new();
    let replay = site.device.clone().join_request();
    let record = site.join();
    let mut site = site.restarted(&record, None);
    assert_eq!(refusals(&site.hear(1, 5.0, &replay)), [Refusal::DevNonceReused(1)]);
    let next = site.join();
    assert_eq!(site.device.session.as_ref().unwrap().join_nonce, 2, "nor a JoinNonce twice");
    assert_ne!(record, next);
}

#[test]
fn random_dev_nonces_of_older_devices() {
    let mut site = Site::new();
    let mut config = config(&site.device);
    config.version = Version::V1_0_3;
    site.server.remove_device(config.dev_eui);
    site.server.add_device(config.clone(), None, None).unwrap();
    site.server.grant_join(config.dev_eui, 0, JOIN_WINDOW);
    for nonce in [500, 3] {
        site.device.dev_nonce = nonce;
        site.join();
    }
    site.device.dev_nonce = 500;
    let reused = site.device.join_request();
    assert_eq!(refusals(&site.hear(1, 5.0, &reused)), [Refusal::DevNonceReused(500)]);
    site.device.dev_nonce = 7;
    let record = site.join();
    site.server.remove_device(config.dev_eui);
    let wrong = DeviceConfig { version: Version::V1_0_4, ..config.clone() };
    let error = site.server.add_device(wrong, Some(&record), None);
    assert_eq!(error, Err(AddDeviceError::Record(record::RecordError::Version)));
    site.server.add_device(config, Some(&record), None).unwrap();
    site.now_ms += 10_000;
    assert_eq!(refusals(&site.hear(1, 5.0, &reused)), [Refusal::DevNonceReused(500)]);
}

#[test]
fn the_old_session_lives_until_the_new_one_is_used() {
    let mut site = Site::joined();
    let effects = site.up(PLAIN);
    let session = site.device.session.clone().unwrap();
    let digest = session_digest(1, session.join_nonce);
    let identity = identity(&site.device);
    assert_eq!(effects[1], Effect::SessionOpened { identity, epoch: 1, digest });
    let Effect::Persist { record, .. } = &effects[2] else { panic!("{effects:?}") };
    let again = crate::lora::record::opened(record, crate::lora::join::Version::V1_0_4);
    assert_eq!(again, Some((1, digest)), "a record says what its session is");
    assert_eq!((readings(&effects)[0].epoch(), readings(&effects)[0].counter()), (1, 0));

    let mut old = site.device.clone();
    site.join();
    let phy = old.up(PLAIN);
    let effects = site.hear(1, 5.0, &phy);
    assert_eq!(readings(&effects)[0].epoch(), 1, "the device may not have heard the accept");
    let effects = site.up(PLAIN);
    assert!(matches!(effects[1], Effect::SessionOpened { epoch: 2, .. }), "{effects:?}");
    assert_eq!((readings(&effects)[0].epoch(), readings(&effects)[0].counter()), (2, 0));
    let phy = old.up(PLAIN);
    assert!(matches!(strangers(&site.hear(1, 5.0, &phy))[..], [Stranger::UnknownDevAddr(_)]));
    assert!(!matches!(site.up(PLAIN)[1], Effect::SessionOpened { .. }), "once only");
}

#[test]
fn an_accept_that_was_not_heard_leaves_the_one_before_usable() {
    let mut site = Site::joined();
    let mut first = site.device.clone();
    site.join();
    let mut second = site.device.clone();
    site.join();
    // Two sessions wait at most: the first accept is forgotten, the second is not.
    let phy = first.up(PLAIN);
    assert!(matches!(strangers(&site.hear(1, 5.0, &phy))[..], [Stranger::UnknownDevAddr(_)]));
    let phy = second.up(PLAIN);
    assert_eq!(readings(&site.hear(1, 5.0, &phy))[0].epoch(), 1);
    assert_eq!(readings(&site.up(PLAIN))[0].epoch(), 2, "and the third is newer");
}

#[test]
fn who_is_not_admitted_yet_waits_for_it() {
    let mut site = Site::new();
    let dev_eui = DevEui(site.device.dev_eui);
    let waiting = DeviceConfig { admitted: false, ..config(&site.device) };
    site.server.remove_device(dev_eui);
    site.server.add_device(waiting, None, None).unwrap();
    let request = site.device.join_request();
    let effects = site.hear(1, 5.0, &request);
    let identity = identity(&site.device);
    assert_eq!(effects[1], Effect::JoinProved { identity, admitted: false });
    let window = WindowKind::Join;
    assert_eq!(site.after(200), [Effect::NeedWindow { identity, window }], "no answer yet");
    site.now_ms += 1_000;
    site.server.admit(dev_eui);
    assert_eq!(site.server.next_wake(), Some(0), "to be woken at once");
    assert_eq!(site.after(0), [], "the JoinNonces are missing");
    site.server.grant_join(dev_eui, 0, JOIN_WINDOW);
    let effects = site.after(0);
    assert!(site.device.join_accept(&sent(&effects)[0].phy), "{effects:?}");
}

#[test]
fn who_is_admitted_too_late_asks_again() {
    let mut site = Site::new();
    let dev_eui = DevEui(site.device.dev_eui);
    let waiting = DeviceConfig { admitted: false, ..config(&site.device) };
    site.server.remove_device(dev_eui);
    site.server.add_device(waiting, None, None).unwrap();
    site.server.grant_join(dev_eui, 0, JOIN_WINDOW);
    let request = site.device.join_request();
    site.hear(1, 5.0, &request);
    assert_eq!(site.after(200), []);
    assert_eq!(site.server.next_wake(), Some(1_000 + 6_000 - 100));
    assert_eq!(lost(&site.after(5_700)), [Lost::NotAdmitted], "too late for RX2");
    assert_eq!(site.server.next_wake(), None);
    site.server.admit(dev_eui);
    site.join();
}

#[test]
fn join_nonces_come_in_windows() {
    let mut site = Site::new();
    let dev_eui = DevEui(site.device.dev_eui);
    let mut nonces = Vec::new();
    let mut asked = 0;
    for _ in 0..15 {
        let request = site.device.join_request();
        site.hear(1, 5.0, &request);
        let effects = site.after(200);
        asked += effects.iter().filter(|one| matches!(one, Effect::NeedWindow { .. })).count();
        assert!(site.device.join_accept(&sent(&effects)[0].phy));
        nonces.push(site.device.session.as_ref().unwrap().join_nonce);
        site.now_ms += 60_000;
    }
    assert_eq!((nonces, asked), ((1..16).collect(), 4), "asked in time, and again each minute");
    let request = site.device.join_request();
    site.hear(1, 5.0, &request);
    assert_eq!(sent(&site.after(200)).len(), 0, "waits for a window");
    site.server.grant_join(dev_eui, 0, JOIN_WINDOW);
    assert_eq!(sent(&site.after(0)).len(), 0, "the old window again gives nothing");
    site.server.grant_join(dev_eui, 16, JOIN_WINDOW);
    let effects = site.after(0);
    assert!(site.device.join_accept(&sent(&effects)[0].phy));
    assert_eq!(site.device.session.as_ref().unwrap().join_nonce, 16);
}

#[test]
fn a_damaged_record_is_refused() {
    let mut site = Site::joined();
    let saved = record(&site.up(PLAIN)).unwrap().clone();
    let config = config(&site.device);
    site.server.remove_device(config.dev_eui);
    let mut add = |bytes: &[u8]| site.server.add_device(config.clone(), Some(bytes), None);
    for length in 0..saved.len() {
        assert!(add(&saved[..length]).is_err(), "cut to {length} bytes");
    }
    assert!(add(&[&saved[..], &[0]].concat()).is_err(), "a byte too many");
    assert!(add(&vec![0; 10_000]).is_err());
    let mut format = saved.clone();
    format[1] = 2;
    assert_eq!(add(&format), Err(AddDeviceError::Record(record::RecordError::Format(2))));
    assert_eq!(add(&saved), Ok(()));
    let mut random = super::super::super::frame::tests::Random::new(5);
    for _ in 0..10_000 {
        let mut damaged = saved.clone();
        let at = random.below(damaged.len() as u64) as usize;
        damaged[at] = random.next() as u8;
        record::fuzz(&damaged);
    }
}
