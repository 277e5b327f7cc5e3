//! PHYPayloads of LoRaWAN 1.0.x, uplink side: bytes to typed frames, and the downlink that answers.
//!
//! MIC, encryption and the building of downlinks come from the crate `lorawan` 0.9.0, which is
//! used here and nowhere else, with its known defects fenced off:
//! * its MAC-command parser panics on truncated commands: never called, see [`super::mac`];
//! * its JoinAccept with CFList has a wrong MIC: JoinAccepts come from [`super::join`];
//! * it takes an FPort without FRMPayload for no FPort: the layout is read here;
//! * it panics on payloads above 241 bytes: the downlinks built here carry none.

use lorawan_encoding::creator::DataPayloadCreator;
use lorawan_encoding::keys::{AES128, AppSKey, NewSKey};
use lorawan_encoding::maccommands::SerializableMacCommand;
use lorawan_encoding::parser::{EncryptedDataPayload, FCtrl, JoinRequestPayload};
use thiserror::Error;

use super::gwmp::MAX_PHY_BYTES;
use super::ids::{DevAddr, DevEui, JoinEui, Key};

/// MHDR, FHDR without FOpts, MIC: the shortest data frame, in bytes.
const MIN_DATA_BYTES: usize = 12;
const JOIN_REQUEST_BYTES: usize = 23;
const MIC_BYTES: usize = 4;
/// MHDR, DevAddr, FCtrl, FCnt.
const FOPTS_START: usize = 8;
/// Most bytes of MAC commands in FOpts (four bits of length).
pub const MAX_FOPTS_BYTES: usize = 15;

/// Why bytes are not an uplink frame of LoRaWAN 1.0.x.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// No bytes, or fewer than the message type needs.
    #[error("frame is shorter than its message type needs")]
    Short,
    /// More than 255 bytes, or more than a JoinRequest has.
    #[error("frame is longer than its message type allows")]
    Long,
    /// Another major version than LoRaWAN R1.
    #[error("major version is not LoRaWAN R1")]
    Major,
    /// A downlink, a RejoinRequest (1.1) or a proprietary frame.
    #[error("message type {0} is not an uplink of LoRaWAN 1.0.x")]
    MessageType(u8),
    /// MAC commands in FOpts and as FRMPayload at once (TS001-1.0.4 section 4.3.1.6).
    #[error("FPort 0 together with FOpts")]
    PortZeroWithFopts,
}

/// An uplink, its MIC not yet checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A device asks to join.
    JoinRequest(JoinRequest<'a>),
    /// Data within a session.
    Data(DataUp<'a>),
}

/// A JoinRequest (TS001-1.0.4 section 6.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinRequest<'a> {
    bytes: &'a [u8; JOIN_REQUEST_BYTES],
}

/// A data uplink (TS001-1.0.4 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataUp<'a> {
    bytes: &'a [u8],
    fopts_end: usize,
}

/// Parses a PHYPayload from the radio.
///
/// # Errors
///
/// [`FrameError`]: nothing of the frame is used then.
pub fn parse(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    let mhdr = *bytes.first().ok_or(FrameError::Short)?;
    if bytes.len() > MAX_PHY_BYTES {
        return Err(FrameError::Long);
    }
    if mhdr & 0b11 != 0 {
        return Err(FrameError::Major);
    }
    match mhdr >> 5 {
        0b000 => {
            let long = bytes.len() > JOIN_REQUEST_BYTES;
            let error = if long { FrameError::Long } else { FrameError::Short };
            let bytes = bytes.try_into().map_err(|_| error)?;
            Ok(Frame::JoinRequest(JoinRequest { bytes }))
        }
        0b010 | 0b100 => DataUp::parse(bytes).map(Frame::Data),
        other => Err(FrameError::MessageType(other)),
    }
}

impl JoinRequest<'_> {
    /// JoinEUI (AppEUI).
    #[must_use]
    pub fn join_eui(&self) -> JoinEui {
        JoinEui::from_wire(self.field(1))
    }

    /// DevEUI.
    #[must_use]
    pub fn dev_eui(&self) -> DevEui {
        DevEui::from_wire(self.field(9))
    }

    /// DevNonce.
    #[must_use]
    pub fn dev_nonce(&self) -> u16 {
        u16::from_le_bytes(self.field(17))
    }

    /// Whether the MIC was made with this AppKey (section 6.2.2).
    #[must_use]
    pub fn verify(&self, app_key: &Key) -> bool {
        JoinRequestPayload::new(&self.bytes[..])
            .is_ok_and(|frame| frame.validate_mic(&AES128(*app_key.bytes())))
    }

    fn field<const N: usize>(&self, start: usize) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.bytes[start..start + N]);
        field
    }
}

impl<'a> DataUp<'a> {
    /// All bounds are checked here, so that the accessors cannot fail.
    fn parse(bytes: &'a [u8]) -> Result<Self, FrameError> {
        if bytes.len() < MIN_DATA_BYTES {
            return Err(FrameError::Short);
        }
        let fopts_end = FOPTS_START + usize::from(bytes[5] & 0x0F);
        if fopts_end + MIC_BYTES > bytes.len() {
            return Err(FrameError::Short);
        }
        let frame = Self { bytes, fopts_end };
        if frame.port() == Some(0) && fopts_end > FOPTS_START {
            return Err(FrameError::PortZeroWithFopts);
        }
        Ok(frame)
    }

    /// DevAddr.
    #[must_use]
    pub fn dev_addr(&self) -> DevAddr {
        DevAddr::from_wire([self.bytes[1], self.bytes[2], self.bytes[3], self.bytes[4]])
    }

