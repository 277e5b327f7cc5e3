//! Reference values out of what a machine has measured itself: the operator looks at a gateway
//! that runs as it should, and takes its log for the rule.
//!
//! Pure and deterministic. The evidence must have been appraised as fresh, by the gateway itself or
//! by another: here its registers are taken for true, and the logs have to lead to them.

use std::collections::{BTreeMap, BTreeSet};

use crate::boot::{self, BootReason};
use crate::event_log::describe::{bounded, describe};
use crate::event_log::{Event, Register};
use crate::evidence::Evidence;
use crate::ima::{self, IMA_PCR, ImaReason, path_text};
use crate::logs::Logs;
use crate::policy::Profile;
use crate::reference_values::{ReferenceEvent, ReferenceFile, ReferenceValues};

/// Why there is nothing to propose.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// The event log does not explain the registers.
    #[error("{0}")]
    Boot(BootReason),
    /// The IMA log does not explain its register.
    #[error("{0}")]
    Ima(ImaReason),
    /// A file has only a SHA-1 digest.
    #[error("{path} was measured with {digest}: start the kernel with ima_hash=sha256")]
    WeakDigest {
        /// Its path, as text.
        path: String,
        /// Algorithm and digest.
        digest: String,
    },
    /// A file was read while it was being written.
    #[error(
        "{path} was read while it was being written, so nobody knows what was read: no reference \
         value can allow that; leave such files out of the IMA policy of this machine"
    )]
    Violation {
        /// What the log calls it, as text.
        path: String,
    },
    /// One register has more events than a document holds.
    #[error("PCR {pcr} has more events than a document of reference values holds")]
    TooMany {
        /// The register.
        pcr: u8,
    },
}

/// The reference values that accept exactly what these logs show: as few documents as hold them.
/// Nothing under the profile `tpm-only`.
///
/// # Errors
/// The logs do not lead to the registers, or hold what reference values cannot express.
pub fn propose(
    evidence: &Evidence,
    logs: &Logs,
    profile: Profile,
) -> Result<Vec<ReferenceValues>, ProposeError> {
    let mut documents = Documents::default();
    let registers: Vec<(u8, Register)> =
        evidence.pcrs.iter().zip(evidence.pcr_values.iter().copied()).collect();
    if profile.wants_event_log() {
        propose_boot(&registers, logs, &mut documents)?;
    }
    if profile.wants_ima() {
        propose_files(&registers, logs, &mut documents)?;
    }
    Ok(documents.finished)
}

fn propose_boot(
    registers: &[(u8, Register)],
    logs: &Logs,
    documents: &mut Documents,
) -> Result<(), ProposeError> {
    let boot: Vec<_> = registers.iter().copied().filter(|(pcr, _)| *pcr != IMA_PCR).collect();
    let log = logs.event_log.as_deref().ok_or(ProposeError::Boot(BootReason::WholeLogNeeded))?;
    let log = boot::explain(log, &boot).map_err(ProposeError::Boot)?;
    for (pcr, _) in boot {
        documents.add_register(pcr, log.extending(pcr).filter_map(reference).collect())?;
    }
    Ok(())
}

fn reference(event: &Event<'_>) -> Option<ReferenceEvent> {
    let description = describe(event);
    let covers_payload = description.verified;
    // Words of a payload that the digest does not cover are only the log's.
    let text = match covers_payload {
        true => description.text,
        false => bounded(&format!("said to be {}", description.text)),
    };
    Some(ReferenceEvent { kind: event.kind, covers_payload, digest: event.sha256?, text })
}

fn propose_files(
    registers: &[(u8, Register)],
    logs: &Logs,
    documents: &mut Documents,
) -> Result<(), ProposeError> {
    let part = logs.ima.as_ref().ok_or(ProposeError::Ima(ImaReason::WholeLogNeeded))?;
    let register = registers.iter().find(|(pcr, _)| *pcr == IMA_PCR).map(|(_, value)| *value);
    let register = register.ok_or(ProposeError::Ima(ImaReason::RegisterNotQuoted))?;
    let aggregates = ima::aggregates(registers);
    let quoted = ima::Quoted { register, progress: None, aggregates: &aggregates };
    let mut files = BTreeSet::new();
    let mut first = None;
    ima::walk(part, &quoted, |_, entry| {
        let path = || path_text(entry.path);
        let refused = match entry.file_digest() {
            _ if entry.violation => ProposeError::Violation { path: path() },
            Some(digest) => {
                files.insert(ReferenceFile { path: entry.path.to_vec(), digest });
                return;
            }
            None => ProposeError::WeakDigest { path: path(), digest: entry.digest_text() },
        };
        first.get_or_insert(refused);
    })
    .map_err(ProposeError::Ima)?;
    match first {
        Some(error) => Err(error),
        None => {
            documents.add_files(files);
            Ok(())
        }
    }
}

/// Documents that are being filled: each as full as its bound lets it be.
#[derive(Default)]
struct Documents {
    finished: Vec<ReferenceValues>,
}

impl Documents {
    fn add_register(&mut self, pcr: u8, events: Vec<ReferenceEvent>) -> Result<(), ProposeError> {
        if let Some(last) = self.finished.last_mut() {
            last.boot.insert(pcr, events.clone());
            if last.to_bytes().len() <= ReferenceValues::MAX_LEN {
                return Ok(());
            }
            last.boot.remove(&pcr);
        }
        let document = ReferenceValues { boot: BTreeMap::from([(pcr, events)]), files: Vec::new() };
        if document.to_bytes().len() > ReferenceValues::MAX_LEN {
            return Err(ProposeError::TooMany { pcr });
        }
        self.finished.push(document);
        Ok(())
    }

    fn add_files(&mut self, files: BTreeSet<ReferenceFile>) {
        let mut room = match self.finished.last() {
            Some(last) => ReferenceValues::MAX_LEN - last.to_bytes().len(),
            None => 0,
        };
        for file in files {
            let need = file.len_at_most();
            if need > room {
                self.finished.push(ReferenceValues::default());
                room = ReferenceValues::MAX_LEN - ReferenceValues::default().to_bytes().len();
            }
            room -= need;
            if let Some(last) = self.finished.last_mut() {
                last.files.push(file);
            }
        }
    }
}
