//! The files of the identity: read with a bound, written whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{Folder, IdentityError};

/// Longest file that is read from the data folder by this module, bytes.
const MAX_FILE: u64 = 64 * 1024;

impl Folder {
    /// A folder in this one, which need not be there.
    pub(crate) fn inside(&self, name: &str) -> Self {
        Self(self.0.join(name))
    }

    /// Whether it is there.
    pub(crate) fn exists(&self) -> bool {
        self.0.exists()
    }

    /// Makes it.
    pub(crate) fn made(self) -> Result<Self, IdentityError> {
        Self::at(&self.0)
    }

    /// Removes it with all that is in it; what cannot be removed is of no use to anybody.
    pub(crate) fn discard(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "it stays");
        }
    }

    /// Where the TPM of this identity is: as configured, unless the identity has moved since that
    /// was written.
    ///
    /// # Errors
    /// Unreadable.
    pub fn tpm_address(&self, configured: &str) -> Result<String, IdentityError> {
        let moved = self.read("tpm.moved")?.unwrap_or_default();
        let moved = String::from_utf8_lossy(&moved);
        Ok(match moved.split_once('\n') {
            Some((before, now)) if before == configured => now.to_owned(),
            _ => configured.to_owned(),
        })
    }

    /// The identity is in the TPM at `now`. That holds while the configuration names the one
    /// `before`: what is configured afterwards counts.
    pub(crate) fn tpm_is_at(&self, before: &str, now: &str) -> Result<(), IdentityError> {
        self.write("tpm.moved", format!("{before}\n{now}").as_bytes())
    }

    pub(crate) fn must_read(&self, name: &str) -> Result<Vec<u8>, IdentityError> {
        self.read(name)?.ok_or_else(|| IdentityError::Io {
            path: self.0.join(name),
            error: io::ErrorKind::NotFound.into(),
        })
    }

    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, IdentityError> {
        let path = self.0.join(name);
        let read = |path: &Path| {
            let mut bytes = Vec::new();
            File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
            Ok::<Vec<u8>, io::Error>(bytes)
        };
        match read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(IdentityError::Io { path, error }),
        }
    }

    /// All or nothing: a new file is synced and takes the name, then the folder is synced.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), IdentityError> {
        let path = self.0.join(name);
        let new = self.0.join(format!("{name}.new"));
        let done = (|| {
            let mut options = OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            sync(&self.0)
        })();
        done.map_err(|error| IdentityError::Io { path, error })
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), IdentityError> {
        let path = self.0.join(name);
        match std::fs::remove_file(&path).and_then(|()| sync(&self.0)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(IdentityError::Io { path, error })
            }
            _ => Ok(()),
        }
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
