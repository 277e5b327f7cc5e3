//! The LoRaWAN load: one packet forwarder with the uplinks of all devices, one frame a datagram.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::testing::{TestDevice, Up, forwarder, push};

/// Datagrams on their way that are not acknowledged: what fits into a socket's buffer.
const WINDOW: usize = 128;

/// The application payload of an uplink.
pub(crate) const PAYLOAD: [u8; 40] = [0x5A; 40];

/// Datagrams made before the clock runs.
pub(crate) fn datagrams(devices: &mut [TestDevice], count: usize) -> Vec<Vec<u8>> {
    let mut made = Vec::with_capacity(count);
    for number in 0..count {
        let place = number % devices.len();
        let phy = devices[place].up(Up { port: Some(2), payload: &PAYLOAD, ..Up::default() });
        let tmst = u32::try_from(number % 0x1_0000_0000).unwrap_or_default();
        made.push(push(forwarder(1), tmst, 5.0, &phy));
    }
    made
}

/// Sends datagrams, `per_second` or as fast as they are acknowledged. A datagram that is not
/// acknowledged within a second ends it with an error: nothing may be lost.
pub(crate) fn send(port: u16, datagrams: &[Vec<u8>], per_second: Option<f64>) -> Result<()> {
    let socket = UdpSocket::bind(("127.0.0.1", 0))?;
    socket.connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let begun = Instant::now();
    let (mut sent, mut acknowledged) = (0_usize, 0_usize);
    let mut answer = [0; 1024];
    while acknowledged < datagrams.len() {
        let due = per_second.map_or(datagrams.len(), |rate| {
            datagrams.len().min((begun.elapsed().as_secs_f64() * rate) as usize + 1)
        });
        while sent < due && sent - acknowledged < WINDOW {
            socket.send(&datagrams[sent])?;
            sent += 1;
        }
        if sent == acknowledged {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        let length = socket.recv(&mut answer)?;
        // PUSH_ACK; anything else goes to where PULL_DATA come from.
        acknowledged += usize::from(length == 4 && answer[3] == 1);
    }
    ensure!(sent == datagrams.len(), "all were sent");
    Ok(())
}
