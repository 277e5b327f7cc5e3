//! Acknowledgements and other answers: where, when, and what happens when it goes wrong.

use super::*;

#[test]
fn a_confirmed_uplink_is_acknowledged_in_rx1() {
    let mut site = Site::joined();
    site.tmst = u32::MAX;
    assert_eq!(readings(&site.up(CONFIRMED)).len(), 1);
    let effects = site.after(200);
    let ack = &sent(&effects)[0];
    assert_eq!((ack.to, ack.mhz, ack.datr.as_str()), (address(1).into(), 868.1, "SF7BW125"));
    assert_eq!(ack.tmst, 999_999, "1 s later, wrapped around");
    let down = site.device.down(&ack.phy, 0).unwrap();
    assert_eq!(down, Down { ack: true, fcnt: 0, fopts: vec![] });
    site.confirm(ack);
    assert_eq!(site.server.counters().transmitted, 1 + 1);
}

#[test]
fn a_retransmission_is_acknowledged_again_up_to_a_limit() {
    let mut site = Site::joined();
    let phy = site.device.up(CONFIRMED);
    let (mut acknowledged, mut losses) = (0, Vec::new());
    for attempt in 0..20 {
        let effects = site.hear(1, 5.0, &phy);
        assert_eq!(readings(&effects).len(), usize::from(attempt == 0), "delivered once");
        losses.extend(lost(&effects));
        let effects = site.after(201);
        for sent in sent(&effects) {
            site.confirm(&sent);
            acknowledged += 1;
        }
        site.now_ms += 60_000;
    }
    assert_eq!((acknowledged, losses), (16, vec![Lost::Repeated; 4]));
}

#[test]
fn the_forwarder_with_the_best_snr_answers() {
    let mut site = Site::joined();
    site.open(2);
    let phy = site.device.up(CONFIRMED);
    site.hear(1, 5.0, &phy);
    site.hear(2, 9.0, &phy);
    site.hear(3, 12.0, &phy);
    let effects = site.after(200);
    assert_eq!(sent(&effects)[0].to, address(2).into(), "the third has not opened its way back");
}

#[test]
fn rx2_when_it_is_late_and_then_nothing() {
    let mut site = Site::joined();
    site.up(CONFIRMED);
    let effects = site.after(901);
    let ack = &sent(&effects)[0];
    assert_eq!((ack.mhz, ack.datr.as_str()), (869.525, "SF12BW125"), "RX1 is too close");
    assert_eq!((ack.tmst, ack.deadline_ms), (2_000_000, site.now_ms - 901 + 2_000 - 50));
    site.up(CONFIRMED);
    assert_eq!(lost(&site.after(1_901)), [Lost::Late]);
    assert_eq!(site.server.counters().late, 1);
}

#[test]
fn a_forwarder_that_refuses() {
    let mut site = Site::joined();
    site.up(CONFIRMED);
    let first = &sent(&site.after(200))[0];
    let stranger = site.datagram(2, &tx_ack(forwarder(2), first.token, Some("TOO_LATE")));
    assert_eq!(stranger, [], "another forwarder's word counts for nothing");
    let refusal = tx_ack(forwarder(1), first.token, Some("COLLISION_PACKET"));
    let effects = site.datagram(1, &refusal);
    let second = &sent(&effects)[0];
    assert_eq!(second.phy, first.phy, "the same frame, in RX2");
    assert_eq!((second.mhz, second.tmst), (869.525, 2_000_000));
    assert_eq!(site.datagram(1, &refusal), [], "told twice");
    let effects = site.datagram(1, &tx_ack(forwarder(1), second.token, Some("TX_FREQ")));
    assert_eq!(lost(&effects), [Lost::Forwarder(TxError::Frequency)]);
    assert_eq!(site.server.counters().retried, 1);

    site.up(CONFIRMED);
    let first = &sent(&site.after(200))[0];
    site.now_ms += 1_750;
    let effects = site.datagram(1, &tx_ack(forwarder(1), first.token, Some("TOO_LATE")));
    assert_eq!(lost(&effects), [Lost::Late], "RX2 is over as well");
}

