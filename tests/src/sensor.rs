//! The shared-key serial sensor: `peers/serial_sensor.py`, written from the protocol alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::gateway::{Gateway, text};
use crate::peer::Peer;
use crate::pty::Cable;

/// What has to be there.
const MISSING: &str = "the serial sensor needs python3 (package python3)";

/// A sensor with its printed code; it runs as often as it is started.
pub struct SerialSensor {
    key_file: PathBuf,
}

impl SerialSensor {
    /// A new sensor with a fresh printed code in `dir`.
    ///
    /// # Errors
    /// `python3` is missing.
    pub fn new(dir: &Path, name: &str) -> Result<Self> {
        let key_file = dir.join(format!("{name}.key"));
        let made = script().arg("--new-key").arg(&key_file).output().context(MISSING)?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Ok(Self { key_file })
    }

    /// File with its printed code.
    pub fn key_file(&self) -> &Path {
        &self.key_file
    }

    /// Switches it on at this end of the cable, with more options.
    ///
    /// # Errors
    /// `python3` is missing.
    pub fn switch_on(&self, port: &Path, options: &[&str]) -> Result<Peer> {
        let mut command = script();
        command.arg(port).arg("--key-file").arg(&self.key_file);
        Peer::start(command.args(["--patience", "50", "--seed", "1"]).args(options), MISSING)
    }

    /// Pairs it on `port`; its description. It must be switched on meanwhile.
    ///
    /// # Errors
    /// It is not paired in time.
    pub fn pair(&self, gateway: &Gateway, port: &Path, name: &str) -> Result<Value> {
        let (port, key) = (text(port)?, text(&self.key_file)?);
        gateway.ctl_json(&[
            "pair",
            "serial",
            port,
            "--key-file",
            key,
            "--name",
            name,
            "--window",
            "50",
            "--yes",
        ])
    }
}

/// A sensor that is plugged into a gateway, paired and sending.
pub struct Load {
    /// The sensor.
    pub peer: Peer,
    /// Plugged in as long as the sensor sends.
    _cable: Cable,
}

impl Load {
    /// Plugs a new sensor in, with options of its own, and pairs it under this name.
    ///
    /// # Errors
    /// It is not paired in time.
    pub fn start(gateway: &Gateway, name: &str, options: &[&str]) -> Result<Self> {
        let cable = Cable::plug(gateway.dir.path(), &format!("cable-{name}"))?;
        let sensor = SerialSensor::new(gateway.dir.path(), name)?;
        let peer = sensor.switch_on(cable.sensor(), options)?;
        sensor.pair(gateway, cable.gateway(), name)?;
        Ok(Self { peer, _cable: cable })
    }

    /// The same with a sensor that counts from 0 and goes on counting while its gateway is away.
    ///
    /// # Errors
    /// It is not paired in time.
    pub fn counting(gateway: &Gateway, name: &str, interval_s: &str) -> Result<Self> {
        let kept = gateway.dir.path().join(format!("state-{name}"));
        let options = ["--count", "0", "--interval", interval_s, "--value", "0", "--step", "1"];
        Self::start(gateway, name, &[&options[..], &["--reopen", "--state", text(&kept)?]].concat())
    }

    /// Waits until so many more readings are acknowledged.
    ///
    /// # Errors
    /// They are not in time.
    pub fn wait_more(&self, count: usize) -> Result<()> {
        self.peer.wait_count("acknowledged", self.peer.count("acknowledged") + count)
    }

    /// Switches it off; how many readings it has got rid of: acknowledged, or known to be kept.
    pub fn stop(self) -> u64 {
        let done = |line: &&String| line.starts_with("acknowledged") || *line == "settled";
        self.peer.stop().iter().filter(done).count() as u64
    }
}

fn script() -> Command {
    let mut command = Command::new("python3");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/serial_sensor.py"));
    command
}
