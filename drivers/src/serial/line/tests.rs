//! Lines of every quality through mappings of every format.

use proptest::prelude::*;

use super::*;
use crate::senml::Value;

const BUS: [u8; 16] = [0xB0; 16];

const VALUE: &str = "format = \"value\"\n[[field]]\nname = \"level\"\nunit = \"m\"";

fn mapping(text: &str) -> Mapping {
    Mapping::from_toml(text).expect("a good mapping")
}

fn source(text: &str) -> Source {
    Source::new(BUS, 0, mapping(text), None, Committed::default()).expect("no record")
}

fn number(name: &str, unit: Option<&str>, value: f64) -> Record {
    Record::number(name, unit, value)
}

/// The values that a step delivers, with their counters.
fn delivered(effects: &[Effect]) -> Vec<(u64, Vec<Record>)> {
    let readings = effects.iter().filter_map(|effect| match effect {
        Effect::Deliver(reading) => Some(reading),
        _ => None,
    });
    let records = |reading: &VerifiedReading| {
        assert_eq!(reading.level(), Level::Observed);
        Pack::from_cbor(reading.senml()).expect("our own CBOR").0
    };
    readings.map(|reading| (reading.counter(), records(reading))).collect()
}

#[test]
fn one_value_a_line_whatever_the_pieces() {
    for piece in [1, 2, 3, 7, 100] {
        let mut source = source(VALUE);
        let bytes = b".5\n1.25\r\n\r\n-3\n7";
        let effects: Vec<Effect> =
            bytes.chunks(piece).flat_map(|piece| source.feed(50, piece)).collect();
        let expected = [
            (1, vec![number("level", Some("m"), 1.25)]),
            (2, vec![number("level", Some("m"), -3.0)]),
        ];
        assert_eq!(delivered(&effects), expected, "the cut first and last lines are not readings");
        assert_eq!(source.counts().readings, 2);
    }
}

