//! A software TPM with its own state and ports, manufactured with EK certificates of a local CA.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A running `swtpm`; killed when dropped.
pub struct Swtpm {
    state: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Swtpm {
    /// Makes a new TPM with state in `dir` and starts it.
    pub fn manufacture(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let config = dir.join("setup.conf");
        let local_ca = dir.join("localca.conf");
        let options = dir.join("options.conf");
        let place = dir.display();
        std::fs::write(
            &local_ca,
            format!(
                "statedir = {place}\nsigningkey = {place}/ca-key.pem\nissuercert = \
                 {place}/ca-cert.pem\ncertserial = {place}/serial\n"
            ),
        )?;
        std::fs::write(&options, "--tpm-manufacturer IBM\n--tpm-model swtpm\n--tpm-version 2\n")?;
        std::fs::write(
            &config,
            format!(
                "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = \
                 {}\ncreate_certs_tool_options = {}\n",
                local_ca.display(),
                options.display()
            ),
        )?;
        let made = Command::new("swtpm_setup")
            .args(["--tpm2", "--createek", "--create-ek-cert", "--lock-nvram", "--overwrite"])
            .args(["--pcr-banks", "sha256", "--tpmstate"])
            .arg(dir)
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .output()
            .context("swtpm_setup (package swtpm-tools)")?;
        if !made.status.success() {
            bail!("swtpm_setup: {}", String::from_utf8_lossy(&made.stdout));
        }
        let mut tpm = Self { state: dir.to_owned(), port: free_port_pair()?, child: None };
        tpm.start()?;
        Ok(tpm)
    }

    /// TCTI string of this TPM.
    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// Starts it (again) on the same ports and state.
    pub fn start(&mut self) -> Result<()> {
        let (port, control) = (self.port, self.port + 1);
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--server", &format!("type=tcp,port={port},bindaddr=127.0.0.1")])
            .args(["--ctrl", &format!("type=tcp,port={control},bindaddr=127.0.0.1")])
            .arg("--tpmstate")
            .arg(format!("dir={}", self.state.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("swtpm (package swtpm)")?;
        self.child = Some(child);
        // The control port answers once the TPM is up; the command port takes one client only.
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", control)).is_err() {
            if Instant::now() > deadline {
                bail!("swtpm does not listen on port {control}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Holds it still (`true`), as a chip that hangs, or lets it go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn hang(&self, hung: bool) -> Result<()> {
        let pid = self.child.as_ref().context("no TPM runs")?.id().to_string();
        let signal = if hung { "-STOP" } else { "-CONT" };
        let told = Command::new("kill").args([signal, &pid]).status()?;
        anyhow::ensure!(told.success(), "kill {signal}");
        Ok(())
    }

    /// Kills it, as if the chip had gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself (it does so when a client hangs up in the wrong place).
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A free TCP port whose successor is free too.
fn free_port_pair() -> Result<u16> {
    for _ in 0..100 {
        let first = TcpListener::bind(("127.0.0.1", 0))?;
        let port = first.local_addr()?.port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no two neighbouring ports are free")
}
