//! The server as its devices and forwarders see it: scenarios on a clock that the test owns.

use std::net::SocketAddr;

use super::super::effect::WindowKind;
use super::super::ids::{JoinEui, Key};
use super::super::join::{Activation, Version};
use super::super::session::Session;
use super::super::session::session_digest;
use super::super::testing::{
    Down, TestDevice, Up, forwarder, pull_data, push, push_json, tx_ack, unbase64,
};
use super::*;
use crate::codec::Codec;
use crate::reading::{Level, VerifiedReading};
use crate::senml::{Pack, Record};

mod answers;
mod joins;
mod storm;
mod uplinks;

/// Where forwarder `number` sends from.
fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1_700 + u16::from(number)))
}

fn identity(device: &TestDevice) -> Identity {
    Identity::DevEui(device.dev_eui)
}

fn config(device: &TestDevice) -> DeviceConfig {
    DeviceConfig {
        dev_eui: DevEui(device.dev_eui),
        join_eui: JoinEui(device.join_eui),
        app_key: Key::new(device.app_key),
        version: Version::V1_0_4,
        codec: Codec::Raw,
        admitted: true,
    }
}

/// A PULL_RESP as its forwarder reads it.
#[derive(Debug)]
struct Sent {
    to: Way,
    token: [u8; 2],
    deadline_ms: u64,
    tmst: u64,
    mhz: f64,
    datr: String,
    phy: Vec<u8>,
}

fn sent(effects: &[Effect]) -> Vec<Sent> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send { to, bytes, after_durable, deadline_ms: Some(deadline_ms), token } => {
                assert!(*after_durable, "downlinks wait for the disk");
                assert_eq!((bytes[3], &bytes[1..3]), (3, &token[..]), "PULL_RESP");
                let json: serde_json::Value = serde_json::from_slice(&bytes[4..]).unwrap();
                let txpk = &json["txpk"];
                Some(Sent {
                    to: *to,
                    token: *token,
                    deadline_ms: *deadline_ms,
                    tmst: txpk["tmst"].as_u64().unwrap(),
                    mhz: txpk["freq"].as_f64().unwrap(),
                    datr: txpk["datr"].as_str().unwrap().to_owned(),
                    phy: unbase64(txpk["data"].as_str().unwrap()),
                })
            }
            _ => None,
        })
        .collect()
}

fn readings(effects: &[Effect]) -> Vec<&VerifiedReading> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Deliver(reading) => Some(reading),
            _ => None,
        })
        .collect()
}

fn record(effects: &[Effect]) -> Option<&Vec<u8>> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Persist { record, .. } => Some(record),
        _ => None,
    })
}

fn lost(effects: &[Effect]) -> Vec<Lost> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Unanswered { reason, .. } => Some(*reason),
            _ => None,
        })
        .collect()
}

fn refusals(effects: &[Effect]) -> Vec<Refusal> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Refused { reason, .. } => Some(*reason),
            _ => None,
        })
        .collect()
}

fn strangers(effects: &[Effect]) -> Vec<Stranger> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Stranger(stranger) => Some(*stranger),
            _ => None,
        })
        .collect()
}

/// A server with one device and forwarder 1, whose way back is open.
struct Site {
    server: Server,
    device: TestDevice,
    now_ms: u64,
    tmst: u32,
}

impl Site {
    fn new() -> Self {
        let device = TestDevice::new(1);
        let mut server = Server::new(Settings::default());
        server.add_device(config(&device), None, None).unwrap();
        server.grant_join(DevEui(device.dev_eui), 0, JOIN_WINDOW);
        server.set_transmit_allowed(true);
        let mut site = Self { server, device, now_ms: 1_000, tmst: 0 };
        site.open(1);
        site
    }

    fn joined() -> Self {
        let mut site = Self::new();
        site.join();
        site
    }

    /// Opens the way back of a forwarder.
    fn open(&mut self, number: u8) {
        let effects = self.datagram(number, &pull_data(forwarder(number)));
        assert_eq!(effects, [send_now(address(number).into(), &[2, 0x12, 0x34, 4])], "PULL_ACK");
    }

    fn datagram(&mut self, number: u8, bytes: &[u8]) -> Vec<Effect> {
        let from = address(number);
        self.server.step(self.now_ms, Input::Datagram { from: from.into(), bytes })
    }

    /// A frame that forwarder `number` hears with this SNR.
    fn hear(&mut self, number: u8, snr: f32, phy: &[u8]) -> Vec<Effect> {
        let datagram = push(forwarder(number), self.tmst, snr, phy);
        let effects = self.datagram(number, &datagram);
        assert_eq!(
            effects[0],
            send_now(address(number).into(), &[2, 0xAB, 0xCD, 1]),
            "PUSH_ACK first"
        );
        effects[1..].to_vec()
    }

    fn up(&mut self, up: Up<'_>) -> Vec<Effect> {
        let phy = self.device.up(up);
        self.hear(1, 5.0, &phy)
    }

    /// The time passes, and the server is woken then.
    fn after(&mut self, ms: u64) -> Vec<Effect> {
        self.now_ms += ms;
        self.server.step(self.now_ms, Input::Wake)
    }

