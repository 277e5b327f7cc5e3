//! LoRaWAN devices and packet forwarders: `peers/lora/device.js` on npm `lora-packet`, and a bare
//! forwarder for what no real one sends.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::gateway::{Gateway, PATIENCE, text};
use crate::peer::Peer;

/// A device that keeps its session between runs.
pub struct LoraDevice {
    /// DevEUI, 16 hexadecimal digits.
    pub dev_eui: String,
    key_file: PathBuf,
    state: PathBuf,
    server: String,
}

impl LoraDevice {
    /// A device beside this gateway.
    ///
    /// # Errors
    /// Its packages are not installed.
    pub fn new(gateway: &Gateway, dev_eui: &str) -> Result<Self> {
        let modules = folder().join("node_modules/lora-packet");
        let fix = "npm package lora-packet is missing: run `npm ci` in tests/peers/lora";
        ensure!(modules.is_dir(), fix);
        let dir = gateway.dir.path();
        let key_file = dir.join(format!("{dev_eui}.appkey"));
        std::fs::write(&key_file, format!("{dev_eui}{dev_eui}\n"))?;
        Ok(Self {
            dev_eui: dev_eui.to_owned(),
            key_file,
            state: dir.join(format!("{dev_eui}.state")),
            server: format!("127.0.0.1:{}", gateway.lora_port),
        })
    }

    /// Runs it with more options.
    ///
    /// # Errors
    /// `node` is missing.
    pub fn run(&self, options: &[&str]) -> Result<Peer> {
        let mut command = Command::new("node");
        command.arg(folder().join("device.js")).args(["--server", &self.server]);
        command.args(["--dev-eui", &self.dev_eui]).arg("--app-key-file").arg(&self.key_file);
        command.arg("--state").arg(&self.state).args(options);
        Peer::start(&mut command, "the LoRaWAN device needs node (packages nodejs and npm)")
    }

    /// Runs it to its end, which must be good; its events.
    ///
    /// # Errors
    /// It fails, or what it says is no JSON.
    pub fn events(&self, options: &[&str]) -> Result<Vec<Value>> {
        let (code, lines) = self.run(options)?.finish()?;
        ensure!(code == Some(0), "the device ended with {code:?}:\n{}", lines.join("\n"));
        lines.iter().map(|line| serde_json::from_str(line).context("an event")).collect()
    }

    /// Starts the command that pairs it.
    ///
    /// # Errors
    /// The command cannot be started.
    pub fn pairing(&self, gateway: &Gateway, name: &str, options: &[&str]) -> Result<Peer> {
        let mut arguments = vec!["pair", "lora", "--dev-eui", &self.dev_eui];
        arguments.extend(["--join-eui", "0000000000000001", "--name", name, "--window", "50"]);
        arguments.extend(["--app-key-file", text(&self.key_file)?]);
        arguments.extend(options);
        gateway.ctl_peer(&arguments)
    }

    /// Pairs it: it joins, and sends one uplink.
    ///
    /// # Errors
    /// It is not paired in time.
    pub fn pair(&self, gateway: &Gateway, name: &str, options: &[&str]) -> Result<()> {
        let command = self.pairing(gateway, name, options)?;
        command.wait_line("waiting:")?;
        self.events(&["--uplinks", "1", "--confirmed", "--retries", "2"])?;
        let (code, lines) = command.finish()?;
        let log = gateway.log();
        ensure!(code == Some(0), "pair lora: {code:?}\n{}\n{log}", lines.join("\n"));
        Ok(())
    }
}

/// A forwarder of this test's own: sends bytes as they are.
pub struct BareForwarder {
    socket: UdpSocket,
}

impl BareForwarder {
    /// A forwarder beside this gateway.
    ///
    /// # Errors
    /// There is no UDP.
    pub fn new(gateway: &Gateway) -> Result<Self> {
        let socket = UdpSocket::bind(("127.0.0.1", 0))?;
        socket.connect(("127.0.0.1", gateway.lora_port))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket })
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// It is too long for UDP.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        ensure!(self.socket.send(bytes)? == bytes.len(), "cut");
        Ok(())
    }

    /// PUSH_DATA with this text as JSON; it is not waited for an answer.
    ///
    /// # Errors
    /// It is too long for UDP.
    pub fn push(&self, json: &[u8]) -> Result<()> {
        let mut bytes = vec![2, 0x12, 0x34, 0, 0xAA, 0x55, 0x5A, 0, 0, 0, 0x02, 0x01];
        bytes.extend_from_slice(json);
        self.send(&bytes)
    }

    /// Whether the server answers PULL_DATA, within patience. Answers to pushes are skipped.
    ///
    /// # Errors
    /// It does not.
    pub fn pull(&self) -> Result<()> {
        let pull = [2, 0x56, 0x78, 2, 0xAA, 0x55, 0x5A, 0, 0, 0, 0x02, 0x01];
        let mut answer = [0; 2048];
        self.socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        for _ in 0..10 {
            self.send(&pull)?;
            while let Ok(length) = self.socket.recv(&mut answer) {
                if answer[..length] == [2, 0x56, 0x78, 4] {
                    return Ok(());
                }
            }
        }
        anyhow::bail!("PULL_DATA is not answered")
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/lora")
}
