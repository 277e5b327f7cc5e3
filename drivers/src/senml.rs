//! SenML (RFC 8428): packs of records, as JSON (section 5) and CBOR (section 6), and resolution
//! of base fields (section 4.6).
//!
//! Both parsers take outside bytes: every length is bounded, every number finite, every label
//! appears once, nothing may follow the pack. Fields that are not known are skipped unless their
//! label ends in `_` ("must understand", section 4.4). No clock here: *now* is an argument.

use thiserror::Error;

mod cbor;
mod json;

/// Version of SenML that is understood and assumed when a pack names none (section 4.1).
pub const VERSION: u32 = 10;

/// Longest pack taken as CBOR, in bytes: larger than any frame of any driver.
pub const MAX_CBOR_BYTES: usize = 4096;

/// Longest pack taken as JSON, in bytes.
pub const MAX_JSON_BYTES: usize = 16 * 1024;

/// Most records in a pack.
pub const MAX_RECORDS: usize = 128;

/// Longest name, base name or unit, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// Longest string or data value, in bytes.
pub const MAX_VALUE_BYTES: usize = 2048;

/// Most fields in a record, known or not.
pub const MAX_FIELDS: usize = 32;

/// Times below this count of seconds are relative to now (section 4.5.3).
pub const RELATIVE_TIME_LIMIT: f64 = 268_435_456.0;

/// Why a pack was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SenmlError {
    /// The bytes are not well-formed JSON or CBOR of the expected shape.
    #[error("malformed SenML: {0}")]
    Malformed(&'static str),
    /// The input is longer than [`MAX_CBOR_BYTES`] or [`MAX_JSON_BYTES`].
    #[error("SenML pack is too long")]
    TooLong,
    /// More than [`MAX_RECORDS`] records.
    #[error("SenML pack has too many records")]
    TooManyRecords,
    /// More than [`MAX_FIELDS`] fields in one record.
    #[error("SenML record has too many fields")]
    TooManyFields,
    /// A name, unit or value is longer than its limit.
    #[error("SenML field is too long")]
    FieldTooLong,
    /// The same field twice in one record.
    #[error("SenML record repeats a field")]
    DuplicateField,
    /// A field that must be understood (label ends in `_`) is not known.
    #[error("SenML record has a field that must be understood and is not")]
    MustUnderstand,
    /// A number is NaN, infinite or too large.
    #[error("SenML number is not finite")]
    NotFinite,
    /// More than one value field in a record.
    #[error("SenML record has more than one value")]
    ManyValues,
    /// Neither value nor sum after resolution.
    #[error("SenML record has no value")]
    NoValue,
    /// The resolved name is empty or has characters outside section 4.5.1.
    #[error("SenML name is empty or has characters that are not allowed")]
    BadName,
    /// Version above [`VERSION`], or different versions in one pack.
    #[error("SenML version is not supported")]
    Version,
    /// Bytes after the pack.
    #[error("bytes after the SenML pack")]
    Trailing,
    /// The pack has no record.
    #[error("SenML pack is empty")]
    Empty,
}

/// The value of a record (section 4.2).
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `v`: a finite number.
    Number(f64),
    /// `vs`: a string.
    Text(String),
    /// `vb`: a Boolean.
    Boolean(bool),
    /// `vd`: bytes.
    Data(Vec<u8>),
}

/// One record as on the wire: every field optional (sections 4.1 and 4.2).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// `bn`: prepended to this and later names.
    pub base_name: Option<String>,
    /// `bt`: added to this and later times, in seconds.
    pub base_time: Option<f64>,
    /// `bu`: unit of records without one.
    pub base_unit: Option<String>,
    /// `bv`: added to this and later numeric values.
    pub base_value: Option<f64>,
    /// `bs`: added to this and later sums.
    pub base_sum: Option<f64>,
    /// `bver`: version of the format.
    pub base_version: Option<u32>,
    /// `n`: name.
    pub name: Option<String>,
    /// `u`: unit, a symbol of the SenML units registry.
    pub unit: Option<String>,
    /// `v`, `vs`, `vb` or `vd`.
    pub value: Option<Value>,
    /// `s`: integrated sum.
    pub sum: Option<f64>,
    /// `t`: time in seconds, absolute or relative to now.
    pub time: Option<f64>,
    /// `ut`: longest time until the next reading, in seconds.
    pub update_time: Option<f64>,
}

