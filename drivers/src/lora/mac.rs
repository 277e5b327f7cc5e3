//! MAC commands of LoRaWAN 1.0.x: those of a device, decoded; the answers to the two it may ask.
//!
//! A truncated or unknown command ends the list with a typed error: nothing tells where the next
//! one starts (TS001-1.0.4 section 5).

use thiserror::Error;

/// CID of LinkCheckReq and LinkCheckAns.
pub const LINK_CHECK: u8 = 0x02;
/// CID of DeviceTimeReq and DeviceTimeAns.
pub const DEVICE_TIME: u8 = 0x0D;

/// From the Unix epoch to the GPS epoch (6 January 1980), in seconds.
const GPS_EPOCH_S: i64 = 315_964_800;
/// GPS time is ahead of UTC by this many leap seconds (since 1 January 2017, IERS Bulletin C).
const LEAP_S: i64 = 18;

/// A command from a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Is anybody hearing me? Answered.
    LinkCheckReq,
    /// What time is it? Answered when the time is known.
    DeviceTimeReq,
    /// Answer to DevStatusReq: battery (0 external power, 1 to 254, 255 unknown) and the margin
    /// of the last downlink in dB, −32 to 31.
    DevStatusAns {
        /// Battery level.
        battery: u8,
        /// Demodulation margin in dB.
        margin_db: i8,
    },
    /// Answer to a command that this server does not send, by its CID.
    Other(u8),
}

/// Why a list of commands could not be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MacError {
    /// The fields of the command with this CID are cut short.
    #[error("MAC command {0:#04x} is truncated")]
    Truncated(u8),
    /// No uplink command of LoRaWAN 1.0.x has this CID.
    #[error("MAC command {0:#04x} is unknown")]
    Unknown(u8),
}

/// Length of the fields of an uplink command; `None` when its CID is unknown.
const fn fields(cid: u8) -> Option<usize> {
    Some(match cid {
        // LinkCheckReq, DutyCycleAns, RXTimingSetupAns, TXParamSetupAns, DeviceTimeReq,
        // BeaconTimingReq.
        LINK_CHECK | 0x04 | 0x08 | 0x09 | DEVICE_TIME | 0x12 => 0,
        // LinkADRAns, RXParamSetupAns, NewChannelAns, DlChannelAns, PingSlotInfoReq,
        // PingSlotChannelAns, BeaconFreqAns.
        0x03 | 0x05 | 0x07 | 0x0A | 0x10 | 0x11 | 0x13 => 1,
        // DevStatusAns.
        0x06 => 2,
        _ => return None,
    })
}

/// The commands in `bytes` (FOpts, or the decrypted FRMPayload of FPort 0), up to the first error.
pub fn uplink_commands(bytes: &[u8]) -> impl Iterator<Item = Result<Command, MacError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (&cid, after) = rest.split_first()?;
        rest = &[];
        let Some(length) = fields(cid) else { return Some(Err(MacError::Unknown(cid))) };
        let Some((body, after)) = after.split_at_checked(length) else {
            return Some(Err(MacError::Truncated(cid)));
        };
        rest = after;
        Some(Ok(match (cid, body) {
            (LINK_CHECK, _) => Command::LinkCheckReq,
            (DEVICE_TIME, _) => Command::DeviceTimeReq,
            (0x06, &[battery, margin]) => {
                // Six bits of two's complement.
                Command::DevStatusAns { battery, margin_db: (margin << 2) as i8 >> 2 }
            }
            _ => Command::Other(cid),
        }))
    })
}

/// Fields of LinkCheckAns (section 5.2): margin above the demodulation floor, 0 to 254 dB, and the
/// number of forwarders that heard the request.
#[must_use]
pub fn link_check_answer(margin_db: f32, forwarders: usize) -> [u8; 2] {
    [margin_db.clamp(0.0, 254.0) as u8, forwarders.min(255) as u8]
}