#[test]
fn a_forwarder_that_never_answers() {
    let mut site = Site::joined();
    site.up(CONFIRMED);
    assert_eq!(sent(&site.after(200)).len(), 1);
    // What was confirmed (the join) leaves an empty place in the line.
    while let Some(wake) = site.server.next_wake() {
        site.now_ms = wake;
        let losses = lost(&site.after(0));
        assert!(losses.is_empty() || losses == [Lost::ForwarderSilent], "{losses:?}");
    }
    assert_eq!(site.server.counters().unanswered, 1);
}

#[test]
fn a_gateway_that_was_too_slow_to_send() {
    let mut site = Site::joined();
    site.up(CONFIRMED);
    let first = &sent(&site.after(200))[0];
    site.now_ms = first.deadline_ms + 1;
    let token = first.token;
    let effects = site.server.step(site.now_ms, Input::SendMissed { token });
    assert_eq!(sent(&effects)[0].mhz, 869.525, "RX2 is still possible");
    assert_eq!(site.server.step(site.now_ms, Input::SendMissed { token }), [], "known already");
}

#[test]
fn without_the_lease_it_listens() {
    let mut site = Site::joined();
    site.server.set_transmit_allowed(false);
    assert_eq!(readings(&site.up(CONFIRMED)).len(), 1);
    assert_eq!(lost(&site.after(200)), [Lost::NoLease]);
    let request = site.device.join_request();
    site.hear(1, 5.0, &request);
    assert_eq!(lost(&site.after(200)), [Lost::NoLease]);
    site.server.set_transmit_allowed(true);
    site.acknowledged();
}

