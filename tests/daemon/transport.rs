//! The port for other gateways: what the TPM signs there, and programs that do not speak its
//! protocol. The other side is openssl, which in this version knows no raw public keys, and plain
//! sockets.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use attestation::tpm::TpmError;
use gatewayd::peers::{self, Parts, Signer};
use ledger::crypto::SigningKey;
use ledger::ids::Hash;
use tests::gateway::Gateway;

/// A key in memory: the caller's.
#[derive(Debug)]
struct SoftKey(SigningKey);

impl Signer for SoftKey {
    fn sign(&self, digest: [u8; 32]) -> std::result::Result<[u8; 64], TpmError> {
        Ok(*self.0.sign_digest(&Hash(digest)).as_bytes())
    }
}

#[test]
fn the_tpm_signs_handshakes() -> Result<()> {
    let mut gateway = Gateway::with_site()?;
    let own = gateway.ctl_json(&["status"])?["gateway"].clone();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let key = SigningKey::from_bytes(&[7; 32])?;
    let address = gateway.stand.address.clone();
    runtime.block_on(async {
        let ((events, _inbox), (incoming, _requests)) =
            (peers::inbox(), tokio::sync::mpsc::channel(1));
        let (beats, _) = tokio::sync::mpsc::channel(1);
        let caller = peers::start(Parts {
            identity: key.public_key(),
            signer: Arc::new(SoftKey(key)),
            listen: None,
            addresses: vec![],
            discovery: false,
            interface: None,
            events,
            incoming,
            beats,
            bridges: None,
            data_dir: None,
        })?;
        let mut took = Vec::new();
        for _ in 0..10 {
            let began = Instant::now();
            let connection = caller.dial(&address).await?;
            took.push(began.elapsed());
            let node = connection.session().node.to_gateway_string();
            ensure!(own == *node, "{node} answers at the port of {own}");
            drop(connection);
            // Strangers wait for their turn.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        took.sort();
        println!("handshake with a software TPM: median {:?}, longest {:?}", took[5], took[9]);
        Ok(())
    })?;
    gateway.stop()
}

/// Runs `openssl s_client`; gives what it says.
fn openssl(address: &str, arguments: &[&str]) -> Result<String> {
    let run = Command::new("openssl")
        .args(["s_client", "-connect", address])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("openssl (package openssl)")?;
    let said = [run.stdout, run.stderr].concat();
    Ok(String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn other_protocols_are_refused() -> Result<()> {
    let mut gateway = Gateway::with_site()?;
    let address = gateway.stand.address.clone();
    let alpn = ["-alpn", "gatewayd/1"];
    let old = openssl(&address, &[&["-tls1_2"], &alpn[..]].concat())?;
    ensure!(old.contains("alert") && !old.contains("BEGIN CERTIFICATE"), "TLS 1.2: {old}");
    let x509 = openssl(&address, &[&["-tls1_3"], &alpn[..]].concat())?;
    ensure!(x509.contains("alert") && !x509.contains("BEGIN CERTIFICATE"), "X.509: {x509}");
    let other = openssl(&address, &["-tls1_3", "-alpn", "h2"])?;
    ensure!(!other.contains("BEGIN CERTIFICATE"), "another protocol: {other}");
    let garbage: [&[u8]; 4] = [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n", &[0; 70_000], &[0xff]];
    for bytes in garbage {
        let mut stream = TcpStream::connect(&address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        // It may be closed before all of it is sent, and in any way.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let status = gateway.ctl_json(&["status"])?;
    ensure!(status["state"] == "running", "{status}");
    let log = std::fs::read_to_string(gateway.log_file())?;
    let refused = log.matches("refused: the handshake failed").count();
    ensure!(refused >= 7, "{refused} refusals in the journal");
    gateway.stop()
}
