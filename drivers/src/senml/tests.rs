//! Examples of RFC 8428 and hostile packs.

use proptest::prelude::*;

use super::*;

/// Section 5.1.2, as JSON.
const MULTIPLE: &str = r#"[
  {"bn":"urn:dev:ow:10e2073a0108006:","bt":1.276020076001e+09,"bu":"A","bver":5,
   "n":"voltage","u":"V","v":120.1},
  {"n":"current","t":-5,"v":1.2},
  {"n":"current","t":-4,"v":1.3},
  {"n":"current","t":-3,"v":1.4},
  {"n":"current","t":-2,"v":1.5},
  {"n":"current","t":-1,"v":1.6},
  {"n":"current","v":1.7}
]"#;

/// Section 6, the same pack as CBOR (its last record spells out `t` 0).
const MULTIPLE_CBOR: &str = "87a721781b75726e3a6465763a6f773a3130653230373361303130383030363a\
    22fb41d303a15b00106223614120050067766f6c7461676501615602fb405e066666666666\
    a3006763757272656e74062402fb3ff3333333333333a3006763757272656e74062302fb3ff4cccccccccccd\
    a3006763757272656e74062202fb3ff6666666666666a3006763757272656e74062102f93e00\
    a3006763757272656e74062002fb3ff999999999999aa3006763757272656e74060002fb3ffb333333333333";

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| std::str::from_utf8(pair).map(|pair| u8::from_str_radix(pair, 16));
    digits.chunks(2).map(|pair| byte(pair).expect("ASCII").expect("hex")).collect()
}

#[test]
fn rfc_8428_multiple_measurements_in_both_forms() {
    let from_json = Pack::from_json(MULTIPLE.as_bytes()).expect("the RFC's JSON");
    let bytes = unhex(MULTIPLE_CBOR);
    let mut from_cbor = Pack::from_cbor(&bytes).expect("the RFC's CBOR");
    assert_eq!(from_cbor.to_cbor(), bytes, "our writer gives the RFC's bytes");
    from_cbor.0[6].time = None;
    assert_eq!(from_json, from_cbor);
    assert_eq!(Pack::from_json(from_json.to_json().as_bytes()), Ok(from_json));
}

#[test]
fn rfc_8428_resolution() {
    // Section 5.1.4 resolves section 5.1.2.
    let pack = Pack::from_json(MULTIPLE.as_bytes()).expect("the RFC's JSON");
    let resolved = pack.resolve(0.0).expect("resolves");
    let expected = [
        ("voltage", "V", 1_276_020_076.001, 120.1),
        ("current", "A", 1_276_020_071.001, 1.2),
        ("current", "A", 1_276_020_072.001, 1.3),
        ("current", "A", 1_276_020_073.001, 1.4),
        ("current", "A", 1_276_020_074.001, 1.5),
        ("current", "A", 1_276_020_075.001, 1.6),
        ("current", "A", 1_276_020_076.001, 1.7),
    ];
    assert_eq!(resolved.len(), expected.len());
    for (record, (name, unit, time, value)) in resolved.iter().zip(expected) {
        assert_eq!(record.name, format!("urn:dev:ow:10e2073a0108006:{name}"));
        assert_eq!(record.unit.as_deref(), Some(unit));
        assert_eq!(record.value, Some(Value::Number(value)));
        assert!((record.time - time).abs() < 1e-6, "{} is not {time}", record.time);
    }
}

#[test]
fn rfc_8428_other_examples_are_taken() {
    let table = [
        ("5.1.1", r#"[{"n":"urn:dev:ow:10e2073a01080063","u":"Cel","v":23.1}]"#, 1),
        (
            "5.1.3",
            r#"[{"bn":"urn:dev:ow:10e2073a01080063","bt":1.320067464e+09,"bu":"%RH","v":20},
            {"u":"lon","v":24.30621},{"u":"lat","v":60.07965},{"t":60,"v":20.3},
            {"u":"lon","t":60,"v":24.30622},{"u":"lat","t":60,"v":60.07965},{"t":120,"v":20.7}]"#,
            7,
        ),
        (
            "5.1.5",
            r#"[{"bn":"urn:dev:ow:10e2073a01080063:","n":"temp","u":"Cel","v":23.1},
            {"n":"label","vs":"Machine Room"},{"n":"open","vb":false},
            {"n":"nfc-reader","vd":"aGkgCg"}]"#,
            4,
        ),
    ];
    for (section, text, count) in table {
        let pack = Pack::from_json(text.as_bytes()).expect(section);
        let resolved = pack.resolve(1.6e9).expect(section);
        assert_eq!(resolved.len(), count, "{section}");
        assert_eq!(Pack::from_cbor(&pack.to_cbor()), Ok(pack), "{section}");
    }
}

