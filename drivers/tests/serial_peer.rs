//! The serial driver against a sensor that somebody else could have written: the Python peer,
//! which knows `PROTOCOL.md` and none of our code, over real pseudo-terminals.
//!
//! ```text
//! serial_sensor.py ──pty──> cable (this test) ──pty──> Link ──> Port ──> readings
//! ```

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use drivers::reading::VerifiedReading;
use drivers::senml::{Pack, Value};
use drivers::serial::effect::{Effect, Refusal};
use drivers::serial::link::{Event, Link, Settings};
use drivers::serial::pairing::{PrintedCode, write_key_file};
use drivers::serial::port::Port;
use drivers::serial::session::{Committed, Session};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_serial::{SerialPort as _, SerialStream};

/// Far above what anything here takes; only a failure waits for it.
const DEADLINE: Duration = Duration::from_secs(60);

/// A cable between the sensor's terminal and the gateway's, which can be pulled out.
struct Cable {
    folder: TempDir,
    sensor_end: PathBuf,
    carrier: Option<JoinHandle<()>>,
}

impl Cable {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let sensor_end = folder.path().join("sensor");
        let mut cable = Self { folder, sensor_end, carrier: None };
        cable.plug();
        cable
    }

    fn gateway_end(&self) -> PathBuf {
        self.folder.path().join("gateway")
    }

    /// New terminals under the old names, as a device has that was plugged in again.
    fn plug(&mut self) {
        let (sensor, sensor_slave) = SerialStream::pair().expect("a pseudo-terminal");
        let (gateway, gateway_slave) = SerialStream::pair().expect("a pseudo-terminal");
        for (slave, name) in
            [(&sensor_slave, self.sensor_end.clone()), (&gateway_slave, self.gateway_end())]
        {
            let _absent = std::fs::remove_file(&name);
            let path = slave.name().expect("a slave has a name");
            std::os::unix::fs::symlink(path, name).expect("linked");
        }
        self.carrier = Some(tokio::spawn(async move {
            let _open = (sensor_slave, gateway_slave);
            let (mut sensor_read, mut sensor_write) = tokio::io::split(sensor);
            let (mut gateway_read, mut gateway_write) = tokio::io::split(gateway);
            tokio::join!(
                carry(&mut sensor_read, &mut gateway_write),
                carry(&mut gateway_read, &mut sensor_write)
            );
        }));
    }

    async fn pull(&mut self) {
        for name in [self.sensor_end.clone(), self.gateway_end()] {
            std::fs::remove_file(name).expect("removed");
        }
        let carrier = self.carrier.take().expect("plugged in");
        carrier.abort();
        // Joined, so that its terminals are closed.
        assert!(carrier.await.is_err_and(|error| error.is_cancelled()));
    }
}

async fn carry(from: &mut (impl AsyncReadExt + Unpin), to: &mut (impl AsyncWriteExt + Unpin)) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// What the daemon's ingest does, without a disk.
struct Gateway {
    link: Link,
    port: Port,
    readings: Vec<VerifiedReading>,
    refused: Vec<Refusal>,
    records: Vec<Vec<u8>>,
    epochs: Vec<u32>,
    events: Vec<Event>,
    entropy: u64,
}

impl Gateway {
    fn new(path: PathBuf, code: &PrintedCode, record: Option<&[u8]>) -> Self {
        let mut port = Port::new();
        let session = Session::new(code.key(), record, Committed::default());
        port.add(session.expect("a good record")).expect("an empty port");
        Self {
            link: Link::spawn(Settings::new(path)),
            port,
            readings: Vec::new(),
            refused: Vec::new(),
            records: Vec::new(),
            epochs: Vec::new(),
            events: Vec::new(),
            entropy: u64::from(std::process::id()),
        }
    }

    /// Serves until the sensor has ended; returns its exit code and what it printed.
    async fn serve(&mut self, mut sensor: Child) -> (Option<i32>, String) {
        let mut output = sensor.stdout.take().expect("piped");
        let ended = async {
            let mut said = String::new();
            output.read_to_string(&mut said).await.expect("text");
            (sensor.wait().await.expect("waited").code(), said)
        };
        tokio::pin!(ended);
        loop {
            tokio::select! {
                ended = &mut ended => return ended,
                event = self.link.next() => self.take(event.expect("the link lives")),
            }
        }
    }

