//! The serial load: sensors on pseudo-terminals that speak the shared-key protocol, several on a
//! port as on a bus. Each waits for its acknowledgement before it sends the next reading, as the
//! protocol demands.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use drivers::serial::pairing::PrintedCode;
use sensor::frame::{DeviceId, Framer, MAX_WIRE, to_wire};
use sensor::node::{Event, Input, Node};
use tests::gateway::PATIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_serial::{SerialPort, SerialStream};

/// Ports of the load.
const PORTS: usize = 8;

/// Sensors on each.
const ON_A_PORT: usize = 32;

/// SenML-CBOR of 40 bytes: a temperature and a humidity.
const PAYLOAD: [u8; 40] =
    *b"\x82\xa3\x00ktemperature\x01cCel\x02\xf9Nz\xa2\x00ihumidity2\x02\xf9Q\x00";

/// Sensors of one port, and the far end of its cable.
struct Port {
    far: SerialStream,
    sensors: HashMap<DeviceId, Node>,
}

/// All of it.
pub(crate) struct Load {
    ports: Vec<Port>,
    /// Port and code of each sensor.
    pub(crate) codes: Vec<(String, PrintedCode)>,
}

impl Load {
    /// Makes ports and sensors. Call within a runtime.
    pub(crate) fn new() -> Result<Self> {
        let (mut ports, mut codes) = (Vec::new(), Vec::new());
        for port in 0..PORTS {
            // The near end is closed again: the daemon wants it for itself.
            let (far, near) = SerialStream::pair()?;
            let path = near.name().context("a pseudo-terminal has a name")?;
            let mut sensors = HashMap::new();
            for place in 0..ON_A_PORT {
                let mut bytes = [0xA5; 24];
                bytes[..8].copy_from_slice(&((port * ON_A_PORT + place) as u64).to_be_bytes());
                let code = PrintedCode::from_bytes(bytes);
                sensors.insert(code.device(), Node::new(code.key()));
                codes.push((path.clone(), code));
            }
            ports.push(Port { far, sensors });
        }
        Ok(Self { ports, codes })
    }

    /// Says how many there are.
    pub(crate) fn describe(&self) -> String {
        format!("{} sensors on {PORTS} ports", self.codes.len())
    }

    /// Sends for some time; then how many readings were acknowledged in all.
    pub(crate) async fn run(self, time: Duration) -> Result<u64> {
        let end = Instant::now() + time;
        let mut tasks = tokio::task::JoinSet::new();
        for port in self.ports {
            tasks.spawn(port.run(end));
        }
        let mut acknowledged = 0;
        while let Some(done) = tasks.join_next().await {
            acknowledged += done??;
        }
        Ok(acknowledged)
    }
}

impl Port {
    async fn run(mut self, end: Instant) -> Result<u64> {
        let begun = Instant::now();
        let mut acknowledged = 0;
        let mut out = Vec::new();
        for (number, node) in self.sensors.values_mut().enumerate() {
            let payload = &PAYLOAD;
            node.step(0, Input::Reading { senml: true, payload });
            let nonce = [u8::try_from(number)?; 16];
            out.extend_from_slice(node.step(0, Input::Nonce(nonce)).transmit.unwrap_or_default());
        }
        let mut framer = Framer::new();
        let mut buffer = [0; 4096];
        // Each sensor stops when the reading under way is acknowledged after the end.
        let mut under_way = self.sensors.len();
        while under_way > 0 {
            self.far.write_all(&out).await?;
            out.clear();
            let read = tokio::time::timeout(Duration::from_secs(1), self.far.read(&mut buffer));
            let now_ms = u64::try_from(begun.elapsed().as_millis())?;
            let length = match read.await {
                Ok(Ok(length)) => Some(length),
                // Nobody has the near end open yet.
                Ok(Err(_)) => {
                    ensure!(begun.elapsed() < PATIENCE, "the daemon does not open a port");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    None
                }
                Err(_) => None,
            };
            let Some(length) = length else {
                for node in self.sensors.values_mut() {
                    out.extend_from_slice(transmit(node, now_ms, Input::Wake).0);
                }
                continue;
            };
            let mut input = &buffer[..length];
            while let Some(frame) = framer.next(&mut input) {
                let Ok(frame) = frame else { continue };
                let Some(device) = frame.get(1..9).and_then(|id| id.try_into().ok()) else {
                    continue;
                };
                let Some(node) = self.sensors.get_mut(&DeviceId(device)) else { continue };
                let mut wire = [0; MAX_WIRE];
                let length = to_wire(frame, &mut wire);
                let (bytes, event) = transmit(node, now_ms, Input::Received(&wire[..length]));
                out.extend_from_slice(bytes);
                if event != Some(Event::Acknowledged) {
                    continue;
                }
                acknowledged += 1;
                if Instant::now() < end {
                    let reading = Input::Reading { senml: true, payload: &PAYLOAD };
                    out.extend_from_slice(transmit(node, now_ms, reading).0);
                } else {
                    under_way -= 1;
                }
            }
        }
        Ok(acknowledged)
    }
}

fn transmit<'n>(node: &'n mut Node, now_ms: u64, input: Input<'_>) -> (&'n [u8], Option<Event>) {
    let step = node.step(now_ms, input);
    (step.transmit.unwrap_or_default(), step.event)
}
