//! Canonical CBOR: one value has exactly one encoding, and the decoder takes no other.
//!
//! The subset of RFC 8949 that is used: unsigned integers, byte strings, text strings, arrays,
//! booleans and null; all lengths definite, all integers and lengths in their shortest form
//! (RFC 8949 §4.2.1). There are no maps, tags, floats or negative numbers.
//! Every decoder takes its limits and fails on left-over bytes. This module must not know what
//! it carries.

use alloc::{string::String, vec::Vec};

use thiserror::Error;

/// Why bytes are not the canonical encoding of the wanted value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes end in the middle of a value.
    #[error("the bytes end in the middle of {0}")]
    Truncated(&'static str),
    /// Another CBOR type than the wanted one.
    #[error("wrong type: expected {0}")]
    Type(&'static str),
    /// A longer form than the shortest, or an indefinite length.
    #[error("not the canonical form of {0}")]
    NonCanonical(&'static str),
    /// More bytes or elements than the limit of this field.
    #[error("{what}: {found} is more than the limit of {limit}")]
    TooLong {
        /// The field.
        what: &'static str,
        /// Bytes or elements found.
        found: u64,
        /// Bytes or elements allowed.
        limit: u64,
    },
    /// An array has fewer or more fields than its type: an unknown or missing field.
    #[error("{what}: {found} fields, expected {expected}")]
    FieldCount {
        /// The type.
        what: &'static str,
        /// Fields found.
        found: u64,
        /// Fields wanted.
        expected: u64,
    },
    /// Bytes are left over after the value.
    #[error("{0} bytes are left over")]
    Trailing(usize),
    /// The form is right, the value is not allowed.
    #[error("invalid {0}")]
    Invalid(&'static str),
    /// A list which must be strictly ascending is not.
    #[error("{0} is not sorted or holds a duplicate")]
    Unsorted(&'static str),
    /// A version that this build does not know.
    #[error("version {found} of {what} is not supported")]
    Version {
        /// The type.
        what: &'static str,
        /// The version found.
        found: u64,
    },
    /// A transaction kind that exists and is not delivered in this state-machine version.
    #[error("transaction kind {0} is not supported yet")]
    UnsupportedKind(u16),
    /// A transaction kind that does not exist.
    #[error("transaction kind {0} does not exist")]
    UnknownKind(u64),
}

/// A value with one canonical encoding.
pub trait Encode {
    /// Appends the canonical encoding.
    fn encode(&self, encoder: &mut Encoder);

    /// The canonical encoding as bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let mut encoder = Encoder::new();
        self.encode(&mut encoder);
        encoder.into_bytes()
    }
}

/// A value that can be read from its canonical encoding.
pub trait Decode: Sized {
    /// Largest encoding accepted by [`Decode::from_bytes`], in bytes.
    const MAX_BYTES: usize;

    /// Reads one value.
    ///
    /// # Errors
    /// Any departure from the canonical encoding.
    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError>;

    /// Reads one value that fills `bytes` completely.
    ///
    /// # Errors
    /// As [`Decode::decode`]; also left-over bytes, and more than `MAX_BYTES`.
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        check_size("encoding", bytes.len(), Self::MAX_BYTES)?;
        let mut decoder = Decoder::new(bytes);
        let value = Self::decode(&mut decoder)?;
        decoder.finish()?;
        Ok(value)
    }
}

/// Fails when `found` exceeds `limit`.
///
/// # Errors
/// [`DecodeError::TooLong`].
pub fn check_size(what: &'static str, found: usize, limit: usize) -> Result<(), DecodeError> {
    if found > limit {
        return Err(DecodeError::TooLong { what, found: found as u64, limit: limit as u64 });
    }
    Ok(())
}

/// Fails unless `items` are strictly ascending (so: sorted, without duplicates).
///
/// # Errors
/// [`DecodeError::Unsorted`].
pub fn check_ascending<T: Ord>(what: &'static str, items: &[T]) -> Result<(), DecodeError> {
    if items.windows(2).all(|pair| pair[0] < pair[1]) {
        Ok(())
    } else {
        Err(DecodeError::Unsorted(what))
    }
}

/// Implements [`Encode`] and [`Decode`] of a struct as an array of its fields in the given order.
///
/// `canonical!(Type, "name", max_bytes, [field, list_field: list(limit)])`. The struct is built
/// and taken apart by its fields' names, so a forgotten field does not compile.
macro_rules! canonical {
    ($type:ident, $name:literal, $max:expr, [$($field:ident $(: list($limit:expr))?),+ $(,)?]) => {
        impl $crate::codec::Encode for $type {
            fn encode(&self, encoder: &mut $crate::codec::Encoder) {
                let Self { $($field),+ } = self;
                encoder.array([$(stringify!($field)),+].len());
                $($crate::codec::canonical!(@encode encoder, $field $(, $limit)?);)+
            }
        }

        impl $crate::codec::Decode for $type {
            const MAX_BYTES: usize = $max;

            fn decode(
                decoder: &mut $crate::codec::Decoder<'_>,
            ) -> Result<Self, $crate::codec::DecodeError> {
                decoder.fields($name, [$(stringify!($field)),+].len())?;
                $(let $field = $crate::codec::canonical!(@decode decoder, $field $(, $limit)?);)+
                Ok(Self { $($field),+ })
            }
        }
    };
    (@encode $encoder:ident, $field:ident) => { $encoder.value($field) };
    (@encode $encoder:ident, $field:ident, $limit:expr) => { $encoder.list($field) };
    (@decode $decoder:ident, $field:ident) => { $crate::codec::Decode::decode($decoder)? };
    (@decode $decoder:ident, $field:ident, $limit:expr) => {
        $decoder.list(stringify!($field), $limit)?
    };
}
pub(crate) use canonical;

macro_rules! canonical_uint {
    ($($type:ty, $name:literal, $max:literal;)+) => {$(
        impl Encode for $type {
            fn encode(&self, encoder: &mut Encoder) {
                encoder.uint(u64::from(*self));
            }
        }

        impl Decode for $type {
            const MAX_BYTES: usize = $max;

            fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
                Self::try_from(decoder.uint($name)?).map_err(|_| DecodeError::Invalid($name))
            }
        }
    )+};
}

canonical_uint! {
    u8, "8-bit integer", 2;
    u16, "16-bit integer", 3;
    u32, "32-bit integer", 5;
    u64, "integer", 9;
}

impl Encode for bool {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.bool(*self);
    }
}