#[test]
fn nobody_to_send_it() {
    let mut site = Site::joined();
    let phy = site.device.up(CONFIRMED);
    site.hear(2, 5.0, &phy);
    assert_eq!(lost(&site.after(200)), [Lost::NoRoute]);
    let phy = site.device.up(CONFIRMED);
    let data = super::super::super::testing::base64(&phy);
    let json = format!(r#"{{"rxpk":[{{"freq":868.1,"datr":"SF7BW125","data":"{data}"}}]}}"#);
    let effects = site.datagram(1, &push_json(forwarder(1), &json));
    assert_eq!(readings(&effects).len(), 1);
    assert_eq!(lost(&site.after(200)), [Lost::NoRoute], "no time stamp, no window");
}

#[test]
fn downlink_counters_come_in_windows() {
    let mut site = Site::joined();
    let dev_eui = DevEui(site.device.dev_eui);
    let mut asked = Vec::new();
    for expected in 0..64 {
        site.up(CONFIRMED);
        let effects = site.after(200);
        let wanted = |one: &&Effect| matches!(one, Effect::NeedWindow { .. });
        asked.extend(effects.iter().find(wanted).map(|_| expected));
        let down = site.device.down(&sent(&effects)[0].phy, 0).unwrap();
        assert_eq!(down.fcnt, expected);
        site.confirm(&sent(&effects)[0]);
        site.now_ms += 60_000;
    }
    assert!(asked.iter().copied().eq(48..64), "from a quarter on, each minute: {asked:?}");
    site.up(CONFIRMED);
    assert_eq!(lost(&site.after(200)), [Lost::NoWindow], "never without a window");
    site.server.grant_down(dev_eui, 2, 64, DOWN_WINDOW);
    site.up(CONFIRMED);
    assert_eq!(lost(&site.after(200)), [Lost::NoWindow], "a window of another session");
    site.server.grant_down(dev_eui, 1, 128, DOWN_WINDOW);
    assert_eq!(site.acknowledged().fcnt, 128, "as reserved");
}

#[test]
fn no_downlink_counter_is_used_twice_over_a_restart() {
    let mut site = Site::joined();
    let mut saved = record(&site.up(PLAIN)).unwrap().clone();
    let mut used = Vec::new();
    for round in 0..4 {
        for _ in 0..=round * 5 {
            site.up(CONFIRMED);
            let effects = site.after(200);
            // What is sent waits for what is saved in the same step.
            saved = record(&effects).unwrap_or(&saved).clone();
            used.push(site.device.down(&sent(&effects)[0].phy, 0).unwrap().fcnt);
        }
        let counter = u64::from(site.device.session.as_ref().unwrap().fcnt - 1);
        site = site.restarted(&saved, Some(Highest { epoch: 1, counter: Some(counter) }));
        site.server.grant_down(DevEui(site.device.dev_eui), 1, 64 * (round + 1), DOWN_WINDOW);
    }
    assert!(used.is_sorted_by(|one, next| one < next), "{used:?}");
}

#[test]
fn the_duty_cycle_is_kept() {
    let mut site = Site::joined();
    let dev_eui = DevEui(site.device.dev_eui);
    site.up(PLAIN);
    site.server.grant_down(dev_eui, 1, 64, 10_000);
    let (mut rx1, mut rx2, mut dead) = (0, 0, 0);
    for _ in 0..1_300 {
        site.up(CONFIRMED);
        let effects = site.after(200);
        match sent(&effects).first().map(|sent| sent.mhz) {
            Some(868.1) => rx1 += 1,
            Some(869.525) => rx2 += 1,
            other => {
                assert_eq!((other, lost(&effects)), (None, vec![Lost::DutyCycle]));
                dead += 1;
            }
        }
        if let Some(sent) = sent(&effects).first() {
            site.confirm(sent);
        }
        site.now_ms += 800;
    }
    // An hour holds 36 s, of which the JoinAccept took 72 ms, at 41.216 ms each; in RX2 360 s at
    // 991.232 ms each.
    assert_eq!((rx1, rx2, dead), (871, 363, 1_300 - 871 - 363));
}

#[test]
fn questions_are_answered_with_what_is_known() {
    let mut site = Site::joined();
    let asking = Up { fopts: &[2, 13], ..PLAIN };
    site.open(2);
    let phy = site.device.up(asking);
    site.hear(1, 5.0, &phy);
    site.hear(2, 9.0, &phy);
    site.hear(2, 8.0, &phy);
    let down = |site: &mut Site| {
        let effects = site.after(200);
        site.device.down(&sent(&effects)[0].phy, 0).unwrap()
    };
    let answer = down(&mut site);
    // SNR 9 dB at SF7, which needs −7.5 dB; two forwarders; the time is not known.
    assert_eq!((answer.ack, answer.fopts), (false, vec![2, 16, 2]));
    site.server.set_unix_ms_at_zero(Some(1_577_836_800_000 - site.now_ms as i64));
    site.up(Up { confirmed: true, ..asking });
    let answer = down(&mut site);
    let time = 1_261_872_018_u32.to_le_bytes();
    assert_eq!(answer.fopts[..3], [2, 12, 1]);
    assert_eq!(answer.fopts[3..], [&[13][..], &time, &[0]].concat());
    assert!(answer.ack, "all in one downlink");
    site.up(Up { port: Some(0), payload: &[2], ..PLAIN });
    assert_eq!(down(&mut site).fopts[0], 2, "asked in the payload of port 0");
    site.up(Up { fopts: &[13], ..PLAIN });
    site.server.set_unix_ms_at_zero(None);
    assert!(down(&mut site).fopts.is_empty(), "skipped, yet heard");
}

#[test]
fn a_device_that_fears_to_be_alone_is_answered() {
    let mut site = Site::joined();
    site.up(Up { adr_ack_req: true, ..PLAIN });
    let effects = site.after(200);
    let answer = site.device.down(&sent(&effects)[0].phy, 0).unwrap();
    assert_eq!(answer, Down { ack: false, fcnt: 0, fopts: vec![] });
}

#[test]
fn answers_that_are_owed_are_bounded() {
    let mut site = Site::new();
    let mut devices: Vec<TestDevice> = (100..1_200).map(TestDevice::new).collect();
    for device in &devices {
        site.server.add_device(config(device), None, None).unwrap();
    }
    let mut losses = Vec::new();
    for device in &mut devices {
        let request = device.join_request();
        losses.extend(lost(&site.hear(1, 5.0, &request)));
    }
    assert_eq!(losses, vec![Lost::TooMany; 1_100 - 1_024]);
}