    /// Whether the device asks for an acknowledgement (ConfirmedDataUp).
    #[must_use]
    pub fn confirmed(&self) -> bool {
        self.bytes[0] >> 5 == 0b100
    }

    /// Whether the device asks for any downlink, lest it lower its data rate (ADRACKReq).
    #[must_use]
    pub fn adr_ack_requested(&self) -> bool {
        self.bytes[5] & 0x40 != 0
    }

    /// The low 16 bits of FCntUp.
    #[must_use]
    pub fn fcnt(&self) -> u16 {
        u16::from_le_bytes([self.bytes[6], self.bytes[7]])
    }

    /// FOpts: MAC commands in the clear.
    #[must_use]
    pub fn fopts(&self) -> &'a [u8] {
        &self.bytes[FOPTS_START..self.fopts_end]
    }

    /// FPort, if there is one.
    #[must_use]
    pub fn port(&self) -> Option<u8> {
        self.sealed().first().copied()
    }

    /// FPort and encrypted FRMPayload: equal in two frames of one session and counter exactly when
    /// port and decrypted payload are equal.
    #[must_use]
    pub fn sealed(&self) -> &'a [u8] {
        &self.bytes[self.fopts_end..self.bytes.len() - MIC_BYTES]
    }

    /// Whether the MIC was made with this NwkSKey for the full counter `fcnt` (section 4.4).
    #[must_use]
    pub fn verify(&self, nwk_s_key: &Key, fcnt: u32) -> bool {
        EncryptedDataPayload::new(self.bytes)
            .is_ok_and(|frame| frame.validate_mic(&AES128(*nwk_s_key.bytes()), fcnt))
    }

    /// The FRMPayload, decrypted into `buffer` with NwkSKey (FPort 0) or AppSKey (section 4.3.3).
    /// Only a frame that [`DataUp::verify`] accepted may be handed on.
    #[must_use]
    pub fn decrypt<'b>(
        &self,
        nwk_s_key: &Key,
        app_s_key: &Key,
        fcnt: u32,
        buffer: &'b mut [u8; MAX_PHY_BYTES],
    ) -> &'b [u8] {
        let end = self.bytes.len() - MIC_BYTES;
        let start = self.fopts_end + 1;
        if start >= end {
            return &[];
        }
        let copy = &mut buffer[..self.bytes.len()];
        copy.copy_from_slice(self.bytes);
        let (nwk, app) = (AES128(*nwk_s_key.bytes()), AES128(*app_s_key.bytes()));
        let decrypted = EncryptedDataPayload::new(copy)
            .and_then(|frame| frame.decrypt(Some(&nwk), Some(&app), fcnt));
        match decrypted {
            Ok(frame) => &frame.to_inner()[start..end],
            // Unreachable: the layout was checked in `parse` and both keys are there.
            Err(_) => &[],
        }
    }
}

/// A downlink without application payload: what answers an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataDown<'a> {
    /// Address of the device in its session.
    pub dev_addr: DevAddr,
    /// Whether it acknowledges a confirmed uplink.
    pub ack: bool,
    /// Full FCntDown.
    pub fcnt: u32,
    /// MAC commands, each its CID and its fields; at most [`MAX_FOPTS_BYTES`] in all.
    pub commands: &'a [(u8, &'a [u8])],
}

struct Command<'a>(u8, &'a [u8]);

impl SerializableMacCommand for Command<'_> {
    fn payload_bytes(&self) -> &[u8] {
        self.1
    }
    fn cid(&self) -> u8 {
        self.0
    }
    fn payload_len(&self) -> usize {
        self.1.len()
    }
}

impl DataDown<'_> {
    /// The PHYPayload (UnconfirmedDataDown); `None` when the commands do not fit FOpts.
    #[must_use]
    pub fn build(&self, nwk_s_key: &Key, app_s_key: &Key) -> Option<Vec<u8>> {
        let commands: Vec<_> =
            self.commands.iter().map(|(cid, body)| Command(*cid, body)).collect();
        let commands: Vec<&dyn SerializableMacCommand> =
            commands.iter().map(|command| command as &dyn SerializableMacCommand).collect();
        let mut frame = DataPayloadCreator::new();
        let address = self.dev_addr.to_wire();
        frame
            .set_uplink(false)
            .set_confirmed(false)
            .set_dev_addr(&address)
            .set_fctrl(&FCtrl::new(u8::from(self.ack) << 5, false))
            .set_fcnt(self.fcnt);
        // Without FPort the crate refuses more than 15 bytes of commands.
        let nwk_s_key = NewSKey::from(*nwk_s_key.bytes());
        let app_s_key = AppSKey::from(*app_s_key.bytes());
        frame.build(&[], &commands, &nwk_s_key, &app_s_key).ok().map(<[u8]>::to_vec)
    }
}

/// For a fuzzer: parses a PHYPayload and verifies and decrypts it with keys of zeros.
pub fn fuzz(bytes: &[u8]) {
    let key = Key::new([0; 16]);
    match parse(bytes) {
        Ok(Frame::JoinRequest(frame)) => {
            let _ = (frame.verify(&key), frame.dev_eui(), frame.join_eui(), frame.dev_nonce());
        }
        Ok(Frame::Data(frame)) => {
            let mut buffer = [0; MAX_PHY_BYTES];
            let length = frame.decrypt(&key, &key, u32::from(frame.fcnt()), &mut buffer).len();
            assert_eq!(length, frame.sealed().len().saturating_sub(1), "decryption keeps length");
            let _ = frame.verify(&key, u32::from(frame.fcnt()));
            super::mac::fuzz(frame.fopts());
        }
        Err(_) => {}
    }
}

#[cfg(test)]
pub(crate) mod tests;
