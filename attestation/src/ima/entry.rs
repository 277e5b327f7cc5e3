//! One entry of `binary_runtime_measurements` (`ima_measurements_show` of Linux): register, SHA-1
//! of the template data, name of the template, its data. Little-endian.

use crate::bytes::{ParseError, Reader};
use crate::crypto::sha256;
use crate::event_log::Register;
use crate::reference_values::FileDigest;

/// Longest template data of one entry, in bytes. Signatures take hundreds, measured buffers up to
/// some tens of thousands.
pub const MAX_TEMPLATE_LEN: usize = 1 << 20;

/// Longest name of a template; longest path of the first template, without its terminator.
const MAX_NAME_LEN: usize = 64;
const MAX_OLD_PATH_LEN: usize = 255;
const SHA1_LEN: usize = 20;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The register that was extended.
    pub pcr: u32,
    /// Whether the file was read while it was being written: then nobody knows its digest, and all
    /// ones were extended.
    pub violation: bool,
    /// Hash algorithm of the file's digest, in the kernel's words.
    pub algorithm: &'a str,
    /// The file's digest.
    pub digest: &'a [u8],
    /// Its path; of a measured buffer, what it is.
    pub path: &'a [u8],
    /// What is extended into a SHA-256 bank.
    pub template_hash: [u8; 32],
}

impl Entry<'_> {
    /// The register after this entry.
    #[must_use]
    pub fn extend(&self, register: &Register) -> Register {
        let extended = if self.violation { [0xff; 32] } else { self.template_hash };
        sha256(&[register, &extended])
    }

    /// The digest, if it is of an algorithm that reference values may use: SHA-1 is none.
    #[must_use]
    pub fn file_digest(&self) -> Option<FileDigest> {
        FileDigest::new(self.algorithm, self.digest)
    }

    /// Algorithm and digest as the kernel writes them in text.
    #[must_use]
    pub fn digest_text(&self) -> String {
        let hex: String = self.digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}:{hex}", self.algorithm)
    }
}

/// The entries of a log, one after another.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    reader: Reader<'a>,
}

impl<'a> Entries<'a> {
    /// From bytes that begin with an entry.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { reader: Reader::new(bytes) }
    }

    /// What has not been read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.reader.rest()
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, ParseError>;

    /// An error ends the log: where the next entry would begin is unknown.
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest().is_empty() {
            return None;
        }
        let entry = read(&mut self.reader);
        if entry.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(entry)
    }
}

fn read<'a>(reader: &mut Reader<'a>) -> Result<Entry<'a>, ParseError> {
    let pcr = reader.u32_le("ima.pcr")?;
    let violation = reader.array::<SHA1_LEN>("ima.templateHash")? == [0; SHA1_LEN];
    match reader.sized_le(MAX_NAME_LEN, "ima.templateName")? {
        b"ima" => read_old(reader, pcr, violation),
        // All of them begin with digest and name, as does a format of the administrator's that is
        // taken here (`ima_template_fmt`: the kernel then writes the format in place of a name).
        // What follows (a signature, a buffer, attributes) is covered by the template hash and not
        // judged.
        b"ima-ng" | b"ima-sig" | b"ima-buf" | b"ima-modsig" | b"ima-ngv2" | b"ima-sigv2"
        | b"evm-sig" | b"d-ng|n-ng" | b"d-ngv2|n-ng" => {
            let data = reader.sized_le(MAX_TEMPLATE_LEN, "ima.templateData")?;
            read_new(data, pcr, violation)
        }
        _ => Err(ParseError::Invalid { field: "ima.templateName" }),
    }
}

/// The first template: a digest of 20 bytes without a length, and a path that is hashed with zeros
/// up to 256 bytes.
fn read_old<'a>(
    reader: &mut Reader<'a>,
    pcr: u32,
    violation: bool,
) -> Result<Entry<'a>, ParseError> {
    let digest = reader.take(SHA1_LEN, "ima.d")?;
    let path = reader.sized_le(MAX_OLD_PATH_LEN, "ima.n")?;
    let mut padded = [0; MAX_OLD_PATH_LEN + 1];
    padded[..path.len()].copy_from_slice(path);
    let template_hash = sha256(&[digest, &padded]);
    Ok(Entry { pcr, violation, algorithm: "sha1", digest, path, template_hash })
}

fn read_new(data: &[u8], pcr: u32, violation: bool) -> Result<Entry<'_>, ParseError> {
    let mut fields = Reader::new(data);
    let digest = fields.sized_le(MAX_TEMPLATE_LEN, "ima.d-ng")?;
    let path = fields.sized_le(MAX_TEMPLATE_LEN, "ima.n-ng")?;
    let invalid = |field| ParseError::Invalid { field };
    let end = digest.windows(2).position(|pair| pair == b":\0").ok_or(invalid("ima.d-ng"))?;
    let algorithm = std::str::from_utf8(&digest[..end]).map_err(|_| invalid("ima.d-ng"))?;
    if !algorithm.bytes().all(|byte| byte.is_ascii_graphic()) || end > MAX_NAME_LEN {
        return Err(invalid("ima.d-ng"));
    }
    Ok(Entry {
        pcr,
        violation,
        // Newer templates say which kind of digest it is; one of the whole file says nothing else.
        algorithm: algorithm.strip_prefix("ima:").unwrap_or(algorithm),
        digest: &digest[end + 2..],
        path: path.strip_suffix(&[0]).ok_or(invalid("ima.n-ng"))?,
        template_hash: sha256(&[data]),
    })
}