impl Record {
    /// A named value; set further fields by struct update.
    #[must_use]
    pub fn new(name: &str, unit: Option<&str>, value: Value) -> Self {
        Self {
            name: Some(name.to_owned()),
            unit: unit.map(str::to_owned),
            value: Some(value),
            ..Self::default()
        }
    }

    /// A named number with its unit.
    #[must_use]
    pub fn number(name: &str, unit: Option<&str>, value: f64) -> Self {
        Self::new(name, unit, Value::Number(value))
    }

    /// A named data value (bytes).
    #[must_use]
    pub fn data(name: &str, bytes: &[u8]) -> Self {
        Self::new(name, None, Value::Data(bytes.to_vec()))
    }
}

/// A SenML pack: records in the order of the wire.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pack(pub Vec<Record>);

impl Pack {
    /// Parses the JSON form (section 5).
    ///
    /// # Errors
    /// Any [`SenmlError`]; on error nothing of the pack is usable.
    pub fn from_json(text: &[u8]) -> Result<Self, SenmlError> {
        json::parse(text)
    }

    /// The JSON form (section 5), without white space. Numbers must be finite; a number that is
    /// not is written as `null`, which no parser accepts.
    #[must_use]
    pub fn to_json(&self) -> String {
        json::write(self)
    }

    /// Parses the CBOR form (section 6), definite lengths only.
    ///
    /// # Errors
    /// Any [`SenmlError`]; on error nothing of the pack is usable.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, SenmlError> {
        cbor::parse(bytes)
    }

    /// The CBOR form (section 6): integer labels in a fixed order, each number in its shortest
    /// lossless form, so that equal packs give equal bytes.
    #[must_use]
    pub fn to_cbor(&self) -> Vec<u8> {
        cbor::write(self)
    }

    /// Resolves base fields and relative times (section 4.6) for a pack received at `now_s`,
    /// in seconds since 1970.
    ///
    /// # Errors
    /// [`SenmlError::BadName`], [`SenmlError::NoValue`], [`SenmlError::Version`],
    /// [`SenmlError::NotFinite`] (a sum overflowed), [`SenmlError::Empty`].
    pub fn resolve(&self, now_s: f64) -> Result<Vec<Resolved>, SenmlError> {
        if self.0.is_empty() {
            return Err(SenmlError::Empty);
        }
        let mut base = Base::default();
        self.0.iter().map(|record| base.resolve(record, now_s)).collect()
    }
}

/// A record that stands alone: absolute time, full name, no base fields (section 4.6).
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// Full name.
    pub name: String,
    /// Unit, if any.
    pub unit: Option<String>,
    /// Value; `None` only if there is a sum.
    pub value: Option<Value>,
    /// Sum, if any.
    pub sum: Option<f64>,
    /// Seconds since 1970.
    pub time: f64,
    /// Longest time until the next reading, in seconds.
    pub update_time: Option<f64>,
}

/// The base fields in force, carried from record to record.
#[derive(Default)]
struct Base {
    name: String,
    time: f64,
    unit: Option<String>,
    value: Option<f64>,
    sum: Option<f64>,
    version: Option<u32>,
}

impl Base {
    fn resolve(&mut self, record: &Record, now_s: f64) -> Result<Resolved, SenmlError> {
        self.take(record)?;
        let name = format!("{}{}", self.name, record.name.as_deref().unwrap_or(""));
        if !is_name(&name) {
            return Err(SenmlError::BadName);
        }
        // Section 4.1: with only one of base value and value present, the other one is zero.
        let value = match (&record.value, self.value) {
            (Some(Value::Number(number)), base) => {
                Some(Value::Number(finite(number + base.unwrap_or(0.0))?))
            }
            (Some(other), _) => Some(other.clone()),
            (None, Some(base)) if record.sum.is_none() => Some(Value::Number(base)),
            (None, _) => None,
        };
        let sum = match (record.sum, self.sum) {
            (None, None) => None,
            (sum, base) => Some(finite(sum.unwrap_or(0.0) + base.unwrap_or(0.0))?),
        };
        if value.is_none() && sum.is_none() {
            return Err(SenmlError::NoValue);
        }
        let time = finite(self.time + record.time.unwrap_or(0.0))?;
        let time = if time < RELATIVE_TIME_LIMIT { finite(now_s + time)? } else { time };
        Ok(Resolved {
            name,
            unit: record.unit.clone().or_else(|| self.unit.clone()),
            value,
            sum,
            time,
            update_time: record.update_time,
        })
    }