impl Decode for bool {
    const MAX_BYTES: usize = 1;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.bool("boolean")
    }
}

impl<T: Encode> Encode for Option<T> {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.option(self.as_ref());
    }
}

impl<T: Decode> Decode for Option<T> {
    const MAX_BYTES: usize = if T::MAX_BYTES == 0 { 1 } else { T::MAX_BYTES };

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.option()
    }
}

/// A text of at most `MAX` bytes of UTF-8, without control and direction characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text<const MAX: usize>(String);

impl<const MAX: usize> Text<MAX> {
    /// Takes a text.
    ///
    /// # Errors
    /// More than `MAX` bytes, or a control or direction character (they could forge lines of a
    /// report, or make it read otherwise than it is).
    pub fn new(text: impl Into<String>) -> Result<Self, DecodeError> {
        let text = text.into();
        check_size("text", text.len(), MAX)?;
        if text.chars().any(|c| c.is_control() || is_direction(c)) {
            return Err(DecodeError::Invalid("text"));
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Bidirectional marks, embeddings, overrides and isolates (Unicode UAX 9), line separators.
fn is_direction(c: char) -> bool {
    let marks = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}');
    marks || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl<const MAX: usize> Encode for Text<MAX> {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.text(&self.0);
    }
}

impl<const MAX: usize> Decode for Text<MAX> {
    const MAX_BYTES: usize = MAX + 9;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Self::new(decoder.text("text", MAX)?)
    }
}

/// Writes canonical CBOR into memory; cannot fail.
#[derive(Debug)]
pub struct Encoder(minicbor::Encoder<Vec<u8>>);

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder with nothing written.
    pub fn new() -> Self {
        Self(minicbor::Encoder::new(Vec::new()))
    }

    /// Starts an array of `length` elements, which the caller writes next.
    pub fn array(&mut self, length: usize) -> &mut Self {
        self.infallible(|e| e.array(length as u64).map(drop))
    }

    /// Writes an unsigned integer in its shortest form.
    pub fn uint(&mut self, value: u64) -> &mut Self {
        self.infallible(|e| e.u64(value).map(drop))
    }

