//! EU863-870 as in the LoRaWAN Regional Parameters (RP002-1.0.3 section 2.4) and the duty cycles
//! of ETSI EN 300 220-2 annex B: data rates, windows, sub-bands, time on air.

/// Delay of RX1 after the end of an uplink, in ms (RECEIVE_DELAY1). RX2 follows 1 s later.
pub const RECEIVE_DELAY1_MS: u64 = 1_000;

/// Delay of RX1 after the end of a JoinRequest, in ms (JOIN_ACCEPT_DELAY1). RX2 follows 1 s later.
pub const JOIN_ACCEPT_DELAY1_MS: u64 = 5_000;

/// From RX1 to RX2, in ms.
pub const RX2_AFTER_RX1_MS: u64 = 1_000;

/// Frequency of RX2, in Hz.
pub const RX2_FREQUENCY_HZ: u32 = 869_525_000;

/// Data rate of RX2.
pub const RX2_DATA_RATE: DataRate = DataRate(0);

/// The three channels that every device knows, in Hz.
pub const JOIN_CHANNELS_HZ: [u32; 3] = [868_100_000, 868_300_000, 868_500_000];

/// The five channels that a JoinAccept adds (CFList), in Hz.
pub const CFLIST_CHANNELS_HZ: [u32; 5] =
    [867_100_000, 867_300_000, 867_500_000, 867_700_000, 867_900_000];

/// Data rate of EU863-870, DR0 to DR7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataRate(u8);

impl DataRate {
    /// From the number, 0 to 7.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number <= 7 { Some(Self(number)) } else { None }
    }

    /// The number, 0 to 7.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// From the text of a packet forwarder (`SF7BW125`); `None` for a rate outside EU863-870.
    #[must_use]
    pub fn from_datr(text: &str) -> Option<Self> {
        Some(Self(match text {
            "SF12BW125" => 0,
            "SF11BW125" => 1,
            "SF10BW125" => 2,
            "SF9BW125" => 3,
            "SF8BW125" => 4,
            "SF7BW125" => 5,
            "SF7BW250" => 6,
            _ => return None,
        }))
    }

    /// From an FSK bit rate: 50 kbit/s is DR7.
    #[must_use]
    pub const fn from_bit_rate(bits_per_s: u64) -> Option<Self> {
        if bits_per_s == 50_000 { Some(Self(7)) } else { None }
    }

    /// Spreading factor and bandwidth in kHz; `None` for FSK (DR7).
    #[must_use]
    pub const fn lora(self) -> Option<(u32, u32)> {
        match self.0 {
            number @ 0..=5 => Some((12 - number as u32, 125)),
            6 => Some((7, 250)),
            _ => None,
        }
    }

    /// SNR in dB that the demodulator needs (Semtech SX1276 data sheet table 13).
    #[must_use]
    pub fn required_snr_db(self) -> f32 {
        match self.lora() {
            Some((spreading_factor, _)) => -20.0 + (12 - spreading_factor) as f32 * 2.5,
            None => 0.0,
        }
    }

    /// Time on air of a downlink of `bytes` bytes, in µs, rounded up: eight preamble symbols,
    /// explicit header, no payload CRC, coding rate 4/5 (Semtech AN1200.13); FSK by its bit rate.
    #[must_use]
    pub fn airtime_us(self, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        let Some((spreading_factor, bandwidth_khz)) = self.lora() else {
            // Preamble 5, sync word 3, length 1, CRC 2 bytes at 50 kbit/s: 160 µs a byte.
            return (bytes + 11) * 160;
        };
        let sf = u64::from(spreading_factor);
        let symbol_us = (1_u64 << sf) * 1_000 / u64::from(bandwidth_khz);
        let low_rate = u64::from(symbol_us > 16_000);
        // 8·PL − 4·SF + 28 (no CRC); the formula counts at least 0 groups of 4·(SF − 2·DE) bits.
        let bits = (8 * bytes + 28).saturating_sub(4 * sf);
        let groups = bits.div_ceil(4 * (sf - 2 * low_rate));
        let payload_symbols = 8 + groups * 5;
        // The preamble is 8 + 4.25 symbols.
        symbol_us * 49 / 4 + payload_symbols * symbol_us
    }
}

/// A part of the band with a duty cycle of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubBand {
    /// Lowest frequency, in Hz.
    pub low_hz: u32,
    /// Highest frequency, in Hz.
    pub high_hz: u32,
    /// Share of an hour in which one may transmit, in thousandths.
    pub duty_per_mille: u32,
    /// Power for a downlink, in dBm: what the sub-band allows (ERP) with a common antenna.
    pub power_dbm: u8,
}

