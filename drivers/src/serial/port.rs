//! All shared-key nodes behind one serial port: cuts the stream into frames and hands each to
//! its node's session. Pure.

use std::collections::BTreeMap;

use sensor::frame::{DeviceId, Frame, Framer};
use sensor::keys::NONCE;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::effect::{Counts, Effect, Refusal};
use super::session::Session;

/// Most nodes behind one port: what a hub or a shared bus carries.
pub const MAX_DEVICES: usize = 32;

/// Why a node was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AddError {
    /// The port has [`MAX_DEVICES`] nodes.
    #[error("the port already has {MAX_DEVICES} sensors")]
    Full,
    /// The device is on the port already.
    #[error("this sensor is on the port already")]
    Known,
}

/// One serial port that carries frames.
#[derive(Debug, Default)]
pub struct Port {
    framer: Framer,
    sessions: BTreeMap<DeviceId, Session>,
    counts: Counts,
}

impl Port {
    /// A port without nodes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a paired node.
    ///
    /// # Errors
    /// [`AddError`]; the port is as before.
    pub fn add(&mut self, session: Session) -> Result<(), AddError> {
        let device = session.device();
        if self.sessions.contains_key(&device) {
            return Err(AddError::Known);
        }
        if self.sessions.len() >= MAX_DEVICES {
            return Err(AddError::Full);
        }
        self.sessions.insert(device, session);
        Ok(())
    }

    /// Takes a node off the port; its keys are erased when the result is dropped.
    pub fn remove(&mut self, device: DeviceId) -> Option<Session> {
        self.sessions.remove(&device)
    }

    /// One node of the port.
    pub fn session(&mut self, device: DeviceId) -> Option<&mut Session> {
        self.sessions.get_mut(&device)
    }

    /// The nodes of the port, by device ID.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values()
    }

    /// Frames that reached no session, by refusal.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The port was closed and opened again: what was cut off is not continued.
    pub fn reopened(&mut self) {
        self.framer.clear();
    }

    /// Takes bytes in pieces of any size; `now_ms` as in [`Session::step`]. `entropy` is 32
    /// unpredictable bytes, fresh at each call: the nonces of this call's handshakes are derived
    /// from it.
    pub fn feed(&mut self, now_ms: u64, mut bytes: &[u8], entropy: &[u8; 32]) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut nonces = 0u32;
        while let Some(frame) = self.framer.next(&mut bytes) {
            let refusal = match frame.and_then(Frame::parse) {
                Ok(frame) => {
                    let device = device(&frame);
                    if let Some(session) = self.sessions.get_mut(&device) {
                        let nonce = match frame {
                            Frame::Hello { .. } => {
                                nonces += 1;
                                nonce(entropy, nonces)
                            }
                            _ => [0; NONCE],
                        };
                        effects.extend(session.step(now_ms, &frame, &nonce));
                        continue;
                    }
                    Refusal::UnknownDevice(device)
                }
                Err(error) => Refusal::Frame(error),
            };
            self.counts.refuse(refusal.name());
            effects.push(Effect::Refused(refusal));
        }
        effects
    }
}

const fn device(frame: &Frame<'_>) -> DeviceId {
    match frame {
        Frame::Hello { device, .. } | Frame::Challenge { device, .. } => *device,
        Frame::Sealed(sealed) => sealed.device,
    }
}

/// Two handshakes never share a nonce, also when their HELLOs came in one piece.
fn nonce(entropy: &[u8; 32], index: u32) -> [u8; NONCE] {
    let digest: [u8; 32] =
        Sha256::new_with_prefix(entropy).chain_update(index.to_be_bytes()).finalize().into();
    let (nonce, _) = digest.split_first_chunk().expect("16 of 32 bytes");
    *nonce
}

/// Entry for fuzzing: the bytes as what a port sends, in pieces of 100.
///
/// # Panics
/// Only if the parser or a session is wrong: nothing here is authentic, so nothing is delivered.
pub fn fuzz(bytes: &[u8]) {
    let key = sensor::keys::SharedKey::new(DeviceId([0x11; 8]), [7; 16]);
    let session = Session::new(key, None, super::session::Committed::default());
    let mut port = Port::new();
    port.add(session.expect("there is no record")).expect("an empty port");
    for piece in bytes.chunks(100) {
        for effect in port.feed(0, piece, &[0; 32]) {
            assert!(matches!(effect, Effect::Refused(_)), "answered: {effect:?}");
        }
    }
}

#[cfg(test)]
mod tests;
