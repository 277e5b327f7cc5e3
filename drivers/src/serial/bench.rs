//! Load for the benchmark of the serial path: frames of many readings, made beforehand, so that
//! a caller with a clock can time the gateway's side alone.

use sensor::frame::{DeviceId, Frame, Framer, Kind, MAX_FRAME, MAX_WIRE, to_wire};
use sensor::keys::{SessionKeys, SharedKey};

use super::effect::Effect;
use super::port::Port;
use super::session::{Committed, Session};
use crate::senml::{Pack, Record};

/// One port with one node whose session is open.
#[derive(Debug)]
pub struct Load {
    port: Port,
    keys: SessionKeys,
    counter: u64,
}

impl Default for Load {
    fn default() -> Self {
        Self::new()
    }
}

impl Load {
    /// Runs the handshake.
    ///
    /// # Panics
    /// If the protocol is broken.
    #[must_use]
    pub fn new() -> Self {
        let key = SharedKey::new(DeviceId(*b"bench-01"), [7; 16]);
        let session = Session::new(key.clone(), None, Committed::default());
        let mut port = Port::new();
        port.add(session.expect("there is no record")).expect("an empty port");
        let hello = key.hello(&[1; 16]);
        let effects = port.feed(0, &wire(&hello), &[2; 32]);
        let [Effect::Write { bytes, .. }] = &effects[..] else { panic!("no CHALLENGE") };
        let mut framer = Framer::new();
        let frame = framer.next(&mut &bytes[..]).expect("one frame").expect("COBS").to_vec();
        let Ok(Frame::Challenge { bytes, .. }) = Frame::parse(&frame) else {
            panic!("no CHALLENGE")
        };
        let keys = key.session(&hello, bytes);
        let mut load = Self { port, keys, counter: 0 };
        let confirm = load.sealed(Kind::Confirm, 0, &[]);
        load.port.feed(0, &confirm, &[3; 32]);
        load
    }

    /// The bytes of the next `count` readings, each a SenML pack of two records (40 bytes).
    #[must_use]
    pub fn frames(&mut self, count: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..count {
            self.counter += 1;
            let value = (self.counter % 400) as f64 / 10.0;
            let pack = Pack(vec![
                Record::number("temperature", Some("Cel"), value),
                Record::number("humidity", Some("%RH"), 40.5),
            ]);
            bytes.extend(self.sealed(Kind::Senml, self.counter, &pack.to_cbor()));
        }
        bytes
    }

    /// What is to be timed: takes the bytes of [`Load::frames`] in pieces of 4 KiB; returns how
    /// many readings were delivered.
    pub fn receive(&mut self, bytes: &[u8]) -> u64 {
        let mut readings = 0;
        for piece in bytes.chunks(4096) {
            let effects = self.port.feed(0, piece, &[4; 32]);
            readings += effects.iter().filter(|e| matches!(e, Effect::Deliver(_))).count() as u64;
        }
        readings
    }

    fn sealed(&self, kind: Kind, counter: u64, payload: &[u8]) -> Vec<u8> {
        let mut frame = [0; MAX_FRAME];
        let length = self.keys.seal(kind, counter, payload, &mut frame);
        wire(&frame[..length])
    }
}

fn wire(frame: &[u8]) -> Vec<u8> {
    let mut wire = [0; MAX_WIRE];
    let length = to_wire(frame, &mut wire);
    wire[..length].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_of_the_load_is_a_reading() {
        let mut load = Load::new();
        for _ in 0..2 {
            let frames = load.frames(150);
            assert_eq!(load.receive(&frames), 150);
        }
    }
}
