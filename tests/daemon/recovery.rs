//! An older copy of the disk put back, the operator's way out, and what the service manager hears.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use tests::gateway::{Gateway, PATIENCE, binary, text};

use crate::store::{Site, committed, height_on_disk, state, wait_state};

/// Replaces `to` by a copy of `from`.
fn put(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    let copied = Command::new("cp").arg("-a").args([from, to]).status()?;
    ensure!(copied.success(), "cp");
    Ok(())
}

/// A running site whose disk was put back to an older copy; the height of that copy.
fn rolled_back() -> Result<(Site, u64)> {
    let mut site = Site::with_sensor(&["--count", "0", "--interval", "0.1", "--reopen"])?;
    site.peer.wait_count("acknowledged", 3)?;
    wait_committed(&site, 1)?;
    site.gateway.stop()?;
    let (data, copy) = (site.gateway.data_dir(), site.gateway.dir.path().join("copy"));
    put(&data, &copy)?;
    let height = height_on_disk(&site.gateway)?;
    site.gateway.start()?;
    wait_state(&site.gateway, "running")?;
    let acknowledged = site.peer.count("acknowledged");
    site.peer.wait_count("acknowledged", acknowledged + 3)?;
    site.gateway.stop()?;
    put(&copy, &data)?;
    site.gateway.start()?;
    Ok((site, height))
}

fn wait_committed(site: &Site, at_least: u64) -> Result<()> {
    site.gateway.wait_for("readings on the record", |gateway| {
        committed(gateway).is_ok_and(|now| now >= at_least)
    })
}

/// Writes a proof and checks it offline; what the verdict says.
fn proof(site: &Site, which: &[&str]) -> Result<String> {
    let file = site.gateway.dir.path().join("reading.proof");
    let export = [&["reading", "export", "cellar", "--out", text(&file)?], which].concat();
    site.gateway.ctl_code(0, &export)?;
    let card = site.gateway.ctl_json(&["site", "card"])?;
    let code = card["site_code"].as_str().context("site code")?;
    site.gateway.ctl_code(0, &["verify", text(&file)?, "--anchor", code])
}

#[test]
fn an_old_copy_signs_nothing_until_the_operator_recovers_it() -> Result<()> {
    let (mut site, height) = rolled_back()?;
    let status = wait_state(&site.gateway, "rolled-back")?;
    let reasons = status["reasons"].to_string();
    ensure!(reasons.contains("gatewayctl site recover"), "{reasons}");
    let waiting = status["readings_waiting"].as_u64().context("readings_waiting")?;
    let acknowledged = site.peer.count("acknowledged");
    site.peer.wait_count("acknowledged", acknowledged + 3)?;
    site.gateway.wait_for("readings to be buffered", |gateway| {
        let status = gateway.ctl_json(&["status"]).unwrap_or_default();
        status["readings_waiting"].as_u64().is_some_and(|now| now >= waiting + 3)
    })?;
    // So it stays over a restart.
    site.gateway.stop()?;
    assert_eq!(height_on_disk(&site.gateway)?, height, "something was signed");
    site.gateway.start()?;
    let status = wait_state(&site.gateway, "rolled-back")?;
    let before = status["readings_committed"].as_u64().context("readings_committed")?;

    let (key, passphrase) = site.gateway.operator_key();
    let (key, passphrase) = (text(&key)?, text(&passphrase)?);
    let with_key = ["--operator-key", key, "--passphrase-file", passphrase, "--yes"];
    site.gateway.ctl_code(0, &[&["site", "recover"], &with_key[..]].concat())?;
    let status = wait_state(&site.gateway, "running")?;
    assert_eq!(status["era"], 1);
    wait_committed(&site, before + 3)?;
    let earlier = proof(&site, &["--counter", "1:1"])?;
    ensure!(earlier.contains("VALID"), "{earlier}");
    let later = proof(&site, &["--last"])?;
    ensure!(later.contains("RECOVERED BY THE OPERATOR"), "{later}");
    site.gateway.stop()?;
    site.gateway.start()?;
    let status = wait_state(&site.gateway, "running")?;
    assert_eq!(status["era"], 1);
    site.gateway.stop()
}

/// Such a copy has the start counter of the run that it was made in.
#[test]
fn a_copy_that_was_made_while_it_ran_is_found_out_too() -> Result<()> {
    let mut site = Site::with_sensor(&["--count", "0", "--interval", "0.1", "--reopen"])?;
    site.peer.wait_count("acknowledged", 3)?;
    wait_committed(&site, 1)?;
    let (data, copy) = (site.gateway.data_dir(), site.gateway.dir.path().join("copy"));
    let pid = site.gateway.pid().context("it runs")?.to_string();
    let signal = |name: &str| Command::new("kill").args([name, &pid]).status();
    signal("-STOP")?;
    let copied = put(&data, &copy);
    signal("-CONT")?;
    copied?;
    let recorded = committed(&site.gateway)?;
    wait_committed(&site, recorded + 1)?;
    site.gateway.stop()?;
    put(&copy, &data)?;
    site.gateway.start()?;
    let status = wait_state(&site.gateway, "rolled-back")?;
    ensure!(status["reasons"].to_string().contains("gatewayctl site recover"), "{status}");
    site.gateway.stop()
}

