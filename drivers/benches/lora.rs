//! Uplinks a second through [`Server::step_into`], one core, no socket and no disk: JSON, base64,
//! MIC, decryption, counters, SenML, effects. `cargo bench -p drivers --bench lora`.
//!
//! Prints one object a line: `{"figure","value","unit","how"}`.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Instant;

use drivers::codec::Codec;
use drivers::lora::effect::{Effect, Input};
use drivers::lora::ids::{DevEui, JoinEui, Key};
use drivers::lora::join::Version;
use drivers::lora::server::{DeviceConfig, Server, Settings};

#[allow(dead_code)]
#[path = "../src/lora/testing.rs"]
mod testing;

use testing::{TestDevice, Up, forwarder, pull_data, push, tx_ack, unbase64};

const FROM: ([u8; 4], u16) = ([127, 0, 0, 1], 1_700);
const PAYLOAD: [u8; 40] = [0x5A; 40];

fn main() {
    for (devices, rounds, codec) in [
        (100, 2_000, Codec::Raw),
        (1_000, 200, Codec::Raw),
        (10_000, 20, Codec::Raw),
        (1_000, 200, Codec::CayenneLpp),
    ] {
        let (mut server, mut devices) = site(devices, codec);
        let payload: &[u8] = if codec == Codec::Raw { &PAYLOAD } else { &[3, 0x67, 1, 0x10] };
        let (uplinks, seconds) = measure(&mut server, &mut devices, rounds, payload);
        println!(
            concat!(
                r#"{{"figure":"lora_step_uplinks_per_s","value":{:.0},"unit":"1/s","#,
                r#""how":"{} devices, {} B, codec {}, one core"}}"#
            ),
            uplinks as f64 / seconds,
            devices.len(),
            payload.len(),
            codec,
        );
    }
}

/// A server whose devices have all joined.
fn site(count: u64, codec: Codec) -> (Server, Vec<TestDevice>) {
    let mut server = Server::new(Settings::default());
    server.set_transmit_allowed(true);
    let from = SocketAddr::from(FROM).into();
    let mut now_ms = 0;
    server.step(now_ms, Input::Datagram { from, bytes: &pull_data(forwarder(1)) });
    let mut devices: Vec<TestDevice> = (0..count).map(TestDevice::new).collect();
    for device in &mut devices {
        let config = DeviceConfig {
            dev_eui: DevEui(device.dev_eui),
            join_eui: JoinEui(device.join_eui),
            app_key: Key::new(device.app_key),
            version: Version::V1_0_4,
            codec,
            admitted: true,
        };
        server.add_device(config, None, None).expect("the device is added");
        server.grant_join(DevEui(device.dev_eui), 0, 16);
        let request = push(forwarder(1), 0, 5.0, &device.join_request());
        server.step(now_ms, Input::Datagram { from, bytes: &request });
        // Ten seconds for each keep the duty cycle out of the way.
        now_ms += 200;
        let effects = server.step(now_ms, Input::Wake);
        now_ms += 10_000;
        for effect in effects {
            let Effect::Send { bytes, token, deadline_ms: Some(_), .. } = effect else { continue };
            let json: serde_json::Value = serde_json::from_slice(&bytes[4..]).expect("JSON");
            let phy = unbase64(json["txpk"]["data"].as_str().expect("data"));
            assert!(device.join_accept(&phy), "the device takes the JoinAccept");
            let confirmation = tx_ack(forwarder(1), token, None);
            server.step(now_ms, Input::Datagram { from, bytes: &confirmation });
        }
        assert!(device.session.is_some(), "the device has joined");
    }
    (server, devices)
}

/// Time of `rounds` uplinks of every device; making the frames is not in it.
fn measure(
    server: &mut Server,
    devices: &mut [TestDevice],
    rounds: u64,
    payload: &[u8],
) -> (u64, f64) {
    let from = SocketAddr::from(FROM).into();
    let up = Up { port: Some(2), payload, ..Up::default() };
    let mut now_ms = 1_000_000_000;
    let (mut uplinks, mut seconds) = (0, 0.0);
    let mut effects = Vec::new();
    for round in 0..=rounds {
        let datagrams: Vec<Vec<u8>> = devices
            .iter_mut()
            .map(|device| push(forwarder(1), round as u32, 5.0, &device.up(up)))
            .collect();
        let started = Instant::now();
        for (number, bytes) in datagrams.iter().enumerate() {
            // 50,000 uplinks a second.
            now_ms += u64::from(number % 50 == 0);
            server.step_into(now_ms, Input::Datagram { from, bytes }, &mut effects);
            if number % 256 == 255 {
                black_box(&effects);
                effects.clear();
            }
        }
        effects.clear();
        // The first round opens the sessions.
        if round > 0 {
            seconds += started.elapsed().as_secs_f64();
            uplinks += datagrams.len() as u64;
        }
    }
    assert_eq!(server.counters().readings, uplinks + devices.len() as u64, "each one is a reading");
    (uplinks, seconds)
}
