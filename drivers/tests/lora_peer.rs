//! The network server against a device that somebody else's code drives: `tests/peers/lora`
//! (Node.js, npm `lora-packet`), through a real UDP socket.
//!
//! The shell here is the smallest that keeps the rules of `Effect`: what must be durable is kept
//! in a map before anything that waits for it is sent.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use drivers::codec::Codec;
use drivers::device::Identity;
use drivers::lora::effect::{Effect, Input, Lost, Refusal, Stranger, Way};
use drivers::lora::ids::{DevEui, JoinEui, Key};
use drivers::lora::join::Version;
use drivers::lora::link::{Batch, Link};
use drivers::lora::server::{DeviceConfig, Highest, Server, Settings};
use drivers::reading::VerifiedReading;
use drivers::senml::{Pack, Value};
use serde_json::Value as Json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

const KEY: &str = "8D5C1F2E3A4B69788796A5B4C3D2E1F0";
const DEV_EUI: &str = "70B3D57ED0000001";

/// A run that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// What survives a restart of the shell.
#[derive(Default)]
struct Disk {
    records: HashMap<Identity, Vec<u8>>,
    readings: Vec<VerifiedReading>,
}

impl Disk {
    fn highest(&self, identity: Identity) -> Option<Highest> {
        let own = self.readings.iter().filter(|reading| reading.identity() == identity);
        own.map(|reading| Highest { epoch: reading.epoch(), counter: Some(reading.counter()) })
            .max_by_key(|highest| (highest.epoch, highest.counter))
    }
}

/// What a run of the device gave.
struct Run {
    status: ExitStatus,
    events: Vec<Json>,
    told: Vec<Effect>,
    server: Server,
}

impl Run {
    fn named(&self, name: &str) -> Vec<&Json> {
        self.events.iter().filter(|event| event["event"] == name).collect()
    }

    fn assert_success(&self) {
        assert!(self.status.success(), "the device failed: {:#?}", self.events);
    }
}

fn config(number: u64, version: Version) -> DeviceConfig {
    let dev_eui = DevEui::parse(DEV_EUI).expect("a DevEUI");
    DeviceConfig {
        dev_eui: DevEui((u64::from_be_bytes(dev_eui.0) + number).to_be_bytes()),
        join_eui: JoinEui(1_u64.to_be_bytes()),
        app_key: Key::parse(KEY).expect("a key"),
        version,
        codec: Codec::CayenneLpp,
        admitted: true,
    }
}

fn server(disk: &Disk, devices: u64, version: Version) -> Server {
    let mut server = Server::new(Settings::default());
    server.set_transmit_allowed(true);
    for number in 0..devices {
        let config = config(number, version);
        let (dev_eui, identity) = (config.dev_eui, Identity::DevEui(config.dev_eui.0));
        let saved = disk.records.get(&identity).map(Vec::as_slice);
        server.add_device(config, saved, disk.highest(identity)).expect("the device is added");
        if saved.is_none() {
            server.grant_join(dev_eui, 0, 16);
        }
    }
    server
}

fn peer() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers/lora")
}

/// Runs the device with `options` against `server` until it ends.
async fn run(mut server: Server, disk: &mut Disk, options: &[&str]) -> Run {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let key_file = directory.path().join("app.key");
    let mut file = std::fs::File::create(&key_file).expect("a key file");
    writeln!(file, "{KEY}").expect("a key file");
    let link = Link::bind("127.0.0.1:0".parse().expect("an address")).await.expect("a socket");
    let address = link.local_address().expect("a bound socket").to_string();
    assert!(
        peer().join("node_modules/lora-packet").is_dir(),
        "npm package lora-packet is missing: run `npm ci` in tests/peers/lora"
    );
    let mut child = Command::new("node")
        .arg(peer().join("device.js"))
        .args(["--server", &address, "--app-key-file"])
        .arg(&key_file)
        .args(options)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("Node.js is missing: install the packages nodejs and npm");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let (started, mut events, mut told) = (Instant::now(), Vec::new(), Vec::new());
    let mut batch = Batch::default();
    let status = loop {
        let now_ms = || started.elapsed().as_millis() as u64;
        assert!(started.elapsed() < LIMIT, "the device hangs: {events:#?}");
        let idle = Duration::from_secs(5);
        let wake = server
            .next_wake()
            .map_or(idle, |at| Duration::from_millis(at.saturating_sub(now_ms())).min(idle));
        let mut effects = Vec::new();
        tokio::select! {
            received = link.receive(&mut batch) => {
                received.expect("the socket works");
                for (from, bytes) in batch.iter() {
                    let datagram = Input::Datagram { from: from.into(), bytes };
                    server.step_into(now_ms(), datagram, &mut effects);
                }
            }
            () = tokio::time::sleep(wake) => server.step_into(now_ms(), Input::Wake, &mut effects),
            line = lines.next_line() => match line.expect("the pipe works") {
                Some(line) => events.push(serde_json::from_str(&line).expect("a line of JSON")),
                None => break child.wait().await.expect("the device ends"),
            },
        }
        told.extend(execute(effects, &link, disk).await);
    };
    Run { status, events, told, server }
}

