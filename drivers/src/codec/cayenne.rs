//! Cayenne Low Power Payload (myDevices, LPP 1.x and the types that its Arduino library added):
//! `channel | type | big-endian value`, repeated.
//!
//! Each value becomes a record named after its kind and channel (`temperature_3`), in units of the
//! SenML registry (RFC 8428 section 12.1).

use thiserror::Error;

use crate::senml::{MAX_RECORDS, Pack, Record, Value};

/// Why a payload is not Cayenne LPP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CayenneError {
    /// No byte at all.
    #[error("Cayenne LPP: the payload is empty")]
    Empty,
    /// The type is not in the table: its length is unknown, so nothing after it can be read.
    #[error("Cayenne LPP: type {kind:#04x} at byte {at} is unknown")]
    UnknownType {
        /// The type byte.
        kind: u8,
        /// Its position.
        at: usize,
    },
    /// The last value is cut short.
    #[error("Cayenne LPP: the value at byte {at} is truncated")]
    Truncated {
        /// Position of its channel byte.
        at: usize,
    },
    /// More values than a SenML pack may have records.
    #[error("Cayenne LPP: too many values")]
    TooMany,
}

/// A number within a value: name, bytes, sign, and the fraction that makes it the unit's.
struct Part {
    name: &'static str,
    unit: Option<&'static str>,
    bytes: usize,
    signed: bool,
    multiplier: i64,
    divisor: i64,
}

const fn part(name: &'static str, unit: Option<&'static str>, bytes: usize) -> Part {
    Part { name, unit, bytes, signed: false, multiplier: 1, divisor: 1 }
}

impl Part {
    const fn signed(mut self) -> Self {
        self.signed = true;
        self
    }

    const fn times(mut self, multiplier: i64) -> Self {
        self.multiplier = multiplier;
        self
    }

    const fn over(mut self, divisor: i64) -> Self {
        self.divisor = divisor;
        self
    }

    /// The number in its unit, rounded once.
    fn number(&self, bytes: &[u8]) -> f64 {
        let mut raw = bytes.iter().fold(0_i64, |raw, byte| (raw << 8) | i64::from(*byte));
        let bits = 8 * bytes.len() as u32;
        if self.signed && raw >> (bits - 1) == 1 {
            raw -= 1 << bits;
        }
        (raw * self.multiplier) as f64 / self.divisor as f64
    }
}

/// Acceleration in thousandths of g, to m/s² (standard gravity is 9.80665 m/s²).
const fn acceleration(name: &'static str) -> Part {
    part(name, Some("m/s2"), 2).signed().times(980_665).over(100_000_000)
}

/// Rotation in hundredths of a degree a second, for which the registry has no unit.
const fn rotation(name: &'static str) -> Part {
    part(name, None, 2).signed().over(100)
}

const ACCELERATION: [Part; 3] = [
    acceleration("acceleration_x"),
    acceleration("acceleration_y"),
    acceleration("acceleration_z"),
];
const ROTATION: [Part; 3] = [
    rotation("rotation_x_degrees_per_s"),
    rotation("rotation_y_degrees_per_s"),
    rotation("rotation_z_degrees_per_s"),
];
const POSITION: [Part; 3] = [
    part("latitude", Some("lat"), 3).signed().over(10_000),
    part("longitude", Some("lon"), 3).signed().over(10_000),
    part("altitude", Some("m"), 3).signed().over(100),
];
const COLOUR: [Part; 3] =
    [part("colour_red", None, 1), part("colour_green", None, 1), part("colour_blue", None, 1)];

