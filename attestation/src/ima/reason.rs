//! What is said of the files that a machine opened: the very file.

use std::fmt;

use crate::bytes::ParseError;

/// Why the files were affirmed or not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImaReason {
    /// Every file is one of the reference values.
    Matches {
        /// How many entries were compared in this appraisal.
        entries: usize,
    },
    /// No IMA log came although the profile asks for one, or not from where it was asked for: the
    /// machine has restarted, or its log is shorter than it was.
    WholeLogNeeded,
    /// The register is not proven, since the quote is not.
    NotQuoted,
    /// The policy does not ask for register 10, which the kernel extends.
    RegisterNotQuoted,
    /// Register 10 is zero: the kernel does not measure.
    NothingMeasured,
    /// The site has no reference values for files.
    NoReferenceValues,
    /// The log is longer than any that is looked at.
    TooLong {
        /// Length in bytes.
        len: usize,
    },
    /// The log cannot be read.
    Log {
        /// Which entry of what was sent, from 0.
        entry: usize,
        /// What is wrong.
        error: ParseError,
    },
    /// No beginning of the log leads to the quoted value.
    Mismatch {
        /// How many entries the log has.
        entries: usize,
    },
    /// The first entry does not go with the registers of the boot.
    BootAggregate,
    /// A file that is not among the reference values.
    UnknownFile {
        /// Which entry of what was sent, from 0.
        entry: usize,
        /// Its path, as text.
        path: String,
        /// Hash algorithm and digest, as the kernel writes them.
        digest: String,
        /// Whether the reference values have the path with another digest.
        path_known: bool,
    },
    /// A file was read while it was being written, so nobody knows what was read.
    Violation {
        /// Which entry of what was sent, from 0.
        entry: usize,
        /// Its path, as text.
        path: String,
    },
}

impl fmt::Display for ImaReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matches { entries } => {
                write!(f, "all {entries} new entries of the IMA log are among the reference values")
            }
            Self::WholeLogNeeded => f.write_str("the IMA log is needed from its beginning"),
            Self::NotQuoted => f.write_str("PCR 10 is not proven: the quote is not accepted"),
            Self::RegisterNotQuoted => {
                f.write_str("the policy judges files but does not ask for PCR 10")
            }
            Self::NothingMeasured => {
                f.write_str("PCR 10 is zero: the kernel does not measure files into this TPM")
            }
            Self::NoReferenceValues => f.write_str("the site has no reference values for files"),
            Self::TooLong { len } => write!(f, "the IMA log is too long ({len} bytes)"),
            Self::Log { entry, error } => {
                write!(f, "the IMA log cannot be read at entry {entry}: {error}")
            }
            Self::Mismatch { entries } => write!(
                f,
                "the IMA log ({entries} entries) does not lead to the value of PCR 10: it was cut \
                 or changed"
            ),
            Self::BootAggregate => f.write_str("the IMA log is of another boot than the registers"),
            Self::UnknownFile { entry, path, digest, path_known: true } => {
                write!(f, "{path} (entry {entry}) is another file than expected: {digest}")
            }
            Self::UnknownFile { entry, path, digest, path_known: false } => {
                write!(f, "{path} (entry {entry}, {digest}) is not among the reference values")
            }
            Self::Violation { entry, path } => {
                write!(
                    f,
                    "something that the log calls {path} (entry {entry}) was read while it was \
                     being written: nobody knows what was read"
                )
            }
        }
    }
}