#[test]
fn rfc_8428_types_have_their_values() {
    let text = r#"[{"bn":"a:","n":"label","vs":"Machine Room"},{"n":"open","vb":false},
        {"n":"nfc-reader","vd":"aGkgCg"},{"n":"sum","s":2.5}]"#;
    let resolved = Pack::from_json(text.as_bytes()).expect("taken").resolve(7.0).expect("resolves");
    assert_eq!(resolved[0].value, Some(Value::Text("Machine Room".into())));
    assert_eq!(resolved[1].value, Some(Value::Boolean(false)));
    assert_eq!(resolved[2].value, Some(Value::Data(b"hi \n".to_vec())));
    assert_eq!((resolved[3].value.clone(), resolved[3].sum), (None, Some(2.5)));
    assert_eq!(resolved[3].time, 7.0, "no time is now");
}

#[test]
fn base_values_add_up() {
    let text = r#"[{"bn":"a","bv":20,"bs":5,"v":1.5},{"n":"b","v":-1,"s":1},{"n":"c"}]"#;
    let resolved = Pack::from_json(text.as_bytes()).expect("taken").resolve(0.0).expect("resolves");
    let values: Vec<_> = resolved.iter().map(|r| (r.value.clone(), r.sum)).collect();
    let number = |n| Some(Value::Number(n));
    assert_eq!(
        values,
        [(number(21.5), Some(5.0)), (number(19.0), Some(6.0)), (number(20.0), Some(5.0))]
    );
}