    /// Serves until so many readings are here.
    async fn until(&mut self, readings: usize) {
        while self.readings.len() < readings {
            let event = timeout(DEADLINE, self.link.next()).await.expect("in time");
            self.take(event.expect("the link lives"));
        }
    }

    fn take(&mut self, event: Event) {
        let effects = match &event {
            Event::Bytes(bytes) => {
                self.entropy += 1;
                let mut entropy = [0; 32];
                entropy[..8].copy_from_slice(&self.entropy.to_be_bytes());
                self.port.feed(1_700_000_000_000, bytes, &entropy)
            }
            Event::Opened => {
                self.port.reopened();
                Vec::new()
            }
            Event::Gone(_) => Vec::new(),
        };
        if !matches!(event, Event::Bytes(_)) {
            self.events.push(event);
        }
        for effect in effects {
            match effect {
                Effect::Deliver(reading) => self.readings.push(reading),
                Effect::Persist { record, .. } => self.records.push(record),
                Effect::SessionOpened { epoch, .. } => self.epochs.push(epoch),
                Effect::Refused(refusal) => self.refused.push(refusal),
                Effect::Write { bytes, .. } => assert!(self.link.writer().write(bytes)),
            }
        }
    }

    fn values(&self) -> Vec<f64> {
        let value = |reading: &VerifiedReading| {
            let pack = Pack::from_cbor(reading.senml()).expect("SenML");
            match pack.resolve(0.0).expect("resolves")[0].value {
                Some(Value::Number(value)) => value,
                ref other => panic!("{other:?}"),
            }
        };
        self.readings.iter().map(value).collect()
    }

