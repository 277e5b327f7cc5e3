//! Small parts of the encoding that the ledger's codec does not have.

use std::ops::Deref;

use ledger::codec::{Decode, DecodeError, Decoder, Encode, Encoder, check_ascending};

/// A byte string of at most `MAX` bytes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bytes<const MAX: usize>(Vec<u8>);

impl<const MAX: usize> Bytes<MAX> {
    /// Takes bytes.
    ///
    /// # Errors
    /// More than `MAX`.
    pub fn new(bytes: Vec<u8>) -> Result<Self, DecodeError> {
        ledger::codec::check_size("bytes", bytes.len(), MAX)?;
        Ok(Self(bytes))
    }

    /// Gives them back.
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

impl<const MAX: usize> Deref for Bytes<MAX> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<const MAX: usize> std::fmt::Debug for Bytes<MAX> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({})", self.0.len())
    }
}

impl<const MAX: usize> Encode for Bytes<MAX> {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.bytes(&self.0);
    }
}

impl<const MAX: usize> Decode for Bytes<MAX> {
    const MAX_BYTES: usize = MAX + 5;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self(decoder.bytes("bytes", MAX)?.to_vec()))
    }
}

/// Content of a message that has none.
pub(super) fn nothing<T>(decoder: &mut Decoder<'_>, message: T) -> Result<T, DecodeError> {
    if decoder.null() { Ok(message) } else { Err(DecodeError::Type("null")) }
}

/// A strictly ascending list.
pub(super) fn ascending<T: Decode + Ord>(
    decoder: &mut Decoder<'_>,
    what: &'static str,
    limit: usize,
) -> Result<Vec<T>, DecodeError> {
    let list = decoder.list(what, limit)?;
    check_ascending(what, &list)?;
    Ok(list)
}

/// Implements `Encode` and `Decode` of a struct as the array of its fields in the given order; a
/// forgotten field does not compile.
macro_rules! wire {
    ($type:ident, $name:literal, $max:expr, [$($field:ident $(: list($limit:expr))?),+ $(,)?]) => {
        impl ledger::codec::Encode for $type {
            fn encode(&self, encoder: &mut ledger::codec::Encoder) {
                let Self { $($field),+ } = self;
                encoder.array([$(stringify!($field)),+].len());
                $($crate::admission::messages::codec::wire!(@encode encoder, $field $(, $limit)?);)+
            }
        }

        impl ledger::codec::Decode for $type {
            const MAX_BYTES: usize = $max;

            fn decode(
                decoder: &mut ledger::codec::Decoder<'_>,
            ) -> Result<Self, ledger::codec::DecodeError> {
                decoder.fields($name, [$(stringify!($field)),+].len())?;
                use $crate::admission::messages::codec::wire;
                $(let $field = wire!(@decode decoder, $field $(, $limit)?);)+
                Ok(Self { $($field),+ })
            }
        }
    };
    (@encode $encoder:ident, $field:ident) => { $encoder.value($field) };
    (@encode $encoder:ident, $field:ident, $limit:expr) => { $encoder.list($field) };
    (@decode $decoder:ident, $field:ident) => { ledger::codec::Decode::decode($decoder)? };
    (@decode $decoder:ident, $field:ident, $limit:expr) => {
        $decoder.list(stringify!($field), $limit)?
    };
}
pub(super) use wire;