/// Fields of DeviceTimeAns (section 5.10): GPS time at the end of the uplink, seconds and 1/256 s.
/// `None` before the GPS epoch or when the seconds overflow.
#[must_use]
pub fn device_time_answer(unix_ms: i64) -> Option<[u8; 5]> {
    let seconds = unix_ms.div_euclid(1_000) - GPS_EPOCH_S + LEAP_S;
    let seconds = u32::try_from(seconds).ok()?.to_le_bytes();
    let fraction = (unix_ms.rem_euclid(1_000) * 256 / 1_000) as u8;
    Some([seconds[0], seconds[1], seconds[2], seconds[3], fraction])
}

/// For a fuzzer: reads commands to the end.
pub fn fuzz(bytes: &[u8]) {
    let count = uplink_commands(bytes).count();
    assert!(count <= bytes.len(), "each command takes a byte at least");
}

#[cfg(test)]
mod tests {
    use super::*;

    type Decoded = Vec<Result<Command, MacError>>;

    fn decode(bytes: &[u8]) -> Decoded {
        uplink_commands(bytes).collect()
    }

    #[test]
    fn commands_of_a_device() {
        use Command::{DevStatusAns, DeviceTimeReq, LinkCheckReq, Other};
        let table: [(&str, &[u8], Decoded); 8] = [
            ("none", &[], vec![]),
            ("two questions", &[2, 13], vec![Ok(LinkCheckReq), Ok(DeviceTimeReq)]),
            (
                "status, below zero",
                &[6, 115, 0x3F],
                vec![Ok(DevStatusAns { battery: 115, margin_db: -1 })],
            ),
            ("status", &[6, 255, 7], vec![Ok(DevStatusAns { battery: 255, margin_db: 7 })]),
            ("answers", &[3, 7, 5, 7, 8], vec![Ok(Other(3)), Ok(Other(5)), Ok(Other(8))]),
            ("truncated status", &[2, 6, 1], vec![Ok(LinkCheckReq), Err(MacError::Truncated(6))]),
            ("truncated LinkADRAns", &[3], vec![Err(MacError::Truncated(3))]),
            ("unknown ends it", &[0x80, 2, 2], vec![Err(MacError::Unknown(0x80))]),
        ];
        for (what, bytes, expected) in table {
            assert_eq!(decode(bytes), expected, "{what}");
        }
    }

    #[test]
    fn every_truncation_of_every_command_is_survived() {
        for cid in 0..=u8::MAX {
            for length in 0..4 {
                let mut bytes = vec![cid];
                bytes.resize(1 + length, 0xFF);
                fuzz(&bytes);
            }
        }
    }

    /// lrwn knows the same commands with the same lengths.
    #[test]
    fn lengths_agree_with_lrwn() {
        // Not in lrwn: BeaconTimingReq (0x12, deprecated). Not in 1.0.4: 0x0B, 0x0C, 0x0E, 0x0F.
        for cid in (0x02..=0x13).filter(|cid| ![0x0B, 0x0C, 0x0E, 0x0F, 0x12].contains(cid)) {
            let Some(length) = fields(cid) else { panic!("{cid:#04x} is a command of 1.0.4") };
            let mut bytes = vec![cid];
            bytes.resize(1 + length, 0);
            let mut set = lrwn::MACCommandSet::new(vec![lrwn::MACCommand::Raw(bytes.clone())]);
            set.decode_from_raw(true).unwrap();
            let decoded: Vec<_> = set.iter().cloned().collect();
            assert_eq!(decoded.len(), 1, "{cid:#04x}: {decoded:?}");
            assert!(!matches!(decoded[0], lrwn::MACCommand::Raw(_)), "{cid:#04x}");
        }
    }

    #[test]
    fn answers() {
        assert_eq!(link_check_answer(-3.0, 2), [0, 2]);
        assert_eq!(link_check_answer(17.9, 300), [17, 255]);
        assert_eq!(link_check_answer(999.0, 1), [254, 1]);
        // 1 January 2020 00:00:00.500 UTC is GPS second 1 261 872 018.
        let answer = device_time_answer(1_577_836_800_500).unwrap();
        assert_eq!(answer[..4], 1_261_872_018_u32.to_le_bytes());
        assert_eq!(answer[4], 128);
        assert_eq!(device_time_answer(0), None);
    }
}
