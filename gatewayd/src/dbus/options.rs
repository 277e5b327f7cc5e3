//! `a{sv}` options of calls: taken one by one with their bounds; what is left over is an error.

use super::error::Error;
use super::variant::Dict;

/// Most options that any call takes.
const MAX_OPTIONS: usize = 32;

/// Options of one call.
pub(crate) struct Options(Dict);

impl Options {
    /// # Errors
    /// More options than any call takes.
    pub(crate) fn new(dict: Dict) -> Result<Self, Error> {
        if dict.len() > MAX_OPTIONS {
            return Err(Error::InvalidArgument(format!("more than {MAX_OPTIONS} options")));
        }
        Ok(Self(dict))
    }

    /// Takes text of at most `most` bytes.
    pub(crate) fn text(&mut self, key: &str, most: usize) -> Result<Option<String>, Error> {
        let Some(value) = self.0.remove(key) else { return Ok(None) };
        let value = String::try_from(value).map_err(|_| wrong_type(key, "s"))?;
        bounded_text(key, value, most).map(Some)
    }

    /// Takes exactly `N` bytes.
    pub(crate) fn bytes<const N: usize>(&mut self, key: &str) -> Result<Option<[u8; N]>, Error> {
        let Some(value) = self.0.remove(key) else { return Ok(None) };
        let value = Vec::<u8>::try_from(value).map_err(|_| wrong_type(key, "ay"))?;
        exactly(key, &value).map(Some)
    }

    /// Takes a number.
    pub(crate) fn u32(&mut self, key: &str) -> Result<Option<u32>, Error> {
        let Some(value) = self.0.remove(key) else { return Ok(None) };
        u32::try_from(value).map(Some).map_err(|_| wrong_type(key, "u"))
    }

    /// Takes a large number.
    pub(crate) fn u64(&mut self, key: &str) -> Result<Option<u64>, Error> {
        let Some(value) = self.0.remove(key) else { return Ok(None) };
        u64::try_from(value).map(Some).map_err(|_| wrong_type(key, "t"))
    }

    /// Takes a truth value; false when absent.
    pub(crate) fn flag(&mut self, key: &str) -> Result<bool, Error> {
        let Some(value) = self.0.remove(key) else { return Ok(false) };
        bool::try_from(value).map_err(|_| wrong_type(key, "b"))
    }

    /// Takes all that is left, which must be text.
    pub(crate) fn all_text(
        self,
        most: usize,
    ) -> Result<std::collections::BTreeMap<String, String>, Error> {
        let text = |(key, value): (String, zbus::OwnedVariant)| {
            let value = String::try_from(value).map_err(|_| wrong_type(&key, "s"))?;
            let value = bounded_text(&key, value, most)?;
            Ok((key, value))
        };
        self.0.into_iter().map(text).collect()
    }

    /// # Errors
    /// An option is left that nobody took.
    pub(crate) fn finish(self) -> Result<(), Error> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(key) => Err(Error::InvalidArgument(format!(
                "unknown option `{}`",
                key.chars().take(64).collect::<String>().escape_debug()
            ))),
        }
    }
}

/// Checks an argument that must be there.
pub(crate) fn required<T>(key: &str, value: Option<T>) -> Result<T, Error> {
    value.ok_or_else(|| Error::InvalidArgument(format!("option `{key}` is missing")))
}

/// Checks the length of text. The text itself is not repeated: it may be a secret.
pub(crate) fn bounded_text(key: &str, value: String, most: usize) -> Result<String, Error> {
    if value.len() > most {
        return Err(Error::InvalidArgument(format!("`{key}` is longer than {most} bytes")));
    }
    Ok(value)
}

/// Checks the length of bytes.
pub(crate) fn exactly<const N: usize>(key: &str, value: &[u8]) -> Result<[u8; N], Error> {
    value
        .try_into()
        .map_err(|_| Error::InvalidArgument(format!("`{key}` has {} bytes, not {N}", value.len())))
}

/// Checks how many entries are asked for.
pub(crate) fn limit(asked: u32) -> Result<u32, Error> {
    /// Most entries that one answer holds.
    const MAX_ENTRIES: u32 = 10_000;
    if asked == 0 || asked > MAX_ENTRIES {
        return Err(Error::InvalidArgument(format!("limit is 1 to {MAX_ENTRIES}, not {asked}")));
    }
    Ok(asked)
}

fn wrong_type(key: &str, signature: &str) -> Error {
    Error::InvalidArgument(format!("option `{key}` is not of type `{signature}`"))
}