/// The parts of a value of this type; `None` for an unknown type.
const fn parts(kind: u8) -> Option<&'static [Part]> {
    const DIGITAL_INPUT: &[Part] = &[part("digital_input", None, 1)];
    const DIGITAL_OUTPUT: &[Part] = &[part("digital_output", None, 1)];
    const ANALOG_INPUT: &[Part] = &[part("analog_input", None, 2).signed().over(100)];
    const ANALOG_OUTPUT: &[Part] = &[part("analog_output", None, 2).signed().over(100)];
    const GENERIC: &[Part] = &[part("generic", None, 4)];
    const ILLUMINANCE: &[Part] = &[part("illuminance", Some("lx"), 2)];
    const PRESENCE: &[Part] = &[part("presence", None, 1)];
    const TEMPERATURE: &[Part] = &[part("temperature", Some("Cel"), 2).signed().over(10)];
    const HUMIDITY: &[Part] = &[part("humidity", Some("%RH"), 1).over(2)];
    const PRESSURE: &[Part] = &[part("pressure", Some("Pa"), 2).times(10)];
    const VOLTAGE: &[Part] = &[part("voltage", Some("V"), 2).over(100)];
    const CURRENT: &[Part] = &[part("current", Some("A"), 2).over(1_000)];
    const FREQUENCY: &[Part] = &[part("frequency", Some("Hz"), 4)];
    const PERCENTAGE: &[Part] = &[part("percentage", Some("/"), 1).over(100)];
    const ALTITUDE: &[Part] = &[part("altitude", Some("m"), 2).signed()];
    const CONCENTRATION: &[Part] = &[part("concentration", Some("/"), 2).over(1_000_000)];
    const POWER: &[Part] = &[part("power", Some("W"), 2)];
    const DISTANCE: &[Part] = &[part("distance", Some("m"), 4).over(1_000)];
    const ENERGY: &[Part] = &[part("energy", Some("J"), 4).times(3_600)];
    const DIRECTION: &[Part] = &[part("direction_degrees", None, 2)];
    const TIME: &[Part] = &[part("time", Some("s"), 4)];
    const SWITCH: &[Part] = &[part("switch", None, 1)];
    Some(match kind {
        0 => DIGITAL_INPUT,
        1 => DIGITAL_OUTPUT,
        2 => ANALOG_INPUT,
        3 => ANALOG_OUTPUT,
        100 => GENERIC,
        101 => ILLUMINANCE,
        102 => PRESENCE,
        103 => TEMPERATURE,
        104 => HUMIDITY,
        113 => &ACCELERATION,
        115 => PRESSURE,
        116 => VOLTAGE,
        117 => CURRENT,
        118 => FREQUENCY,
        120 => PERCENTAGE,
        121 => ALTITUDE,
        125 => CONCENTRATION,
        128 => POWER,
        130 => DISTANCE,
        131 => ENERGY,
        132 => DIRECTION,
        133 => TIME,
        134 => &ROTATION,
        135 => &COLOUR,
        136 => &POSITION,
        142 => SWITCH,
        _ => return None,
    })
}

/// Presence and switch are on or off.
const fn is_boolean(kind: u8) -> bool {
    matches!(kind, 102 | 142)
}

/// Decodes a payload. Its length (255 at most on the air) bounds the number of records.
///
/// # Errors
///
/// [`CayenneError`]: then the whole payload stays raw, for a wrong codec reads nonsense.
pub fn decode(payload: &[u8]) -> Result<Pack, CayenneError> {
    if payload.is_empty() {
        return Err(CayenneError::Empty);
    }
    let mut records = Vec::new();
    let mut rest = payload;
    while let Some((&channel, after)) = rest.split_first() {
        let at = payload.len() - rest.len();
        let truncated = CayenneError::Truncated { at };
        let (&kind, mut after) = after.split_first().ok_or(truncated)?;
        let parts = parts(kind).ok_or(CayenneError::UnknownType { kind, at: at + 1 })?;
        for part in parts {
            let (bytes, next) = after.split_at_checked(part.bytes).ok_or(truncated)?;
            let name = format!("{}_{channel}", part.name);
            let number = part.number(bytes);
            let value = if is_boolean(kind) {
                Value::Boolean(number != 0.0)
            } else {
                Value::Number(number)
            };
            records.push(Record::new(&name, part.unit, value));
            after = next;
        }
        if records.len() > MAX_RECORDS {
            return Err(CayenneError::TooMany);
        }
        rest = after;
    }
    Ok(Pack(records))
}