    /// The whole join, up to the JoinAccept at the device; gives the saved record.
    fn join(&mut self) -> Vec<u8> {
        let request = self.device.join_request();
        self.hear(1, 5.0, &request);
        let effects = self.after(200);
        let accept = sent(&effects);
        assert_eq!(accept.len(), 1, "{effects:?}");
        assert!(self.device.join_accept(&accept[0].phy), "the device takes the JoinAccept");
        self.confirm(&accept[0]);
        record(&effects).expect("the record is saved first").clone()
    }

    fn confirm(&mut self, sent: &Sent) {
        let bytes = tx_ack(forwarder(1), sent.token, Some("NONE"));
        assert_eq!(self.datagram(1, &bytes), []);
    }

    /// The device restarts at another server with this record.
    fn restarted(self, record: &[u8], highest: Option<Highest>) -> Self {
        let mut site = Self { server: Server::new(Settings::default()), ..self };
        site.server.add_device(config(&site.device), Some(record), highest).unwrap();
        site.server.set_transmit_allowed(true);
        site.open(1);
        site
    }

    /// A confirmed uplink and the acknowledgement that the device gets for it.
    fn acknowledged(&mut self) -> Down {
        self.up(CONFIRMED);
        let effects = self.after(200);
        let down = sent(&effects);
        assert_eq!(down.len(), 1, "{effects:?}");
        self.confirm(&down[0]);
        self.device.down(&down[0].phy, 0).expect("a downlink for the device")
    }
}

const PLAIN: Up<'static> =
    Up { confirmed: false, port: Some(2), payload: &[1, 2, 3], fopts: &[], adr_ack_req: false };
const CONFIRMED: Up<'static> = Up { confirmed: true, ..PLAIN };

#[test]
fn every_input_of_a_fuzzer_ends() {
    fuzz(&[]);
    let mut device = TestDevice::new(1);
    let request = device.join_request();
    let mut series = Vec::new();
    for datagram in [pull_data(forwarder(1)), push(forwarder(1), 1, 2.0, &request)] {
        series.extend_from_slice(&(datagram.len() as u16).to_be_bytes());
        series.extend_from_slice(&datagram);
    }
    fuzz(&series);
    let mut random = super::super::frame::tests::Random::new(3);
    for _ in 0..2_000 {
        let mut damaged = series.clone();
        let at = random.below(damaged.len() as u64) as usize;
        damaged[at] = random.next() as u8;
        fuzz(&damaged);
    }
}

#[test]
fn bad_datagrams_are_counted_and_nothing_else_happens() {
    let mut site = Site::joined();
    let before = *site.server.counters();
    let full = format!("{{\"rxpk\":[{}{{}}]}}", "{},".repeat(21_000));
    assert!(full.len() > 60_000);
    let table = [
        ("empty", vec![], 0),
        ("garbage", vec![0xFF; 100], 0),
        ("version 1", [vec![1], pull_data(forwarder(1))[1..].to_vec()].concat(), 0),
        ("a PULL_RESP", vec![2, 0, 0, 3, b'{', b'}'], 0),
        ("malformed JSON", push_json(forwarder(1), "{\"rxpk\":[{"), 1),
        ("no packets", push_json(forwarder(1), "{}"), 1),
        ("64 KB of empty packets", push_json(forwarder(1), &full), 1),
        ("a TX_ACK for nothing", tx_ack(forwarder(1), [1, 2], None), 0),
    ];
    for (what, bytes, acknowledgements) in table {
        assert_eq!(site.datagram(1, &bytes).len(), acknowledgements, "{what}");
    }
    let counted = site.server.counters();
    assert_eq!(counted.bad_datagrams - before.bad_datagrams, 5);
    assert_eq!(counted.bad_packets - before.bad_packets, 21_001);
    assert_eq!(readings(&site.up(PLAIN)).len(), 1, "and the site goes on");
}

#[test]
fn whom_the_server_listens_to() {
    let device = TestDevice::new(1);
    let settings = Settings {
        forwarders: vec![ForwarderEui(forwarder(1))],
        any_on_loopback: false,
        ..Settings::default()
    };
    let mut server = Server::new(settings);
    server.add_device(config(&device), None, None).unwrap();
    let far = SocketAddr::from(([10, 0, 0, 7], 1_700));
    let pull = |server: &mut Server, number: u8, from: SocketAddr| {
        let bytes = pull_data(forwarder(number));
        server.step(0, Input::Datagram { from: from.into(), bytes: &bytes }).len()
    };
    assert_eq!(pull(&mut server, 1, far), 1, "listed, anywhere");
    assert_eq!(pull(&mut server, 2, far), 0, "not listed");
    assert_eq!(pull(&mut server, 2, address(2)), 0, "not listed, loopback is not enough");
    assert_eq!((server.counters().foreign_forwarders, server.forwarder_count()), (2, 1));

    let mut server = Server::new(Settings::default());
    assert_eq!(pull(&mut server, 2, address(2)), 1, "any on loopback by default");
    assert_eq!(pull(&mut server, 3, far), 0, "but nobody elsewhere");
    for number in 0..=u8::MAX {
        pull(&mut server, number, address(0));
    }
    assert_eq!(server.forwarder_count(), 64, "a flood of forwarders is bounded");
}