#[test]
fn recovered_in_three_steps_and_only_once() -> Result<()> {
    let (mut site, _) = rolled_back()?;
    wait_state(&site.gateway, "rolled-back")?;
    let request = site.gateway.dir.path().join("recover.request");
    let request = text(&request)?;
    let (key, passphrase) = site.gateway.operator_key();
    let (key, passphrase) = (text(&key)?, text(&passphrase)?);
    site.gateway.ctl_code(0, &["site", "recover", "--request", request])?;
    let unsigned = site.gateway.ctl_code(2, &["site", "recover", "--apply", request])?;
    ensure!(unsigned.contains("not signed yet"), "{unsigned}");
    assert_eq!(state(&site.gateway), "rolled-back");
    let with_key = ["--operator-key", key, "--passphrase-file", passphrase, "--yes"];
    let shown =
        site.gateway.ctl_code(0, &[&["operator", "sign", request], &with_key[..]].concat())?;
    ensure!(shown.contains("recover"), "{shown}");
    site.gateway.ctl_code(0, &["site", "recover", "--apply", request])?;
    let status = wait_state(&site.gateway, "running")?;
    assert_eq!(status["era"], 1);
    let again = site.gateway.ctl_code(4, &["site", "recover", "--apply", request])?;
    ensure!(again.contains("recovered before"), "{again}");
    let status = wait_state(&site.gateway, "running")?;
    assert_eq!(status["era"], 1);
    let recorded = committed(&site.gateway)?;
    wait_committed(&site, recorded + 1)?;
    site.gateway.stop()
}

/// The service manager's end of the daemon's notifications.
struct Manager {
    socket: UnixDatagram,
    daemon: Child,
}

impl Manager {
    /// Starts the daemon as systemd would, with a watchdog of two seconds.
    fn start(gateway: &Gateway) -> Result<Self> {
        let path = gateway.dir.path().join("notify");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let daemon = Command::new(binary("gatewayd")?)
            .arg("--config")
            .arg(gateway.config())
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "2000000")
            .env("TSS2_LOG", "all+NONE")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { socket, daemon })
    }

    /// What it is told until a line begins so; that line included.
    fn until(&self, beginning: &str) -> Result<Vec<String>> {
        let mut told = Vec::new();
        let mut bytes = [0; 4096];
        while !told.iter().any(|line: &String| line.starts_with(beginning)) {
            let length = self
                .socket
                .recv(&mut bytes)
                .with_context(|| format!("waited in vain for {beginning} after {told:?}"))?;
            told.extend(String::from_utf8_lossy(&bytes[..length]).lines().map(str::to_owned));
        }
        Ok(told)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // It has ended by itself when all went well.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

#[test]
fn the_service_manager_hears_ready_status_watchdog_and_stopping() -> Result<()> {
    let gateway = Gateway::prepare()?;
    let mut manager = Manager::start(&gateway)?;
    let told = manager.until("READY=1")?;
    ensure!(told.iter().all(|line| !line.starts_with("STOPPING")), "{told:?}");
    // Ready means that the name is held: the first call is answered.
    let status = gateway.ctl_json(&["status"])?;
    assert_eq!(status["state"], "uninitialised");
    manager.until("WATCHDOG=1")?;
    gateway.init_site()?;
    manager.until("STATUS=running")?;
    manager.until("WATCHDOG=1")?;
    let told = Command::new("kill").arg(manager.daemon.id().to_string()).status()?;
    ensure!(told.success(), "kill");
    manager.until("STOPPING=1")?;
    let ended = manager.daemon.wait()?;
    ensure!(ended.success(), "{ended}");
    Ok(())
}

#[test]
fn without_its_name_on_the_bus_it_lives_and_is_not_ready() -> Result<()> {
    let gateway = Gateway::prepare()?;
    let config = std::fs::read_to_string(gateway.config())?;
    let nowhere = gateway.dir.path().join("no-bus");
    let config = config.replace(gateway.bus.address(), &format!("unix:path={}", text(&nowhere)?));
    std::fs::write(gateway.config(), config)?;
    let manager = Manager::start(&gateway)?;
    for _ in 0..2 {
        let told = manager.until("WATCHDOG=1")?;
        ensure!(told.iter().all(|line| !line.starts_with("READY")), "{told:?}");
    }
    Ok(())
}

/// A TPM that hangs must not look like a daemon that hangs: the watchdog goes on being fed.
#[test]
fn the_watchdog_is_fed_while_a_tpm_hangs() -> Result<()> {
    let mut gateway = Gateway::with_site()?;
    gateway.stop()?;
    gateway.tpm.hang(true)?;
    let manager = Manager::start(&gateway)?;
    manager.until("STATUS=TPM does not answer")?;
    for _ in 0..3 {
        manager.until("WATCHDOG=1")?;
    }
    gateway.tpm.hang(false)?;
    manager.until("STATUS=running")?;
    Ok(())
}
