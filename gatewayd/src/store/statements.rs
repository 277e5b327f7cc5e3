//! What this gateway has signed about silent members, kept so that a restart does not forget it: a
//! small file of its own, replaced as a whole. It judges nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ledger::crypto::sha256;

use super::{NodeBytes, StoreError, io as failed};

/// Name in the data folder.
const FILE: &str = "offline-statements";

/// First bytes of the file.
const MAGIC: &[u8] = b"gatewayd/offline-statements/1\n";

/// Bytes of one statement: node, era, liveness epoch.
const ROW: usize = 28;

/// Bytes of the checksum at the end.
const SUM: usize = 32;

/// Statements that are kept at most.
const MAX_ROWS: usize = 1024;

/// One statement: about whom, in which era, in which of its lives.
pub type StatementRow = (NodeBytes, u32, u32);

/// The file.
#[derive(Debug, Clone)]
pub struct Statements(PathBuf);

impl Statements {
    /// In the data folder. Nothing is read yet.
    pub fn at(data_dir: &Path) -> Self {
        Self(data_dir.join(FILE))
    }

    /// What is kept; nothing where there is no file.
    ///
    /// # Errors
    /// The file is damaged or cannot be read: what was signed is not known then.
    pub fn read(&self) -> Result<Vec<StatementRow>, StoreError> {
        let mut bytes = Vec::new();
        let most = (MAGIC.len() + MAX_ROWS * ROW + SUM + 1) as u64;
        match File::open(&self.0).and_then(|file| file.take(most).read_to_end(&mut bytes)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            Err(error) => return Err(failed(error)),
            Ok(_) => {}
        }
        rows(&bytes).ok_or_else(|| StoreError::Io(format!("{FILE}: its checksum does not hold")))
    }

    /// Keeps these and no others; returns when they are on the disk.
    ///
    /// # Errors
    /// The disk is full or does not write: what was kept before is kept still.
    pub fn write(&self, rows: &[StatementRow]) -> Result<(), StoreError> {
        if rows.len() > MAX_ROWS {
            return Err(StoreError::Io("more statements than can be kept".into()));
        }
        let mut bytes = MAGIC.to_vec();
        for (node, era, epoch) in rows {
            bytes.extend_from_slice(node);
            bytes.extend_from_slice(&era.to_be_bytes());
            bytes.extend_from_slice(&epoch.to_be_bytes());
        }
        let sum = sha256(&[&bytes]);
        bytes.extend_from_slice(&sum.0);
        self.replace(&bytes).map_err(failed)
    }

    /// All or nothing: a new file is synced and takes the name, then the folder is synced.
    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let new = self.0.with_extension("new");
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.0)?;
        self.0.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }
}

fn rows(bytes: &[u8]) -> Option<Vec<StatementRow>> {
    let (content, sum) = bytes.split_last_chunk::<SUM>()?;
    let body = content.strip_prefix(MAGIC).filter(|_| sha256(&[content]).0 == *sum)?;
    let (rows, rest) = body.as_chunks::<ROW>();
    let row = |row: &[u8; ROW]| {
        let (node, numbers) = row.split_first_chunk::<20>()?;
        let (era, epoch) = numbers.split_first_chunk::<4>()?;
        let epoch = u32::from_be_bytes(epoch.try_into().ok()?);
        Some((*node, u32::from_be_bytes(*era), epoch))
    };
    if rest.is_empty() { rows.iter().map(row).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_signed_is_read_back_or_known_to_be_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let statements = Statements::at(dir.path());
        assert_eq!(statements.read().unwrap(), [], "no file: nothing was ever signed");
        let rows = [([7; 20], 0, 3), ([9; 20], 1, u32::MAX)];
        statements.write(&rows).unwrap();
        assert_eq!(statements.read().unwrap(), rows);
        statements.write(&rows[1..]).unwrap();
        assert_eq!(statements.read().unwrap(), rows[1..], "replaced as a whole");

        let path = dir.path().join(FILE);
        let good = std::fs::read(&path).unwrap();
        for cut in [0, 1, MAGIC.len(), good.len() - 1] {
            std::fs::write(&path, &good[..cut]).unwrap();
            let error = statements.read().unwrap_err().to_string();
            assert!(error.contains("its checksum does not hold"), "cut at {cut}: {error}");
        }
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert!(statements.read().is_err(), "byte {at} is another");
        }
        assert!(statements.write(&vec![rows[0]; MAX_ROWS + 1]).is_err());
    }
}
