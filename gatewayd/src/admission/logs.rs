//! The measurement logs of this machine: from the root helper `gatewayd-logs` where it listens,
//! else from the kernel's files (which a test may write, and root may read).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::measurement_logs::{self, HelperError, Request};

/// Why a log cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The kernel has none.
    #[error("this machine has no {what}: {path} is missing; its policy cannot be met here")]
    Missing {
        /// Which log.
        what: &'static str,
        /// Where it would be.
        path: PathBuf,
    },
    /// It is there and cannot be read.
    #[error("the {what} {path} cannot be read: {error}; is gatewayd-logs.socket enabled?")]
    Unreadable {
        /// Which log.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The helper did not hand it out.
    #[error("{0}")]
    Helper(#[from] HelperError),
    /// Longer than any that is looked at.
    #[error("the {what} is longer than {max} bytes")]
    TooLong {
        /// Which log.
        what: &'static str,
        /// Limit in bytes.
        max: usize,
    },
}

/// Where the logs are. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MachineLogs {
    event_log: PathBuf,
    ima: PathBuf,
    helper: Option<PathBuf>,
}

impl MachineLogs {
    /// The files of the Linux kernel, by way of the helper that listens at `socket`.
    pub fn by_helper(socket: &Path) -> Self {
        let files = Self::at(
            Path::new("/sys/kernel/security/tpm0/binary_bios_measurements"),
            Path::new("/sys/kernel/security/ima/binary_runtime_measurements"),
        );
        Self { helper: Some(socket.to_owned()), ..files }
    }

    /// Other files.
    pub fn at(event_log: &Path, ima: &Path) -> Self {
        Self { event_log: event_log.to_owned(), ima: ima.to_owned(), helper: None }
    }

    /// The firmware's event log. Blocks.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn event_log(&self) -> Result<Vec<u8>, LogError> {
        self.read(Request::EventLog, &self.event_log, 0)
    }

    /// The IMA list from a byte on; empty when it is not that long. Blocks.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn ima(&self, from: u64) -> Result<Vec<u8>, LogError> {
        self.read(Request::Ima { from }, &self.ima, from)
    }

    fn read(&self, request: Request, path: &Path, from: u64) -> Result<Vec<u8>, LogError> {
        match self.helper.as_deref().filter(|socket| socket.exists()) {
            Some(socket) => Ok(measurement_logs::fetch(socket, request)?),
            None => read(request.what(), path, from, request.max_len()),
        }
    }
}

fn read(what: &'static str, path: &Path, from: u64, max: usize) -> Result<Vec<u8>, LogError> {
    let mut bytes = Vec::new();
    let taken = File::open(path).and_then(|mut file| {
        // The kernel's files say no length: reading on is the only way to know.
        file.seek(SeekFrom::Start(from))?;
        file.take(max as u64 + 1).read_to_end(&mut bytes)
    });
    let path = path.to_owned();
    match taken {
        Ok(_) if bytes.len() > max => Err(LogError::TooLong { what, max }),
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(LogError::Missing { what, path })
        }
        Err(error) => Err(LogError::Unreadable { what, path, error }),
    }
}

#[cfg(test)]
mod tests {
    use attestation::logs::MAX_EVENT_LOG_LEN;

    use super::*;

    #[test]
    fn logs_are_read_from_an_offset_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let (events, ima) = (folder.path().join("events"), folder.path().join("ima"));
        let logs = MachineLogs::at(&events, &ima);
        assert!(matches!(logs.event_log(), Err(LogError::Missing { what: "event log", .. })));
        std::fs::write(&events, vec![7; MAX_EVENT_LOG_LEN]).unwrap();
        assert_eq!(logs.event_log().unwrap().len(), MAX_EVENT_LOG_LEN);
        std::fs::write(&events, vec![7; MAX_EVENT_LOG_LEN + 1]).unwrap();
        assert!(matches!(logs.event_log(), Err(LogError::TooLong { .. })));
        std::fs::write(&ima, b"entries").unwrap();
        assert_eq!(logs.ima(3).unwrap(), b"ries");
        assert_eq!(logs.ima(70).unwrap(), b"");
    }
}
