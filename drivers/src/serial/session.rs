//! One shared-key node as the gateway sees it (`drivers/PROTOCOL.md` section 6).
//!
//! ```text
//! HELLO ──> pending handshake ──CONFIRM──> session (epoch + 1) ──readings──> Deliver, then ACK
//! ```
//!
//! Pure: time and nonces come in with the input, everything to do goes out as [`Effect`]s. A
//! session goes on until the CONFIRM of a new handshake has been verified, so that a recorded
//! HELLO disturbs nobody.

use sensor::frame::{
    CHALLENGE, DeviceId, Frame, HELLO, Kind, MAX_FRAME, MAX_PAYLOAD, MAX_WIRE, Sealed, to_wire,
};
use sensor::keys::{EXPORTED, LastStored, NONCE, SessionKeys, SharedKey};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::effect::{Counts, Effect, Refusal};
use crate::device::Identity;
use crate::reading::{Checked, Level, VerifiedReading};
use crate::senml::{Pack, Record};

/// Furthest that a counter may run ahead of the highest one taken; what lies between is a gap.
/// A year of readings every 30 seconds.
pub const MAX_JUMP: u64 = 1 << 20;

/// Name of the SenML record that holds a payload without a codec.
pub const BYTES_NAME: &str = "payload";

/// Length of a session record, in bytes.
pub const RECORD: usize = 1 + 8 + 4 + EXPORTED + 8 + 16;

/// First byte of a session record.
const RECORD_VERSION: u8 = 1;

/// Epoch and digest of the session in a record: what its [`Effect::SessionOpened`] said. `None` for
/// anything that is no record.
#[must_use]
pub fn opened(record: &[u8]) -> Option<(u32, [u8; 32])> {
    let device = DeviceId(*record.get(1..)?.first_chunk()?);
    let current = Current::from_record(device, record).ok()?;
    Some((current.epoch, current.keys.digest()))
}

/// Why a saved record was not taken; the node then makes a new handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Not a record of this version: another length or version byte.
    #[error("session record has another length or version")]
    Shape,
    /// The record of another device.
    #[error("session record is of another device")]
    Device,
}

/// What the ledger knows of a node: the last epoch and the highest counter committed in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Last session epoch on the ledger, or durably on its way there; 0 if none was opened.
    /// Only so does a node whose record is lost not open the same epoch twice.
    pub epoch: u32,
    /// Highest counter committed in that epoch.
    pub highest: u64,
}

/// The gateway's side of one node.
#[derive(Debug)]
pub struct Session {
    key: SharedKey,
    last_epoch: u32,
    current: Option<Current>,
    pending: Option<Pending>,
    held: bool,
    counts: Counts,
}

#[derive(Debug)]
struct Current {
    keys: SessionKeys,
    epoch: u32,
    highest: u64,
    /// First half of the SHA-256 of the frame with counter `highest`.
    digest: [u8; 16],
}

#[derive(Debug)]
struct Pending {
    hello: [u8; HELLO],
    challenge: [u8; CHALLENGE],
    keys: SessionKeys,
}

impl Session {
    /// A node after pairing (no record) or at start (with the record of the last `Persist`).
    ///
    /// A record that is older than what the ledger has committed is not gone back to: its epoch
    /// is closed, or its counter raised.
    ///
    /// # Errors
    /// [`RecordError`]; open the node without a record then, and say so.
    pub fn new(
        key: SharedKey,
        record: Option<&[u8]>,
        committed: Committed,
    ) -> Result<Self, RecordError> {
        let mut current =
            record.map(|record| Current::from_record(key.device(), record)).transpose()?;
        let saved_epoch = current.as_ref().map_or(0, |current| current.epoch);
        current = current.filter(|current| current.epoch >= committed.epoch);
        if let Some(current) = &mut current
            && current.epoch == committed.epoch
            && current.highest < committed.highest
        {
            current.highest = committed.highest;
            current.digest = [0; 16];
        }
        let last_epoch = saved_epoch.max(committed.epoch);
        let counts = Counts::default();
        Ok(Self { key, last_epoch, current, pending: None, held: false, counts })
    }

