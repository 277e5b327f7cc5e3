//! Pairing that fails: each failure has its name and exit code, and leaves nothing behind.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tests::gateway::{Gateway, text};
use tests::peer::Peer;
use tests::pty::Cable;
use tests::sensor::SerialSensor;

/// Starts the pairing of a serial sensor.
fn pair(gateway: &Gateway, port: &Path, key: &Path, window: &str) -> Result<Peer> {
    let (port, key) = (text(port)?, text(key)?);
    gateway.ctl_peer(&[
        "pair",
        "serial",
        port,
        "--key-file",
        key,
        "--name",
        "new",
        "--window",
        window,
    ])
}

/// The command ends with this exit code and names the failure.
fn fails(command: Peer, code: i32, failure: &str) -> Result<()> {
    let (ended, lines) = command.finish()?;
    let said = lines.join("\n");
    ensure!(ended == Some(code), "{failure}: ended with {ended:?}\n{said}");
    ensure!(said.contains(&format!("pairing failed ({failure})")), "{said}");
    Ok(())
}

/// No sensor, no port, no entry on the record.
fn no_residue(gateway: &Gateway, port: &Path, id: Option<&str>) -> Result<()> {
    assert_eq!(gateway.ctl_json(&["sensor", "list"])?, serde_json::json!([]));
    gateway.wait_for("the port to be let go", |gateway| !holds(gateway, port))?;
    let Some(id) = id else { return Ok(()) };
    // A proof is of a block, and a new site may have none yet.
    gateway.make_block()?;
    let file = gateway.dir.path().join("absent.proof");
    gateway.ctl_code(0, &["prove", id, "--out", text(&file)?])?;
    let card = gateway.ctl_json(&["site", "card"])?;
    let anchor = card["site_code"].as_str().context("site code")?;
    let verdict = gateway.ctl_json(&["verify", text(&file)?, "--anchor", anchor])?;
    assert_eq!(verdict["valid"], true);
    let said = verdict["statements"].to_string();
    ensure!(said.contains(id) && said.contains("was ever registered"), "no absence: {said}");
    Ok(())
}

/// Whether the daemon has the port open.
fn holds(gateway: &Gateway, port: &Path) -> bool {
    let Some(pid) = gateway.pid() else { return false };
    let Ok(device) = std::fs::canonicalize(port) else { return false };
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.flatten().any(|one| std::fs::read_link(one.path()).is_ok_and(|to| to == device))
}

/// ID of the sensor that the window waits for, from the daemon's own status.
fn awaited(gateway: &Gateway) -> Result<String> {
    let status = crate::dbus::call(gateway, "", "Pairing", "Status", &[])?;
    let id = status["data"][0]["sensor"]["data"].as_str().context("the window names it")?;
    Ok(id.to_owned())
}

#[test]
fn a_silent_port_lets_the_window_expire() -> Result<()> {
    let gateway = Gateway::with_site()?;
    let cable = Cable::plug(gateway.dir.path(), "cable")?;
    let sensor = SerialSensor::new(gateway.dir.path(), "mute")?;
    let command = pair(&gateway, cable.gateway(), sensor.key_file(), "10")?;
    command.wait_line("waiting:")?;
    let id = awaited(&gateway)?;
    // While it is open, it counts down, and there is no second one.
    let left = || -> Result<u64> {
        let status = crate::dbus::call(&gateway, "", "Pairing", "Status", &[])?;
        status["data"][0]["seconds_left"]["data"].as_u64().context("a countdown")
    };
    let first = left()?;
    ensure!((1..=10).contains(&first), "{first} s left");
    gateway.wait_for("the countdown", |_| left().is_ok_and(|now| now < first))?;
    ensure!(holds(&gateway, cable.gateway()), "the port is open while the window is");
    let second = pair(&gateway, cable.gateway(), sensor.key_file(), "10")?;
    let (code, lines) = second.finish()?;
    ensure!(code == Some(1) && lines.join(" ").contains("window is open"), "{code:?} {lines:?}");
    fails(command, 6, "window-expired")?;
    no_residue(&gateway, cable.gateway(), Some(&id))
}

#[test]
fn another_key_is_named() -> Result<()> {
    let gateway = Gateway::with_site()?;
    let cable = Cable::plug(gateway.dir.path(), "cable")?;
    let sensor = SerialSensor::new(gateway.dir.path(), "liar")?;
    let command = pair(&gateway, cable.gateway(), sensor.key_file(), "10")?;
    command.wait_line("waiting:")?;
    let id = awaited(&gateway)?;
    let liar = sensor.switch_on(cable.sensor(), &["--wrong-key", "--patience", "12"])?;
    fails(command, 1, "wrong-key")?;
    let (code, lines) = liar.finish()?;
    assert_eq!(code, Some(0), "it was answered: {lines:?}");
    no_residue(&gateway, cable.gateway(), Some(&id))
}

