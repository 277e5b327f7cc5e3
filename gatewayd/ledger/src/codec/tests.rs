//! Forms that are refused, and limits.

use super::*;

/// (description, bytes, expected) of single unsigned integers.
const INTEGERS: &[(&str, &[u8], Result<u64, DecodeError>)] = &[
    ("zero", &[0x00], Ok(0)),
    ("largest immediate", &[0x17], Ok(23)),
    ("one byte", &[0x18, 0x18], Ok(24)),
    ("one byte, not shortest", &[0x18, 0x17], Err(DecodeError::NonCanonical("n"))),
    ("two bytes, not shortest", &[0x19, 0, 0xff], Err(DecodeError::NonCanonical("n"))),
    ("four bytes, not shortest", &[0x1a, 0, 0, 1, 0], Err(DecodeError::NonCanonical("n"))),
    (
        "eight bytes, not shortest",
        &[0x1b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        Err(DecodeError::NonCanonical("n")),
    ),
    ("largest", &[0x1b, 255, 255, 255, 255, 255, 255, 255, 255], Ok(u64::MAX)),
    ("negative", &[0x20], Err(DecodeError::Type("n"))),
    ("reserved", &[0x1c], Err(DecodeError::NonCanonical("n"))),
    ("cut", &[0x19, 1], Err(DecodeError::Truncated("n"))),
    ("nothing", &[], Err(DecodeError::Truncated("n"))),
];

#[test]
fn integers_are_read_in_their_shortest_form_only() {
    for (description, bytes, expected) in INTEGERS {
        assert_eq!(Decoder::new(bytes).uint("n"), *expected, "{description}");
    }
}

#[test]
fn indefinite_lengths_are_refused() {
    let array = [0x9f, 0x01, 0xff];
    let bytes = [0x5f, 0x41, 0x01, 0xff];
    assert_eq!(Decoder::new(&array).array("a", 9), Err(DecodeError::NonCanonical("a")));
    assert_eq!(Decoder::new(&bytes).bytes("b", 9), Err(DecodeError::NonCanonical("b")));
}

#[test]
fn limits_and_field_counts_hold() {
    let mut encoder = Encoder::new();
    encoder.array(2).bytes(&[7; 5]).uint(1);
    let bytes = encoder.into_bytes();
    let count = DecodeError::FieldCount { what: "t", found: 2, expected: 3 };
    assert_eq!(Decoder::new(&bytes).fields("t", 3), Err(count));
    let mut decoder = Decoder::new(&bytes);
    decoder.fields("t", 2).unwrap();
    let long = DecodeError::TooLong { what: "b", found: 5, limit: 4 };
    assert_eq!(decoder.bytes("b", 4), Err(long));
}

#[test]
fn texts_cannot_forge_what_is_shown() {
    assert!(Text::<9>::new("21 °C ✓").is_err(), "ten bytes");
    assert!(Text::<10>::new("21 °C ✓").is_ok());
    for forged in ["a\nb", "a\u{1b}[1m", "a\u{202e}b", "a\u{2066}b", "a\u{2028}b", "\0"] {
        assert_eq!(Text::<20>::new(forged), Err(DecodeError::Invalid("text")), "{forged:?}");
    }
}

#[test]
fn a_length_beyond_the_input_is_truncated_not_a_panic() {
    let huge = [0x5b, 255, 255, 255, 255, 255, 255, 255, 255];
    assert!(matches!(
        Decoder::new(&huge).bytes("b", usize::MAX),
        Err(DecodeError::Truncated("b") | DecodeError::TooLong { .. })
    ));
}

#[test]
fn text_must_be_utf8_and_options_are_null_or_value() {
    assert_eq!(Decoder::new(&[0x61, 0xff]).text("t", 4), Err(DecodeError::Invalid("t")));
    let mut decoder = Decoder::new(&[0xf6, 0xf5, 0xf7]);
    assert!(decoder.null());
    assert_eq!(decoder.bool("b"), Ok(true));
    assert!(!decoder.null(), "undefined is not null");
    assert_eq!(decoder.finish(), Err(DecodeError::Trailing(1)));
}
