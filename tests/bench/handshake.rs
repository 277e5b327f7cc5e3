//! TLS handshakes between two gateways, each signing with the identity key in its own TPM.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use attestation::tpm::Tpm;
use gatewayd::identity::{identity_key, node};
use gatewayd::peers::{self, Handle, Inbox, Incoming, Member};
use tests::swtpm::Swtpm;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::figures::Figures;

/// Handshakes that are timed.
const ROUNDS: usize = 100;

/// One end, with all that has to live as long.
struct End {
    handle: Handle,
    member: Member,
    _ends: (Inbox, mpsc::Receiver<Incoming>),
    tpm: Tpm,
    _chip: Swtpm,
}

/// Dials one end from the other again and again.
pub(crate) fn measure(runtime: &Runtime, figures: &mut Figures) -> Result<()> {
    eprintln!("{ROUNDS} TLS handshakes");
    let folder = tempfile::tempdir()?;
    let _inside = runtime.enter();
    let server = End::start(&folder.path().join("server"), true)?;
    let client = End::start(&folder.path().join("client"), false)?;
    server.handle.set_members(&[client.member]);
    client.handle.set_members(&[server.member]);
    let address = format!("127.0.0.1:{}", server.handle.port());
    let mut times = runtime.block_on(async {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let connection = client.handle.dial(&address).await?;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            drop(connection);
        }
        anyhow::Ok(times)
    })?;
    times.sort_by(f64::total_cmp);
    let median = *times.get(ROUNDS / 2).context("handshakes")?;
    let how = format!(
        "median of {ROUNDS} dials over loopback between two members, a software TPM signing at \
         each end, TCP connection and exporter in it"
    );
    figures.add("tls_handshake_ms", median, "ms", &how);
    for end in [server, client] {
        let End { handle, tpm, .. } = end;
        drop(handle);
        tpm.shutdown()?;
    }
    Ok(())
}

impl End {
    fn start(dir: &Path, listens: bool) -> Result<Self> {
        let chip = Swtpm::manufacture(&dir.join("chip"))?;
        let tpm = Tpm::spawn(&chip.tcti(), dir.join("keys"))?;
        let info = tpm.create_identity()?;
        let member = Member { node: node(&info)?, identity: identity_key(&info)? };
        let (events, inbox) = peers::inbox();
        let ((incoming_in, incoming), (beats, _)) = (mpsc::channel(1), mpsc::channel(1));
        let handle = peers::start(peers::Parts {
            signer: Arc::new(tpm.clone()),
            identity: member.identity,
            listen: listens.then_some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            addresses: vec![],
            discovery: false,
            interface: None,
            events,
            incoming: incoming_in,
            beats,
            bridges: None,
            data_dir: None,
        })?;
        Ok(Self { handle, member, _ends: (inbox, incoming), tpm, _chip: chip })
    }
}