    fn take(&mut self, record: &Record) -> Result<(), SenmlError> {
        if let Some(name) = &record.base_name {
            self.name.clone_from(name);
        }
        if let Some(time) = record.base_time {
            self.time = time;
        }
        if let Some(unit) = &record.base_unit {
            self.unit = Some(unit.clone());
        }
        self.value = record.base_value.or(self.value);
        self.sum = record.base_sum.or(self.sum);
        if let Some(version) = record.base_version {
            // Section 4.4: a version above ours must not be processed, and all must be the same.
            if version > VERSION || self.version.is_some_and(|known| known != version) {
                return Err(SenmlError::Version);
            }
            self.version = Some(version);
        }
        Ok(())
    }
}

/// Section 4.5.1: starts with a letter or digit; letters, digits and `-:./_` after that.
#[must_use]
pub fn is_name(name: &str) -> bool {
    name.len() <= 2 * MAX_NAME_BYTES
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-:./_".contains(&byte))
}

fn finite(number: f64) -> Result<f64, SenmlError> {
    if number.is_finite() { Ok(number) } else { Err(SenmlError::NotFinite) }
}

/// The fields of a record, as both forms name them; the order is the order of writing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    BaseName,
    BaseTime,
    BaseUnit,
    BaseVersion,
    BaseValue,
    BaseSum,
    Name,
    Unit,
    Time,
    UpdateTime,
    Number,
    Text,
    Boolean,
    Data,
    Sum,
}

impl Field {
    /// Section 4.3 (JSON label) and table 4 of section 6 (CBOR label).
    const TABLE: [(Self, &'static str, i8); 15] = [
        (Self::BaseName, "bn", -2),
        (Self::BaseTime, "bt", -3),
        (Self::BaseUnit, "bu", -4),
        (Self::BaseVersion, "bver", -1),
        (Self::BaseValue, "bv", -5),
        (Self::BaseSum, "bs", -6),
        (Self::Name, "n", 0),
        (Self::Unit, "u", 1),
        (Self::Time, "t", 6),
        (Self::UpdateTime, "ut", 7),
        (Self::Number, "v", 2),
        (Self::Text, "vs", 3),
        (Self::Boolean, "vb", 4),
        (Self::Data, "vd", 8),
        (Self::Sum, "s", 5),
    ];

    fn by_label(label: &str) -> Option<Self> {
        Self::TABLE.iter().find(|row| row.1 == label).map(|row| row.0)
    }

    fn by_number(number: i64) -> Option<Self> {
        Self::TABLE.iter().find(|row| i64::from(row.2) == number).map(|row| row.0)
    }

    fn label(self) -> &'static str {
        Self::TABLE[self as usize].1
    }

    fn key(self) -> i8 {
        Self::TABLE[self as usize].2
    }
}

/// A field's content, between the two forms and [`Record`].
#[derive(Clone, Debug, PartialEq)]
enum Content {
    Number(f64),
    Text(String),
    Boolean(bool),
    Data(Vec<u8>),
}

