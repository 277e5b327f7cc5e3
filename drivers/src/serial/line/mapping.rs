//! From a line of text to SenML records, as a TOML mapping says.
//!
//! ```toml
//! format = "csv"            # "value", "json" or "csv"
//! separator = ";"           # csv; default ","
//! decimal_comma = true      # 21,5 is a number
//! min_interval_ms = 10000   # at most one reading in that time; default all
//!
//! [[field]]
//! name = "temperature"      # SenML name
//! unit = "Cel"              # SenML unit
//! column = 2                # csv: from 1
//! # pointer = "/temp/0"     # json: RFC 6901
//! # prefix = "T=", suffix = "C"   # cut off before the number is read
//! scale = 0.1               # value = number * scale + offset
//! offset = 0
//! minimum = -40             # plausible values; others are refused
//! maximum = 85
//! optional = true           # leave it out where it is missing or refused
//! # kind = "text"           # or "boolean"; default "number"
//! ```

use serde::Deserialize;
use thiserror::Error;

use crate::json::{Json, JsonError};
use crate::senml::{self, Record, Value};

/// Most fields of a mapping.
pub const MAX_FIELDS: usize = 32;

/// Longest mapping file, in bytes.
pub const MAX_TOML: usize = 16 * 1024;

/// Highest column of a CSV line.
pub const MAX_COLUMNS: usize = 256;

/// Longest text value, in bytes.
pub const MAX_TEXT: usize = 256;

/// Why a mapping file was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MappingError {
    /// Not TOML of this shape; the text names line and key.
    #[error("{0}")]
    Toml(String),
    /// Longer than [`MAX_TOML`].
    #[error("the mapping is too long")]
    TooLong,
    /// No field, or more than [`MAX_FIELDS`].
    #[error("a mapping has 1 to {MAX_FIELDS} fields")]
    FieldCount,
    /// A field that cannot be as it is; the number counts fields from 1.
    #[error("field {0}: {1}")]
    Field(usize, &'static str),
    /// The separator is not one ASCII character.
    #[error("the separator must be one ASCII character and not a quote")]
    Separator,
}

/// Why a line was not taken. Fields are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LineError {
    /// Longer than [`super::MAX_LINE`]; dropped up to the next line end.
    #[error("line is longer than {} bytes", super::MAX_LINE)]
    Endless,
    /// Not UTF-8.
    #[error("line is not text")]
    NotText,
    /// Not JSON, or not CSV (an open quote, too many columns).
    #[error("line is not of the format of the mapping")]
    Malformed,
    /// A JSON object names a key twice.
    #[error("line names a key twice")]
    DuplicateKey,
    /// A field of the mapping is not on the line.
    #[error("field {0} is not on the line")]
    Missing(u8),
    /// A field is not of its kind.
    #[error("field {0} is not a value of its kind")]
    NotAValue(u8),
    /// A field is NaN or infinite.
    #[error("field {0} is not a finite number")]
    NotFinite(u8),
    /// A field is outside its plausible values.
    #[error("field {0} is outside its plausible values")]
    Implausible(u8),
    /// All fields are optional and none is there.
    #[error("line has none of the fields")]
    NoField,
}

impl LineError {
    /// Stable name for counters and logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Endless => "endless-line",
            Self::NotText => "not-text",
            Self::Malformed => "malformed-line",
            Self::DuplicateKey => "duplicate-key",
            Self::Missing(_) => "missing-field",
            Self::NotAValue(_) => "not-a-value",
            Self::NotFinite(_) => "not-finite",
            Self::Implausible(_) => "implausible",
            Self::NoField => "no-field",
        }
    }
}

/// A checked mapping.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapping {
    format: Format,
    separator: char,
    decimal_comma: bool,
    min_interval_ms: u64,
    fields: Vec<Field>,
}

/// The file as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fragment {
    format: Format,
    separator: Option<String>,
    #[serde(default)]
    decimal_comma: bool,
    #[serde(default)]
    min_interval_ms: u64,
    #[serde(default)]
    field: Vec<Field>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Value,
    Json,
    Csv,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Number,
    Text,
    Boolean,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Field {
    name: String,
    unit: Option<String>,
    column: Option<usize>,
    pointer: Option<String>,
    prefix: Option<String>,
    suffix: Option<String>,
    scale: Option<f64>,
    offset: Option<f64>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    kind: Kind,
}