#[test]
fn ports_that_are_missing_or_no_ports_are_named() -> Result<()> {
    let gateway = Gateway::with_site()?;
    let sensor = SerialSensor::new(gateway.dir.path(), "lost")?;
    let missing = gateway.dir.path().join("no-such-port");
    fails(pair(&gateway, &missing, sensor.key_file(), "10")?, 5, "port-missing")?;
    let file = gateway.dir.path().join("a-file");
    std::fs::write(&file, "no port")?;
    fails(pair(&gateway, &file, sensor.key_file(), "10")?, 1, "unavailable")?;
    assert_eq!(std::fs::read(&file)?, b"no port", "it was written to");
    // A code with a wrong letter is refused before anything is opened.
    let code = std::fs::read_to_string(sensor.key_file())?;
    let wrong = if code.trim_end().ends_with('q') { "p" } else { "q" };
    std::fs::write(
        sensor.key_file(),
        code.trim_end()[..code.trim_end().len() - 1].to_owned() + wrong,
    )?;
    let (ended, lines) = pair(&gateway, &missing, sensor.key_file(), "10")?.finish()?;
    ensure!(ended == Some(2) && !lines.join(" ").contains(code.trim()), "{ended:?} {lines:?}");
    no_residue(&gateway, &missing, None)
}

#[test]
fn a_window_that_is_closed_by_the_operator_ends_at_once() -> Result<()> {
    let gateway = Gateway::with_site()?;
    let cable = Cable::plug(gateway.dir.path(), "cable")?;
    let sensor = SerialSensor::new(gateway.dir.path(), "late")?;
    let command = pair(&gateway, cable.gateway(), sensor.key_file(), "600")?;
    command.wait_line("waiting:")?;
    let id = awaited(&gateway)?;
    crate::dbus::call(&gateway, "", "Pairing", "Close", &["t", "1"])?;
    fails(command, 1, "cancelled")?;
    no_residue(&gateway, cable.gateway(), Some(&id))
}

#[test]
fn a_sensor_on_the_record_is_not_paired_twice() -> Result<()> {
    let gateway = Gateway::with_site()?;
    let cable = Cable::plug(gateway.dir.path(), "cable")?;
    let sensor = SerialSensor::new(gateway.dir.path(), "one")?;
    let peer = sensor.switch_on(cable.sensor(), &["--count", "1"])?;
    let described = sensor.pair(&gateway, cable.gateway(), "one")?;
    peer.finish()?;
    let command = pair(&gateway, cable.gateway(), sensor.key_file(), "10")?;
    fails(command, 4, "already-registered")?;
    let listed = gateway.ctl_json(&["sensor", "list"])?;
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    assert_eq!(listed[0]["id"], described["id"]);
    // It is served as before.
    let (code, lines) = sensor.switch_on(cable.sensor(), &["--count", "1"])?.finish()?;
    assert_eq!(code, Some(0), "{lines:?}");
    Ok(())
}

#[test]
fn a_daemon_killed_with_an_open_window_forgets_it() -> Result<()> {
    let mut gateway = Gateway::with_site()?;
    let cable = Cable::plug(gateway.dir.path(), "cable")?;
    let sensor = SerialSensor::new(gateway.dir.path(), "cut")?;
    let command = pair(&gateway, cable.gateway(), sensor.key_file(), "600")?;
    command.wait_line("waiting:")?;
    let id = awaited(&gateway)?;
    gateway.kill()?;
    let (code, lines) = command.finish()?;
    assert_eq!(code, Some(3), "{lines:?}");
    gateway.start()?;
    no_residue(&gateway, cable.gateway(), Some(&id))
}

#[test]
fn two_daemons_do_not_share_a_port() -> Result<()> {
    let first = Gateway::with_site()?;
    let cable = Cable::plug(first.dir.path(), "cable")?;
    let sensor = SerialSensor::new(first.dir.path(), "one")?;
    let peer = sensor.switch_on(cable.sensor(), &["--count", "0", "--interval", "0.1"])?;
    sensor.pair(&first, cable.gateway(), "one")?;

    let second = Gateway::with_site()?;
    let other = SerialSensor::new(second.dir.path(), "two")?;
    let command = pair(&second, cable.gateway(), other.key_file(), "10")?;
    fails(command, 1, "port-busy")?;
    no_residue(&second, cable.gateway(), None)?;
    let before = peer.count("acknowledged ");
    peer.wait_count("acknowledged ", before + 5)
}