    /// The node's device ID.
    #[must_use]
    pub const fn device(&self) -> DeviceId {
        self.key.device()
    }

    /// The node's identity.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        Identity::SerialDevice(self.key.device().0)
    }

    /// The open session's epoch and highest counter.
    #[must_use]
    pub fn position(&self) -> Option<(u32, u64)> {
        self.current.as_ref().map(|current| (current.epoch, current.highest))
    }

    /// While held, handshakes are answered, which proves the identity, and readings are neither
    /// taken nor acknowledged: for the time between pairing and registration.
    pub const fn hold_readings(&mut self, held: bool) {
        self.held = held;
    }

    /// What happened since start.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Takes one frame of this node; `now_ms` is the time of the gateway that its reading will
    /// carry, in milliseconds since 1970. `nonce` is used for a new handshake only: 16 bytes that
    /// are unpredictable and not given a second time.
    pub fn step(&mut self, now_ms: u64, frame: &Frame<'_>, nonce: &[u8; NONCE]) -> Vec<Effect> {
        let taken = match frame {
            Frame::Hello { bytes, .. } => self.hello(bytes, nonce),
            Frame::Sealed(sealed) => match sealed.kind {
                Kind::Confirm => self.confirm(sealed),
                Kind::Senml | Kind::Bytes => self.reading(now_ms, sealed),
                Kind::Acknowledge => Err(Refusal::Echo(sealed.device)),
            },
            Frame::Challenge { device, .. } => Err(Refusal::Echo(*device)),
        };
        taken.unwrap_or_else(|refusal| {
            self.counts.refuse(refusal.name());
            vec![Effect::Refused(refusal)]
        })
    }

    fn hello(&mut self, hello: &[u8; HELLO], nonce: &[u8; NONCE]) -> Result<Vec<Effect>, Refusal> {
        let device = self.device();
        self.key.check_hello(hello).map_err(|_| Refusal::WrongKey(device))?;
        let challenge = match &self.pending {
            // The same HELLO again: the sensor may already have the first answer.
            Some(pending) if pending.hello == *hello => pending.challenge,
            _ => {
                let last = self.current.as_ref().map_or(LastStored::NONE, |current| LastStored {
                    session: current.keys.id(),
                    counter: current.highest,
                });
                let challenge = self.key.challenge(hello, nonce, last);
                let keys = self.key.session(hello, &challenge);
                self.pending = Some(Pending { hello: *hello, challenge, keys });
                challenge
            }
        };
        // It says what is stored, so it may not overtake the disk.
        Ok(vec![write(&challenge, true)])
    }

    fn confirm(&mut self, sealed: &Sealed<'_>) -> Result<Vec<Effect>, Refusal> {
        let fresh = self.pending.take_if(|pending| pending.keys.id() == sealed.session);
        let Some(pending) = fresh else { return self.confirm_again(sealed) };
        if sealed.counter != 0 || pending.keys.open(sealed, &mut [0; MAX_PAYLOAD]).is_err() {
            let refusal = Refusal::BadTag(sealed.device);
            self.pending = Some(pending);
            return Err(refusal);
        }
        let epoch = self.last_epoch.checked_add(1).ok_or(Refusal::BadTag(sealed.device))?;
        self.last_epoch = epoch;
        let digest = pending.keys.digest();
        let current =
            Current { keys: pending.keys, epoch, highest: 0, digest: frame_digest(sealed) };
        let effects = vec![
            Effect::SessionOpened { identity: self.identity(), epoch, digest },
            Effect::Persist { identity: self.identity(), record: current.record(self.device()) },
            write_acknowledgement(&current.keys, 0),
        ];
        self.current = Some(current);
        self.counts.sessions = self.counts.sessions.saturating_add(1);
        Ok(effects)
    }

    /// The acknowledgement of the CONFIRM was lost.
    fn confirm_again(&mut self, sealed: &Sealed<'_>) -> Result<Vec<Effect>, Refusal> {
        let current = self.current.as_mut().filter(|current| current.keys.id() == sealed.session);
        let current = current.ok_or(Refusal::UnknownSession(sealed.device))?;
        current.authentic(sealed)?;
        current.repeated(sealed)?;
        self.counts.repeated = self.counts.repeated.saturating_add(1);
        Ok(vec![write_acknowledgement(&current.keys, sealed.counter)])
    }

    fn reading(&mut self, now_ms: u64, sealed: &Sealed<'_>) -> Result<Vec<Effect>, Refusal> {
        let (device, identity) = (self.device(), self.identity());
        let current = self.current.as_mut().filter(|current| current.keys.id() == sealed.session);
        let current = current.ok_or(Refusal::UnknownSession(device))?;
        let mut buffer = [0; MAX_PAYLOAD];
        let payload =
            current.keys.open(sealed, &mut buffer).map_err(|_| Refusal::BadTag(device))?;
        if self.held {
            return Err(Refusal::Held(device));
        }
        let (counter, highest) = (sealed.counter, current.highest);
        if counter <= highest {
            current.repeated(sealed)?;
            self.counts.repeated = self.counts.repeated.saturating_add(1);
            return Ok(vec![write_acknowledgement(&current.keys, counter)]);
        }
        if counter - highest > MAX_JUMP {
            return Err(Refusal::Jump { device, counter, highest });
        }
        let senml = match to_senml(sealed.kind, payload) {
            Ok(senml) => senml,
            Err(senml) => {
                self.counts.not_senml = self.counts.not_senml.saturating_add(1);
                senml
            }
        };
        current.highest = counter;
        current.digest = frame_digest(sealed);
        self.counts.readings = self.counts.readings.saturating_add(1);
        let reading = VerifiedReading::new(Checked {
            identity,
            epoch: current.epoch,
            counter,
            received_ms: now_ms,
            level: Level::SharedKey,
            senml,
            device_signature: None,
        });
        Ok(vec![
            Effect::Deliver(reading),
            Effect::Persist { identity, record: current.record(device) },
            write_acknowledgement(&current.keys, counter),
        ])
    }
}