impl Mapping {
    /// Reads and checks a mapping file.
    ///
    /// # Errors
    /// [`MappingError`], in words for the person who wrote the file.
    pub fn from_toml(text: &str) -> Result<Self, MappingError> {
        if text.len() > MAX_TOML {
            return Err(MappingError::TooLong);
        }
        let fragment: Fragment =
            toml::from_str(text).map_err(|error| MappingError::Toml(error.to_string()))?;
        let Fragment { format, separator, decimal_comma, min_interval_ms, field: fields } =
            fragment;
        if fields.is_empty() || fields.len() > MAX_FIELDS {
            return Err(MappingError::FieldCount);
        }
        let mut letters = separator.as_deref().unwrap_or(",").chars();
        let separator = match (letters.next(), letters.next()) {
            (Some(letter), None) if letter.is_ascii() && !"\"\r\n".contains(letter) => letter,
            _ => return Err(MappingError::Separator),
        };
        for (index, field) in fields.iter().enumerate() {
            let same = |other: &&Field| other.name == field.name;
            let fault = if fields[..index].iter().any(|other| same(&other)) {
                Some("the name is used twice")
            } else {
                field.fault(format)
            };
            if let Some(fault) = fault {
                return Err(MappingError::Field(index + 1, fault));
            }
        }
        Ok(Self { format, separator, decimal_comma, min_interval_ms, fields })
    }

    /// Least time between two readings, in milliseconds; lines between are dropped and counted.
    #[must_use]
    pub const fn min_interval_ms(&self) -> u64 {
        self.min_interval_ms
    }

    /// The records of one line, without its end. A blank line has none.
    ///
    /// # Errors
    /// [`LineError`]; a field that is not optional spoils the whole line.
    pub fn apply(&self, line: &[u8]) -> Result<Vec<Record>, LineError> {
        let text = std::str::from_utf8(line).map_err(|_| LineError::NotText)?.trim();
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let source = match self.format {
            Format::Value => Source::Value(text),
            Format::Json => {
                Source::Json(Json::parse(text.as_bytes()).map_err(|error| match error {
                    JsonError::DuplicateKey => LineError::DuplicateKey,
                    JsonError::Malformed | JsonError::TooLarge => LineError::Malformed,
                })?)
            }
            Format::Csv => Source::Csv(columns(text, self.separator)?),
        };
        let mut records = Vec::with_capacity(self.fields.len());
        for (index, field) in self.fields.iter().enumerate() {
            let index = u8::try_from(index).expect("a mapping has at most 32 fields");
            match field.read(index, &source, self.decimal_comma) {
                Ok(record) => records.push(record),
                Err(_) if field.optional => {}
                Err(error) => return Err(error),
            }
        }
        if records.is_empty() {
            return Err(LineError::NoField);
        }
        Ok(records)
    }
}

/// A line, taken apart.
enum Source<'a> {
    Value(&'a str),
    Json(Json),
    Csv(Vec<String>),
}

