//! Known-good values that evidence is compared with (RFC 9334, 8.3).
//!
//! One document holds what one machine measured: the events of its boot, register by register in
//! order, and the files that it opened. A site may publish several: old and new ones hold
//! together during an update, a long list of files is cut into several documents. The bytes are
//! canonical, so that a document is known by its digest.

use std::collections::BTreeMap;

use crate::bytes::{ParseError, Reader, put_sized};

const MAGIC: &[u8; 8] = b"gwrefv\0\x01";

/// Longest text beside a value, in bytes.
pub const MAX_TEXT_LEN: usize = 120;
/// Longest path of a file, in bytes (`PATH_MAX` of Linux).
pub const MAX_PATH_LEN: usize = 4096;

/// One document of reference values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReferenceValues {
    /// The events of each register that the document speaks of, in the order of the log. An empty
    /// list says that nothing is measured into the register.
    pub boot: BTreeMap<u8, Vec<ReferenceEvent>>,
    /// Files that may be opened: ascending, none twice.
    pub files: Vec<ReferenceFile>,
}

/// One event of a boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceEvent {
    /// The type that the log gave it, for people: nothing depends on it.
    pub kind: u32,
    /// Whether the digest is that of the event's payload: then it must be in every log.
    pub covers_payload: bool,
    /// SHA-256 digest that was extended.
    pub digest: [u8; 32],
    /// What it was, for people.
    pub text: String,
}

/// One file that may be opened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReferenceFile {
    /// Its path; empty: this content under whatever path.
    pub path: Vec<u8>,
    /// Its digest. Never all zero: that is what stands in place of the digest of a file that was
    /// read while it was being written, and of nothing that a site could know.
    pub digest: FileDigest,
}

/// Digest of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileDigest {
    /// SHA-256.
    Sha256([u8; 32]),
    /// SHA-384.
    Sha384([u8; 48]),
    /// SHA-512.
    Sha512([u8; 64]),
}

impl FileDigest {
    /// The digest of that algorithm, in the kernel's words; none for all zeros.
    #[must_use]
    pub fn new(algorithm: &str, digest: &[u8]) -> Option<Self> {
        match algorithm {
            "sha256" => digest.try_into().ok().map(Self::Sha256),
            "sha384" => digest.try_into().ok().map(Self::Sha384),
            "sha512" => digest.try_into().ok().map(Self::Sha512),
            _ => None,
        }
        .filter(|digest| !digest.is_none())
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha384(bytes) => bytes,
            Self::Sha512(bytes) => bytes,
        }
    }

    /// Whether it stands for a file whose content nobody knows.
    fn is_none(&self) -> bool {
        self.as_bytes().iter().all(|&byte| byte == 0)
    }

    fn number(self) -> u8 {
        match self {
            Self::Sha256(_) => 1,
            Self::Sha384(_) => 2,
            Self::Sha512(_) => 3,
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let field = "reference.file.digest";
        match reader.u8("reference.file.algorithm")? {
            1 => reader.array(field).map(Self::Sha256),
            2 => reader.array(field).map(Self::Sha384),
            3 => reader.array(field).map(Self::Sha512),
            other => Err(ParseError::Unsupported {
                field: "reference.file.algorithm",
                value: other.into(),
            }),
        }
    }
}

impl ReferenceFile {
    /// How many bytes of a document it takes at most: paths share their beginnings.
    pub(crate) fn len_at_most(&self) -> usize {
        1 + 2 + self.path.len() + 1 + self.digest.as_bytes().len()
    }
}

impl ReferenceValues {
    /// Whether the document has this path, with whatever digest.
    #[must_use]
    pub fn has_path(&self, path: &[u8]) -> bool {
        let at = self.files.partition_point(|file| file.path.as_slice() < path);
        self.files.get(at).is_some_and(|file| file.path == path)
    }

    /// Longest document, in bytes.
    pub const MAX_LEN: usize = 65_536;

    /// The canonical bytes. Registers ascend, files ascend, of each path only what differs from the
    /// one before is written.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(self.boot.len() as u8);
        for (pcr, events) in &self.boot {
            out.push(*pcr);
            out.extend_from_slice(&(events.len() as u16).to_be_bytes());
            for ReferenceEvent { kind, covers_payload, digest, text } in events {
                out.extend_from_slice(&kind.to_be_bytes());
                out.push(u8::from(*covers_payload));
                out.extend_from_slice(digest);
                put_sized(&mut out, text.as_bytes());
            }
        }
        out.extend_from_slice(&(self.files.len() as u16).to_be_bytes());
        let mut before: &[u8] = &[];
        for ReferenceFile { path, digest } in &self.files {
            let shared = shared_prefix(before, path);
            out.push(shared as u8);
            put_sized(&mut out, &path[shared..]);
            out.push(digest.number());
            out.extend_from_slice(digest.as_bytes());
            before = path;
        }
        out
    }

    /// Parses a document.
    ///
    /// # Errors
    /// Too long, another magic or version, a register above 23, a text or path over its bound, an
    /// order or a form that is not canonical, trailing bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() > Self::MAX_LEN {
            let (len, max) = (bytes.len(), Self::MAX_LEN);
            return Err(ParseError::TooLong { field: "reference values", len, max });
        }
        let mut reader = Reader::new(bytes);
        if reader.array::<8>("reference.magic")? != *MAGIC {
            return Err(ParseError::Invalid { field: "reference.magic" });
        }
        let boot = read_boot(&mut reader)?;
        let files = read_files(&mut reader)?;
        reader.finish("reference values")?;
        Ok(Self { boot, files })
    }
}