#[test]
fn first_reading_opens_the_epoch_and_the_record_goes_on_with_it() {
    let mut first = source(VALUE);
    let effects = first.feed(0, b"\n1\n2\n");
    let [Effect::SessionOpened { epoch: 1, identity, digest }, .., Effect::Persist { record, .. }] =
        &effects[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!(opened(record), Some((1, *digest)), "a record says what its session is");
    assert_eq!(opened(&record[1..]), None);
    assert_eq!(*identity, Identity::Bus { bus: BUS, unit: 0 });
    let persisted = effects.iter().filter(|e| matches!(e, Effect::Persist { .. })).count();
    assert_eq!(persisted, 1, "once a step");
    let again = |record: &[u8], committed| {
        let mut source =
            Source::new(BUS, 0, mapping(VALUE), Some(record), committed).expect("a good record");
        let effects = source.feed(0, b"\n3\n");
        let opened = effects.iter().any(|e| matches!(e, Effect::SessionOpened { .. }));
        (source.position(), opened)
    };
    assert_eq!(again(record, Committed { epoch: 1, highest: 2 }), ((1, 3), false));
    assert_eq!(again(record, Committed { epoch: 1, highest: 9 }), ((2, 1), true));
    assert_eq!(again(record, Committed { epoch: 3, highest: 0 }), ((4, 1), true));
    let other = Source::new([1; 16], 0, mapping(VALUE), Some(record), Committed::default());
    assert_eq!(other.err(), Some(RecordError::Device));
    let short = Source::new(BUS, 0, mapping(VALUE), Some(&record[1..]), Committed::default());
    assert_eq!(short.err(), Some(RecordError::Shape));
}

#[test]
fn an_endless_line_is_dropped_counted_and_recovered_from() {
    let mut source = source(VALUE);
    source.feed(0, b"\n");
    let mut refused = 0;
    for _ in 0..1_000 {
        refused += source.feed(0, &[b'9'; 1_000]).len();
    }
    assert_eq!(refused, 1, "said once");
    assert_eq!(source.counts().refused("endless-line"), 1);
    assert_eq!(delivered(&source.feed(0, b"9\n5\n")), [(1, vec![number("level", Some("m"), 5.0)])]);
    let exact = [vec![b' '; MAX_LINE - 1], b"1\n".to_vec()].concat();
    assert_eq!(delivered(&source.feed(0, &exact)).len(), 1, "the longest line that is taken");
    let over = [vec![b' '; MAX_LINE], b"1\n2\n".to_vec()].concat();
    assert_eq!(delivered(&source.feed(0, &over)), [(3, vec![number("level", Some("m"), 2.0)])]);
}

#[test]
fn a_reopened_port_never_joins_two_halves() {
    let mut source = source(VALUE);
    source.feed(0, b"\n12");
    source.reopened();
    assert!(delivered(&source.feed(0, b"34\n")).is_empty());
    assert_eq!(delivered(&source.feed(0, b"5\n")).len(), 1);
}

#[test]
fn json_lines() {
    let mapping = mapping(
        "format = \"json\"\n[[field]]\nname = \"t\"\nunit = \"Cel\"\npointer = \"/air/0\"\n\
         minimum = -40\nmaximum = 85\n[[field]]\nname = \"open\"\nkind = \"boolean\"\n\
         pointer = \"/open\"\noptional = true\n[[field]]\nname = \"s\"\nkind = \"text\"\n\
         pointer = \"/s\"\noptional = true",
    );
    let t = |value| number("t", Some("Cel"), value);
    let open = Record::new("open", None, Value::Boolean(true));
    let text = Record::new("s", None, Value::Text("ok".into()));
    let table = [
        (r#"{"air":[21.5]}"#, Ok(vec![t(21.5)])),
        (r#"{"air":["21.5"],"open":true,"s":"ok"}"#, Ok(vec![t(21.5), open, text])),
        (r#"{"air":[21.5],"open":3}"#, Ok(vec![t(21.5)])),
        (r#"{"air":[85.1]}"#, Err(LineError::Implausible(0))),
        (r#"{"air":[NaN]}"#, Err(LineError::Malformed)),
        (r#"{"air":["nan"]}"#, Err(LineError::NotFinite(0))),
        (r#"{"air":[1e400]}"#, Err(LineError::Malformed)),
        (r#"{"air":[true]}"#, Err(LineError::NotAValue(0))),
        (r#"{"air":[null]}"#, Err(LineError::Missing(0))),
        (r#"{"air":[]}"#, Err(LineError::Missing(0))),
        (r#"{"air":[1],"air":[2]}"#, Err(LineError::DuplicateKey)),
        (r#"{"air":[1],"x":{"y":1,"y":2}}"#, Err(LineError::DuplicateKey)),
        (r#"{"air":[1]"#, Err(LineError::Malformed)),
        ("   ", Ok(vec![])),
    ];
    for (line, expected) in table {
        assert_eq!(mapping.apply(line.as_bytes()), expected, "{line}");
    }
    assert_eq!(mapping.apply(&[0xFF]), Err(LineError::NotText));
}

#[test]
fn csv_lines() {
    let mapping = mapping(
        "format = \"csv\"\nseparator = \";\"\ndecimal_comma = true\n[[field]]\nname = \"a\"\n\
         column = 2\nscale = 0.1\noffset = -1\n[[field]]\nname = \"b\"\ncolumn = 4\n\
         prefix = \"h=\"\nsuffix = \"%\"\noptional = true",
    );
    let a = |value| number("a", None, value);
    let b = |value| number("b", None, value);
    let table = [
        ("x;23,5;y;h= 40 %", Ok(vec![a(1.35), b(40.0)])),
        ("x;3", Ok(vec![a(-0.7)])),
        ("\"x;y\";\"3\"", Ok(vec![a(-0.7)])),
        ("\"x\"\"y\" ;3;;41%", Ok(vec![a(-0.7)])),
        ("x;", Err(LineError::Missing(0))),
        ("x", Err(LineError::Missing(0))),
        ("x;three", Err(LineError::NotAValue(0))),
        ("x;inf", Err(LineError::NotFinite(0))),
        ("\"x;3", Err(LineError::Malformed)),
        ("\"x\"y;3", Err(LineError::Malformed)),
    ];
    for (line, expected) in table {
        assert_eq!(mapping.apply(line.as_bytes()), expected, "{line}");
    }
    let wide = ";".repeat(mapping::MAX_COLUMNS);
    assert_eq!(mapping.apply(wide.as_bytes()), Err(LineError::Malformed));
}

#[test]
fn values_in_words_and_scaled_values_without_noise() {
    let words = mapping("format=\"value\"\n[[field]]\nname=\"t\"\nprefix=\"T=\"\nsuffix=\"C\"");
    assert_eq!(words.apply(b"T= -2.5 C\r"), Ok(vec![number("t", None, -2.5)]));
    assert_eq!(words.apply(b"H=3"), Err(LineError::NotAValue(0)));
    let scaled = mapping("format=\"value\"\n[[field]]\nname=\"t\"\nscale=0.1");
    assert_eq!(scaled.apply(b"3"), Ok(vec![number("t", None, 0.3)]));
    let optional = mapping("format=\"value\"\n[[field]]\nname=\"t\"\noptional=true");
    assert_eq!(optional.apply(b"x"), Err(LineError::NoField));
}

#[test]
fn mapping_faults_are_named() {
    let field = |rest: &str| format!("format = \"csv\"\n[[field]]\nname = \"a\"\n{rest}");
    let two = field("column = 1\n[[field]]\nname = \"a\"\ncolumn = 2");
    let many = format!("format = \"value\"\n{}", "[[field]]\nname = \"a\"\n".repeat(33));
    let table = [
        ("format = \"value\"".to_owned(), "1 to 32 fields"),
        (many, "1 to 32 fields"),
        (field(""), "a csv field has a column"),
        (field("column = 0"), "columns count from 1"),
        (field("pointer = \"/a\""), "a csv field has a column"),
        (field("column = 1\nscale = 0.0"), "a scale of 0"),
        (field("column = 1\nscale = nan"), "must be finite"),
        (field("column = 1\nminimum = 2\nmaximum = 1"), "the minimum is above"),
        (field("column = 1\nkind = \"text\"\nscale = 2"), "are for numbers"),
        (field("column = 1\nunit = \"\""), "the unit"),
        (field("column = 1\ncolour = 3"), "unknown field `colour`"),
        (two, "field 2: the name is used twice"),
        ("format = \"value\"\n[[field]]\nname = \"a b\"".to_owned(), "the name must be"),
        ("format = \"value\"\nseparator = \"--\"\n[[field]]\nname = \"a\"".to_owned(), "separator"),
        ("format = \"xml\"".to_owned(), "unknown variant `xml`"),
        ("x".repeat(mapping::MAX_TOML + 1), "too long"),
    ];
    for (text, expected) in table {
        let said = Mapping::from_toml(&text).expect_err(&text).to_string();
        assert!(said.contains(expected), "{said:?} should say {expected:?}");
    }
}

#[test]
fn lines_in_between_are_thinned_and_counted() {
    let mut source = source(&format!("min_interval_ms = 1000\n{VALUE}"));
    let mut count = 0;
    source.feed(0, b"\n");
    for now_ms in (0..5_000).step_by(250) {
        count += delivered(&source.feed(now_ms, b"1\n")).len();
    }
    assert_eq!((count, source.counts().refused("thinned")), (5, 15));
    assert_eq!(delivered(&source.feed(7, b"1\n")).len(), 1, "the clock was set back");
}

#[test]
fn preview_shows_lines_and_what_becomes_of_them() {
    let lines = preview(&mapping(VALUE), b"cut\n1.5\n\nx\n2");
    let expected =
        [("1.5", Ok(vec![number("level", Some("m"), 1.5)])), ("x", Err(LineError::NotAValue(0)))];
    assert_eq!(lines.len(), expected.len());
    for (line, (text, records)) in lines.iter().zip(expected) {
        assert_eq!((line.text.as_str(), &line.records), (text, &records));
    }
    assert_eq!(preview(&mapping(VALUE), &b"1\n".repeat(100)).len(), MAX_PREVIEW);
}

#[test]
fn suggestions_fit_their_own_lines() {
    let table = [
        ("{\"temp\":21.5,\"id\":\"x\",\"hum\":40}", 2),
        ("12:00;21,5;40", 2),
        ("1.5,2.5,x", 2),
        ("21.5", 1),
        ("T=-21.5 C", 1),
    ];
    for (line, count) in table {
        let toml = suggest(format!("cut\n{line}\n").as_bytes()).expect(line);
        let records = mapping(&toml).apply(line.as_bytes()).expect(&toml);
        assert_eq!(records.len(), count, "{line}: {toml}");
    }
    assert_eq!(suggest(b"\nhello\n"), None);
    assert_eq!(suggest(b"1.5\n"), None, "no whole line yet");
}

proptest! {
    #[test]
    fn any_bytes_are_answered(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        format in 0usize..3, piece in 1usize..500,
    ) {
        let text = [
            VALUE,
            "format=\"json\"\n[[field]]\nname=\"a\"\npointer=\"/a\"",
            "format=\"csv\"\n[[field]]\nname=\"a\"\ncolumn=2",
        ][format];
        let mut source = source(text);
        for piece in bytes.chunks(piece) {
            for (_, records) in delivered(&source.feed(0, piece)) {
                prop_assert!(!records.is_empty());
            }
        }
        let _ = preview(&mapping(text), &bytes);
        if let Some(toml) = suggest(&bytes) {
            prop_assert!(Mapping::from_toml(&toml).is_ok(), "{}", toml);
        }
    }

    #[test]
    fn suggestions_are_always_good_mappings(line in "[ -~]{0,60}") {
        if let Some(toml) = suggest(format!("\n{line}\n").as_bytes()) {
            prop_assert!(Mapping::from_toml(&toml).is_ok(), "{}", toml);
        }
    }

    #[test]
    fn any_mapping_text_is_answered(text in ".{0,200}") {
        let _ = Mapping::from_toml(&text);
        let _ = Mapping::from_toml(&format!("format = \"value\"\n[[field]]\nname = {text:?}"));
    }
}