    /// Writes a byte string.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.infallible(|e| e.bytes(value).map(drop))
    }

    /// Writes a text string.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.infallible(|e| e.str(value).map(drop))
    }

    /// Writes a boolean.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.infallible(|e| e.bool(value).map(drop))
    }

    /// Writes null, the form of an absent optional value.
    pub fn null(&mut self) -> &mut Self {
        self.infallible(|e| e.null().map(drop))
    }

    /// Writes a value.
    pub fn value<T: Encode + ?Sized>(&mut self, value: &T) -> &mut Self {
        value.encode(self);
        self
    }

    /// Writes the value, or null when there is none.
    pub fn option<T: Encode>(&mut self, value: Option<&T>) -> &mut Self {
        match value {
            Some(value) => self.value(value),
            None => self.null(),
        }
    }

    /// Writes an array of values.
    pub fn list<T: Encode>(&mut self, values: &[T]) -> &mut Self {
        self.array(values.len());
        for value in values {
            value.encode(self);
        }
        self
    }

    /// The bytes written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_writer()
    }

    fn infallible<F>(&mut self, write: F) -> &mut Self
    where
        F: FnOnce(
            &mut minicbor::Encoder<Vec<u8>>,
        ) -> Result<(), minicbor::encode::Error<core::convert::Infallible>>,
    {
        write(&mut self.0).expect("writing into a Vec cannot fail");
        self
    }
}

/// Reads canonical CBOR; refuses every other form.
#[derive(Clone, Debug)]
pub struct Decoder<'b>(minicbor::Decoder<'b>);

impl<'b> Decoder<'b> {
    /// A decoder at the start of `bytes`.
    pub fn new(bytes: &'b [u8]) -> Self {
        Self(minicbor::Decoder::new(bytes))
    }

    /// Bytes consumed so far.
    pub fn position(&self) -> usize {
        self.0.position()
    }

    /// Ends reading.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`] when bytes are left over.
    pub fn finish(&self) -> Result<(), DecodeError> {
        match self.0.input().len().saturating_sub(self.0.position()) {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }

    /// Reads an array header with exactly `expected` fields.
    ///
    /// # Errors
    /// Another type, form or number of fields.
    pub fn fields(&mut self, what: &'static str, expected: usize) -> Result<(), DecodeError> {
        let found = self.length(what, Major::Array)?;
        if found != expected as u64 {
            return Err(DecodeError::FieldCount { what, found, expected: expected as u64 });
        }
        Ok(())
    }

    /// Reads an array header with at most `limit` elements; the caller reads them next.
    ///
    /// # Errors
    /// Another type or form, or too many elements.
    pub fn array(&mut self, what: &'static str, limit: usize) -> Result<usize, DecodeError> {
        let found = self.length(what, Major::Array)?;
        match usize::try_from(found) {
            Ok(length) if length <= limit => Ok(length),
            _ => Err(DecodeError::TooLong { what, found, limit: limit as u64 }),
        }
    }

    /// Reads a list of at most `limit` values.
    ///
    /// # Errors
    /// Another type or form, too many elements, or a bad element.
    pub fn list<T: Decode>(
        &mut self,
        what: &'static str,
        limit: usize,
    ) -> Result<Vec<T>, DecodeError> {
        let length = self.array(what, limit)?;
        // The capacity is bounded by what the input can really hold: one byte an element.
        let left = self.0.input().len().saturating_sub(self.0.position());
        let mut values = Vec::with_capacity(length.min(left));
        for _ in 0..length {
            values.push(T::decode(self)?);
        }
        Ok(values)
    }

    /// Reads an unsigned integer.
    ///
    /// # Errors
    /// Another type, or a longer form than the shortest.
    pub fn uint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.length(what, Major::Unsigned)
    }