fn read_boot(reader: &mut Reader<'_>) -> Result<BTreeMap<u8, Vec<ReferenceEvent>>, ParseError> {
    let mut boot = BTreeMap::new();
    for _ in 0..reader.u8("reference.registers")? {
        let pcr = reader.u8("reference.register")?;
        let ascends = boot.last_key_value().is_none_or(|(&last, _)| last < pcr);
        if pcr > 23 || !ascends {
            return Err(ParseError::Invalid { field: "reference.register" });
        }
        let count = reader.u16("reference.events")?;
        let events = (0..count).map(|_| read_event(reader)).collect::<Result<_, _>>()?;
        boot.insert(pcr, events);
    }
    Ok(boot)
}

fn read_event(reader: &mut Reader<'_>) -> Result<ReferenceEvent, ParseError> {
    let kind = reader.u32("reference.event.kind")?;
    let covers_payload = match reader.u8("reference.event.covers")? {
        0 => false,
        1 => true,
        _ => return Err(ParseError::Invalid { field: "reference.event.covers" }),
    };
    let digest = reader.array("reference.event.digest")?;
    let text = reader.sized(MAX_TEXT_LEN, "reference.event.text")?;
    let text = std::str::from_utf8(text).ok().filter(|text| is_plain(text));
    let text = text.ok_or(ParseError::Invalid { field: "reference.event.text" })?.to_owned();
    Ok(ReferenceEvent { kind, covers_payload, digest, text })
}

fn read_files(reader: &mut Reader<'_>) -> Result<Vec<ReferenceFile>, ParseError> {
    let mut files: Vec<ReferenceFile> = Vec::new();
    for _ in 0..reader.u16("reference.files")? {
        let shared = usize::from(reader.u8("reference.file.shared")?);
        let rest = reader.sized(MAX_PATH_LEN, "reference.file.path")?;
        let before = files.last().map_or(&[][..], |file| &file.path);
        let start = before.get(..shared);
        let start = start.ok_or(ParseError::Invalid { field: "reference.file.shared" })?;
        let path = [start, rest].concat();
        if path.len() > MAX_PATH_LEN || shared_prefix(before, &path) != shared {
            return Err(ParseError::Invalid { field: "reference.file.path" });
        }
        let file = ReferenceFile { path, digest: FileDigest::read(reader)? };
        if file.digest.is_none() {
            return Err(ParseError::Invalid { field: "reference.file.digest" });
        }
        if files.last().is_some_and(|last| *last >= file) {
            return Err(ParseError::Invalid { field: "reference.file.order" });
        }
        files.push(file);
    }
    Ok(files)
}

/// How many bytes two paths have in common at their beginning, at most what a byte can say.
fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take(255).take_while(|(a, b)| a == b).count()
}

/// Texts reach terminals and logs.
fn is_plain(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ReferenceValues {
        let event = |text: &str| ReferenceEvent {
            kind: 0x8000_0001,
            covers_payload: true,
            digest: [3; 32],
            text: text.to_owned(),
        };
        let file = |path: &str, digest| ReferenceFile { path: path.into(), digest };
        ReferenceValues {
            boot: BTreeMap::from([(4, vec![]), (7, vec![event("variable PK"), event("")])]),
            files: vec![
                file("", FileDigest::Sha256([9; 32])),
                file("/usr/bin/bash", FileDigest::Sha256([1; 32])),
                file("/usr/bin/bash", FileDigest::Sha512([1; 64])),
                file("/usr/bin/bashbug", FileDigest::Sha384([1; 48])),
            ],
        }
    }

    #[test]
    fn a_document_has_one_form_and_every_cut_is_an_error() {
        let bytes = sample().to_bytes();
        assert_eq!(ReferenceValues::from_bytes(&bytes), Ok(sample()));
        for len in 0..bytes.len() {
            assert!(ReferenceValues::from_bytes(&bytes[..len]).is_err(), "cut at {len}");
        }
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 0x41;
            if let Ok(other) = ReferenceValues::from_bytes(&changed) {
                assert_eq!(other.to_bytes(), changed, "byte {index}");
            }
        }
        let empty = ReferenceValues::default();
        assert_eq!(ReferenceValues::from_bytes(&empty.to_bytes()), Ok(empty));
        assert!(sample().has_path(b"/usr/bin/bash") && !sample().has_path(b"/usr/bin/ba"));
    }

    #[test]
    fn what_is_not_canonical_or_out_of_bounds_is_refused() {
        type Change = fn(&mut ReferenceValues);
        let changes: [(&str, Change); 5] = [
            ("reference.register", |document| {
                document.boot.insert(24, Vec::new());
            }),
            ("reference.event.text", |document| {
                document.boot.get_mut(&7).unwrap()[1].text = "a\u{1b}[2J".to_owned();
            }),
            ("reference.event.text", |document| {
                document.boot.get_mut(&7).unwrap()[1].text = "x".repeat(MAX_TEXT_LEN + 1);
            }),
            ("reference.file.order", |document| document.files.swap(1, 2)),
            ("reference.file.path", |document| document.files[3].path = vec![b'/'; 5000]),
        ];
        for (field, change) in changes {
            let mut document = sample();
            change(&mut document);
            let error = ReferenceValues::from_bytes(&document.to_bytes()).unwrap_err();
            assert!(error.to_string().contains(field), "{error} is not about {field}");
        }
        let long = vec![0; ReferenceValues::MAX_LEN + 1];
        assert!(matches!(ReferenceValues::from_bytes(&long), Err(ParseError::TooLong { .. })));
    }
}