impl Record {
    /// Sets one field that was read; the only way in for both parsers.
    fn set(&mut self, field: Field, content: Content) -> Result<(), SenmlError> {
        match field {
            Field::BaseName => set_text(&mut self.base_name, content),
            Field::BaseUnit => set_text(&mut self.base_unit, content),
            Field::Name => set_text(&mut self.name, content),
            Field::Unit => set_text(&mut self.unit, content),
            Field::BaseTime => set_number(&mut self.base_time, content),
            Field::BaseValue => set_number(&mut self.base_value, content),
            Field::BaseSum => set_number(&mut self.base_sum, content),
            Field::Sum => set_number(&mut self.sum, content),
            Field::Time => set_number(&mut self.time, content),
            Field::UpdateTime => set_number(&mut self.update_time, content),
            Field::BaseVersion => {
                let mut number = self.base_version.map(f64::from);
                set_number(&mut number, content)?;
                let version = number.filter(|n| (0.0..=1e6).contains(n) && n.fract() == 0.0);
                self.base_version = Some(version.ok_or(SenmlError::Version)? as u32);
                Ok(())
            }
            Field::Number | Field::Text | Field::Boolean | Field::Data => {
                if self.value.is_some() {
                    return Err(SenmlError::ManyValues);
                }
                self.value = Some(match (field, content) {
                    (Field::Number, Content::Number(number)) => Value::Number(finite(number)?),
                    (Field::Text, Content::Text(text)) if text.len() <= MAX_VALUE_BYTES => {
                        Value::Text(text)
                    }
                    (Field::Boolean, Content::Boolean(boolean)) => Value::Boolean(boolean),
                    (Field::Data, Content::Data(data)) if data.len() <= MAX_VALUE_BYTES => {
                        Value::Data(data)
                    }
                    (Field::Text, Content::Text(_)) | (Field::Data, Content::Data(_)) => {
                        return Err(SenmlError::FieldTooLong);
                    }
                    _ => return Err(SenmlError::Malformed("value of another type")),
                });
                Ok(())
            }
        }
    }

    /// The fields that are present, in the order of writing; the only way out for both writers.
    fn fields(&self) -> Vec<(Field, Content)> {
        let text = |text: &Option<String>| text.clone().map(Content::Text);
        let number = |number: Option<f64>| number.map(Content::Number);
        let mut fields = Vec::with_capacity(6);
        for (field, _, _) in Field::TABLE {
            let content = match field {
                Field::BaseName => text(&self.base_name),
                Field::BaseTime => number(self.base_time),
                Field::BaseUnit => text(&self.base_unit),
                Field::BaseVersion => number(self.base_version.map(f64::from)),
                Field::BaseValue => number(self.base_value),
                Field::BaseSum => number(self.base_sum),
                Field::Name => text(&self.name),
                Field::Unit => text(&self.unit),
                Field::Time => number(self.time),
                Field::UpdateTime => number(self.update_time),
                Field::Sum => number(self.sum),
                Field::Number | Field::Text | Field::Boolean | Field::Data => {
                    match (field, &self.value) {
                        (Field::Number, Some(Value::Number(v))) => Some(Content::Number(*v)),
                        (Field::Text, Some(Value::Text(v))) => Some(Content::Text(v.clone())),
                        (Field::Boolean, Some(Value::Boolean(v))) => Some(Content::Boolean(*v)),
                        (Field::Data, Some(Value::Data(v))) => Some(Content::Data(v.clone())),
                        _ => None,
                    }
                }
            };
            fields.extend(content.map(|content| (field, content)));
        }
        fields
    }
}

fn set_text(slot: &mut Option<String>, content: Content) -> Result<(), SenmlError> {
    match content {
        _ if slot.is_some() => Err(SenmlError::DuplicateField),
        Content::Text(text) if text.len() > MAX_NAME_BYTES => Err(SenmlError::FieldTooLong),
        Content::Text(text) => {
            *slot = Some(text);
            Ok(())
        }
        _ => Err(SenmlError::Malformed("expected a string")),
    }
}

fn set_number(slot: &mut Option<f64>, content: Content) -> Result<(), SenmlError> {
    match content {
        _ if slot.is_some() => Err(SenmlError::DuplicateField),
        Content::Number(number) => {
            *slot = Some(finite(number)?);
            Ok(())
        }
        _ => Err(SenmlError::Malformed("expected a number")),
    }
}

/// Entry for fuzzing: any bytes as both forms. What is taken must survive its own writing.
///
/// # Panics
/// Only if a parser or a writer is wrong.
pub fn fuzz(bytes: &[u8]) {
    if let Ok(pack) = Pack::from_json(bytes) {
        assert_eq!(Pack::from_json(pack.to_json().as_bytes()).as_ref(), Ok(&pack));
        let _resolved = pack.resolve(1.7e9);
    }
    if let Ok(pack) = Pack::from_cbor(bytes) {
        let written = pack.to_cbor();
        assert_eq!(Pack::from_cbor(&written).as_ref(), Ok(&pack));
        let _resolved = pack.resolve(1.7e9);
    }
}

#[cfg(test)]
mod tests;
