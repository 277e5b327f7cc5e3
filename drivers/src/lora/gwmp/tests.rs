//! GWMP: what forwarders send, and what nobody should.

use super::super::testing::{base64, forwarder, push, push_json, tx_ack};
use super::*;

const EUI: [u8; 8] = [0xAA, 0x55, 0x5A, 0, 0, 0, 1, 1];

/// Frequency in Hz, data rate, payload.
type Found = (u32, u8, Vec<u8>);

fn uplinks(json: &str) -> Vec<Result<Found, GwmpError>> {
    let push = parse_push(json.as_bytes()).unwrap();
    let mut buffer = [0; MAX_PHY_BYTES];
    push.rxpk
        .list
        .iter()
        .map(|packet| {
            let uplink = packet.uplink(&mut buffer)?;
            Ok((uplink.frequency_hz, uplink.data_rate.number(), uplink.phy.to_vec()))
        })
        .collect()
}

#[test]
fn kinds_of_datagrams() {
    let eui = ForwarderEui(EUI);
    let push = [&[2, 1, 2, 0][..], &EUI, b"{}"].concat();
    assert_eq!(parse(&push), Ok(Datagram::PushData { token: [1, 2], eui, json: b"{}" }));
    let pull = [&[2, 1, 2, 2][..], &EUI].concat();
    assert_eq!(parse(&pull), Ok(Datagram::PullData { token: [1, 2], eui }));
    assert_eq!(push_ack([1, 2]), [2, 1, 2, 1]);
    assert_eq!(pull_ack([1, 2]), [2, 1, 2, 4]);
}

#[test]
fn what_is_no_datagram_of_a_forwarder() {
    let with = |version: u8, kind: u8| [&[version, 0, 0, kind][..], &EUI].concat();
    let table = [
        ("empty", vec![], GwmpError::Short),
        ("three bytes", vec![2, 0, 0], GwmpError::Short),
        ("no EUI", with(2, 0)[..11].to_vec(), GwmpError::Short),
        ("version 1", with(1, 0), GwmpError::Version(1)),
        ("PUSH_ACK", with(2, 1), GwmpError::Kind(1)),
        ("PULL_RESP", with(2, 3), GwmpError::Kind(3)),
        ("kind 6", with(2, 6), GwmpError::Kind(6)),
        ("too long", vec![2; MAX_DATAGRAM_BYTES + 1], GwmpError::TooLong),
    ];
    for (what, bytes, error) in table {
        assert_eq!(parse(&bytes), Err(error), "{what}");
    }
}

