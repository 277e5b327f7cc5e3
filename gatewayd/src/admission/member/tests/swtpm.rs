//! A software TPM for tests: seeds of its own, no certificates; killed when dropped.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use attestation::tpm::Tpm;

/// How long starting a program may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running `swtpm` and its state.
pub(super) struct Swtpm {
    folder: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Swtpm {
    /// A TPM that nobody manufactured, started on free ports.
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < PATIENCE, "swtpm does not start");
            let port = free_ports();
            let mut child = launch(folder.path(), port);
            while child.try_wait().unwrap().is_none() {
                if TcpStream::connect(("127.0.0.1", port + 1)).is_ok() {
                    return Self { folder, port, child };
                }
                assert!(start.elapsed() < PATIENCE, "swtpm does not answer");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// A handle to this TPM, with its key folder.
    pub(super) fn tpm(&self) -> Tpm {
        let tcti = format!("swtpm:host=127.0.0.1,port={}", self.port);
        Tpm::spawn(&tcti, self.folder.path().join("keys")).unwrap()
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(folder: &std::path::Path, port: u16) -> Child {
    let address = |port: u16| format!("type=tcp,port={port},bindaddr=127.0.0.1");
    Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .args(["--server", &address(port), "--ctrl", &address(port + 1)])
        .args(["--tpmstate", &format!("dir={}", folder.display())])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("swtpm is installed")
}

/// A port that is free, with the next one: the library takes that for control.
fn free_ports() -> u16 {
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}