impl Current {
    fn authentic(&self, sealed: &Sealed<'_>) -> Result<(), Refusal> {
        let mut buffer = [0; MAX_PAYLOAD];
        let opened = self.keys.open(sealed, &mut buffer).map(|_| ());
        opened.map_err(|_| Refusal::BadTag(sealed.device))
    }

    /// A frame that was authenticated and whose counter is not new: the last one again, or worse.
    fn repeated(&self, sealed: &Sealed<'_>) -> Result<(), Refusal> {
        let (device, counter, highest) = (sealed.device, sealed.counter, self.highest);
        if counter != highest {
            return Err(Refusal::Replay { device, counter, highest });
        }
        if frame_digest(sealed) != self.digest {
            return Err(Refusal::Conflict { device, counter });
        }
        Ok(())
    }

    fn record(&self, device: DeviceId) -> Vec<u8> {
        let mut record = Vec::with_capacity(RECORD);
        record.push(RECORD_VERSION);
        record.extend_from_slice(&device.0);
        record.extend_from_slice(&self.epoch.to_be_bytes());
        record.extend_from_slice(&self.keys.export());
        record.extend_from_slice(&self.highest.to_be_bytes());
        record.extend_from_slice(&self.digest);
        debug_assert_eq!(record.len(), RECORD);
        record
    }

