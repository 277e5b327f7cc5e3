//! Who is refused, why, and that the members go on meanwhile.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::gateway::Gateway;
use tests::network::Place;
use tests::peer::Peer;
use tests::site::{Links, Plan, Site};
use tests::swtpm::Swtpm;
use tests::tpm_maker::{Ek, Maker};

/// A founder and others on loopback, its maker's TPMs trusted.
fn founded(tpms: &[Ek]) -> Result<Site> {
    Site::founded(Plan { tpms, links: Links::Loopback, insecure: true })
}

/// Gives a gateway that does not run another TPM.
fn exchange(gateway: &mut Gateway, tpm: Swtpm) -> Result<()> {
    gateway.tpm = tpm;
    gateway.configure("")
}

/// Lets a gateway ask, which must hear these words, and must not become a member.
fn refused(site: &mut Site, number: usize, words: &[&str]) -> Result<()> {
    let members = site.figure(0, "members");
    site.gateways[number].start()?;
    let join = site.join(number, 0)?;
    hears(site, number, &join, words)?;
    ensure!(site.figure(0, "members") == members, "it became a member");
    site.gateways[number].stop()
}

fn hears(site: &Site, number: usize, join: &Peer, words: &[&str]) -> Result<()> {
    site.gateways[number].wait_for(&format!("{words:?} in {:?}", join.lines()), |_| {
        let said = join.lines().join("\n").to_lowercase();
        words.iter().all(|word| said.contains(word))
    })
}

#[test]
fn tpms_that_nobody_vouches_for_are_refused() -> Result<()> {
    let mut site = founded(&[Ek::Both, Ek::None, Ek::Both])?;
    // Where the operator is asked, one may be let in by hand, its TPM pinned; here nobody is.
    site.policy(&["operator_approval=false"])?;
    refused(&mut site, 1, &["refused", "certificate"]).context("no certificate at all")?;
    let foreign = Maker::new(&site.dir().join("foreign"))?;
    let state = site.gateways[2].dir.path().join("foreign-tpm");
    let tpm = Swtpm::made_by(&foreign, Ek::Both, &state, Place::Here)?;
    exchange(&mut site.gateways[2], tpm)?;
    // Its authority has the name of the one that is trusted, and not its key.
    refused(&mut site, 2, &["refused", "the signature on the certificate", "is wrong"])?;
    site.commit(0).map(drop)
}

#[test]
fn a_software_tpm_is_no_full_node_of_an_ordinary_site() -> Result<()> {
    let tpms = &[Ek::Both; 2];
    let mut site = Site::founded(Plan { tpms, links: Links::Loopback, insecure: false })?;
    site.trust(&site.maker.anchors())?;
    // What it can be is offered with the very command, which is taken at its word.
    site.gateways[1].start()?;
    let join = site.join(1, 0)?;
    hears(&site, 1, &join, &["refused", "software", "--bridge`"])?;
    ensure!(site.figure(0, "members") == 1, "it became a member");
    let said = join.lines().join("\n");
    let command = said.split('`').find(|quoted| quoted.ends_with("--bridge"));
    let words: Vec<&str> = command.context("a command")?.split_whitespace().skip(1).collect();
    let join = site.gateways[1].ctl_peer(&words)?;
    join.wait_line("awaiting-approval")?;
    let id = site.id(1)?;
    site.gateways[0].ctl_code(0, &["gateway", "approve", &id, "--bridge"])?;
    let (code, lines) = join.finish()?;
    ensure!(code == Some(0), "{code:?} {lines:?}");
    ensure!(site.figure(0, "members") == 1, "a bridge became a member");
    Ok(())
}

/// A copy of a member's TPM state on another machine: a clone. One TPM is one gateway.
#[test]
fn the_same_tpm_twice_is_refused() -> Result<()> {
    let mut site = founded(&[Ek::Both; 3])?;
    site.admit(1)?;
    let (original, copy) =
        (site.gateways[1].dir.path().join("tpm-state"), site.gateways[2].dir.path().join("clone"));
    let copied = Command::new("cp").arg("-a").args([&original, &copy]).status()?;
    ensure!(copied.success(), "cp");
    let clone = Swtpm::with_state(&copy, Place::Here)?;
    exchange(&mut site.gateways[2], clone)?;
    refused(&mut site, 2, &["refused", "one tpm, one gateway"])?;
    ensure!(site.standing(0, &site.id(1)?)? == "active", "the original goes on");
    site.commit(1).map(drop)
}

/// The newcomer checks the members before it says anything about itself.
#[test]
fn a_wrong_site_code_is_noticed_by_the_newcomer() -> Result<()> {
    let mut site = founded(&[Ek::Both; 3])?;
    // Another site, with a code of its own.
    site.gateways[2].start()?;
    site.gateways[2].found_site(&[])?;
    let (address, code) = (site.address(0), site.code(2)?);
    site.gateways[1].start()?;
    let join = site.gateways[1].ctl_peer(&["gateway", "join", &address, "--site", &code])?;
    hears(&site, 1, &join, &["site code"])?;
    let garbled = code.replace('q', "p");
    site.gateways[1].ctl_code(2, &["gateway", "join", &address, "--site", &garbled])?;
    ensure!(site.figure(0, "members") == 1, "it became a member");
    Ok(())
}

/// Half-open connections, one byte at a time, garbage, other protocols, and oversize records.
#[test]
fn garbage_and_floods_on_the_port_stop_nobody() -> Result<()> {
    let mut site = founded(&[Ek::Both; 2])?;
    let address = site.address(0);
    let mut silent = Vec::new();
    for number in 0..200_u8 {
        let mut stream = TcpStream::connect(&address)?;
        match number % 4 {
            // Says nothing, and stays.
            0 => {}
            // The beginning of a TLS record that never ends.
            1 => stream.write_all(&[0x16, 0x03, 0x01, 0x40, 0x00, 0x01])?,
            2 => stream.write_all(b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n")?,
            _ => stream.write_all(&[number; 4096])?,
        }
        silent.push(stream);
    }
    let said = impersonate(&site, &address)?;
    ensure!(said.contains("no peer certificate available"), "{said}");
    site.commit(0).context("while connections are held open")?;
    site.admit(1).context("while connections are held open")?;
    // What was garbage is closed by the gateway, and what says nothing is too, in time.
    for stream in silent.iter_mut().skip(2).step_by(4) {
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut rest = Vec::new();
        // A reset is an end as well.
        let ended = stream.read_to_end(&mut rest);
        ensure!(!matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock));
        let _ = stream.shutdown(Shutdown::Both);
    }
    ensure!(site.gateways[0].ctl_json(&["status"])?["state"] == "running", "the founder runs");
    Ok(())
}

/// A stranger's TLS client with a certificate in place of a raw key: `openssl`'s own.
fn impersonate(site: &Site, address: &str) -> Result<String> {
    let (key, certificate) = (site.dir().join("stranger.key"), site.dir().join("stranger.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-subj", "/CN=stranger", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status()
        .context("openssl (package openssl)")?;
    ensure!(made.success(), "openssl req");
    let said = Command::new("timeout")
        .args(["10", "openssl", "s_client", "-connect", address, "-tls1_3", "-alpn", "gatewayd/1"])
        .arg("-key")
        .arg(&key)
        .arg("-cert")
        .arg(&certificate)
        .stdin(Stdio::null())
        .output()?;
    Ok(String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned())
}
