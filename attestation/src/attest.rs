//! `TPMS_ATTEST` (TPM 2.0 Library, Part 2, 10.12): what a TPM signs when it quotes PCRs or
//! certifies another key. Parsed once, whole; the checks are in [`crate::quote`] and
//! [`crate::certify`].

use crate::bytes::{ParseError, Reader};
use crate::pcr::PcrSelection;
use crate::public::Name;

/// `TPM_GENERATED_VALUE`. A restricted key refuses to sign outside bytes that begin with it.
const MAGIC: u32 = 0xff54_4347;
const ST_ATTEST_CERTIFY: u16 = 0x8017;
const ST_ATTEST_QUOTE: u16 = 0x8018;

/// Longest `TPMS_ATTEST` that is looked at; a quote or certification takes some 200 bytes.
pub const MAX_ATTEST_LEN: usize = 1024;

/// A parsed attestation structure and the bytes that were signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attest {
    raw: Vec<u8>,
    qualified_signer: Name,
    extra_data: Vec<u8>,
    clock: Clock,
    firmware_version: u64,
    attested: Attested,
}

/// `TPMS_CLOCK_INFO`. Clear only for a signer in the endorsement (or platform) hierarchy; the TPM
/// obfuscates the counters for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Milliseconds that the TPM has been powered in its life.
    pub clock_ms: u64,
    /// TPM resets (reboots) since the TPM was cleared.
    pub reset_count: u32,
    /// Resumes since the last reset.
    pub restart_count: u32,
    /// Whether the clock has not been behind an earlier report.
    pub safe: bool,
}

/// What is attested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attested {
    /// `TPMS_CERTIFY_INFO`: another object is in this TPM.
    Certify {
        /// Name of the certified object.
        name: Name,
        /// Its Name qualified by its parents.
        qualified_name: Name,
    },
    /// `TPMS_QUOTE_INFO`: the values of PCRs.
    Quote {
        /// The registers; `None` when they are not a set of the SHA-256 bank.
        selection: Option<PcrSelection>,
        /// Digest over the register values.
        digest: Vec<u8>,
    },
}

impl Attest {
    /// Parses a `TPMS_ATTEST` (without the size of a `TPM2B_ATTEST`).
    ///
    /// # Errors
    /// A wrong magic number, another type of attestation than quote or certify, a field out of
    /// bounds, trailing bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() > MAX_ATTEST_LEN {
            return Err(ParseError::TooLong {
                field: "TPMS_ATTEST",
                len: bytes.len(),
                max: MAX_ATTEST_LEN,
            });
        }
        let mut reader = Reader::new(bytes);
        if reader.u32("attest.magic")? != MAGIC {
            return Err(ParseError::Invalid { field: "attest.magic" });
        }
        let kind = reader.u16("attest.type")?;
        let qualified_signer = read_name(&mut reader, "attest.qualifiedSigner")?;
        let extra_data = reader.sized(64, "attest.extraData")?.to_vec();
        let clock = Clock {
            clock_ms: reader.u64("attest.clockInfo.clock")?,
            reset_count: reader.u32("attest.clockInfo.resetCount")?,
            restart_count: reader.u32("attest.clockInfo.restartCount")?,
            safe: match reader.u8("attest.clockInfo.safe")? {
                0 => false,
                1 => true,
                _ => return Err(ParseError::Invalid { field: "attest.clockInfo.safe" }),
            },
        };
        let firmware_version = reader.u64("attest.firmwareVersion")?;
        let attested = match kind {
            ST_ATTEST_CERTIFY => Attested::Certify {
                name: read_name(&mut reader, "attest.certify.name")?,
                qualified_name: read_name(&mut reader, "attest.certify.qualifiedName")?,
            },
            ST_ATTEST_QUOTE => Attested::Quote {
                selection: PcrSelection::read(&mut reader)?,
                digest: reader.sized(64, "attest.quote.pcrDigest")?.to_vec(),
            },
            other => {
                return Err(ParseError::Unsupported { field: "attest.type", value: other.into() });
            }
        };
        reader.finish("TPMS_ATTEST")?;
        Ok(Self {
            raw: bytes.to_vec(),
            qualified_signer,
            extra_data,
            clock,
            firmware_version,
            attested,
        })
    }

    /// The bytes that the signature covers.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The signer's Name, qualified by its parents up to the hierarchy.
    #[must_use]
    pub fn qualified_signer(&self) -> &Name {
        &self.qualified_signer
    }

    /// The verifier's qualifying data, up to 64 bytes.
    #[must_use]
    pub fn extra_data(&self) -> &[u8] {
        &self.extra_data
    }

    /// The TPM's clock and boot counters.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Firmware version, as the vendor numbers it.
    #[must_use]
    pub fn firmware_version(&self) -> u64 {
        self.firmware_version
    }

    /// What is attested.
    #[must_use]
    pub fn attested(&self) -> &Attested {
        &self.attested
    }
}

fn read_name(reader: &mut Reader<'_>, field: &'static str) -> Result<Name, ParseError> {
    Ok(Name::from_wire(reader.sized(Name::MAX_LEN, field)?))
}
