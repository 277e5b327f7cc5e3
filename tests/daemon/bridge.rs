//! A machine with a software TPM alone lends its ports and its packet forwarder to a member.

use std::io::Write;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::gateway::{Gateway, text};
use tests::lora::{BareForwarder, LoraDevice};
use tests::peer::Peer;
use tests::pty::Cable;
use tests::sensor::SerialSensor;

use crate::lora::event;
use crate::serial::{each_value_is_there_once, readings, site_code};

const DEV_EUI: &str = "70B3D57ED0000007";

/// A sole member, with a block to be checked against.
fn member() -> Result<Gateway> {
    let member = Gateway::with_site()?;
    member.make_block()?;
    Ok(member)
}

/// Lets a machine ask to be a bridge of a member.
fn ask(member: &Gateway, machine: &Gateway) -> Result<Peer> {
    let (address, code) = (&member.stand.address, site_code(member)?);
    machine.ctl_peer(&["gateway", "join", address, "--site", &code, "--bridge"])
}

/// The bridge that waits at a member.
fn waiting(member: &Gateway) -> Result<Value> {
    let mut found = None;
    member.wait_for("a bridge to ask", |member| {
        let pending = member.ctl_json(&["gateway", "pending"]).unwrap_or_default();
        let mut pending = pending.as_array().cloned().unwrap_or_default().into_iter();
        found = pending.find(|one| one["role"] == "bridge" && one["state"] == "waiting");
        found.is_some()
    })?;
    found.context("it waits")
}

/// A member and a bridge called `barn` that it has let in.
fn bridged() -> Result<(Gateway, Gateway)> {
    let (member, machine) = (member()?, Gateway::start_new()?);
    let join = ask(&member, &machine)?;
    let asks = waiting(&member)?;
    let id = asks["id"].as_str().context("an ID")?;
    let own = machine.ctl_json(&["identity", "show"])?;
    assert_eq!(asks["key_digest"], own["key_digest"], "what both ends show to be compared");
    member.ctl_code(0, &["gateway", "approve", id, "--bridge", "--name", "barn"])?;
    let (code, lines) = join.finish()?;
    ensure!(code == Some(0), "{code:?} {lines:?}\n{}", machine.log());
    ensure!(lines.iter().any(|line| line.contains("--bridge")), "no command is told: {lines:?}");
    assert_eq!(state(&machine), "bridge");
    Ok((member, machine))
}

fn state(gateway: &Gateway) -> String {
    let status = gateway.ctl_json(&["status"]).unwrap_or_default();
    status["state"].as_str().unwrap_or_default().to_owned()
}

fn barn(member: &Gateway) -> Value {
    member.ctl_json(&["gateway", "show", "barn"]).unwrap_or_default()
}

#[test]
fn a_lorawan_device_behind_a_bridge_joins_and_is_answered_in_rx1() -> Result<()> {
    let (member, machine) = bridged()?;
    // The device's forwarder speaks to the bridge; it is paired on the member.
    let device = LoraDevice::new(&machine, DEV_EUI)?;
    device.pair(&member, "weather", &["--codec", "cayenne"])?;
    let events = device.events(&["--uplinks", "3", "--confirmed", "--retries", "1"])?;
    let acks = event(&events, "ack");
    assert_eq!(acks.len(), 3, "{events:?}");
    ensure!(acks.iter().all(|ack| ack["window"] == "RX1"), "{events:?}");
    ensure!(event(&events, "outside_windows").is_empty(), "{events:?}");
    readings(&member, 4)?;
    let bridge = barn(&member);
    let shown = member.ctl_json(&["sensor", "show", "weather"])?;
    assert_eq!((&shown["level"], &shown["bridge"]), (&1.into(), &bridge["id"]));
    let people = member.ctl_code(0, &["sensor", "show", "weather"])?;
    ensure!(people.contains("vouches for nothing"), "{people}");
    ensure!(bridge["uplinks"].as_u64() > Some(4) && bridge["downlinks"].as_u64() > Some(4));
    assert_eq!((&bridge["dropped"], &bridge["state"]), (&0.into(), &"connected".into()));
    let listed = member.ctl_code(0, &["gateway", "list"])?;
    ensure!(listed.contains("bridge of gw1") && listed.contains("(barn)"), "{listed}");
    // The status is composed a moment later.
    machine.wait_for("its forwarder to be counted, and nothing to be wrong", |machine| {
        let status = machine.ctl_json(&["status"]).unwrap_or_default();
        status["bridge"]["forwarders"] == 1 && status["reasons"] == Value::Array(vec![])
    })
}

#[test]
fn a_sensor_on_a_bridges_cable_goes_on_after_the_bridge_was_killed() -> Result<()> {
    let (mut member, mut machine) = bridged()?;
    let cable = Cable::plug(machine.dir.path(), "cable")?;
    let sensor = SerialSensor::new(machine.dir.path(), "cellar")?;
    let peer = sensor.switch_on(cable.sensor(), &["--count", "0", "--interval", "0.05"])?;
    let port = format!("bridge:barn{}", text(cable.gateway())?);
    let described = sensor.pair(&member, std::path::Path::new(&port), "cellar")?;
    assert_eq!(described["bridge"], barn(&member)["id"]);
    for round in 1..=2 {
        peer.wait_count("acknowledged ", 8 * round)?;
        machine.kill()?;
        member.wait_for("the bridge to be missed", |member| barn(member)["state"] == "away")?;
        let shown = member.ctl_json(&["sensor", "show", "cellar"])?;
        let link = shown["link_state"].as_str().unwrap_or_default();
        ensure!(link.contains("the bridge that has the serial port is not connected"), "{link}");
        machine.start()?;
    }
    // The member, too: the bridge finds it again.
    member.kill()?;
    member.start()?;
    peer.wait_count("acknowledged ", 24)?;
    let lines = peer.stop();
    each_value_is_there_once(&member, &lines)?;
    // Its readings are the member's, and verify offline.
    let file = member.dir.path().join("reading.proof");
    member.ctl_json(&["reading", "export", "cellar", "--last", "--out", text(&file)?])?;
    let anchor = site_code(&member)?;
    member.stop()?;
    let verdict = member.ctl_json(&["verify", text(&file)?, "--anchor", &anchor])?;
    assert_eq!((&verdict["valid"], &verdict["reading"]["level"]), (&true.into(), &1.into()));
    assert_eq!(verdict["reading"]["sensor"], described["id"]);
    Ok(())
}

