//! The one conversion between serde's data model, `a{sv}` and JSON.
//!
//! ```text
//! struct, map      -> a{sv}; a field that is None is left out (D-Bus has no null)
//! sequence         -> av, whatever its elements are, so that an empty one has the same type
//! tuple            -> (…)
//! number           -> the D-Bus number of its width (i8 as n, f32 as d), bool -> b, text -> s
//! enum             -> s for a unit variant, else a{sv} with the variant's name as the one key
//! ```
//!
//! It must not know any of our types.

use std::collections::BTreeMap;

use serde::ser::{self, Serialize};
use zbus::wire::{Array, Dict as WireDict, Structure};
use zbus::{OwnedVariant, Signature, Variant};

/// `a{sv}`: options of calls, and results.
pub type Dict = BTreeMap<String, OwnedVariant>;

/// Turns a struct or map into `a{sv}`.
///
/// # Errors
/// The value is not a struct or map, has keys that are not text, or a tuple with an absent field.
pub fn to_dict<T: Serialize + ?Sized>(value: &T) -> Result<Dict, NotRepresentable> {
    match value.serialize(Encoder)? {
        Some(Variant::Dict(dict)) => Dict::try_from(dict).map_err(|_| NotRepresentable::NotADict),
        _ => Err(NotRepresentable::NotADict),
    }
}

/// Turns any variant into JSON: dictionaries to objects, arrays and structures to arrays.
///
/// Numbers that JSON does not have (NaN, infinities) become null, as do file descriptors.
pub fn to_json(variant: &Variant<'_>) -> serde_json::Value {
    use serde_json::Value;
    match variant {
        Variant::U8(number) => Value::from(*number),
        Variant::Bool(truth) => Value::from(*truth),
        Variant::I16(number) => Value::from(*number),
        Variant::U16(number) => Value::from(*number),
        Variant::I32(number) => Value::from(*number),
        Variant::U32(number) => Value::from(*number),
        Variant::I64(number) => Value::from(*number),
        Variant::U64(number) => Value::from(*number),
        Variant::F64(number) => Value::from(*number),
        Variant::Str(text) => Value::from(text.as_str()),
        Variant::ObjectPath(path) => Value::from(path.as_str()),
        Variant::Signature(signature) => Value::from(signature.to_string()),
        Variant::Variant(inner) => to_json(inner),
        Variant::Array(array) => array.inner().iter().map(to_json).collect(),
        Variant::Structure(structure) => structure.fields().iter().map(to_json).collect(),
        Variant::Dict(dict) => {
            let key = |key: &Variant<'_>| match to_json(key) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            Value::Object(dict.iter().map(|(k, v)| (key(k), to_json(v))).collect())
        }
        _ => Value::Null,
    }
}

/// As [`to_json`], for a whole `a{sv}`.
pub fn dict_to_json(dict: &Dict) -> serde_json::Value {
    dict.iter().map(|(key, value)| (key.clone(), to_json(value))).collect()
}

/// A value that has no place in `a{sv}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRepresentable {
    /// The outermost value is not a struct or map.
    #[error("not a struct or map")]
    NotADict,
    /// A map's key is not text.
    #[error("a key is not text")]
    KeyIsNotText,
    /// A tuple's field is absent: a structure cannot leave out a field.
    #[error("a field of a tuple is absent")]
    AbsentInTuple,
    /// D-Bus refuses it: nesting too deep, for example.
    #[error("{0}")]
    Wire(String),
    /// The value's own serialisation says no.
    #[error("{0}")]
    Custom(String),
}

impl ser::Error for NotRepresentable {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::Custom(message.to_string())
    }
}

impl From<zbus::Error> for NotRepresentable {
    fn from(error: zbus::Error) -> Self {
        Self::Wire(error.to_string())
    }
}

/// What a value becomes; `None` when it is absent.
type Encoded = Option<Variant<'static>>;

/// Serialises one value.
struct Encoder;

/// Makes the methods for values that become one basic variant.
macro_rules! basic {
    ($($method:ident: $from:ty => $variant:ident as $to:ty),* $(,)?) => {
        $(fn $method(self, value: $from) -> Result<Encoded, NotRepresentable> {
            Ok(Some(Variant::$variant(<$to>::from(value))))
        })*
    };
}

impl ser::Serializer for Encoder {
    type Ok = Encoded;
    type Error = NotRepresentable;
    type SerializeSeq = Sequence;
    type SerializeTuple = Fields;
    type SerializeTupleStruct = Fields;
    type SerializeTupleVariant = Fields;
    type SerializeMap = Entries;
    type SerializeStruct = Entries;
    type SerializeStructVariant = Entries;

    basic! {
        serialize_bool: bool => Bool as bool,
        serialize_i8: i8 => I16 as i16,
        serialize_i16: i16 => I16 as i16,
        serialize_i32: i32 => I32 as i32,
        serialize_i64: i64 => I64 as i64,
        serialize_u8: u8 => U8 as u8,
        serialize_u16: u16 => U16 as u16,
        serialize_u32: u32 => U32 as u32,
        serialize_u64: u64 => U64 as u64,
        serialize_f32: f32 => F64 as f64,
        serialize_f64: f64 => F64 as f64,
    }

