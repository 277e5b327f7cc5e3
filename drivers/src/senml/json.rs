//! The JSON form of SenML (RFC 8428 section 5), over untrusted text.

use std::fmt::Write as _;

use super::{Content, Field, MAX_FIELDS, MAX_JSON_BYTES, MAX_RECORDS, Pack, Record, SenmlError};
use crate::json::{Json, JsonError};

pub(super) fn parse(text: &[u8]) -> Result<Pack, SenmlError> {
    if text.len() > MAX_JSON_BYTES {
        return Err(SenmlError::TooLong);
    }
    let json = Json::parse(text).map_err(|error| match error {
        JsonError::Malformed => SenmlError::Malformed("not JSON"),
        JsonError::DuplicateKey => SenmlError::DuplicateField,
        JsonError::TooLarge => SenmlError::TooManyRecords,
    })?;
    let Json::Array(items) = json else {
        return Err(SenmlError::Malformed("expected an array"));
    };
    if items.is_empty() {
        return Err(SenmlError::Empty);
    }
    if items.len() > MAX_RECORDS {
        return Err(SenmlError::TooManyRecords);
    }
    items.into_iter().map(record).collect::<Result<_, _>>().map(Pack)
}

fn record(item: Json) -> Result<Record, SenmlError> {
    let Json::Object(members) = item else {
        return Err(SenmlError::Malformed("expected an object"));
    };
    if members.len() > MAX_FIELDS {
        return Err(SenmlError::TooManyFields);
    }
    let mut record = Record::default();
    for (label, value) in members {
        match Field::by_label(&label) {
            Some(field) => record.set(field, content(field, value)?)?,
            None if label.ends_with('_') => return Err(SenmlError::MustUnderstand),
            None => {}
        }
    }
    Ok(record)
}

fn content(field: Field, value: Json) -> Result<Content, SenmlError> {
    Ok(match value {
        Json::Number(number) => Content::Number(number),
        Json::Boolean(boolean) => Content::Boolean(boolean),
        Json::Text(text) if field == Field::Data => Content::Data(
            base64url(&text).ok_or(SenmlError::Malformed("data value is not base64url"))?,
        ),
        Json::Text(text) => Content::Text(text),
        Json::Null | Json::Array(_) | Json::Object(_) => {
            return Err(SenmlError::Malformed("value of another type"));
        }
    })
}

pub(super) fn write(pack: &Pack) -> String {
    let mut out = String::from("[");
    for (index, record) in pack.0.iter().enumerate() {
        out.push_str(if index == 0 { "{" } else { ",{" });
        for (index, (field, content)) in record.fields().into_iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let value = match content {
                Content::Number(number) => write_number(number),
                Content::Boolean(boolean) => boolean.to_string(),
                Content::Text(text) => serde_json::Value::String(text).to_string(),
                Content::Data(data) => format!("\"{}\"", to_base64url(&data)),
            };
            write!(out, "{comma}\"{}\":{value}", field.label()).expect("String takes all");
        }
        out.push('}');
    }
    out.push(']');
    out
}

/// Shortest text that reads back as the same double; `null` if not finite.
fn write_number(number: f64) -> String {
    match number {
        _ if !number.is_finite() => "null".to_owned(),
        _ if number == 0.0 || (1e-7..1e17).contains(&number.abs()) => format!("{number}"),
        _ => format!("{number:e}"),
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// RFC 4648 section 5 without padding; spare bits must be zero.
fn base64url(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.as_bytes().chunks(4) {
        let mut bits = 0u32;
        for byte in chunk {
            let digit = ALPHABET.iter().position(|letter| letter == byte)?;
            bits = bits << 6 | digit as u32;
        }
        bits <<= 6 * (4 - chunk.len());
        let bytes = bits.to_be_bytes();
        let count = match chunk.len() {
            4 => 3,
            3 => 2,
            2 => 1,
            _ => return None,
        };
        if bytes[1 + count..].iter().any(|byte| *byte != 0) {
            return None;
        }
        out.extend_from_slice(&bytes[1..=count]);
    }
    Some(out)
}

fn to_base64url(data: &[u8]) -> String {
    let mut out = String::with_capacity(data.len().div_ceil(3) * 4);
    for chunk in data.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..=chunk.len() {
            out.push(char::from(ALPHABET[(bits >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4648 section 10, without the padding.
    #[test]
    fn base64_vectors() {
        let table = [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in table {
            assert_eq!(to_base64url(plain.as_bytes()), coded);
            assert_eq!(base64url(coded).as_deref(), Some(plain.as_bytes()));
        }
        for bad in ["Z", "Zh", "Zg==", "Zm8/", "Zm9"] {
            assert_eq!(base64url(bad), None, "{bad}");
        }
    }
}