    /// Reads an unsigned integer of at most 32 bits.
    ///
    /// # Errors
    /// As [`Decoder::uint`]; also a larger value.
    pub fn uint32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        u32::try_from(self.uint(what)?).map_err(|_| DecodeError::Invalid(what))
    }

    /// Reads an unsigned integer of at most 8 bits.
    ///
    /// # Errors
    /// As [`Decoder::uint`]; also a larger value.
    pub fn uint8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        u8::try_from(self.uint(what)?).map_err(|_| DecodeError::Invalid(what))
    }

    /// Reads a byte string of at most `limit` bytes.
    ///
    /// # Errors
    /// Another type or form, or more bytes.
    pub fn bytes(&mut self, what: &'static str, limit: usize) -> Result<&'b [u8], DecodeError> {
        let length = self.length(what, Major::Bytes)?;
        self.take(what, length, limit)
    }

    /// Reads a byte string of exactly `N` bytes.
    ///
    /// # Errors
    /// Another type, form or length.
    pub fn fixed<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        self.bytes(what, N)?.try_into().map_err(|_| DecodeError::Invalid(what))
    }

    /// Reads a text string of at most `limit` bytes.
    ///
    /// # Errors
    /// Another type or form, more bytes, or not UTF-8.
    pub fn text(&mut self, what: &'static str, limit: usize) -> Result<&'b str, DecodeError> {
        let length = self.length(what, Major::Text)?;
        let bytes = self.take(what, length, limit)?;
        core::str::from_utf8(bytes).map_err(|_| DecodeError::Invalid(what))
    }

    /// Reads a boolean.
    ///
    /// # Errors
    /// Another type.
    pub fn bool(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.peek() {
            None => Err(DecodeError::Truncated(what)),
            Some(0xf4 | 0xf5) => self.0.bool().map_err(|_| DecodeError::Type(what)),
            Some(_) => Err(DecodeError::Type(what)),
        }
    }

    /// Reads a value, or `None` for null.
    ///
    /// # Errors
    /// Neither null nor a good value.
    pub fn option<T: Decode>(&mut self) -> Result<Option<T>, DecodeError> {
        if self.null() { Ok(None) } else { T::decode(self).map(Some) }
    }

    /// Consumes a null when one is next; tells whether it was.
    pub fn null(&mut self) -> bool {
        let found = self.peek() == Some(NULL);
        if found {
            self.0.set_position(self.0.position() + 1);
        }
        found
    }

    /// Tells whether a byte string is next.
    pub fn next_is_bytes(&self) -> bool {
        self.peek().is_some_and(|first| first >> 5 == Major::Bytes as u8)
    }

    fn peek(&self) -> Option<u8> {
        self.0.input().get(self.0.position()).copied()
    }

    fn take(
        &mut self,
        what: &'static str,
        length: u64,
        limit: usize,
    ) -> Result<&'b [u8], DecodeError> {
        let wanted = match usize::try_from(length) {
            Ok(wanted) if wanted <= limit => wanted,
            _ => {
                return Err(DecodeError::TooLong { what, found: length, limit: limit as u64 });
            }
        };
        let start = self.0.position();
        let end = start.checked_add(wanted).ok_or(DecodeError::Truncated(what))?;
        let bytes = self.0.input().get(start..end).ok_or(DecodeError::Truncated(what))?;
        self.0.set_position(end);
        Ok(bytes)
    }

    /// Reads the argument of a CBOR head (RFC 8949 §3) of one major type, in shortest form.
    fn length(&mut self, what: &'static str, major: Major) -> Result<u64, DecodeError> {
        let first = self.peek().ok_or(DecodeError::Truncated(what))?;
        if first >> 5 != major as u8 {
            return Err(DecodeError::Type(what));
        }
        let start = self.0.position();
        let size = match first & 0x1f {
            0..=23 => 0,
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            // Reserved values and the indefinite length.
            _ => return Err(DecodeError::NonCanonical(what)),
        };
        let end = start + 1 + size;
        let tail = self.0.input().get(start + 1..end).ok_or(DecodeError::Truncated(what))?;
        let value = if size == 0 {
            u64::from(first & 0x1f)
        } else {
            tail.iter().fold(0u64, |value, byte| (value << 8) | u64::from(*byte))
        };
        let shortest = match value {
            0..=23 => 0,
            24..=0xff => 1,
            0x100..=0xffff => 2,
            0x1_0000..=0xffff_ffff => 4,
            _ => 8,
        };
        if size != shortest {
            return Err(DecodeError::NonCanonical(what));
        }
        self.0.set_position(end);
        Ok(value)
    }
}

#[derive(Clone, Copy)]
enum Major {
    Unsigned = 0,
    Bytes = 2,
    Text = 3,
    Array = 4,
}

const NULL: u8 = 0xf6;

#[cfg(test)]
mod tests;