    fn refusals(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.refused.iter().map(Refusal::name).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn peer() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers/serial_sensor.py")
}

fn code() -> PrintedCode {
    PrintedCode::from_bytes(std::array::from_fn(|index| index as u8 * 3 + 1))
}

/// A sensor on its end of the cable.
fn sensor(cable: &Cable, options: &[&str]) -> Child {
    let key = cable.folder.path().join("key");
    if !key.exists() {
        write_key_file(&key, &code()).expect("written");
    }
    let mut command = Command::new("python3");
    command.arg(peer()).arg(&cable.sensor_end).arg("--key-file").arg(key);
    command.args(["--interval", "0", "--seed", "1"]).args(options);
    command.stdout(Stdio::piped()).kill_on_drop(true);
    command.spawn().expect("python3 is installed")
}

#[tokio::test]
async fn the_peer_agrees_on_all_vectors() {
    let protocol = Path::new(env!("CARGO_MANIFEST_DIR")).join("PROTOCOL.md");
    let mut command = Command::new("python3");
    command.arg(peer()).arg("--selftest").arg(protocol);
    let output = command.output().await.expect("python3 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn readings_arrive_once_and_in_order_and_a_replay_is_refused() {
    let cable = Cable::new();
    let mut gateway = Gateway::new(cable.gateway_end(), &code(), None);
    let sensor = sensor(&cable, &["--count", "5", "--replay"]);
    let (exit, said) = timeout(DEADLINE, gateway.serve(sensor)).await.expect("in time");
    assert_eq!(exit, Some(0), "{said}");
    assert!(said.contains("replay refused"), "{said}");
    assert_eq!(gateway.values(), [21.5, 22.0, 22.5, 23.0, 23.5]);
    let counters: Vec<_> = gateway.readings.iter().map(VerifiedReading::counter).collect();
    assert_eq!((counters, gateway.epochs.clone()), (vec![1, 2, 3, 4, 5], vec![1]));
    assert_eq!(gateway.refusals(), ["replay"]);
}

#[tokio::test]
async fn noise_truncated_and_oversize_frames_lose_nothing() {
    let cable = Cable::new();
    let mut gateway = Gateway::new(cable.gateway_end(), &code(), None);
    let options = ["--count", "4", "--garbage", "--truncate", "--oversize", "--jump", "100"];
    let (exit, said) =
        timeout(DEADLINE, gateway.serve(sensor(&cable, &options))).await.expect("in time");
    assert_eq!(exit, Some(0), "{said}");
    assert_eq!(gateway.values(), [21.5, 22.0, 22.5, 23.0]);
    let counters: Vec<_> = gateway.readings.iter().map(VerifiedReading::counter).collect();
    assert_eq!(counters, [1, 102, 103, 104], "the jump is a gap");
    assert!(gateway.refusals().contains(&"oversize"), "{:?}", gateway.refusals());
    assert!(gateway.refused.len() >= 8, "{:?}", gateway.refused);
}

#[tokio::test]
async fn a_wrong_key_is_named_and_never_answered() {
    let cable = Cable::new();
    let mut gateway = Gateway::new(cable.gateway_end(), &code(), None);
    let sensor = sensor(&cable, &["--wrong-key", "--patience", "2"]);
    let (exit, said) = timeout(DEADLINE, gateway.serve(sensor)).await.expect("in time");
    assert_eq!(exit, Some(0), "{said}");
    assert!(said.contains("not answered in time"), "{said}");
    assert_eq!(gateway.refusals(), ["wrong-key"]);
    assert!(gateway.readings.is_empty() && gateway.records.is_empty());
}

#[tokio::test]
async fn power_loss_of_the_sensor_is_a_new_epoch_and_kept_state_is_not() {
    let cable = Cable::new();
    let state = cable.folder.path().join("state");
    let state = ["--state", state.to_str().expect("text")];
    let mut gateway = Gateway::new(cable.gateway_end(), &code(), None);
    for options in [&[][..], &state[..], &state[..]] {
        let sensor = sensor(&cable, &[&["--count", "2"][..], options].concat());
        let (exit, said) = timeout(DEADLINE, gateway.serve(sensor)).await.expect("in time");
        assert_eq!(exit, Some(0), "{said}");
    }
    assert_eq!(gateway.epochs, [1, 2], "the third run went on in the second's session");
    let positions: Vec<_> = gateway.readings.iter().map(|r| (r.epoch(), r.counter())).collect();
    assert_eq!(positions, [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (2, 4)]);
}

#[tokio::test]
async fn a_restart_of_the_gateway_goes_on_without_a_handshake() {
    let cable = Cable::new();
    let state = cable.folder.path().join("state");
    let options = ["--count", "2", "--state", state.to_str().expect("text")];
    let mut gateway = Gateway::new(cable.gateway_end(), &code(), None);
    let served = timeout(DEADLINE, gateway.serve(sensor(&cable, &options))).await;
    assert_eq!(served.expect("in time").0, Some(0));
    let record = gateway.records.last().expect("persisted").clone();
    drop(gateway);
    let mut gateway = Gateway::new(cable.gateway_end(), &code(), Some(&record));
    let served = timeout(DEADLINE, gateway.serve(sensor(&cable, &options))).await;
    let (exit, said) = served.expect("in time");
    assert_eq!(exit, Some(0), "{said}");
    assert!(!said.contains("hello"), "{said}");
    let positions: Vec<_> = gateway.readings.iter().map(|r| (r.epoch(), r.counter())).collect();
    assert_eq!((positions, gateway.epochs.len()), (vec![(1, 3), (1, 4)], 0));
}

#[tokio::test]
async fn a_cable_pulled_and_plugged_again_loses_and_doubles_nothing() {
    let mut cable = Cable::new();
    let mut gateway = Gateway::new(cable.gateway_end(), &code(), None);
    let sensor = sensor(&cable, &["--count", "400", "--reopen"]);
    gateway.until(20).await;
    cable.pull().await;
    cable.plug();
    let (exit, said) = timeout(DEADLINE, gateway.serve(sensor)).await.expect("in time");
    assert_eq!(exit, Some(0), "{said}");
    let expected: Vec<f64> = (0..400).map(|n| 21.5 + 0.5 * f64::from(n)).collect();
    assert_eq!(gateway.values(), expected);
    assert_eq!(gateway.epochs, [1, 2]);
    let opened = gateway.events.iter().filter(|event| **event == Event::Opened).count();
    assert!(opened >= 2, "{:?}", gateway.events);
}
