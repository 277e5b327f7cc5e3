//! What each shape becomes on the bus, and that JSON comes back as it went.

use serde::Serialize;
use serde_json::json;

use super::*;

#[derive(Serialize)]
struct Inner {
    words: Vec<String>,
}

#[derive(Serialize)]
enum Choice {
    Plain,
    One(u8),
    Two(u8, bool),
    Named { x: i64 },
}

#[derive(Serialize)]
struct Everything {
    byte: u8,
    small: u32,
    large: u64,
    negative: i32,
    fraction: f64,
    truth: bool,
    text: String,
    absent: Option<u32>,
    present: Option<u32>,
    empty: Vec<u64>,
    pair: (u64, u64),
    ranges: Vec<(u64, u64)>,
    three: [u32; 3],
    inner: Inner,
    map: BTreeMap<String, u64>,
    choices: Vec<Choice>,
}

fn everything() -> Everything {
    Everything {
        byte: 7,
        small: 70_000,
        large: u64::MAX,
        negative: -5,
        fraction: 21.5,
        truth: true,
        text: "grün".into(),
        absent: None,
        present: Some(3),
        empty: vec![],
        pair: (1, 2),
        ranges: vec![(3, 4), (5, 6)],
        three: [1, 2, 3],
        inner: Inner { words: vec!["a".into(), "b".into()] },
        map: [("k".to_string(), 9)].into(),
        choices: vec![Choice::Plain, Choice::One(1), Choice::Two(2, false), Choice::Named { x: 4 }],
    }
}

#[test]
fn each_shape_has_its_type() {
    let dict = to_dict(&everything()).expect("representable");
    let table = [
        ("byte", "y"),
        ("small", "u"),
        ("large", "t"),
        ("negative", "i"),
        ("fraction", "d"),
        ("truth", "b"),
        ("text", "s"),
        ("present", "u"),
        ("empty", "av"),
        ("pair", "(tt)"),
        ("ranges", "av"),
        ("three", "(uuu)"),
        ("inner", "a{sv}"),
        ("map", "a{sv}"),
        ("choices", "av"),
    ];
    for (key, signature) in table {
        let value = dict.get(key).unwrap_or_else(|| panic!("{key} is missing"));
        assert_eq!(value.value_signature().to_string(), signature, "{key}");
    }
    assert!(!dict.contains_key("absent"));
    assert_eq!(dict.len(), table.len());
}

#[test]
fn json_of_the_dict_is_json_of_the_value() {
    let value = everything();
    let mut expected = serde_json::to_value(&value).expect("JSON");
    expected.as_object_mut().expect("an object").remove("absent");
    assert_eq!(dict_to_json(&to_dict(&value).expect("representable")), expected);
}

#[test]
fn json_comes_back_from_the_wire_as_it_went() {
    use zbus::wire::{LE, serialized::Context, to_bytes};
    let table = [
        json!({}),
        json!({"a": [], "b": {}, "c": [[], [1]], "d": {"e": {"f": [true, "x", -1, 2.5]}}}),
        json!({"text": "line\nline", "number": 18_446_744_073_709_551_615_u64}),
        json!({"values": [{"name": "t", "value": 21.5}, {"name": "open", "value": false}]}),
    ];
    for value in table {
        let dict = to_dict(&value).expect("representable");
        let bytes = to_bytes(Context::new(LE, 0), &dict).expect("encodes");
        let (back, _): (Dict, _) = bytes.deserialize().expect("decodes");
        assert_eq!(dict_to_json(&back), value);
    }
}

#[test]
fn what_has_no_place_is_an_error() {
    assert_eq!(to_dict(&3_u8), Err(NotRepresentable::NotADict));
    assert_eq!(to_dict(&None::<Inner>), Err(NotRepresentable::NotADict));
    let numbered: BTreeMap<u8, u8> = [(1, 1)].into();
    assert_eq!(to_dict(&numbered), Err(NotRepresentable::KeyIsNotText));
    let holed: BTreeMap<&str, (u8, Option<u8>)> = [("k", (1, None))].into();
    assert_eq!(to_dict(&holed), Err(NotRepresentable::AbsentInTuple));
    let nul: BTreeMap<&str, &str> = [("k", "a\0b")].into();
    assert_eq!(dict_to_json(&to_dict(&nul).expect("representable")), json!({"k": "a\u{fffd}b"}));
}
