//! The shared key of a node, its handshake and its session keys (`PROTOCOL.md` sections 3 and 4).
//!
//! Both sides call the same functions, so the schedule exists once. Nonces are arguments: they
//! must be fresh and unpredictable, 16 bytes from a random number generator.

use core::fmt;

use ascon_aead::AsconAead128;
use ascon_aead::aead::inout::InOutBuf;
use ascon_aead::aead::{AeadInOut, KeyInit as _};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::frame::{
    CHALLENGE, DeviceId, HELLO, Kind, MAX_FRAME, MAX_PAYLOAD, SEALED_HEADER, Sealed, SessionId,
    TAG, TYPE_CHALLENGE, TYPE_HELLO,
};

/// Length of the pre-shared key, in bytes.
pub const PSK: usize = 16;

/// Length of each side's handshake nonce, in bytes.
pub const NONCE: usize = 16;

/// Length of [`SessionKeys::export`], in bytes.
pub const EXPORTED: usize = 4 + 16 + 16 + 32;

/// Domain of every derivation of this protocol and version.
const LABEL: &[u8] = b"gatewayd-serial-1";

/// A frame or a MAC was not made with the expected key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongKey;

impl fmt::Display for WrongKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the authentication tag is wrong")
    }
}

impl core::error::Error for WrongKey {}

/// The last frame of a node that the gateway has stored, as the CHALLENGE tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastStored {
    /// Session it belonged to; zeros if there is none.
    pub session: SessionId,
    /// Its counter; 0 if there is none.
    pub counter: u64,
}

impl LastStored {
    /// Nothing is stored.
    pub const NONE: Self = Self { session: SessionId([0; 4]), counter: 0 };
}

/// A node's device ID with the key that it shares with its gateways.
#[derive(Clone)]
pub struct SharedKey {
    device: DeviceId,
    psk: [u8; PSK],
}

impl Drop for SharedKey {
    fn drop(&mut self) {
        self.psk.zeroize();
    }
}

impl fmt::Debug for SharedKey {
    /// The device only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedKey({})", self.device)
    }
}

impl SharedKey {
    /// The key of one node.
    #[must_use]
    pub const fn new(device: DeviceId, psk: [u8; PSK]) -> Self {
        Self { device, psk }
    }

    /// The node's device ID.
    #[must_use]
    pub const fn device(&self) -> DeviceId {
        self.device
    }

    /// The sensor's first frame.
    #[must_use]
    pub fn hello(&self, sensor_nonce: &[u8; NONCE]) -> [u8; HELLO] {
        let mut frame = [0; HELLO];
        frame[0] = TYPE_HELLO;
        frame[1..9].copy_from_slice(&self.device.0);
        frame[9..25].copy_from_slice(sensor_nonce);
        let mac = self.mac(&[&frame[..HELLO - TAG]]);
        frame[HELLO - TAG..].copy_from_slice(&mac.finalize().into_bytes()[..TAG]);
        frame
    }

    /// Checks a HELLO frame, at the gateway.
    ///
    /// # Errors
    /// [`WrongKey`] if it was not made with this device ID and key.
    pub fn check_hello(&self, hello: &[u8; HELLO]) -> Result<(), WrongKey> {
        let (body, mac) = hello.split_at(HELLO - TAG);
        self.mac(&[body]).verify_truncated_left(mac).map_err(|_| WrongKey)
    }

    /// The gateway's answer to a HELLO that was checked.
    #[must_use]
    pub fn challenge(
        &self,
        hello: &[u8; HELLO],
        gateway_nonce: &[u8; NONCE],
        last: LastStored,
    ) -> [u8; CHALLENGE] {
        let mut frame = [0; CHALLENGE];
        frame[0] = TYPE_CHALLENGE;
        frame[1..9].copy_from_slice(&self.device.0);
        frame[9..25].copy_from_slice(gateway_nonce);
        frame[25..29].copy_from_slice(&last.session.0);
        frame[29..37].copy_from_slice(&last.counter.to_be_bytes());
        let mac = self.mac(&[hello, &frame[..CHALLENGE - TAG]]);
        frame[CHALLENGE - TAG..].copy_from_slice(&mac.finalize().into_bytes()[..TAG]);
        frame
    }

    /// Checks a CHALLENGE frame against the HELLO it answers, at the sensor.
    ///
    /// # Errors
    /// [`WrongKey`] if it was not made for this HELLO with this device ID and key.
    pub fn check_challenge(
        &self,
        hello: &[u8; HELLO],
        challenge: &[u8; CHALLENGE],
    ) -> Result<LastStored, WrongKey> {
        let (body, mac) = challenge.split_at(CHALLENGE - TAG);
        self.mac(&[hello, body]).verify_truncated_left(mac).map_err(|_| WrongKey)?;
        let mut session = [0; 4];
        session.copy_from_slice(&body[25..29]);
        let mut counter = [0; 8];
        counter.copy_from_slice(&body[29..37]);
        Ok(LastStored { session: SessionId(session), counter: u64::from_be_bytes(counter) })
    }