#[test]
fn what_became_of_a_downlink() {
    let table = [
        (None, Ok(())),
        (Some("NONE"), Ok(())),
        (Some("TOO_LATE"), Err(TxError::TooLate)),
        (Some("TOO_EARLY"), Err(TxError::TooEarly)),
        (Some("COLLISION_PACKET"), Err(TxError::CollisionPacket)),
        (Some("COLLISION_BEACON"), Err(TxError::CollisionBeacon)),
        (Some("TX_FREQ"), Err(TxError::Frequency)),
        (Some("TX_POWER"), Err(TxError::Power)),
        (Some("GPS_UNLOCKED"), Err(TxError::GpsUnlocked)),
        (Some("SUNSHINE"), Err(TxError::Unknown)),
    ];
    for (code, expected) in table {
        let Ok(Datagram::TxAck { token: [7, 8], outcome, .. }) = parse(&tx_ack(EUI, [7, 8], code))
            .map(|datagram| match datagram {
                Datagram::TxAck { token, eui, outcome } => Datagram::TxAck { token, eui, outcome },
                other => other,
            })
        else {
            panic!("{code:?} is a TX_ACK");
        };
        assert_eq!(outcome, expected, "{code:?}");
    }
    let outcome = |json: &str| parse_tx_ack(json.as_bytes());
    assert_eq!(outcome("\0"), Ok(()));
    assert_eq!(outcome(r#"{"txpk_ack":{"warn":"TX_POWER","value":14}}"#), Ok(()));
    assert_eq!(outcome(r#"{"txpk_ack":{"error":null}}"#), Ok(()));
    assert_eq!(outcome("{"), Err(TxError::Unknown));
}

/// The examples of PROTOCOL.TXT (Lora-net/packet_forwarder), sections 4 and 6, joined.
#[test]
fn packets_of_the_protocol_description() {
    let json = r#"{"rxpk":[
        {"time":"2013-03-31T16:21:17.528002Z","tmst":3512348611,"chan":2,"rfch":0,
         "freq":866.349812,"stat":1,"modu":"LORA","datr":"SF7BW125","codr":"4/6","rssi":-35,
         "lsnr":5.1,"size":32,"data":"-DS4CGaDCdG+48eJNM3Vai-zDpsR71Pn9CPA9uCON84"},
        {"time":"2013-03-31T16:21:17.530974Z","tmst":3512348514,"chan":9,"rfch":1,
         "freq":869.1,"stat":1,"modu":"FSK","datr":50000,"rssi":-75,"size":16,
         "data":"VEVTVF9QQUNLRVRfMTIzNA=="},
        {"tmst":3316387610,"chan":0,"rfch":0,"freq":863.00981,"stat":1,"modu":"LORA",
         "datr":"SF10BW125","codr":"4/7","rssi":-38,"lsnr":5.5,"size":32,
         "data":"ysgRl452xNLep9S1NTIg2lomKDxUgn3DJ7DE+b00Ass"}],
        "stat":{"time":"2014-01-12 08:59:28 GMT","lati":46.24,"long":3.2523,"rxnb":2}}"#;
    let found = uplinks(json);
    // The first example's data has a character outside base64, in the original too.
    assert_eq!(found[0], Err(GwmpError::Data));
    assert_eq!(found[1], Ok((869_100_000, 7, b"TEST_PACKET_1234".to_vec())));
    assert!(
        found[2]
            .as_ref()
            .is_ok_and(|(hz, rate, phy)| { (*hz, *rate, phy.len()) == (863_009_810, 2, 32) })
    );
    assert!(parse_push(json.as_bytes()).unwrap().stat);
}

fn packet(change: (&str, &str)) -> String {
    let packet = concat!(
        r#"{"rxpk":[{"tmst":1,"freq":868.1,"stat":1,"datr":"SF7BW125","#,
        r#""rssi":-71,"lsnr":5.5,"size":3,"data":"AQID"}]}"#
    );
    assert!(packet.contains(change.0), "{} is part of the packet", change.0);
    packet.replace(change.0, change.1)
}

#[test]
fn fields_of_a_packet() {
    assert_eq!(uplinks(&packet(("tmst", "tmst"))), [Ok((868_100_000, 5, vec![1, 2, 3]))]);
    let good = [
        ("no time stamp", r#""tmst":1,"#, ""),
        ("no stat", r#""stat":1,"#, ""),
        ("no size", r#""size":3,"#, ""),
        ("no levels", r#""rssi":-71,"lsnr":5.5,"#, ""),
        ("level as a float", "-71", "-71.5"),
        ("null", "-71", "null"),
        ("another field", r#""tmst":1,"#, r#""tmst":1,"foo":{"bar":[1,2]},"#),
        ("escaped text", "SF7BW125", r"SF7\u0042W125"),
    ];
    for (what, from, to) in good {
        let found = uplinks(&packet((from, to)));
        assert_eq!(found, [Ok((868_100_000, 5, vec![1, 2, 3]))], "{what}");
    }
    let bad = [
        ("CRC wrong", r#""stat":1"#, r#""stat":-1"#, GwmpError::Crc),
        ("no CRC", r#""stat":1"#, r#""stat":0"#, GwmpError::Crc),
        ("no frequency", r#""freq":868.1,"#, "", GwmpError::Field("freq")),
        ("frequency below zero", "868.1", "-868.1", GwmpError::Field("freq")),
        ("frequency in Hz", "868.1", "868100000", GwmpError::Field("freq")),
        ("no data rate", r#""datr":"SF7BW125","#, "", GwmpError::Field("datr")),
        ("strange data rate", "SF7BW125", "SF5BW500", GwmpError::Field("datr")),
        ("strange FSK", r#""SF7BW125""#, "4800", GwmpError::Field("datr")),
        ("loud", "-71", "1e30", GwmpError::Field("rssi")),
        ("SNR", "5.5", "-1e30", GwmpError::Field("lsnr")),
        ("no data", r#","data":"AQID""#, "", GwmpError::Field("data")),
        ("empty data", "AQID", "", GwmpError::Data),
        ("not base64", "AQID", "AQI*", GwmpError::Data),
        ("size", r#""size":3"#, r#""size":4"#, GwmpError::Data),
    ];
    for (what, from, to, error) in bad {
        assert_eq!(uplinks(&packet((from, to))), [Err(error)], "{what}");
    }
    let long = base64(&[7; 256]);
    assert_eq!(uplinks(&packet(("AQID", &long))), [Err(GwmpError::Data)], "256 bytes");
}

#[test]
fn several_antennas() {
    let json = packet((
        r#""rssi":-71,"lsnr":5.5"#,
        r#""rsig":[{"ant":0,"rssic":-80,"lsnr":1.5},{"ant":1,"rssic":-60,"lsnr":9.0}]"#,
    ));
    let push = parse_push(json.as_bytes()).unwrap();
    let mut buffer = [0; MAX_PHY_BYTES];
    let uplink = push.rxpk.list[0].uplink(&mut buffer).unwrap();
    assert_eq!((uplink.rssi_dbm, uplink.snr_db), (-60.0, 9.0));
}

#[test]
fn malformed_json_is_an_error_with_a_place() {
    let table = [
        ("empty", "", 1, 0),
        ("cut", "{\"rxpk\":[\n{\"tmst\":", 2, 8),
        ("wrong type", "{\"rxpk\":{}}", 1, 8),
        ("a number too large", "{\"rxpk\":[{\"tmst\":4294967296}]}", 1, 27),
        ("after the end", "{} x", 1, 4),
        ("not UTF-8 text", "{\"rxpk\":[{\"data\":\"\u{fffd}", 1, 21),
    ];
    for (what, json, line, column) in table {
        let error = parse_push(json.as_bytes()).unwrap_err();
        assert_eq!(error, GwmpError::Json { line, column }, "{what}");
    }
    assert!(parse_push(b"{\"rxpk\":[{\"data\":\"\xFF\xFE\"}]}").is_err());
    let deep = format!("{{\"foo\":{}", "[".repeat(60_000));
    assert!(parse_push(deep.as_bytes()).is_err(), "deep nesting ends before the stack does");
}

#[test]
fn a_datagram_of_64_kilobytes_is_bounded() {
    let json = format!(r#"{{"rxpk":[{}{{}}]}}"#, "{},".repeat(20_000));
    let push = parse_push(json.as_bytes()).unwrap();
    assert_eq!(push.rxpk.list.len(), MAX_RXPK);
    assert_eq!(push.rxpk.left_out, 20_001 - MAX_RXPK);
    let full = push_json(forwarder(1), &format!("{{\"x\":\"{}\"}}", "y".repeat(65_000)));
    assert!(parse(&full).is_ok());
    fuzz(&full);
}

#[test]
fn a_downlink_reads_as_json() {
    let txpk = Txpk {
        tmst: 4_032_704,
        frequency_hz: 868_100_000,
        data_rate: DataRate::new(5).unwrap(),
        power_dbm: 14,
        phy: &[1, 2, 3, 4],
    };
    let datagram = pull_resp([9, 8], &txpk);
    assert_eq!(datagram[..4], [2, 9, 8, 3]);
    let json: serde_json::Value = serde_json::from_slice(&datagram[4..]).unwrap();
    let expected = serde_json::json!({"txpk": {
        "imme": false, "tmst": 4_032_704, "freq": 868.1, "rfch": 0, "powe": 14, "modu": "LORA",
        "datr": "SF7BW125", "codr": "4/5", "ipol": true, "ncrc": true, "size": 4,
        "data": "AQIDBA==",
    }});
    assert_eq!(json, expected);
    let fsk = pull_resp([0, 0], &Txpk { data_rate: DataRate::new(7).unwrap(), ..txpk });
    let json: serde_json::Value = serde_json::from_slice(&fsk[4..]).unwrap();
    assert_eq!(json["txpk"]["datr"], 50_000);
    let low = pull_resp([0, 0], &Txpk { frequency_hz: 869_525_000, ..txpk });
    assert!(String::from_utf8_lossy(&low).contains("\"freq\":869.525000"));
}

#[test]
fn damaged_datagrams_never_panic() {
    let mut random = crate::lora::frame::tests::Random::new(1);
    let good = push(forwarder(1), 7, 5.5, &[7; 40]);
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..random.below(4) + 1 {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] = random.next() as u8;
        }
        bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
        fuzz(&bytes);
    }
}
