//! Bounded reading and writing of the TPM's wire form: big-endian integers and sized buffers
//! (TPM 2.0 Library, Part 2), and reading of the little-endian logs. It knows no structure of the
//! TPM and allocates nothing.

/// Why bytes are not the structure they were given as. Every variant means that the sender is at
/// fault; none of them can be mended by trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The bytes end inside a field.
    #[error("{field} is cut short")]
    Truncated {
        /// The field that was being read, in the words of the TPM specification.
        field: &'static str,
    },
    /// A sized field announces more bytes than the structure allows.
    #[error("{field} is {len} bytes long; {max} is the most")]
    TooLong {
        /// The field.
        field: &'static str,
        /// The announced length in bytes (or entries).
        len: usize,
        /// The bound.
        max: usize,
    },
    /// The structure ended before the bytes did.
    #[error("{count} bytes follow the end of {structure}")]
    Trailing {
        /// The structure that was complete.
        structure: &'static str,
        /// Left-over bytes.
        count: usize,
    },
    /// A well-formed value that this verifier does not accept (another algorithm, another curve).
    #[error("{field} {value:#x} is not supported")]
    Unsupported {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u32,
    },
    /// A value that can never be right (a wrong magic number, a point off the curve).
    #[error("{field} is not valid")]
    Invalid {
        /// The field.
        field: &'static str,
    },
}

/// A cursor over outside bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], ParseError> {
        let (head, rest) =
            self.rest.split_at_checked(len).ok_or(ParseError::Truncated { field })?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], ParseError> {
        let (head, rest) =
            self.rest.split_first_chunk::<N>().ok_or(ParseError::Truncated { field })?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, ParseError> {
        Ok(u8::from_be_bytes(self.array(field)?))
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, ParseError> {
        Ok(u16::from_be_bytes(self.array(field)?))
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, ParseError> {
        Ok(u32::from_be_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, ParseError> {
        Ok(u64::from_be_bytes(self.array(field)?))
    }

    /// Event logs and the kernel's logs are little-endian.
    pub(crate) fn u16_le(&mut self, field: &'static str) -> Result<u16, ParseError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u32_le(&mut self, field: &'static str) -> Result<u32, ParseError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    /// A little-endian 32-bit length and that many bytes, at most `max`.
    pub(crate) fn sized_le(
        &mut self,
        max: usize,
        field: &'static str,
    ) -> Result<&'a [u8], ParseError> {
        let len = self.u32_le(field)? as usize;
        if len > max {
            return Err(ParseError::TooLong { field, len, max });
        }
        self.take(len, field)
    }

    /// What has not been read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// A `TPM2B_*`: a 16-bit length and that many bytes, at most `max`.
    pub(crate) fn sized(
        &mut self,
        max: usize,
        field: &'static str,
    ) -> Result<&'a [u8], ParseError> {
        let len = usize::from(self.u16(field)?);
        if len > max {
            return Err(ParseError::TooLong { field, len, max });
        }
        self.take(len, field)
    }

    /// Refuses left-over bytes: what is signed or hashed must be the structure and nothing else.
    pub(crate) fn finish(self, structure: &'static str) -> Result<(), ParseError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(ParseError::Trailing { structure, count }),
        }
    }
}

/// Appends a `TPM2B_*`.
///
/// # Panics
/// If `bytes` is longer than 65,535: callers bound their fields far below.
pub(crate) fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).expect("fields are bounded far below 64 KiB");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_read_is_bounded() {
        let mut reader = Reader::new(&[0, 3, 1, 2]);
        assert_eq!(reader.sized(8, "x"), Err(ParseError::Truncated { field: "x" }));
        let mut reader = Reader::new(&[0, 3, 1, 2, 3]);
        let too_long = ParseError::TooLong { field: "x", len: 3, max: 2 };
        assert_eq!(reader.sized(2, "x"), Err(too_long));
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u16("x"), Ok(0x0102));
        assert_eq!(reader.finish("y"), Err(ParseError::Trailing { structure: "y", count: 1 }));
        assert_eq!(Reader::new(&[1]).u32("x"), Err(ParseError::Truncated { field: "x" }));
    }
}