#[test]
fn devices_are_added_once_and_removed_with_their_sessions() {
    let mut site = Site::joined();
    site.up(PLAIN);
    let config = config(&site.device);
    assert_eq!(site.server.add_device(config.clone(), None, None), Err(AddDeviceError::Twice));
    assert!(site.server.remove_device(config.dev_eui));
    assert!(!site.server.remove_device(config.dev_eui));
    assert_eq!(site.server.device_count(), 0);
    assert!(matches!(strangers(&site.up(PLAIN))[..], [Stranger::UnknownDevAddr(_)]));
    assert_eq!(site.server.add_device(config, None, None), Ok(()));
}

#[test]
fn a_device_is_put_back_as_it_was_on_disk() {
    let mut site = Site::new();
    let on_disk = site.join();
    let put_back = |site: &mut Site| {
        let config = config(&site.device);
        assert!(site.server.remove_device(config.dev_eui));
        site.server.add_device(config, Some(&on_disk), None).unwrap();
    };
    let phy = site.device.up(CONFIRMED);
    assert_eq!(readings(&site.hear(1, 5.0, &phy)).len(), 1);
    // The disk did not take the reading: it must not be acknowledged.
    put_back(&mut site);
    assert_eq!(site.after(200), []);
    site.now_ms += 2_000;
    let effects = site.hear(1, 5.0, &phy);
    assert_eq!(readings(&effects).len(), 1, "taken when it is sent again");
    let token = sent(&site.after(200))[0].token;
    put_back(&mut site);
    let now_ms = site.now_ms;
    assert_eq!(site.server.step(now_ms, Input::SendMissed { token }), [], "nor in RX2");
    let effects = site.hear(2, 5.0, &phy);
    assert_eq!(readings(&effects).len(), 1, "another forwarder's copy counts again");
}

#[test]
fn what_people_are_shown() {
    let mut site = Site::joined();
    let dev_eui = DevEui(site.device.dev_eui);
    let before = site.server.device(dev_eui).unwrap();
    assert_eq!((before.epoch, before.dev_addr, before.sessions_waiting), (0, None, 1));
    site.up(PLAIN);
    let after = site.server.device(dev_eui).unwrap();
    assert_eq!((after.epoch, after.fcnt_up, after.sessions_waiting), (1, Some(0), 0));
    assert_eq!((after.downlinks_left, after.joins_left, after.admitted), (64, 14, true));
    assert_eq!(site.server.device(DevEui([9; 8])), None);
    let forwarders: Vec<ForwarderState> = site.server.forwarders().collect();
    let id = ForwarderId { bridge: None, eui: ForwarderEui(forwarder(1)) };
    let (way_back, heard_ms) = (Some(address(1).into()), site.now_ms);
    assert_eq!(forwarders, [ForwarderState { id, way_back, heard_ms }]);
}

#[test]
fn a_forwarder_beside_a_bridge_is_never_taken_for_another() {
    let mut site = Site::new();
    let bridge = |number: u8| Way::Bridge { bridge: [number; 20], forwarder: 7 };
    let pull = |site: &mut Site, from: Way, eui: u8| {
        let bytes = pull_data(forwarder(eui));
        site.server.step(site.now_ms, Input::Datagram { from, bytes: &bytes }).len()
    };
    // The same EUI behind a bridge takes nobody's way back.
    assert_eq!(pull(&mut site, bridge(1), 1), 1);
    let ways: Vec<_> = site.server.forwarders().map(|one| (one.id.bridge, one.way_back)).collect();
    assert!(ways.contains(&(None, Some(address(1).into()))), "{ways:?}");
    assert!(ways.contains(&(Some([1; 20]), Some(bridge(1)))), "{ways:?}");
    // A bridge that makes forwarders up crowds nobody out.
    let taken = (0..=255).map(|eui| pull(&mut site, bridge(1), eui)).sum::<usize>();
    assert_eq!(taken, 8);
    assert_eq!(pull(&mut site, bridge(2), 1), 1);
    assert_eq!(pull(&mut site, Way::Udp(address(9)), 9), 1);
}

#[test]
fn memory_of_a_device_is_planned() {
    // 10,000 devices with a session: their entries, plus two map entries of some 100 bytes.
    let bytes = size_of::<Device>() + size_of::<Session>();
    assert!(bytes <= 640, "{bytes} bytes");
}

#[test]
fn strangers_are_all_counted_and_a_few_told() {
    let mut site = Site::new();
    let mut told = 0;
    for number in 100..1_100 {
        let request = TestDevice::new(number).join_request();
        told += strangers(&site.hear(1, 5.0, &request)).len();
    }
    assert_eq!((told, site.server.counters().strangers), (32, 1_000));
    site.after(1_000);
    for number in 2_000..2_100 {
        let request = TestDevice::new(number).join_request();
        told += strangers(&site.hear(1, 5.0, &request)).len();
    }
    assert_eq!(told, 32 + 8, "eight more a second");
}
