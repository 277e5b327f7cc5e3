//! What a newcomer hands to a verifier: evidence made by its TPM, and endorsements made by the
//! TPM's manufacturer. Bytes as they came; nothing here is believed yet.

use crate::attest::MAX_ATTEST_LEN;
use crate::bytes::{ParseError, Reader, put_sized};
use crate::endorsement::{MAX_CERTIFICATE_LEN, MAX_INTERMEDIATES};
use crate::manufacturer::Manufacturer;
use crate::pcr::PcrSelection;
use crate::public::MAX_PUBLIC_LEN;
use crate::signature::MAX_SIGNATURE_LEN;

const EVIDENCE_MAGIC: &[u8; 8] = b"gwevid\0\x01";
const ENDORSEMENTS_MAGIC: &[u8; 8] = b"gwendo\0\x01";

/// Evidence of one attester (RFC 9334, 8.1), answering one verifier's challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// `TPM_PT_MANUFACTURER`, as the TPM reports it.
    pub manufacturer: Manufacturer,
    /// `TPMT_PUBLIC` of the endorsement key.
    pub ek_public: Vec<u8>,
    /// `TPMT_PUBLIC` of the attestation key.
    pub ak_public: Vec<u8>,
    /// `TPMT_PUBLIC` of the identity key.
    pub identity_public: Vec<u8>,
    /// The secret out of the verifier's credential: only the TPM with EK and AK can know it.
    pub activated: [u8; 32],
    /// `TPMS_ATTEST` of `TPM2_Certify` of the identity key by the attestation key.
    pub certification: Vec<u8>,
    /// Its `TPMT_SIGNATURE`.
    pub certification_signature: Vec<u8>,
    /// `TPMS_ATTEST` of `TPM2_Quote`.
    pub quote: Vec<u8>,
    /// Its `TPMT_SIGNATURE`.
    pub quote_signature: Vec<u8>,
    /// Which registers the values belong to.
    pub pcrs: PcrSelection,
    /// SHA-256 values of the quoted registers, in ascending order of the registers.
    pub pcr_values: Vec<[u8; 32]>,
}

impl Evidence {
    /// Longest evidence on the wire, in bytes.
    pub const MAX_LEN: usize = 8192;

    /// The wire form: magic, fixed fields, sized fields.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = EVIDENCE_MAGIC.to_vec();
        out.extend_from_slice(&self.manufacturer.0.to_be_bytes());
        out.extend_from_slice(&self.activated);
        for field in [
            &self.ek_public,
            &self.ak_public,
            &self.identity_public,
            &self.certification,
            &self.certification_signature,
            &self.quote,
            &self.quote_signature,
        ] {
            put_sized(&mut out, field);
        }
        out.extend_from_slice(&self.pcrs.bitmap());
        for value in &self.pcr_values {
            out.extend_from_slice(value);
        }
        out
    }

    /// Parses the wire form. The fields are bounded, not judged.
    ///
    /// # Errors
    /// Another magic or version, a field over its bound, a value count that does not fit the
    /// selection, trailing bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(bytes);
        if reader.array::<8>("evidence.magic")? != *EVIDENCE_MAGIC {
            return Err(ParseError::Invalid { field: "evidence.magic" });
        }
        let manufacturer = Manufacturer(reader.u32("evidence.manufacturer")?);
        let activated = reader.array("evidence.activated")?;
        let mut sized = |max, field| reader.sized(max, field).map(<[u8]>::to_vec);
        let ek_public = sized(MAX_PUBLIC_LEN, "evidence.ekPublic")?;
        let ak_public = sized(MAX_PUBLIC_LEN, "evidence.akPublic")?;
        let identity_public = sized(MAX_PUBLIC_LEN, "evidence.identityPublic")?;
        let certification = sized(MAX_ATTEST_LEN, "evidence.certification")?;
        let certification_signature = sized(MAX_SIGNATURE_LEN, "evidence.certificationSignature")?;
        let quote = sized(MAX_ATTEST_LEN, "evidence.quote")?;
        let quote_signature = sized(MAX_SIGNATURE_LEN, "evidence.quoteSignature")?;
        let pcrs = PcrSelection::from_bitmap(reader.array("evidence.pcrs")?)?;
        let pcr_values = (0..pcrs.count())
            .map(|_| reader.array("evidence.pcrValues"))
            .collect::<Result<Vec<_>, _>>()?;
        reader.finish("evidence")?;
        Ok(Self {
            manufacturer,
            ek_public,
            ak_public,
            identity_public,
            activated,
            certification,
            certification_signature,
            quote,
            quote_signature,
            pcrs,
            pcr_values,
        })
    }
}