/// Executes effects in their order, and gives those that only tell something.
async fn execute(effects: Vec<Effect>, link: &Link, disk: &mut Disk) -> Vec<Effect> {
    let mut told = Vec::new();
    for effect in effects {
        match effect {
            Effect::Send { to: Way::Udp(to), bytes, .. } => {
                link.send(to, &bytes).await.expect("sent");
            }
            Effect::Deliver(reading) => disk.readings.push(reading),
            Effect::Persist { identity, record } => {
                disk.records.insert(identity, record);
            }
            other => told.push(other),
        }
    }
    told
}

/// Temperature in the SenML of a reading.
fn temperature(reading: &VerifiedReading) -> f64 {
    let pack = Pack::from_cbor(reading.senml()).expect("SenML");
    let record = &pack.0[0];
    assert_eq!(
        (record.name.as_deref(), record.unit.as_deref()),
        (Some("temperature_1"), Some("Cel"))
    );
    match record.value {
        Some(Value::Number(number)) => number,
        ref other => panic!("{other:?} is no temperature"),
    }
}

fn counters(disk: &Disk) -> Vec<(u32, u64)> {
    disk.readings.iter().map(|reading| (reading.epoch(), reading.counter())).collect()
}

#[tokio::test]
async fn a_device_joins_through_two_forwarders_and_is_acknowledged() {
    let mut disk = Disk::default();
    let server = server(&disk, 1, Version::V1_0_4);
    let run = run(server, &mut disk, &["--forwarders", "2", "--confirmed"]).await;
    run.assert_success();
    let joined = run.named("joined");
    assert_eq!(joined.len(), 1);
    assert_eq!(joined[0]["window"], "RX1");
    assert_eq!(joined[0]["forwarder"], "aa555a0000000102", "the one with the better SNR");
    assert_eq!(joined[0]["cflist"], "184f84e85684b85e84886684586e8400", "lrwn's vector for EU868");
    let acks = run.named("ack");
    assert_eq!(acks.len(), 3);
    for ack in acks {
        assert_eq!((ack["window"].as_str(), ack["ack"].as_bool()), (Some("RX1"), Some(true)));
        assert!(ack["latency_ms"].as_u64().is_some_and(|ms| ms >= 200), "{ack}");
    }
    assert_eq!(counters(&disk), [(1, 0), (1, 1), (1, 2)]);
    let temperatures: Vec<f64> = disk.readings.iter().map(temperature).collect();
    assert_eq!(temperatures, [20.0, 20.1, 20.2]);
    let counted = run.server.counters();
    assert_eq!((counted.copies, counted.joins, counted.readings), (4, 1, 3));
    assert_eq!((counted.downlinks, counted.transmitted), (4, 4));
    assert_eq!((counted.unanswered, counted.late, counted.strangers), (0, 0, 0));
    let heard = run.told.iter().filter(|effect| matches!(effect, Effect::Heard { .. })).count();
    assert_eq!(heard, 8, "each frame by each forwarder");
}

#[tokio::test]
async fn what_must_be_refused_is_met_with_silence() {
    let mut disk = Disk::default();
    let server = server(&disk, 1, Version::V1_0_4);
    let provocations = ["--replay", "--bad-mic", "--reuse-devnonce", "--stranger"];
    let options = [&["--confirmed", "--uplinks", "2"][..], &provocations].concat();
    let run = run(server, &mut disk, &options).await;
    run.assert_success();
    assert_eq!(run.named("refused").len(), provocations.len());
    assert_eq!(counters(&disk), [(1, 0), (1, 1)]);
    let refusals: Vec<Refusal> = run
        .told
        .iter()
        .filter_map(|effect| match effect {
            Effect::Refused { reason, .. } => Some(*reason),
            _ => None,
        })
        .collect();
    assert_eq!(refusals, [Refusal::Replayed(0), Refusal::DevNonceReused(1)]);
    let strangers: Vec<Stranger> = run
        .told
        .iter()
        .filter_map(|effect| match effect {
            Effect::Stranger(stranger) => Some(*stranger),
            _ => None,
        })
        .collect();
    let [Stranger::DataBadMic(_), Stranger::UnknownDevEui(dev_eui)] = strangers[..] else {
        panic!("{strangers:?}");
    };
    assert_eq!(dev_eui.to_string(), "DEADDEADDEADDEAD");
}

#[tokio::test]
async fn the_frame_counter_rolls_over() {
    let mut disk = Disk::default();
    let server = server(&disk, 1, Version::V1_0_4);
    let options = ["--confirmed", "--fcnt-start", "65534", "--uplinks", "4"];
    let run = run(server, &mut disk, &options).await;
    run.assert_success();
    assert_eq!(counters(&disk), [(1, 65_534), (1, 65_535), (1, 65_536), (1, 65_537)]);
    assert_eq!(temperature(&disk.readings[3]), 20.3, "decrypted with the high half");
}

