//! The management interface as another client sees it: systemd's `busctl`, on the private bus.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::gateway::Gateway;
use tests::peer::Peer;
use tests::pty::Cable;
use tests::sensor::SerialSensor;

const NAME: &str = "org.gatewayd.Gateway1";
const PATH: &str = "/org/gatewayd/Gateway1";
const MISSING: &str = "busctl (package systemd)";

/// A user that no policy knows: `nobody`.
const STRANGER: &str = "65534";

/// Calls a method of an interface (its short name) and gives the answer as busctl's JSON.
/// `path`: below the root; `arguments` begin with their signature.
pub(crate) fn call(
    gateway: &Gateway,
    path: &str,
    interface: &str,
    member: &str,
    arguments: &[&str],
) -> Result<Value> {
    let mut command = Command::new("busctl");
    finish(command_of(&mut command, gateway, path, interface, member, arguments))
}

fn command_of<'a>(
    command: &'a mut Command,
    gateway: &Gateway,
    path: &str,
    interface: &str,
    member: &str,
    arguments: &[&str],
) -> &'a mut Command {
    let interface = match interface.contains('.') {
        true => interface.to_owned(),
        false => format!("{NAME}.{interface}"),
    };
    command
        .arg(format!("--address={}", gateway.bus.address()))
        .args(["--json=short", "call", NAME])
        .args([format!("{PATH}{path}"), interface, member.to_owned()])
        .args(arguments)
}

fn finish(command: &mut Command) -> Result<Value> {
    let output = command.output().context(MISSING)?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{words}");
    if output.stdout.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&output.stdout).context("busctl's JSON")
}

/// What busctl says without its types.
pub(crate) fn plain(value: &Value) -> Value {
    match value {
        Value::Object(object) => match object.get("data").filter(|_| object.contains_key("type")) {
            Some(data) => plain(data),
            None => object.iter().map(|(key, value)| (key.clone(), plain(value))).collect(),
        },
        Value::Array(values) => values.iter().map(plain).collect(),
        other => other.clone(),
    }
}

/// Everything that is signalled, as busctl prints it.
fn monitor(gateway: &Gateway) -> Result<Peer> {
    let mut command = Command::new("busctl");
    command.arg(format!("--address={}", gateway.bus.address())).args([
        "--json=short",
        "monitor",
        "--match",
        "type='signal'",
    ]);
    let peer = Peer::start(&mut command, MISSING)?;
    peer.wait_line("Monitoring bus")?;
    Ok(peer)
}

/// Signals of this member that busctl has seen.
fn signals(monitor: &Peer, member: &str) -> Vec<Value> {
    let lines = monitor.lines();
    lines
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["member"] == member)
        .collect()
}