    fn from_record(device: DeviceId, record: &[u8]) -> Result<Self, RecordError> {
        let record: &[u8; RECORD] = record.try_into().map_err(|_| RecordError::Shape)?;
        if record[0] != RECORD_VERSION {
            return Err(RecordError::Shape);
        }
        if record[1..9] != device.0 {
            return Err(RecordError::Device);
        }
        let mut rest = &record[9..];
        let mut field = |length| {
            let (field, left) = rest.split_at(length);
            rest = left;
            field
        };
        let fits = "the record's length was checked";
        Ok(Self {
            epoch: u32::from_be_bytes(field(4).try_into().expect(fits)),
            keys: SessionKeys::import(device, field(EXPORTED).try_into().expect(fits)),
            highest: u64::from_be_bytes(field(8).try_into().expect(fits)),
            digest: field(16).try_into().expect(fits),
        })
    }
}

/// The payload as a SenML pack; as a data value if it has no codec (`Ok`) or is not the SenML
/// that it should be (`Err`): what a sensor said under its key is kept.
fn to_senml(kind: Kind, payload: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
    let bytes = || Pack(vec![Record::data(BYTES_NAME, payload)]).to_cbor();
    match kind {
        Kind::Senml => match Pack::from_cbor(payload).and_then(|pack| pack.resolve(0.0)) {
            Ok(_) => Ok(payload.to_vec()),
            Err(_) => Err(bytes()),
        },
        _ => Ok(bytes()),
    }
}

fn write_acknowledgement(keys: &SessionKeys, counter: u64) -> Effect {
    let mut frame = [0; MAX_FRAME];
    let length = keys.seal(Kind::Acknowledge, counter, &[], &mut frame);
    write(&frame[..length], true)
}

fn write(frame: &[u8], after_durable: bool) -> Effect {
    let mut wire = [0; MAX_WIRE];
    let length = to_wire(frame, &mut wire);
    Effect::Write { bytes: wire[..length].to_vec(), after_durable }
}

fn frame_digest(sealed: &Sealed<'_>) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::digest(sealed.bytes).into();
    let (half, _) = digest.split_first_chunk().expect("16 of 32 bytes");
    *half
}

/// Entry for fuzzing: the bytes as a schedule of authentic frames, repeated, out of order and
/// damaged; and as a record.
///
/// # Panics
/// Only if the session is wrong: a counter is delivered twice or out of order.
pub fn fuzz(bytes: &[u8]) {
    let device = DeviceId([0x11; 8]);
    let key = SharedKey::new(device, [7; 16]);
    let _record = Session::new(key.clone(), Some(bytes), Committed::default());
    let mut session = match Session::new(key.clone(), None, Committed::default()) {
        Ok(session) => session,
        Err(error) => unreachable!("there is no record: {error}"),
    };
    let (mut hello, mut challenge) = (key.hello(&[0; NONCE]), [0; CHALLENGE]);
    let mut last = (0, 0);
    for (index, op) in bytes.chunks_exact(3).take(64).enumerate() {
        let mut frame = [0; MAX_FRAME];
        let keys = key.session(&hello, &challenge);
        let length = match op[0] % 4 {
            0 => {
                hello = key.hello(&[op[1]; NONCE]);
                frame[..HELLO].copy_from_slice(&hello);
                HELLO
            }
            1 => keys.seal(Kind::Confirm, 0, &[], &mut frame),
            _ => keys.seal(Kind::Senml, u64::from(op[1]), &[op[2]], &mut frame),
        };
        if op[0] & 0x80 != 0 {
            frame[usize::from(op[2]) % length] ^= 1 | op[1];
        }
        let Ok(frame) = Frame::parse(&frame[..length]) else { continue };
        for effect in session.step(0, &frame, &[index as u8; NONCE]) {
            match effect {
                Effect::Deliver(reading) => {
                    let position = (reading.epoch(), reading.counter());
                    assert!(position > last, "{position:?} after {last:?}");
                    last = position;
                }
                Effect::Write { bytes, .. } if op[0] % 4 == 0 => {
                    let mut framer = sensor::frame::Framer::new();
                    let answer = framer.next(&mut &bytes[..]).and_then(Result::ok);
                    challenge = answer.and_then(|a| a.try_into().ok()).unwrap_or(challenge);
                }
                _ => {}
            }
        }
    }
}