#[tokio::test]
async fn a_session_survives_a_restart_of_both() {
    let mut disk = Disk::default();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let state = directory.path().join("state.json");
    let options = ["--confirmed", "--uplinks", "2", "--state", state.to_str().expect("a path")];
    let first = run(server(&disk, 1, Version::V1_0_4), &mut disk, &options).await;
    first.assert_success();
    assert_eq!(first.named("joined").len(), 1);
    let second = run(server(&disk, 1, Version::V1_0_4), &mut disk, &options).await;
    second.assert_success();
    assert!(second.named("joined").is_empty(), "the session goes on");
    assert_eq!(counters(&disk), [(1, 0), (1, 1), (1, 2), (1, 3)]);
    let fcnt_down = |run: &Run| -> Vec<u64> {
        run.named("ack").iter().filter_map(|ack| ack["fcnt_down"].as_u64()).collect()
    };
    assert_eq!(fcnt_down(&first), [0, 1]);
    let after = fcnt_down(&second);
    assert!(after[0] > 1 && after[1] == after[0] + 1, "never used twice: {after:?}");
    let rejoin = [&options[..], &["--rejoin"]].concat();
    let third = run(server(&disk, 1, Version::V1_0_4), &mut disk, &rejoin).await;
    third.assert_success();
    assert_eq!(counters(&disk)[4..], [(2, 0), (2, 1)], "a new session is a new epoch");
}

#[tokio::test]
async fn what_rx1_does_not_take_goes_out_in_rx2() {
    let mut disk = Disk::default();
    let server = server(&disk, 1, Version::V1_0_3);
    let options = ["--lorawan", "1.0.3", "--confirmed", "--uplinks", "1", "--tx-error"];
    let run = run(server, &mut disk, &[&options[..], &["TOO_LATE"]].concat()).await;
    run.assert_success();
    assert_eq!(run.named("joined")[0]["window"], "RX2");
    assert_eq!(run.named("ack")[0]["window"], "RX2");
    assert_eq!(run.server.counters().retried, 2);
    let powers: Vec<&Json> = run.named("pull_resp").iter().map(|event| &event["powe"]).collect();
    assert_eq!(powers, [14, 27, 14, 27], "RX2 may be louder");
}

#[tokio::test]
async fn questions_of_the_device_are_answered() {
    let mut disk = Disk::default();
    let mut server = server(&disk, 1, Version::V1_0_4);
    // 1 January 2020 is GPS second 1 261 872 018.
    server.set_unix_ms_at_zero(Some(1_577_836_800_000));
    let options = ["--link-check", "--device-time", "--payload", "none", "--uplinks", "1"];
    let run = run(server, &mut disk, &options).await;
    run.assert_success();
    let answer = run.named("ack")[0];
    assert_eq!(answer["ack"], false, "the uplink was not confirmed");
    let fopts = answer["fopts"].as_str().expect("FOpts");
    // SNR 5.5 dB at SF7, which needs −7.5 dB: margin 13; one forwarder.
    assert!(fopts.starts_with("020d010d"), "{fopts}");
    let seconds = u32::from_str_radix(&fopts[8..16], 16).expect("hexadecimal").swap_bytes();
    assert!((1_261_872_018..1_261_872_138).contains(&seconds), "{seconds}");
    assert_eq!(disk.readings.len(), 1);
    assert!(disk.readings[0].senml().is_empty(), "an uplink without payload is an empty leaf");
}

#[tokio::test]
async fn a_forwarder_that_never_opens_the_way_back() {
    let mut disk = Disk::default();
    let server = server(&disk, 1, Version::V1_0_4);
    let run = run(server, &mut disk, &["--no-pull", "--join-attempts", "1"]).await;
    assert!(!run.status.success(), "nobody can answer");
    assert_eq!(run.named("join_unanswered").len(), 1);
    let lost =
        |effect: &&Effect| matches!(effect, Effect::Unanswered { reason: Lost::NoRoute, .. });
    assert_eq!(run.told.iter().filter(lost).count(), 1);
}

#[tokio::test]
async fn twenty_devices_at_once() {
    let mut disk = Disk::default();
    let server = server(&disk, 20, Version::V1_0_4);
    let options = ["--devices", "20", "--forwarders", "2", "--uplinks", "5", "--interval", "20"];
    let run = run(server, &mut disk, &options).await;
    run.assert_success();
    assert_eq!(run.named("joined").len(), 20);
    assert_eq!(disk.readings.len(), 100);
    let mut addresses: Vec<&str> =
        run.named("joined").iter().filter_map(|event| event["dev_addr"].as_str()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 20, "each device has an address of its own");
}
