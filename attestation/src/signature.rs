//! `TPMT_SIGNATURE` (TPM 2.0 Library, Part 2, 11.3.4), of the one kind that an attestation key of
//! ours makes: ECDSA on P-256 with SHA-256.

use crate::bytes::{ParseError, Reader};
use crate::public::{ALG_ECDSA, ALG_SHA256};

/// Longest `TPMT_SIGNATURE` that is looked at.
pub const MAX_SIGNATURE_LEN: usize = 72;

/// Parses an ECDSA/SHA-256 signature and gives r ‖ s, each padded to 32 bytes.
///
/// # Errors
/// Another algorithm or hash, a scalar longer than 32 bytes, trailing bytes.
pub fn parse(bytes: &[u8]) -> Result<[u8; 64], ParseError> {
    let mut reader = Reader::new(bytes);
    let algorithm = reader.u16("signature.sigAlg")?;
    if algorithm != ALG_ECDSA {
        return Err(ParseError::Unsupported { field: "signature.sigAlg", value: algorithm.into() });
    }
    let hash = reader.u16("signature.hash")?;
    if hash != ALG_SHA256 {
        return Err(ParseError::Unsupported { field: "signature.hash", value: hash.into() });
    }
    let mut out = [0; 64];
    for (half, field) in [(0, "signature.signatureR"), (32, "signature.signatureS")] {
        let scalar = reader.sized(32, field)?;
        if scalar.is_empty() {
            return Err(ParseError::Invalid { field });
        }
        out[half + 32 - scalar.len()..half + 32].copy_from_slice(scalar);
    }
    reader.finish("TPMT_SIGNATURE")?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(r: &[u8], s: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x00, 0x18, 0x00, 0x0b];
        crate::bytes::put_sized(&mut bytes, r);
        crate::bytes::put_sized(&mut bytes, s);
        bytes
    }

    #[test]
    fn scalars_are_padded() {
        let parsed = parse(&sample(&[7; 31], &[9; 32])).unwrap();
        assert_eq!(parsed[0], 0);
        assert_eq!(parsed[1..32], [7; 31]);
        assert_eq!(parsed[32..], [9; 32]);
    }

    #[test]
    fn malformed_signatures_are_named() {
        let good = sample(&[1; 32], &[2; 32]);
        let mut rsa = good.clone();
        rsa[1] = 0x14;
        let mut sha384 = good.clone();
        sha384[3] = 0x0c;
        let mut trailing = good.clone();
        trailing.push(0);
        let cases: [(&str, Vec<u8>, ParseError); 6] = [
            ("RSA", rsa, ParseError::Unsupported { field: "signature.sigAlg", value: 0x14 }),
            ("SHA-384", sha384, ParseError::Unsupported { field: "signature.hash", value: 0x0c }),
            ("trailing", trailing, ParseError::Trailing { structure: "TPMT_SIGNATURE", count: 1 }),
            (
                "cut",
                good[..good.len() - 1].to_vec(),
                ParseError::Truncated { field: "signature.signatureS" },
            ),
            (
                "long r",
                sample(&[1; 33], &[2; 32]),
                ParseError::TooLong { field: "signature.signatureR", len: 33, max: 32 },
            ),
            (
                "empty s",
                sample(&[1; 32], &[]),
                ParseError::Invalid { field: "signature.signatureS" },
            ),
        ];
        for (what, bytes, expected) in cases {
            assert_eq!(parse(&bytes), Err(expected), "{what}");
        }
    }
}
