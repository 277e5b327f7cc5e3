//! A choice of platform configuration registers and their values, SHA-256 bank only.

use crate::bytes::{ParseError, Reader};
use crate::crypto::sha256;
use crate::public::ALG_SHA256;

/// Which PCRs of the SHA-256 bank a quote covers: a set of 0 to 23, never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PcrSelection(u32);

impl PcrSelection {
    /// The registers that firmware and boot loader extend, 0 to 7: what a quote covers unless the
    /// policy asks for others.
    pub const FIRMWARE: Self = Self(0xff);

    /// A selection of the given registers.
    ///
    /// # Errors
    /// An empty list, or a register above 23.
    pub fn new(pcrs: &[u8]) -> Result<Self, ParseError> {
        let mut bits = 0;
        for &pcr in pcrs {
            if pcr > 23 {
                return Err(ParseError::Unsupported { field: "PCR", value: pcr.into() });
            }
            bits |= 1 << pcr;
        }
        if bits == 0 {
            return Err(ParseError::Invalid { field: "PCR selection" });
        }
        Ok(Self(bits))
    }

    /// A selection from the bits of a policy: bit n is register n.
    ///
    /// # Errors
    /// No bit, or a bit above 23.
    pub fn from_bits(bits: u32) -> Result<Self, ParseError> {
        if bits >> 24 != 0 {
            let highest = 31 - bits.leading_zeros();
            return Err(ParseError::Unsupported { field: "PCR", value: highest });
        }
        Self::from_bitmap([bits as u8, (bits >> 8) as u8, (bits >> 16) as u8])
    }

    /// The bits as a policy holds them: bit n is register n.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Whether the register is selected.
    #[must_use]
    pub fn contains(self, pcr: u8) -> bool {
        pcr < 24 && self.0 & (1 << pcr) != 0
    }

    /// The registers in ascending order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..24).filter(move |pcr| self.0 & (1 << pcr) != 0)
    }

    /// How many registers are selected.
    #[must_use]
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Reads a `TPML_PCR_SELECTION`. `None` when it is well-formed but does not select exactly
    /// registers 0 to 23 of the SHA-256 bank (another bank, two banks, nothing).
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, ParseError> {
        let count = reader.u32("pcrSelect.count")?;
        if count > 16 {
            return Err(ParseError::TooLong {
                field: "pcrSelect.count",
                len: count as usize,
                max: 16,
            });
        }
        let mut chosen = Vec::with_capacity(1);
        for _ in 0..count {
            let bank = reader.u16("pcrSelect.hash")?;
            let size = usize::from(reader.u8("pcrSelect.sizeofSelect")?);
            if size > 4 {
                return Err(ParseError::TooLong {
                    field: "pcrSelect.sizeofSelect",
                    len: size,
                    max: 4,
                });
            }
            let bitmap = reader.take(size, "pcrSelect.pcrSelect")?;
            let bits = bitmap.iter().rev().fold(0, |bits, &byte| bits << 8 | u32::from(byte));
            // A TPM lists a bank of which nothing is selected in some cases; it proves nothing.
            if bits != 0 {
                chosen.push((bank, bits));
            }
        }
        Ok(match chosen[..] {
            [(ALG_SHA256, bits)] if bits >> 24 == 0 => Some(Self(bits)),
            _ => None,
        })
    }

    /// The three bytes of the TPM's bitmap.
    #[must_use]
    pub fn bitmap(self) -> [u8; 3] {
        let [_, c, b, a] = self.0.to_be_bytes();
        [a, b, c]
    }

    pub(crate) fn from_bitmap([a, b, c]: [u8; 3]) -> Result<Self, ParseError> {
        match u32::from_be_bytes([0, c, b, a]) {
            0 => Err(ParseError::Invalid { field: "PCR selection" }),
            bits => Ok(Self(bits)),
        }
    }
}

/// The digest that a quote over these values carries: SHA-256 of the values in ascending order of
/// their registers (TPM 2.0 Library, Part 3, 18.4).
#[must_use]
pub fn composite(values: &[[u8; 32]]) -> [u8; 32] {
    let parts: Vec<&[u8]> = values.iter().map(<[u8; 32]>::as_slice).collect();
    sha256(&parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_is_never_empty_and_ends_at_23() {
        assert!(PcrSelection::new(&[]).is_err());
        assert!(PcrSelection::new(&[24]).is_err());
        let selection = PcrSelection::new(&[7, 0, 23, 7]).unwrap();
        assert_eq!(selection.iter().collect::<Vec<_>>(), [0, 7, 23]);
        assert_eq!(selection.bitmap(), [0x81, 0, 0x80]);
        assert_eq!(PcrSelection::from_bits(0x80_0081), Ok(selection));
        assert_eq!(selection.bits(), 0x80_0081);
        assert!(selection.contains(7) && !selection.contains(8) && !selection.contains(32));
        assert!(PcrSelection::from_bits(1 << 24).is_err() && PcrSelection::from_bits(0).is_err());
        assert_eq!(PcrSelection::from_bitmap([0x81, 0, 0x80]), Ok(selection));
        assert!(PcrSelection::from_bitmap([0; 3]).is_err());
    }
}