    /// The keys of the session that these two frames, both checked, begin.
    #[must_use]
    pub fn session(&self, hello: &[u8; HELLO], challenge: &[u8; CHALLENGE]) -> SessionKeys {
        let transcript = Sha256::new_with_prefix(LABEL).chain_update(hello).chain_update(challenge);
        let digest: [u8; 32] = transcript.finalize().into();
        let mut okm = [0; 36];
        Hkdf::<Sha256>::new(Some(&digest), &self.psk)
            .expand_multi_info(&[b"session", &self.device.0], &mut okm)
            .expect("36 bytes are less than the 255 * 32 of RFC 5869");
        let mut keys = SessionKeys {
            device: self.device,
            id: SessionId([0; 4]),
            sensor: [0; 16],
            gateway: [0; 16],
            digest,
        };
        keys.sensor.copy_from_slice(&okm[..16]);
        keys.gateway.copy_from_slice(&okm[16..32]);
        keys.id.0.copy_from_slice(&okm[32..]);
        okm.zeroize();
        keys
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut key = [0; 32];
        Hkdf::<Sha256>::new(Some(LABEL), &self.psk)
            .expand_multi_info(&[b"mac", &self.device.0], &mut key)
            .expect("32 bytes are less than the 255 * 32 of RFC 5869");
        let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(&key)
            .expect("HMAC takes keys of any length");
        key.zeroize();
        parts.iter().for_each(|part| mac.update(part));
        mac
    }
}

/// The keys of one session: one for each direction.
#[derive(Clone)]
pub struct SessionKeys {
    device: DeviceId,
    id: SessionId,
    sensor: [u8; 16],
    gateway: [u8; 16],
    digest: [u8; 32],
}

impl Drop for SessionKeys {
    fn drop(&mut self) {
        self.sensor.zeroize();
        self.gateway.zeroize();
    }
}

impl fmt::Debug for SessionKeys {
    /// Device and session only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKeys({}, {:?})", self.device, self.id)
    }
}

impl SessionKeys {
    /// Name of the session on the wire.
    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// SHA-256 over label, HELLO and CHALLENGE: the session's public parameters.
    #[must_use]
    pub const fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Session ID, both keys and the digest, for a sealed store. Secret.
    #[must_use]
    pub fn export(&self) -> [u8; EXPORTED] {
        let mut bytes = [0; EXPORTED];
        bytes[..4].copy_from_slice(&self.id.0);
        bytes[4..20].copy_from_slice(&self.sensor);
        bytes[20..36].copy_from_slice(&self.gateway);
        bytes[36..].copy_from_slice(&self.digest);
        bytes
    }

    /// Inverse of [`SessionKeys::export`] for the same device.
    #[must_use]
    pub fn import(device: DeviceId, bytes: &[u8; EXPORTED]) -> Self {
        let mut keys = Self {
            device,
            id: SessionId([0; 4]),
            sensor: [0; 16],
            gateway: [0; 16],
            digest: [0; 32],
        };
        keys.id.0.copy_from_slice(&bytes[..4]);
        keys.sensor.copy_from_slice(&bytes[4..20]);
        keys.gateway.copy_from_slice(&bytes[20..36]);
        keys.digest.copy_from_slice(&bytes[36..]);
        keys
    }

    /// Seals `payload` into a frame and returns its length.
    ///
    /// A counter must be used for one payload only in each direction: the caller counts.
    ///
    /// # Panics
    /// If `payload` is longer than [`MAX_PAYLOAD`]; callers check that first.
    #[must_use]
    pub fn seal(
        &self,
        kind: Kind,
        counter: u64,
        payload: &[u8],
        out: &mut [u8; MAX_FRAME],
    ) -> usize {
        assert!(payload.len() <= MAX_PAYLOAD, "a payload is at most MAX_PAYLOAD bytes");
        out[0] = kind as u8;
        out[1..9].copy_from_slice(&self.device.0);
        out[9..13].copy_from_slice(&self.id.0);
        out[13..SEALED_HEADER].copy_from_slice(&counter.to_be_bytes());
        let (header, rest) = out.split_at_mut(SEALED_HEADER);
        let (body, rest) = rest.split_at_mut(payload.len());
        body.copy_from_slice(payload);
        let tag = self
            .cipher(kind)
            .encrypt_inout_detached(&nonce(kind, counter).into(), header, InOutBuf::from(body))
            .expect("lengths are far below those of SP 800-232");
        rest[..TAG].copy_from_slice(&tag);
        SEALED_HEADER + payload.len() + TAG
    }

    /// Opens a sealed frame into `out` and returns the payload.
    ///
    /// The caller has checked device and session; the tag covers them.
    ///
    /// # Errors
    /// [`WrongKey`] if anything in the frame is not what the peer sealed.
    pub fn open<'o>(
        &self,
        sealed: &Sealed<'_>,
        out: &'o mut [u8; MAX_PAYLOAD],
    ) -> Result<&'o [u8], WrongKey> {
        let (header, rest) = sealed.bytes.split_at_checked(SEALED_HEADER).ok_or(WrongKey)?;
        let (body, tag) = rest.split_last_chunk::<TAG>().ok_or(WrongKey)?;
        let plain = out.get_mut(..body.len()).ok_or(WrongKey)?;
        plain.copy_from_slice(body);
        self.cipher(sealed.kind)
            .decrypt_inout_detached(
                &nonce(sealed.kind, sealed.counter).into(),
                header,
                InOutBuf::from(&mut *plain),
                &(*tag).into(),
            )
            .map_err(|_| WrongKey)?;
        Ok(plain)
    }

    /// The kind says the direction, so a frame sent back to its sender never opens.
    fn cipher(&self, kind: Kind) -> AsconAead128 {
        let key = match kind {
            Kind::Confirm | Kind::Senml | Kind::Bytes => &self.sensor,
            Kind::Acknowledge => &self.gateway,
        };
        AsconAead128::new(&(*key).into())
    }
}

/// Type byte, seven zeros, counter: unique under a key as long as counters are.
fn nonce(kind: Kind, counter: u64) -> [u8; 16] {
    let mut nonce = [0; 16];
    nonce[0] = kind as u8;
    nonce[8..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

#[cfg(test)]
mod tests;