/// Sub-bands of ETSI EN 300 220-2 annex B in which a gateway may transmit; outside of them never.
pub const SUB_BANDS: [SubBand; 6] = [
    SubBand { low_hz: 863_000_000, high_hz: 865_000_000, duty_per_mille: 1, power_dbm: 14 },
    SubBand { low_hz: 865_000_000, high_hz: 868_000_000, duty_per_mille: 10, power_dbm: 14 },
    SubBand { low_hz: 868_000_000, high_hz: 868_600_000, duty_per_mille: 10, power_dbm: 14 },
    SubBand { low_hz: 868_700_000, high_hz: 869_200_000, duty_per_mille: 1, power_dbm: 14 },
    SubBand { low_hz: 869_400_000, high_hz: 869_650_000, duty_per_mille: 100, power_dbm: 27 },
    SubBand { low_hz: 869_700_000, high_hz: 870_000_000, duty_per_mille: 10, power_dbm: 14 },
];

/// Index in [`SUB_BANDS`] of the sub-band that holds a channel with this centre frequency, 125 kHz
/// wide; `None` where transmitting is not allowed.
#[must_use]
pub fn sub_band(frequency_hz: u32) -> Option<usize> {
    const HALF_CHANNEL_HZ: u32 = 62_500;
    SUB_BANDS.iter().position(|band| {
        band.low_hz + HALF_CHANNEL_HZ <= frequency_hz
            && frequency_hz + HALF_CHANNEL_HZ <= band.high_hz
    })
}

#[cfg(test)]
mod tests {
    use lrwn::region::{CommonName, DataRateModulation, get};

    use super::*;

    #[test]
    fn numbers_agree_with_chirpstack() {
        let region = get(CommonName::EU868, false, false);
        assert_eq!(u64::from(RX2_FREQUENCY_HZ), u64::from(region.get_defaults().rx2_frequency));
        assert_eq!(RX2_DATA_RATE.number(), region.get_defaults().rx2_dr);
        for number in 0..=6 {
            let ours = DataRate::new(number).unwrap();
            let DataRateModulation::Lora(theirs) = region.get_data_rate(number).unwrap() else {
                panic!("DR{number} is LoRa");
            };
            let (spreading_factor, bandwidth_khz) = ours.lora().unwrap();
            assert_eq!(spreading_factor, u32::from(theirs.spreading_factor), "DR{number}");
            assert_eq!(bandwidth_khz * 1_000, theirs.bandwidth, "DR{number}");
            let text = format!("SF{spreading_factor}BW{bandwidth_khz}");
            assert_eq!(DataRate::from_datr(&text), Some(ours));
        }
        assert_eq!(DataRate::new(7).unwrap().lora(), None);
        assert_eq!(DataRate::new(8), None);
        for (index, frequency) in JOIN_CHANNELS_HZ.into_iter().enumerate() {
            assert_eq!(region.get_uplink_channel(index).unwrap().frequency, frequency);
            assert_eq!(
                region.get_rx1_frequency_for_uplink_frequency(frequency).unwrap(),
                frequency
            );
        }
    }

    /// By hand from the formula of Semtech AN1200.13 for 8 preamble symbols, no CRC, rate 4/5.
    #[test]
    fn time_on_air() {
        let table = [
            ("JoinAccept with CFList, SF12", 0, 33, 1_810_432),
            ("ACK, SF7", 5, 12, 41_216),
            ("ACK, SF12", 0, 12, 991_232),
            ("JoinAccept with CFList, SF7", 5, 33, 71_936),
        ];
        for (what, rate, bytes, expected) in table {
            assert_eq!(DataRate::new(rate).unwrap().airtime_us(bytes), expected, "{what}");
        }
        assert_eq!(DataRate::new(7).unwrap().airtime_us(12), 3_680, "FSK");
    }

    #[test]
    fn where_one_may_transmit() {
        let table = [
            (868_100_000, Some(2)),
            (868_500_000, Some(2)),
            (867_100_000, Some(1)),
            (869_525_000, Some(4)),
            (868_650_000, None),
            (869_300_000, None),
            (862_000_000, None),
            (870_000_000, None),
            (915_000_000, None),
        ];
        for (frequency, expected) in table {
            assert_eq!(sub_band(frequency), expected, "{frequency}");
        }
    }
}