    fn serialize_char(self, value: char) -> Result<Encoded, NotRepresentable> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<Encoded, NotRepresentable> {
        // D-Bus text holds no NUL.
        Ok(Some(Variant::Str(value.replace('\0', "\u{fffd}").into())))
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<Encoded, NotRepresentable> {
        Ok(Some(Variant::from(value.to_vec())))
    }

    fn serialize_none(self) -> Result<Encoded, NotRepresentable> {
        Ok(None)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Encoded, NotRepresentable> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Encoded, NotRepresentable> {
        Ok(None)
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<Encoded, NotRepresentable> {
        Ok(None)
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<Encoded, NotRepresentable> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<Encoded, NotRepresentable> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Encoded, NotRepresentable> {
        let mut entries = Entries::default();
        entries.put(variant.into(), value.serialize(Encoder)?);
        entries.dict()
    }

    fn serialize_seq(self, _length: Option<usize>) -> Result<Sequence, NotRepresentable> {
        Ok(Sequence(Array::new(&Signature::Variant)))
    }

    fn serialize_tuple(self, _length: usize) -> Result<Fields, NotRepresentable> {
        Ok(Fields::default())
    }

    fn serialize_tuple_struct(
        self,
        _name: &'static str,
        _length: usize,
    ) -> Result<Fields, NotRepresentable> {
        Ok(Fields::default())
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<Fields, NotRepresentable> {
        Ok(Fields { variant: Some(variant), fields: Vec::new() })
    }

    fn serialize_map(self, _length: Option<usize>) -> Result<Entries, NotRepresentable> {
        Ok(Entries::default())
    }

    fn serialize_struct(
        self,
        _name: &'static str,
        _length: usize,
    ) -> Result<Entries, NotRepresentable> {
        Ok(Entries::default())
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<Entries, NotRepresentable> {
        Ok(Entries { variant: Some(variant), ..Entries::default() })
    }
}

/// An `av` being filled.
struct Sequence(Array<'static>);

impl ser::SerializeSeq for Sequence {
    type Ok = Encoded;
    type Error = NotRepresentable;

    fn serialize_element<T: Serialize + ?Sized>(
        &mut self,
        value: &T,
    ) -> Result<(), NotRepresentable> {
        if let Some(element) = value.serialize(Encoder)? {
            self.0.append(Variant::Variant(Box::new(element)))?;
        }
        Ok(())
    }

    fn end(self) -> Result<Encoded, NotRepresentable> {
        Ok(Some(Variant::Array(self.0)))
    }
}

/// A structure being filled, perhaps of an enum's variant.
#[derive(Default)]
struct Fields {
    variant: Option<&'static str>,
    fields: Vec<Variant<'static>>,
}

impl Fields {
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotRepresentable> {
        self.fields.push(value.serialize(Encoder)?.ok_or(NotRepresentable::AbsentInTuple)?);
        Ok(())
    }

    fn structure(self) -> Result<Encoded, NotRepresentable> {
        let mut builder = Structure::builder();
        for field in self.fields {
            builder.push_value(field);
        }
        let structure = Some(Variant::Structure(builder.build()?));
        let Some(variant) = self.variant else { return Ok(structure) };
        let mut entries = Entries::default();
        entries.put(variant.into(), structure);
        entries.dict()
    }
}

/// Makes the three traits of tuples, which differ in the names of their methods only.
macro_rules! fields {
    ($($kind:ident: $method:ident),*) => {
        $(impl ser::$kind for Fields {
            type Ok = Encoded;
            type Error = NotRepresentable;

            fn $method<T: Serialize + ?Sized>(
                &mut self,
                value: &T,
            ) -> Result<(), NotRepresentable> {
                self.push(value)
            }

            fn end(self) -> Result<Encoded, NotRepresentable> {
                self.structure()
            }
        })*
    };
}

fields! {
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field
}

/// An `a{sv}` being filled, perhaps of an enum's variant.
#[derive(Default)]
struct Entries {
    variant: Option<&'static str>,
    key: Option<String>,
    entries: Vec<(String, Variant<'static>)>,
}

impl Entries {
    fn put(&mut self, key: String, value: Encoded) {
        self.entries.extend(value.map(|value| (key, value)));
    }

    fn dict(mut self) -> Result<Encoded, NotRepresentable> {
        let mut dict = WireDict::new(&Signature::Str, &Signature::Variant);
        for (key, value) in self.entries {
            dict.append(Variant::Str(key.into()), Variant::Variant(Box::new(value)))?;
        }
        let dict = Some(Variant::Dict(dict));
        let Some(variant) = self.variant.take() else { return Ok(dict) };
        let mut outer = Self { variant: None, key: None, entries: Vec::new() };
        outer.put(variant.into(), dict);
        outer.dict()
    }
}

impl ser::SerializeMap for Entries {
    type Ok = Encoded;
    type Error = NotRepresentable;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), NotRepresentable> {
        match key.serialize(Encoder)? {
            Some(Variant::Str(key)) => self.key = Some(key.as_str().into()),
            _ => return Err(NotRepresentable::KeyIsNotText),
        }
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(
        &mut self,
        value: &T,
    ) -> Result<(), NotRepresentable> {
        let key = self.key.take().ok_or(NotRepresentable::KeyIsNotText)?;
        self.put(key, value.serialize(Encoder)?);
        Ok(())
    }

    fn end(self) -> Result<Encoded, NotRepresentable> {
        self.dict()
    }
}

/// Makes the two traits of structs, which differ in nothing.
macro_rules! entries {
    ($($kind:ident),*) => {
        $(impl ser::$kind for Entries {
            type Ok = Encoded;
            type Error = NotRepresentable;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), NotRepresentable> {
                self.put(key.into(), value.serialize(Encoder)?);
                Ok(())
            }

            fn end(self) -> Result<Encoded, NotRepresentable> {
                self.dict()
            }
        })*
    };
}

entries!(SerializeStruct, SerializeStructVariant);

#[cfg(test)]
#[path = "variant_tests.rs"]
mod tests;