/// For a fuzzer: decodes, and what was decoded must be SenML that reads back.
pub fn fuzz(payload: &[u8]) {
    let payload = &payload[..payload.len().min(255)];
    if let Ok(pack) = decode(payload) {
        assert!(pack.resolve(1.7e9).is_ok(), "names and numbers are valid");
        assert_eq!(Pack::from_cbor(&pack.to_cbor()).as_ref(), Ok(&pack), "reads back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let value = |digit: u8| char::from(digit).to_digit(16).unwrap() as u8;
        digits.chunks(2).map(|pair| value(pair[0]) << 4 | value(pair[1])).collect()
    }

    fn number(name: &str, unit: &str, value: f64) -> Record {
        Record::number(name, Some(unit), value)
    }

    /// The four examples of the Cayenne documentation ("Cayenne Low Power Payload").
    #[test]
    fn examples_of_the_documentation() {
        let table = [
            (
                "two temperatures",
                "03 67 01 10 05 67 00 FF",
                vec![number("temperature_3", "Cel", 27.2), number("temperature_5", "Cel", 25.5)],
            ),
            ("below zero", "01 67 FF D7", vec![number("temperature_1", "Cel", -4.1)]),
            (
                "acceleration",
                "06 71 04 D2 FB 2E 00 00",
                vec![
                    number("acceleration_x_6", "m/s2", 12.1014061),
                    number("acceleration_y_6", "m/s2", -12.1014061),
                    number("acceleration_z_6", "m/s2", 0.0),
                ],
            ),
            (
                "GPS",
                "01 88 06 76 5f f2 96 0a 00 03 e8",
                vec![
                    number("latitude_1", "lat", 42.3519),
                    number("longitude_1", "lon", -87.9094),
                    number("altitude_1", "m", 10.0),
                ],
            ),
        ];
        for (what, hex, expected) in table {
            assert_eq!(decode(&bytes(hex)).unwrap().0, expected, "{what}");
        }
    }

    #[test]
    fn every_other_type() {
        let table = [
            ("01 00 01", Record::number("digital_input_1", None, 1.0)),
            ("01 01 64", Record::number("digital_output_1", None, 100.0)),
            ("02 02 FF 9C", Record::number("analog_input_2", None, -1.0)),
            ("02 03 01 4D", Record::number("analog_output_2", None, 3.33)),
            ("04 64 00 01 00 00", Record::number("generic_4", None, 65_536.0)),
            ("04 65 FF FF", number("illuminance_4", "lx", 65_535.0)),
            ("04 66 01", Record::new("presence_4", None, Value::Boolean(true))),
            ("04 68 63", number("humidity_4", "%RH", 49.5)),
            ("04 73 27 71", number("pressure_4", "Pa", 100_970.0)),
            ("04 74 01 4A", number("voltage_4", "V", 3.3)),
            ("04 75 01 4A", number("current_4", "A", 0.33)),
            ("04 76 00 00 00 32", number("frequency_4", "Hz", 50.0)),
            ("04 78 32", number("percentage_4", "/", 0.5)),
            ("04 79 FF FF", number("altitude_4", "m", -1.0)),
            ("04 7D 01 90", number("concentration_4", "/", 0.0004)),
            ("04 80 00 64", number("power_4", "W", 100.0)),
            ("04 82 00 00 04 D2", number("distance_4", "m", 1.234)),
            ("04 83 00 00 03 E8", number("energy_4", "J", 3_600_000.0)),
            ("04 84 00 B4", Record::number("direction_degrees_4", None, 180.0)),
            ("04 85 00 00 00 01", number("time_4", "s", 1.0)),
            ("04 8E 00", Record::new("switch_4", None, Value::Boolean(false))),
        ];
        for (hex, expected) in table {
            assert_eq!(decode(&bytes(hex)).unwrap().0, [expected], "{hex}");
        }
        let gyrometer = decode(&bytes("07 86 00 64 FF 9C 00 01")).unwrap();
        assert_eq!(gyrometer.0[1], Record::number("rotation_y_degrees_per_s_7", None, -1.0));
        let colour = decode(&bytes("08 87 FF 80 00")).unwrap();
        assert_eq!(colour.0[0], Record::number("colour_red_8", None, 255.0));
    }

    #[test]
    fn what_is_not_cayenne() {
        let table: [(&str, &[u8], CayenneError); 5] = [
            ("empty", &[], CayenneError::Empty),
            ("channel only", &[1], CayenneError::Truncated { at: 0 }),
            ("no value", &[1, 103], CayenneError::Truncated { at: 0 }),
            ("second value short", &[1, 0, 5, 2, 103, 1], CayenneError::Truncated { at: 3 }),
            ("unknown type", &[1, 0, 5, 2, 99], CayenneError::UnknownType { kind: 99, at: 4 }),
        ];
        for (what, payload, error) in table {
            assert_eq!(decode(payload), Err(error), "{what}");
        }
    }

    #[test]
    fn every_type_with_every_length() {
        for kind in 0..=u8::MAX {
            for length in 0..12 {
                let mut payload = vec![1, kind];
                payload.resize(2 + length, 0xFF);
                fuzz(&payload);
            }
        }
        // The most records that a frame can hold.
        fuzz(&[1, 0, 1].repeat(85));
        assert_eq!(decode(&[1, 135, 0, 0, 0].repeat(51)), Err(CayenneError::TooMany));
    }
}
