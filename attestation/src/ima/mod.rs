//! The kernel's log of the files that it opened (Integrity Measurement Architecture, `security/
//! integrity/ima` of Linux): what was extended into register 10, and whether the site knows it.
//!
//! The log grows while the machine runs, so it is judged in parts: a part begins where the last one
//! ended, and ends where the register has the quoted value. What follows there was opened after the
//! quote and comes with the next part.

mod entry;
mod reason;

pub use entry::{Entries, Entry, MAX_TEMPLATE_LEN};
pub use reason::ImaReason;

use crate::event_log::Register;
use crate::logs::{ImaPart, ImaProgress, MAX_IMA_LEN};
use crate::pcr::composite;
use crate::reference_values::{FileDigest, ReferenceFile, ReferenceValues};

/// The register that the kernel extends.
pub const IMA_PCR: u8 = 10;

/// The kernel's first entry: a digest over the registers of the boot.
const BOOT_AGGREGATE: &[u8] = b"boot_aggregate";

/// What the register must have become, and where it was when the last part ended.
pub(crate) struct Quoted<'a> {
    pub(crate) register: Register,
    pub(crate) progress: Option<ImaProgress>,
    /// What the first entry may be; empty when the boot's registers are not all known.
    pub(crate) aggregates: &'a [Register],
}

/// Judges a part; gives how many entries were compared and how far the log is judged now.
pub(crate) fn judge(
    part: &ImaPart,
    quoted: &Quoted<'_>,
    references: &[ReferenceValues],
) -> Result<(usize, ImaProgress), ImaReason> {
    if references.iter().all(|document| document.files.is_empty()) {
        return Err(ImaReason::NoReferenceValues);
    }
    let mut unknown = None;
    let progress = walk(part, quoted, |index, entry| {
        if unknown.is_none() {
            unknown = refuse(index, entry, references);
        }
    });
    // A part that does not go on where the last one ended says nothing against the machine.
    let progress = progress.map_err(|reason| match (part.from_offset, reason) {
        (1.., ImaReason::Log { .. } | ImaReason::Mismatch { .. }) => ImaReason::WholeLogNeeded,
        (_, reason) => reason,
    })?;
    match unknown {
        Some(reason) => Err(reason),
        None => Ok(progress),
    }
}

/// Gives each entry up to the quoted value to `visit`, the kernel's own first one excepted.
pub(crate) fn walk(
    part: &ImaPart,
    quoted: &Quoted<'_>,
    mut visit: impl FnMut(usize, &Entry<'_>),
) -> Result<(usize, ImaProgress), ImaReason> {
    if quoted.register == [0; 32] {
        return Err(ImaReason::NothingMeasured);
    }
    if part.bytes.len() > MAX_IMA_LEN {
        return Err(ImaReason::TooLong { len: part.bytes.len() });
    }
    let start = match (part.from_offset, quoted.progress) {
        (0, _) => ImaProgress { offset: 0, register: [0; 32] },
        (offset, Some(progress)) if progress.offset == offset => progress,
        _ => return Err(ImaReason::WholeLogNeeded),
    };
    let mut register = start.register;
    let mut entries = Entries::new(&part.bytes);
    let mut index = 0;
    while register != quoted.register {
        let Some(entry) = entries.next() else {
            return Err(ImaReason::Mismatch { entries: index });
        };
        let entry = entry.map_err(|error| ImaReason::Log { entry: index, error })?;
        // Entries of other registers prove nothing here, and extend nothing here.
        if entry.pcr == u32::from(IMA_PCR) {
            register = entry.extend(&register);
            if start.offset == 0 && index == 0 && entry.path == BOOT_AGGREGATE {
                check_aggregate(&entry, quoted.aggregates)?;
            } else {
                visit(index, &entry);
            }
        }
        index += 1;
    }
    let judged = (part.bytes.len() - entries.rest().len()) as u64;
    Ok((index, ImaProgress { offset: start.offset + judged, register }))
}

fn check_aggregate(entry: &Entry<'_>, aggregates: &[Register]) -> Result<(), ImaReason> {
    let is_one = |digest: FileDigest| {
        aggregates.iter().any(|aggregate| digest == FileDigest::Sha256(*aggregate))
    };
    let known = entry.file_digest().is_some_and(is_one);
    if known || aggregates.is_empty() { Ok(()) } else { Err(ImaReason::BootAggregate) }
}

/// What the kernel's first entry may be over these registers: SHA-256 of registers 0 to 9 (since
/// Linux 5.8), or 0 to 7. Nothing when they are not all here.
pub(crate) fn aggregates(registers: &[(u8, Register)]) -> Vec<Register> {
    let value =
        |pcr: u8| registers.iter().find(|(known, _)| *known == pcr).map(|(_, value)| *value);
    let Some(values) = (0..10).map(value).collect::<Option<Vec<Register>>>() else {
        return Vec::new();
    };
    vec![composite(&values), composite(&values[..8])]
}

/// Why an entry is not accepted, if it is not.
///
/// The kernel extends all ones for a violation, whatever stands in the entry: its path and digest
/// are nobody's word, so no reference value can be meant by it.
fn refuse(index: usize, entry: &Entry<'_>, references: &[ReferenceValues]) -> Option<ImaReason> {
    if entry.violation {
        return Some(ImaReason::Violation { entry: index, path: path_text(entry.path) });
    }
    let has = |path: &[u8], digest: FileDigest| {
        let wanted = ReferenceFile { path: path.to_vec(), digest };
        references.iter().any(|document| document.files.binary_search(&wanted).is_ok())
    };
    let known = |digest| has(entry.path, digest) || has(&[], digest);
    if entry.file_digest().is_some_and(known) {
        return None;
    }
    let (path, digest) = (path_text(entry.path), entry.digest_text());
    let path_known = references.iter().any(|document| document.has_path(entry.path));
    Some(ImaReason::UnknownFile { entry: index, path, digest, path_known })
}

/// A path for people: paths are bytes, and those of others.
pub(crate) fn path_text(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    text.chars().filter(|character| !character.is_control()).take(MAX_PATH_TEXT).collect()
}

/// Longest path that is shown, in characters.
const MAX_PATH_TEXT: usize = 300;
