//! JSON from outside, strictly: a repeated key is an error, not a choice of one of the two; depth,
//! count and length are bounded; numbers are finite.
//!
//! `serde_json` does the lexing; this module decides what is taken.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Deepest nesting that is taken.
pub(crate) const MAX_DEPTH: u8 = 8;

/// Most members of one object or array.
pub(crate) const MAX_MEMBERS: usize = 256;

/// A JSON value whose objects have distinct keys and keep their order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    Null,
    Boolean(bool),
    Number(f64),
    Text(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// Why text was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JsonError {
    /// Not JSON, or trailing text.
    Malformed,
    /// An object names a key twice.
    DuplicateKey,
    /// Deeper than [`MAX_DEPTH`] or more than [`MAX_MEMBERS`] members.
    TooLarge,
}

impl Json {
    /// Parses one value that takes up all of `text`. The caller bounds the length.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, JsonError> {
        serde_json::from_slice::<Top>(text).map(|top| top.0).map_err(|error| {
            // The visitor's own refusals are told apart by their text: serde carries no type.
            let said = error.to_string();
            if said.starts_with(DUPLICATE) {
                JsonError::DuplicateKey
            } else if said.starts_with(LARGE) {
                JsonError::TooLarge
            } else {
                JsonError::Malformed
            }
        })
    }

    /// The value at an RFC 6901 pointer: empty for the whole, else `/a/0/b`.
    pub(crate) fn pointer(&self, pointer: &str) -> Option<&Self> {
        if pointer.is_empty() {
            return Some(self);
        }
        pointer.strip_prefix('/')?.split('/').try_fold(self, |value, token| {
            let token = token.replace("~1", "/").replace("~0", "~");
            match value {
                Self::Object(members) => {
                    members.iter().find(|(key, _)| *key == token).map(|(_, value)| value)
                }
                Self::Array(items) => items.get(token.parse::<usize>().ok()?),
                _ => None,
            }
        })
    }
}

const DUPLICATE: &str = "duplicate key";
const LARGE: &str = "too deep or too many";

struct Top(Json);

impl<'de> Deserialize<'de> for Top {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Strict { depth: 0 }.deserialize(deserializer).map(Self)
    }
}

#[derive(Clone, Copy)]
struct Strict {
    depth: u8,
}

impl Strict {
    fn inner<E: Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(LARGE));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value as f64))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        if value.is_finite() { Ok(Json::Number(value)) } else { Err(E::custom("not finite")) }
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let inner = self.inner()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(inner)? {
            if items.len() == MAX_MEMBERS {
                return Err(A::Error::custom(LARGE));
            }
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let inner = self.inner()?;
        let mut members: Vec<(String, Json)> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if members.len() == MAX_MEMBERS {
                return Err(A::Error::custom(LARGE));
            }
            if members.iter().any(|(known, _)| *known == key) {
                return Err(A::Error::custom(DUPLICATE));
            }
            members.push((key, map.next_value_seed(inner)?));
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_and_what_is_not() {
        let table: [(&str, Result<Json, JsonError>); 8] = [
            ("1.5", Ok(Json::Number(1.5))),
            ("[]", Ok(Json::Array(vec![]))),
            ("null", Ok(Json::Null)),
            ("{\"a\":1,\"a\":1}", Err(JsonError::DuplicateKey)),
            ("[{\"a\":1,\"\\u0061\":1}]", Err(JsonError::DuplicateKey)),
            ("NaN", Err(JsonError::Malformed)),
            ("1e999", Err(JsonError::Malformed)),
            ("1 2", Err(JsonError::Malformed)),
        ];
        for (text, expected) in table {
            assert_eq!(Json::parse(text.as_bytes()), expected, "{text}");
        }
        let deep = "[".repeat(9) + &"]".repeat(9);
        assert_eq!(Json::parse(deep.as_bytes()), Err(JsonError::TooLarge));
        let wide = format!("[{}0]", "0,".repeat(256));
        assert_eq!(Json::parse(wide.as_bytes()), Err(JsonError::TooLarge));
    }

    /// The examples of RFC 6901 section 5.
    #[test]
    fn pointers_of_rfc_6901() {
        let text = br#"{"foo":["bar","baz"],"":0,"a/b":1,"m~n":8}"#;
        let document = Json::parse(text).expect("the RFC's document");
        let number = |number| Some(Json::Number(number));
        let table = [
            ("/foo/0", Some(Json::Text("bar".into()))),
            ("/", number(0.0)),
            ("/a~1b", number(1.0)),
            ("/m~0n", number(8.0)),
            ("/foo/2", None),
            ("foo", None),
        ];
        for (pointer, expected) in table {
            assert_eq!(document.pointer(pointer).cloned(), expected, "{pointer}");
        }
        assert_eq!(document.pointer(""), Some(&document));
    }
}
