//! A machine that measures what it boots: registers of its software TPM are extended as its logs
//! say, and the real root helper hands the logs out.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::gateway::{Gateway, binary};

/// Digests that are extended by one call of the tool.
const AT_ONCE: usize = 32;

/// The logs of one gateway; the helper ends when it is dropped.
pub struct Machine {
    event_log: PathBuf,
    ima: PathBuf,
    tcti: String,
    helper: Child,
}

impl Machine {
    /// Logs that are empty, and a helper that hands them out to this gateway.
    pub fn of(gateway: &Gateway) -> Result<Self> {
        let securityfs = gateway.dir.path().join("securityfs");
        for folder in ["tpm0", "ima"] {
            std::fs::create_dir_all(securityfs.join(folder))?;
        }
        let event_log = securityfs.join("tpm0/binary_bios_measurements");
        let ima = securityfs.join("ima/binary_runtime_measurements");
        std::fs::write(&event_log, b"")?;
        std::fs::write(&ima, b"")?;
        let listener = UnixListener::bind(gateway.dir.path().join("logs.socket"))?;
        let user = std::fs::metadata(gateway.dir.path())?.uid();
        let helper = Command::new(binary("gatewayd-logs")?)
            .args(["--user", &user.to_string(), "--idle", "3600", "--securityfs"])
            .arg(&securityfs)
            .stdin(OwnedFd::from(listener))
            .spawn()
            .context("gatewayd-logs")?;
        Ok(Self { event_log, ima, tcti: gateway.tpm.tcti(), helper })
    }

    /// What the firmware says that it has booted.
    pub fn logs_events(&self, log: &[u8]) -> Result<()> {
        write_whole(&self.event_log, log)
    }

    /// What the kernel says that was opened.
    pub fn logs_files(&self, list: &[u8]) -> Result<()> {
        write_whole(&self.ima, list)
    }

    /// Extends registers of the TPM, which nobody else may talk to meanwhile.
    pub fn extends(&self, values: &[(u8, [u8; 32])]) -> Result<()> {
        for some in values.chunks(AT_ONCE) {
            let specification = |(pcr, value): &(u8, [u8; 32])| {
                let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{pcr}:sha256={hex}")
            };
            let extended = Command::new("tpm2_pcrextend")
                .args(some.iter().map(specification))
                .env("TPM2TOOLS_TCTI", &self.tcti)
                .stdin(Stdio::null())
                .output()
                .context("tpm2_pcrextend (package tpm2-tools)")?;
            let said = String::from_utf8_lossy(&extended.stderr).into_owned();
            ensure!(extended.status.success(), "tpm2_pcrextend: {said}");
        }
        Ok(())
    }
}

/// A reader never meets half a file.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, bytes)?;
    Ok(std::fs::rename(new, path)?)
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Best effort at the end of a test.
        let _ = self.helper.kill();
        let _ = self.helper.wait();
    }
}