impl Field {
    fn fault(&self, format: Format) -> Option<&'static str> {
        let number = self.kind == Kind::Number;
        let numbers = [self.scale, self.offset, self.minimum, self.maximum];
        let placed = match format {
            Format::Value => self.column.is_none() && self.pointer.is_none(),
            Format::Json => self.column.is_none() && self.pointer.is_some(),
            Format::Csv => self.column.is_some() && self.pointer.is_none(),
        };
        let pointer = self.pointer.as_deref().unwrap_or("");
        if !senml::is_name(&self.name) || self.name.len() > 64 {
            Some("the name must be letters, digits and -:./_, at most 64, a letter or digit first")
        } else if self.unit.as_ref().is_some_and(|unit| unit.is_empty() || unit.len() > 32) {
            Some("the unit must have 1 to 32 characters")
        } else if !placed {
            Some("a csv field has a column, a json field a pointer, a value neither")
        } else if self.column.is_some_and(|column| !(1..=MAX_COLUMNS).contains(&column)) {
            Some("columns count from 1 to 256")
        } else if !pointer.is_empty() && !pointer.starts_with('/') {
            Some("a pointer is empty or begins with /")
        } else if numbers.iter().flatten().any(|number| !number.is_finite()) {
            Some("scale, offset, minimum and maximum must be finite")
        } else if !number && numbers.iter().any(Option::is_some) {
            Some("scale, offset, minimum and maximum are for numbers")
        } else if self.scale == Some(0.0) {
            Some("a scale of 0 makes every value the same")
        } else if let (Some(minimum), Some(maximum)) = (self.minimum, self.maximum)
            && minimum > maximum
        {
            Some("the minimum is above the maximum")
        } else {
            None
        }
    }

    fn read(
        &self,
        index: u8,
        source: &Source<'_>,
        decimal_comma: bool,
    ) -> Result<Record, LineError> {
        let text = match source {
            Source::Value(text) => *text,
            Source::Csv(columns) => {
                let column = self.column.unwrap_or(1) - 1;
                columns.get(column).ok_or(LineError::Missing(index))?
            }
            Source::Json(json) => {
                let pointer = self.pointer.as_deref().unwrap_or("");
                match json.pointer(pointer).ok_or(LineError::Missing(index))? {
                    Json::Null => return Err(LineError::Missing(index)),
                    Json::Number(number) if self.kind == Kind::Number => {
                        return self.number(index, *number);
                    }
                    Json::Boolean(boolean) if self.kind == Kind::Boolean => {
                        return Ok(self.record(Value::Boolean(*boolean)));
                    }
                    Json::Text(text) => text,
                    _ => return Err(LineError::NotAValue(index)),
                }
            }
        };
        let text = self.bare(text).ok_or(LineError::NotAValue(index))?;
        if text.is_empty() {
            return Err(LineError::Missing(index));
        }
        match self.kind {
            Kind::Text if text.len() <= MAX_TEXT => Ok(self.record(Value::Text(text.to_owned()))),
            Kind::Text => Err(LineError::NotAValue(index)),
            Kind::Boolean => match text.to_ascii_lowercase().as_str() {
                "1" | "true" | "on" | "yes" => Ok(self.record(Value::Boolean(true))),
                "0" | "false" | "off" | "no" => Ok(self.record(Value::Boolean(false))),
                _ => Err(LineError::NotAValue(index)),
            },
            Kind::Number => {
                let text = if decimal_comma { text.replacen(',', ".", 1) } else { text.to_owned() };
                self.number(index, text.parse().map_err(|_| LineError::NotAValue(index))?)
            }
        }
    }

    /// The text without prefix, suffix and blanks; `None` where they are not as they should be.
    fn bare<'t>(&self, text: &'t str) -> Option<&'t str> {
        let text = text.trim().strip_prefix(self.prefix.as_deref().unwrap_or(""))?;
        let text = text.strip_suffix(self.suffix.as_deref().unwrap_or(""))?;
        Some(text.trim())
    }

    fn number(&self, index: u8, number: f64) -> Result<Record, LineError> {
        if !number.is_finite() {
            return Err(LineError::NotFinite(index));
        }
        let value = match (self.scale, self.offset) {
            (None, None) => number,
            (scale, offset) => rounded(number * scale.unwrap_or(1.0) + offset.unwrap_or(0.0)),
        };
        if !value.is_finite() {
            return Err(LineError::NotFinite(index));
        }
        let below = self.minimum.is_some_and(|minimum| value < minimum);
        if below || self.maximum.is_some_and(|maximum| value > maximum) {
            return Err(LineError::Implausible(index));
        }
        Ok(self.record(Value::Number(value)))
    }

    fn record(&self, value: Value) -> Record {
        Record::new(&self.name, self.unit.as_deref(), value)
    }
}

/// To 15 significant digits, so that 3 * 0.1 is 0.3: a double holds no decimal of more.
fn rounded(value: f64) -> f64 {
    format!("{value:.14e}").parse().unwrap_or(value)
}

/// RFC 4180: columns may be in quotes, a quote inside them is doubled.
fn columns(text: &str, separator: char) -> Result<Vec<String>, LineError> {
    let mut columns = Vec::new();
    let mut rest = Some(text);
    while let Some(text) = rest {
        if columns.len() == MAX_COLUMNS {
            return Err(LineError::Malformed);
        }
        let (column, left) = match text.trim_start().strip_prefix('"') {
            Some(quoted) => quoted_column(quoted, separator)?,
            None => match text.split_once(separator) {
                Some((column, left)) => (column.to_owned(), Some(left)),
                None => (text.to_owned(), None),
            },
        };
        columns.push(column);
        rest = left;
    }
    Ok(columns)
}

/// A column after its opening quote, and what follows the separator, if anything does.
fn quoted_column(text: &str, separator: char) -> Result<(String, Option<&str>), LineError> {
    let mut column = String::new();
    let mut rest = text;
    loop {
        let (part, left) = rest.split_once('"').ok_or(LineError::Malformed)?;
        column.push_str(part);
        match left.strip_prefix('"') {
            Some(left) => {
                column.push('"');
                rest = left;
            }
            None => {
                let left = left.trim_start_matches(|c| c == ' ' && c != separator);
                return match left.strip_prefix(separator) {
                    Some(left) => Ok((column, Some(left))),
                    None if left.is_empty() => Ok((column, None)),
                    None => Err(LineError::Malformed),
                };
            }
        }
    }
}