/// Endorsements that come with the evidence (RFC 9334, 8.2). The intermediates are an untrusted
/// pool: a path must end at an anchor of the site's policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endorsements {
    /// The EK certificate (DER), if the manufacturer put one into the TPM.
    pub ek_certificate: Option<Vec<u8>>,
    /// Certificates (DER) that may lie between it and an anchor.
    pub intermediates: Vec<Vec<u8>>,
}

impl Endorsements {
    /// Longest endorsements on the wire, in bytes.
    pub const MAX_LEN: usize = 16 + (1 + MAX_INTERMEDIATES) * (MAX_CERTIFICATE_LEN + 2);

    /// The wire form: magic, the sized EK certificate (empty when there is none), a count, the
    /// sized intermediates.
    ///
    /// # Panics
    /// With more intermediates than [`MAX_INTERMEDIATES`]: the attester bounds what it reads.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        assert!(self.intermediates.len() <= MAX_INTERMEDIATES, "the attester bounds its chain");
        let mut out = ENDORSEMENTS_MAGIC.to_vec();
        put_sized(&mut out, self.ek_certificate.as_deref().unwrap_or_default());
        out.push(self.intermediates.len() as u8);
        for certificate in &self.intermediates {
            put_sized(&mut out, certificate);
        }
        out
    }

    /// Parses the wire form.
    ///
    /// # Errors
    /// Another magic or version, a certificate or count over its bound, trailing bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(bytes);
        if reader.array::<8>("endorsements.magic")? != *ENDORSEMENTS_MAGIC {
            return Err(ParseError::Invalid { field: "endorsements.magic" });
        }
        let certificate = reader.sized(MAX_CERTIFICATE_LEN, "endorsements.ekCertificate")?;
        let count = usize::from(reader.u8("endorsements.count")?);
        if count > MAX_INTERMEDIATES {
            return Err(ParseError::TooLong {
                field: "endorsements.count",
                len: count,
                max: MAX_INTERMEDIATES,
            });
        }
        let intermediates = (0..count)
            .map(|_| reader.sized(MAX_CERTIFICATE_LEN, "endorsements.intermediate"))
            .map(|bytes| bytes.map(<[u8]>::to_vec))
            .collect::<Result<Vec<_>, _>>()?;
        reader.finish("endorsements")?;
        let ek_certificate = (!certificate.is_empty()).then(|| certificate.to_vec());
        Ok(Self { ek_certificate, intermediates })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Evidence {
        Evidence {
            manufacturer: Manufacturer(0x4946_5800),
            ek_public: vec![1; 122],
            ak_public: vec![2; 88],
            identity_public: vec![3; 88],
            activated: [4; 32],
            certification: vec![5; 173],
            certification_signature: vec![6; 72],
            quote: vec![7; 145],
            quote_signature: vec![8; 72],
            pcrs: PcrSelection::new(&[0, 7]).unwrap(),
            pcr_values: vec![[9; 32], [10; 32]],
        }
    }

    #[test]
    fn evidence_survives_the_wire_and_every_cut_is_an_error() {
        let bytes = sample().to_bytes();
        assert!(bytes.len() < Evidence::MAX_LEN);
        assert_eq!(Evidence::from_bytes(&bytes), Ok(sample()));
        for len in 0..bytes.len() {
            assert!(Evidence::from_bytes(&bytes[..len]).is_err(), "cut at {len}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        let trailing = ParseError::Trailing { structure: "evidence", count: 1 };
        assert_eq!(Evidence::from_bytes(&longer), Err(trailing));
        let mut other = bytes;
        other[7] = 2;
        let magic = ParseError::Invalid { field: "evidence.magic" };
        assert_eq!(Evidence::from_bytes(&other), Err(magic));
    }

    #[test]
    fn endorsements_survive_the_wire() {
        for endorsements in [
            Endorsements::default(),
            Endorsements {
                ek_certificate: Some(vec![0x30; 900]),
                intermediates: vec![vec![0x30; 1200]; 2],
            },
        ] {
            let bytes = endorsements.to_bytes();
            assert_eq!(Endorsements::from_bytes(&bytes), Ok(endorsements));
            for len in 0..bytes.len() {
                assert!(Endorsements::from_bytes(&bytes[..len]).is_err(), "cut at {len}");
            }
        }
        let mut many = ENDORSEMENTS_MAGIC.to_vec();
        many.extend_from_slice(&[0, 0, 200]);
        assert!(matches!(
            Endorsements::from_bytes(&many),
            Err(ParseError::TooLong { field: "endorsements.count", .. })
        ));
    }
}