#[test]
fn lines_over_a_bridge_are_as_good_as_its_word_and_it_says_so() -> Result<()> {
    let (member, machine) = bridged()?;
    let cable = Cable::plug(machine.dir.path(), "cable")?;
    let map = member.dir.path().join("map.toml");
    std::fs::write(&map, "format = \"value\"\n[[field]]\nname = \"weight\"\nunit = \"kg\"\n")?;
    let port = format!("bridge:barn{}", text(cable.gateway())?);
    let nowhere = ["pair", "serial", "bridge:shed/dev/ttyUSB0", "--line", text(&map)?, "--yes"];
    let said = member.ctl_code(5, &nowhere)?;
    ensure!(said.contains("no such bridge: shed"), "{said}");
    let pair = ["pair", "serial", &port, "--line", text(&map)?, "--name", "scale", "--yes"];
    let pairing = member.ctl_peer(&pair)?;
    let mut line = std::fs::OpenOptions::new().write(true).open(cable.sensor())?;
    let done = member.wait_for("the scale to be paired", |_| {
        let _ = line.write_all(b"12.5\r\n");
        std::thread::sleep(Duration::from_millis(200));
        pairing.lines().iter().any(|line| line.contains("done")) || {
            let list = member.ctl_json(&["sensor", "list"]).unwrap_or_default();
            list[0]["last_reading"].is_object()
        }
    });
    done.with_context(|| pairing.lines().join("\n"))?;
    let shown = member.ctl_code(0, &["sensor", "show", "scale"])?;
    ensure!(shown.contains("as good as the bridge's word"), "{shown}");
    Ok(())
}

#[test]
fn a_stranger_gets_no_byte_through_and_a_forgotten_bridge_is_dropped_at_once() -> Result<()> {
    let (member, machine) = (member()?, Gateway::start_new()?);
    let _join = ask(&member, &machine)?;
    let asks = waiting(&member)?;
    let id = asks["id"].as_str().context("an ID")?;
    // What its forwarder says reaches nobody.
    let forwarder = UdpSocket::bind(("127.0.0.1", 0))?;
    forwarder.connect(("127.0.0.1", machine.lora_port))?;
    forwarder.set_read_timeout(Some(Duration::from_secs(4)))?;
    forwarder.send(&[2, 0x12, 0x34, 2, 0xAA, 0x55, 0x5A, 0, 0, 0, 0x02, 0x01])?;
    ensure!(forwarder.recv(&mut [0; 16]).is_err(), "a stranger's forwarder was answered");
    let pending = member.ctl_json(&["gateway", "pending"])?;
    assert_eq!((&pending[0]["uplinks"], &pending[0]["bytes"]), (&0.into(), &0.into()));
    let said = member.ctl_code(
        5,
        &["pair", "serial", &format!("bridge:{id}/dev/x"), "--line", "/dev/null", "--yes"],
    )?;
    ensure!(said.contains("no such bridge"), "{said}");

    member.ctl_code(0, &["gateway", "approve", id, "--bridge"])?;
    member.wait_for("it to be let in", |member| {
        let list = member.ctl_json(&["status"]).unwrap_or_default();
        list["bridges"][0]["connected"] == true
    })?;
    BareForwarder::new(&machine)?.pull()?;
    member.ctl_code(0, &["gateway", "forget", id, "--yes"])?;
    machine.wait_for("it to be dropped", |machine| {
        let status = machine.ctl_json(&["status"]).unwrap_or_default();
        let why = status["reasons"][0].as_str().unwrap_or_default().to_owned();
        status["bridge"]["connected"] == false && why.contains("gateway approve gw1")
    })?;
    waiting(&member)?;
    let gone = member.ctl_code(5, &["gateway", "forget", id, "--yes"])?;
    ensure!(gone.contains("no such bridge"), "{gone}");
    // It can be given up, and is a gateway without a site again.
    machine.ctl_code(0, &["gateway", "join", "--abandon"])?;
    machine.wait_for("it to be given up", |machine| state(machine) == "uninitialised")?;
    Ok(())
}

#[test]
fn a_bridge_checks_the_member_before_it_lends_anything() -> Result<()> {
    let (member, machine) = (member()?, Gateway::start_new()?);
    let other = Gateway::with_site()?;
    let (address, code) = (&member.stand.address, site_code(&other)?);
    let join = machine.ctl_peer(&["gateway", "join", address, "--site", &code, "--bridge"])?;
    join.wait_line("the site code is of another site")?;
    assert_eq!(member.ctl_json(&["gateway", "pending"])?, Value::Array(vec![]));
    Ok(())
}
