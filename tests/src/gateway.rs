//! A whole gateway for a test: its own folder, bus, software TPM, UDP port and the real binaries.

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::bus::PrivateBus;
use crate::network::Place;
use crate::peer::Peer;
use crate::swtpm::Swtpm;

/// Longest wait for anything that should happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One gateway; its processes end when it is dropped.
pub struct Gateway {
    /// Folder of everything.
    pub dir: tempfile::TempDir,
    /// Message bus.
    pub bus: PrivateBus,
    /// TPM.
    pub tpm: Swtpm,
    /// UDP port of the LoRaWAN side.
    pub lora_port: u16,
    /// Where it stands among others.
    pub stand: Stand,
    daemon: Option<Child>,
}

/// Where a gateway stands among others, and what its configuration says about that.
#[derive(Debug, Clone)]
pub struct Stand {
    /// Where its processes run.
    pub place: Place,
    /// Address that it listens on for other gateways, and that they dial.
    pub address: String,
    /// Addresses of others that its configuration names.
    pub others: Vec<String>,
    /// Whether it looks for others on the network.
    pub discovery: bool,
    /// Whether it may found a site that takes software TPMs for real ones.
    pub insecure: bool,
}

impl Stand {
    /// Alone on loopback.
    ///
    /// # Errors
    /// No port is free.
    pub fn alone() -> Result<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        Ok(Self {
            place: Place::Here,
            address: format!("127.0.0.1:{port}"),
            others: Vec::new(),
            discovery: false,
            insecure: false,
        })
    }
}

impl Gateway {
    /// Bus and TPM, configured, daemon not started.
    pub fn prepare() -> Result<Self> {
        Self::prepare_at(Stand::alone()?, &|dir, _| Swtpm::manufacture(dir))
    }

    /// The same at a place of its own, with a TPM that `make` manufactures in the folder given.
    pub fn prepare_at(stand: Stand, make: &dyn Fn(&Path, Place) -> Result<Swtpm>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let bus = PrivateBus::start()?;
        let tpm = make(&dir.path().join("tpm-state"), stand.place.clone())?;
        let lora_port = UdpSocket::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let gateway = Self { dir, bus, tpm, lora_port, stand, daemon: None };
        gateway.configure("")?;
        Ok(gateway)
    }

    /// Daemon running, no site yet.
    pub fn start_new() -> Result<Self> {
        let mut gateway = Self::prepare()?;
        gateway.start()?;
        Ok(gateway)
    }

    /// Daemon running on an unattested site of its own.
    pub fn with_site() -> Result<Self> {
        let gateway = Self::start_new()?;
        gateway.init_site()?;
        Ok(gateway)
    }

    /// Writes the configuration; `more` is appended.
    pub fn configure(&self, more: &str) -> Result<()> {
        let Stand { address, others, discovery, insecure, .. } = &self.stand;
        let (data, bus, tcti) = (self.data_dir(), self.bus.address(), self.tpm.tcti());
        let logs = self.dir.path().join("logs.socket");
        let text = format!(
            "data_dir = {data:?}\n[bus]\naddress = {bus:?}\n[tpm]\ntcti = {tcti:?}\n\
             insecure_software_tpm_sites = {insecure}\nlogs_socket = {logs:?}\n\
             [lora]\nlisten = \"127.0.0.1:{}\"\n\
             [peers]\nlisten = {address:?}\naddresses = {others:?}\ndiscovery = {discovery}\n\
             {more}\n",
            self.lora_port,
        );
        Ok(std::fs::write(self.config(), text)?)
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("gatewayd.toml")
    }

    /// The daemon's data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The operator's key file and its passphrase file.
    pub fn operator_key(&self) -> (PathBuf, PathBuf) {
        (self.dir.path().join("operator.pem"), self.dir.path().join("passphrase"))
    }

