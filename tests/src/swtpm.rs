//! A software TPM with its own state and ports, manufactured with EK certificates of a local CA.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::network::Place;
use crate::tpm_maker::{Ek, Maker};

/// Ports in a namespace, where nobody else has any.
const NAMESPACE_PORT: u16 = 2321;

/// A running `swtpm`; killed when dropped.
pub struct Swtpm {
    state: PathBuf,
    port: u16,
    place: Place,
    child: Option<Child>,
}

impl Swtpm {
    /// Makes a new TPM with state in `dir`, by a maker of its own, and starts it.
    pub fn manufacture(dir: &Path) -> Result<Self> {
        Self::made_by(&Maker::new(dir)?, Ek::Both, dir, Place::Here)
    }

    /// Makes a new TPM of this maker's, certified for one kind of key, and starts it.
    pub fn made_by(maker: &Maker, kind: Ek, dir: &Path, place: Place) -> Result<Self> {
        maker.make(dir)?;
        if kind != Ek::Both {
            // The maker's tools reach it here, wherever it will stand.
            maker.certify_only(kind, &Self::with_state(dir, Place::Here)?.tcti())?;
        }
        Self::with_state(dir, place)
    }

    /// Starts a TPM on a state that is there, as a copied disk has it.
    pub fn with_state(dir: &Path, place: Place) -> Result<Self> {
        let port = if place == Place::Here { free_port_pair()? } else { NAMESPACE_PORT };
        let mut tpm = Self { state: dir.to_owned(), port, place, child: None };
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
        let child = self
            .place
            .command("swtpm")
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
        let process = child.id();
        self.child = Some(child);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !listens(process, control) {
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
        let told = std::process::Command::new("kill").args([signal, &pid]).status()?;
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

/// Whether a port is listened to in the network of this process. The control port is opened last;
/// the command port takes one client only, so nobody knocks there.
fn listens(process: u32, port: u16) -> bool {
    let sockets = std::fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap_or_default();
    let (address, listening) = (format!(":{port:04X}"), "0A");
    sockets.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&address))
            && fields.nth(1) == Some(listening)
    })
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