#[test]
fn a_client_sees_a_sensor_come_change_and_go() -> Result<()> {
    let gateway = Gateway::with_site()?;
    let monitor = monitor(&gateway)?;
    let cable = Cable::plug(gateway.dir.path(), "cable")?;
    let sensor = SerialSensor::new(gateway.dir.path(), "one")?;
    let peer = sensor.switch_on(cable.sensor(), &["--count", "2", "--interval", "0.1"])?;
    let described = sensor.pair(&gateway, cable.gateway(), "one")?;
    let id = described["id"].as_str().context("an ID")?.to_owned();
    peer.finish()?;
    let seen = |what: &str, member: &str, part: &str| {
        gateway.wait_for(what, |_| {
            signals(&monitor, member).iter().any(|one| one.to_string().contains(part))
        })
    };
    seen("the object", "InterfacesAdded", &id)?;
    seen("a reading", "Reading", &id)?;
    seen("a block", "Committed", "payload")?;
    seen("the countdown", "Progress", "registering")?;
    let objects =
        call(&gateway, "", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", &[])?;
    ensure!(objects.to_string().contains(&id), "{objects}");
    gateway.ctl_code(0, &["sensor", "rename", "one", "two"])?;
    seen("the new name", "PropertiesChanged", "two")?;
    gateway.ctl_code(0, &["sensor", "forget", "two", "--yes"])?;
    seen("the object to go", "InterfacesRemoved", "Sensor")?;
    let objects =
        call(&gateway, "", "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", &[])?;
    ensure!(!objects.to_string().contains(&id), "{objects}");
    Ok(())
}

#[test]
fn the_state_is_announced() -> Result<()> {
    let gateway = Gateway::start_new()?;
    let monitor = monitor(&gateway)?;
    gateway.init_site()?;
    gateway.wait_for("the new state", |_| {
        signals(&monitor, "PropertiesChanged").iter().any(|one| {
            let text = one.to_string();
            text.contains("\"State\"") && text.contains("running")
        })
    })?;
    let version = call(
        &gateway,
        "",
        "org.freedesktop.DBus.Properties",
        "Get",
        &["ss", "org.gatewayd.Gateway1.Manager", "Version"],
    )?;
    ensure!(version.to_string().contains(env!("CARGO_PKG_VERSION")), "{version}");
    Ok(())
}

#[test]
fn absurd_arguments_get_named_errors_and_change_nothing() -> Result<()> {
    let gateway = Gateway::with_site()?;
    let long = "n".repeat(100_000);
    let cases: [(&str, &str, &[&str]); 8] = [
        ("Manager", "InitSite", &["saya{sv}", "s", "1", "2", "0"]),
        ("Manager", "FindSensor", &["s", &long]),
        ("Manager", "PrepareOperatorAct", &["sa{sv}", "dance", "0"]),
        ("Manager", "SubmitOperatorAct", &["ayay", "1", "1", "1", "1"]),
        ("Pairing", "Open", &["sa{sv}", "telepathy", "0"]),
        ("Pairing", "Confirm", &["t", "18446744073709551615"]),
        ("Ledger", "Block", &["t", "18446744073709551615"]),
        ("Ledger", "Prove", &["s", "gw1nonsense"]),
    ];
    let before = gateway.ctl_json(&["ledger", "head"])?["state_root"].clone();
    for (interface, member, arguments) in cases {
        let error = call(&gateway, "", interface, member, arguments);
        ensure!(error.is_err(), "{interface}.{member} took it");
    }
    // A wrong signature does not reach the method at all.
    ensure!(call(&gateway, "", "Ledger", "Block", &["s", "one"]).is_err(), "text is no height");
    assert_eq!(gateway.ctl_json(&["ledger", "head"])?["state_root"], before);
    assert_eq!(gateway.ctl_json(&["status"])?["state"], "running");
    Ok(())
}

#[test]
fn strangers_may_look_and_change_nothing() -> Result<()> {
    let gateway = Gateway::with_site()?;
    let as_stranger = |interface: &str, member: &str, arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", STRANGER, "--regid", STRANGER, "--clear-groups", "busctl"]);
        finish(command_of(&mut command, &gateway, "", interface, member, arguments))
    };
    let look = as_stranger("Manager", "Status", &[])?;
    ensure!(look.to_string().contains("running"), "{look}");
    let changes: [(&str, &str, &[&str]); 4] = [
        ("Manager", "PrepareOperatorAct", &["sa{sv}", "policy", "0"]),
        ("Manager", "SubmitOperatorAct", &["ayay", "1", "1", "1", "1"]),
        ("Pairing", "Open", &["sa{sv}", "serial", "0"]),
        ("Pairing", "Close", &["t", "1"]),
    ];
    for (interface, member, arguments) in changes {
        let Err(error) = as_stranger(interface, member, arguments) else {
            anyhow::bail!("{member}: a stranger may");
        };
        let words = error.to_string();
        ensure!(words.contains("may not do this"), "{member}: {words}");
    }
    Ok(())
}

#[test]
fn a_bus_that_goes_away_and_comes_back_is_found_again() -> Result<()> {
    let mut gateway = Gateway::with_site()?;
    let cable = Cable::plug(gateway.dir.path(), "cable")?;
    let sensor = SerialSensor::new(gateway.dir.path(), "one")?;
    let peer = sensor.switch_on(cable.sensor(), &["--count", "0", "--interval", "0.1"])?;
    sensor.pair(&gateway, cable.gateway(), "one")?;
    gateway.bus.restart()?;
    // Readings are taken without the bus too.
    let before = peer.count("acknowledged ");
    peer.wait_count("acknowledged ", before + 5)?;
    gateway.wait_for("the interface to be offered again", |gateway| {
        gateway.ctl_json(&["status"]).is_ok_and(|status| status["state"] == "running")
    })?;
    let listed = call(&gateway, "", "Manager", "ListSensors", &[])?;
    ensure!(listed.to_string().contains("\"one\""), "{listed}");
    Ok(())
}