#[test]
fn json_refusals_are_named() {
    let long = format!(r#"[{{"n":"{}","v":1}}]"#, "a".repeat(256));
    let many = format!("[{}{{\"n\":\"a\",\"v\":1}}]", r#"{"n":"a","v":1},"#.repeat(128));
    let huge = " ".repeat(MAX_JSON_BYTES + 1);
    let table = [
        ("", SenmlError::Malformed("not JSON")),
        ("{}", SenmlError::Malformed("expected an array")),
        ("[1]", SenmlError::Malformed("expected an object")),
        ("[]", SenmlError::Empty),
        (r#"[{"n":"a","v":NaN}]"#, SenmlError::Malformed("not JSON")),
        (r#"[{"n":"a","v":"1"}]"#, SenmlError::Malformed("value of another type")),
        (r#"[{"n":"a","v":1,"v":2}]"#, SenmlError::DuplicateField),
        (r#"[{"n":"a","v":1,"vb":true}]"#, SenmlError::ManyValues),
        (r#"[{"n":"a","v":1,"x_":1}]"#, SenmlError::MustUnderstand),
        (r#"[{"n":"a","v":1}] 1"#, SenmlError::Malformed("not JSON")),
        (r#"[{"n":"a","vd":"a"}]"#, SenmlError::Malformed("data value is not base64url")),
        (r#"[{"n":1,"v":1}]"#, SenmlError::Malformed("expected a string")),
        (r#"[{"bver":1.5,"n":"a","v":1}]"#, SenmlError::Version),
        (&long, SenmlError::FieldTooLong),
        (&many, SenmlError::TooManyRecords),
        (&huge, SenmlError::TooLong),
    ];
    for (text, expected) in table {
        assert_eq!(Pack::from_json(text.as_bytes()), Err(expected), "{text:.60}");
    }
    let unknown = Pack::from_json(br#"[{"n":"a","v":1,"x":[{"y":1}]}]"#).expect("x is skipped");
    assert_eq!(unknown, Pack(vec![Record::number("a", None, 1.0)]));
}

#[test]
fn resolution_refusals_are_named() {
    let table = [
        (r#"[{"v":1}]"#, SenmlError::BadName),
        (r#"[{"n":"-a","v":1}]"#, SenmlError::BadName),
        (r#"[{"n":"a b","v":1}]"#, SenmlError::BadName),
        (r#"[{"n":"a"}]"#, SenmlError::NoValue),
        (r#"[{"n":"a","bver":11,"v":1}]"#, SenmlError::Version),
        (r#"[{"n":"a","bver":9,"v":1},{"bver":10,"n":"a","v":1}]"#, SenmlError::Version),
        (r#"[{"n":"a","bv":1.7e308,"v":1.7e308}]"#, SenmlError::NotFinite),
    ];
    for (text, expected) in table {
        let pack = Pack::from_json(text.as_bytes()).expect(text);
        assert_eq!(pack.resolve(0.0), Err(expected), "{text}");
    }
}

#[test]
fn cbor_refusals_are_named() {
    let table = [
        ("", SenmlError::Malformed("expected an array")),
        ("80", SenmlError::Empty),
        ("9fff", SenmlError::Malformed("indefinite length")),
        ("81bf0061610201ff", SenmlError::Malformed("indefinite length")),
        ("9a7fffffff", SenmlError::TooManyRecords),
        ("81ba7fffffff", SenmlError::TooManyFields),
        ("81a200616102f97e00", SenmlError::NotFinite),
        ("81a200616102f97c00", SenmlError::NotFinite),
        ("81a200616102", SenmlError::Malformed("truncated")),
        ("81a300616102010202", SenmlError::ManyValues),
        ("81a30061610061620201", SenmlError::DuplicateField),
        ("81a3006161020162785f01", SenmlError::MustUnderstand),
        ("81a3006161020161780161", SenmlError::Trailing),
        ("81a4006161020161780161780161", SenmlError::DuplicateField),
        ("81a300616102016178818181818181818181818101", SenmlError::Malformed("nested too deep")),
        ("81a200616102c482391387197fff", SenmlError::Trailing),
        ("81a1616e6161", SenmlError::Malformed("registered label as a string")),
    ];
    for (hex, expected) in table {
        let mut bytes = unhex(hex);
        if hex.starts_with("81a200616102c4") {
            bytes.push(0);
        }
        assert_eq!(Pack::from_cbor(&bytes), Err(expected), "{hex}");
    }
    assert_eq!(Pack::from_cbor(&vec![0x80; MAX_CBOR_BYTES + 1]), Err(SenmlError::TooLong));
}

#[test]
fn cbor_numbers_of_every_form() {
    // (encoding, value); tag 4 is the decimal fraction 27315 * 10^-2 of RFC 8949 section 3.4.4.
    let table = [
        ("00", 0.0),
        ("1903e8", 1000.0),
        ("3903e7", -1000.0),
        ("f93c00", 1.0),
        ("f90001", 5.960_464_477_539_063e-8),
        ("fa47c35000", 100_000.0),
        ("fb3ff199999999999a", 1.1),
        ("c48221196ab3", 273.15),
    ];
    for (hex, value) in table {
        let bytes = unhex(&format!("81a200616102{hex}"));
        let pack = Pack::from_cbor(&bytes).expect(hex);
        assert_eq!(pack.0[0].value, Some(Value::Number(value)), "{hex}");
    }
    // Our writer takes the shortest lossless form.
    let table = [
        (1.0, "01"),
        (-0.0, "f98000"),
        (1.5, "f93e00"),
        (65504.5, "fa477fe080"),
        (1.1, "fb3ff199999999999a"),
        (9_007_199_254_740_992.0, "1b0020000000000000"),
    ];
    for (value, hex) in table {
        let pack = Pack(vec![Record::number("a", None, value)]);
        assert_eq!(pack.to_cbor(), unhex(&format!("81a200616102{hex}")), "{value}");
    }
}

fn any_record() -> impl Strategy<Value = Record> {
    let number = proptest::num::f64::NORMAL | proptest::num::f64::ZERO;
    let value = prop_oneof![
        number.prop_map(Value::Number),
        any::<String>().prop_map(Value::Text),
        any::<bool>().prop_map(Value::Boolean),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Data),
    ];
    let text = || proptest::option::of("[a-z0-9:/_.-]{0,12}");
    let maybe = || proptest::option::of(number);
    (
        (text(), maybe(), text(), maybe(), maybe(), proptest::option::of(0u32..20)),
        (text(), text(), proptest::option::of(value), maybe(), maybe(), maybe()),
    )
        .prop_map(|((bn, bt, bu, bv, bs, bver), (n, u, value, s, t, ut))| Record {
            base_name: bn,
            base_time: bt,
            base_unit: bu,
            base_value: bv,
            base_sum: bs,
            base_version: bver,
            name: n,
            unit: u,
            value,
            sum: s,
            time: t,
            update_time: ut,
        })
}

proptest! {
    #[test]
    fn both_forms_round_trip(records in proptest::collection::vec(any_record(), 1..6)) {
        let pack = Pack(records);
        let json = pack.to_json();
        prop_assert_eq!(Pack::from_json(json.as_bytes()), Ok(pack.clone()), "{}", json);
        prop_assert_eq!(Pack::from_cbor(&pack.to_cbor()), Ok(pack));
    }

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Pack::from_json(&bytes).map(|pack| pack.resolve(1e9));
        let _ = Pack::from_cbor(&bytes).map(|pack| pack.resolve(1e9));
    }
}