    /// Starts the daemon and waits until it has started, in whatever state.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_for("the daemon to start", |gateway| {
            let status = gateway.ctl_json(&["status"]);
            status.is_ok_and(|status| status["state"] != "starting")
        })
    }

    /// Starts the daemon without waiting.
    pub fn spawn(&mut self) -> Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file())?;
        let child = self
            .stand
            .place
            .command(binary("gatewayd")?)
            .arg("--config")
            .arg(self.config())
            .env("TSS2_LOG", "all+NONE")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.daemon = Some(child);
        Ok(())
    }

    /// What the daemon says.
    pub fn log_file(&self) -> PathBuf {
        self.dir.path().join("gatewayd.log")
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Process ID of the daemon.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// Kills the daemon with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        daemon.kill()?;
        daemon.wait()?;
        Ok(())
    }

    /// Stops the daemon with SIGTERM; it must end well, in time.
    pub fn stop(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        let stopped = Command::new("kill").arg(daemon.id().to_string()).status()?;
        ensure!(stopped.success(), "kill");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = daemon.try_wait()? {
                ensure!(status.success(), "the daemon ended with {status}:\n{}", self.log());
                return Ok(());
            }
            if Instant::now() > deadline {
                daemon.kill()?;
                bail!("the daemon does not stop:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the daemon has ended by itself; its exit code.
    pub fn wait_exit(&mut self) -> Result<Option<i32>> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = daemon.try_wait()? {
                return Ok(status.code());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon.kill()?;
        bail!("the daemon goes on:\n{}", self.log())
    }

    /// Founds the (unattested) site.
    pub fn init_site(&self) -> Result<Value> {
        self.found_site(&["--unattested"])
    }

    /// Founds a site with these options.
    pub fn found_site(&self, options: &[&str]) -> Result<Value> {
        let (key, passphrase) = self.operator_key();
        std::fs::write(&passphrase, "correct horse battery staple\n")?;
        let init = ["site", "init", "--name", "test site", "--operator-key", text(&key)?];
        let secret = ["--passphrase-file", text(&passphrase)?];
        self.ctl_json(&[&init[..], &secret, options].concat())
    }

    /// Makes a block: an act of the operator that leaves the policy as it is.
    pub fn make_block(&self) -> Result<()> {
        let (key, passphrase) = self.operator_key();
        let (key, passphrase) = (text(&key)?, text(&passphrase)?);
        let signing = ["--operator-key", key, "--passphrase-file", passphrase, "--yes"];
        let act = ["site", "policy", "set", "receipts=2"];
        self.ctl_json(&[&act[..], &signing].concat())?;
        Ok(())
    }

    /// Runs `gatewayctl` on this gateway's bus.
    pub fn ctl(&self, arguments: &[&str]) -> Result<Output> {
        Ok(Command::new(binary("gatewayctl")?)
            .args(arguments)
            .env("GATEWAYD_BUS", self.bus.address())
            .stdin(Stdio::null())
            .output()?)
    }

    /// Runs `gatewayctl` in the background with its output in pipes.
    pub fn ctl_spawn(&self, arguments: &[&str]) -> Result<Child> {
        Ok(Command::new(binary("gatewayctl")?)
            .args(arguments)
            .env("GATEWAYD_BUS", self.bus.address())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?)
    }

    /// Runs `gatewayctl` in the background; its outputs are read.
    pub fn ctl_peer(&self, arguments: &[&str]) -> Result<Peer> {
        let mut command = Command::new(binary("gatewayctl")?);
        command.args(arguments).env("GATEWAYD_BUS", self.bus.address());
        Peer::start(&mut command, "gatewayctl")
    }

    /// Runs `gatewayctl`, which must end with this exit code; all it printed.
    pub fn ctl_code(&self, code: i32, arguments: &[&str]) -> Result<String> {
        let output = self.ctl(arguments)?;
        let words = [output.stdout, output.stderr].concat();
        let words = String::from_utf8_lossy(&words).into_owned();
        let log = self.log();
        ensure!(
            output.status.code() == Some(code),
            "{arguments:?}: {}\n{words}\n{log}",
            output.status
        );
        Ok(words)
    }

    /// Runs `gatewayctl … --json`, which must succeed.
    pub fn ctl_json(&self, arguments: &[&str]) -> Result<Value> {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        let output = self.ctl(&arguments)?;
        ensure!(
            output.status.success(),
            "gatewayctl {arguments:?}: {}\n{}{}\n--- daemon:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.log(),
        );
        serde_json::from_slice(&output.stdout).context("gatewayctl --json")
    }

    /// Waits until `done` says so.
    pub fn wait_for(&self, what: &str, mut done: impl FnMut(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            if Instant::now() > deadline {
                bail!("waited in vain for {what}; the daemon said:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // Best effort at the end of a test.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// The product's binary, built beside this test.
pub fn binary(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.ancestors().find(|folder| folder.join(name).is_file());
    let path =
        folder.with_context(|| format!("build it first: cargo build -p gatewayd ({name})"))?;
    Ok(path.join(name))
}

/// A path as an argument.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().context("path is not UTF-8")
}
