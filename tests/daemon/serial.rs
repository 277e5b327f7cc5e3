//! Shared-key serial sensors: from the printed code to a proof that a stranger can check, and
//! what a bad sensor cannot do.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::gateway::{Gateway, text};
use tests::peer::Peer;
use tests::pty::Cable;
use tests::sensor::SerialSensor;

/// A gateway with one paired sensor that is switched on.
struct Paired {
    gateway: Gateway,
    cable: Cable,
    sensor: SerialSensor,
    peer: Peer,
    id: String,
}

/// Pairs a sensor that runs with these options.
fn paired(options: &[&str]) -> Result<Paired> {
    let gateway = Gateway::with_site()?;
    let cable = Cable::plug(gateway.dir.path(), "cable")?;
    let sensor = SerialSensor::new(gateway.dir.path(), "cellar")?;
    let peer = sensor.switch_on(cable.sensor(), options)?;
    let described = sensor.pair(&gateway, cable.gateway(), "cellar")?;
    let id = described["id"].as_str().context("an ID")?.to_owned();
    Ok(Paired { gateway, cable, sensor, peer, id })
}

/// The counters that a finished peer had acknowledged.
fn acknowledged(lines: &[String]) -> Vec<u64> {
    let counter = |line: &String| line.strip_prefix("acknowledged ")?.parse().ok();
    lines.iter().filter_map(counter).collect()
}

/// Sorted counters that `reading tail` knows, once it knows `expected` readings and no more.
fn counters(gateway: &Gateway, expected: usize) -> Result<Vec<u64>> {
    let mut all: Vec<u64> =
        readings(gateway, expected)?.iter().filter_map(|one| one["counter"].as_u64()).collect();
    all.sort_unstable();
    Ok(all)
}

/// All readings, oldest first, once there are as many as expected; more are an error.
pub(crate) fn readings(gateway: &Gateway, expected: usize) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    gateway.wait_for("the readings", |gateway| {
        all = listed(gateway).unwrap_or_default();
        all.len() >= expected
    })?;
    ensure!(all.len() == expected, "{} readings: {all:?}", all.len());
    Ok(all)
}

/// All readings that the daemon has now, oldest first.
pub(crate) fn listed(gateway: &Gateway) -> Result<Vec<Value>> {
    let answer = crate::dbus::call(gateway, "", "Ledger", "Readings", &["su", "", "10000"])?;
    let all = crate::dbus::plain(&answer);
    let mut all = all[0].as_array().context("a list")?.clone();
    all.reverse();
    Ok(all)
}

/// What `reading tail --json` prints of so many readings.
fn tail(gateway: &Gateway, count: usize) -> Result<Vec<Value>> {
    let count = count.to_string();
    let tail = ["reading", "tail", "--last", "10000", "--count", &count, "--json"];
    let lines = gateway.ctl_code(0, &tail)?;
    lines.lines().map(|line| serde_json::from_str(line).context("a reading")).collect()
}

/// Why frames of the only sensor were refused, and how many.
fn refused(gateway: &Gateway, reason: &str) -> u64 {
    let shown = gateway.ctl_json(&["sensor", "show", "cellar"]).unwrap_or_default();
    shown["refused"][reason].as_u64().unwrap_or(0)
}

pub(crate) fn site_code(gateway: &Gateway) -> Result<String> {
    let card = gateway.ctl_json(&["site", "card"])?;
    Ok(card["site_code"].as_str().context("site code")?.to_owned())
}

#[test]
fn from_the_printed_code_to_an_offline_proof() -> Result<()> {
    let mut paired = paired(&["--count", "3", "--interval", "0.1"])?;
    let (code, lines) = paired.peer.finish()?;
    assert_eq!(code, Some(0), "{lines:?}");
    let gateway = &paired.gateway;
    assert_eq!(counters(gateway, 3)?, acknowledged(&lines));
    assert_eq!(tail(gateway, 3)?.len(), 3);
    let file = gateway.dir.path().join("reading.proof");
    let file = text(&file)?;
    gateway.ctl_json(&["reading", "export", "cellar", "--last", "--out", file])?;
    let anchor = site_code(gateway)?;
    // A code that the verifier holds can be named; one of another site is refused.
    let named = ["reading", "export", "cellar", "--last", "--out", file, "--anchor"];
    gateway.ctl_json(&[&named[..], &[&anchor]].concat())?;
    let hash = ledger::ids::Hash([7; 32]);
    let foreign = ledger::proof::Anchor { height: ledger::ids::Height(0), hash }.to_code();
    let said = gateway.ctl_code(2, &[&named[..], &[&foreign]].concat())?;
    assert!(said.contains("another site"), "{said}");
    paired.gateway.stop()?;

    let verdict = paired.gateway.ctl_json(&["verify", file, "--anchor", &anchor])?;
    assert_eq!(verdict["valid"], true);
    assert_eq!(verdict["reading"]["sensor"], paired.id.as_str());
    assert_eq!(verdict["reading"]["values"][0]["value"], 22.5);
    assert_eq!(verdict["reading"]["values"][0]["unit"], "Cel");
    let said = verdict["statements"].to_string().to_lowercase();
    assert!(said.contains("unattested"), "{said}");
    every_flipped_byte_is_noticed(&paired.gateway, Path::new(file), &anchor)
}

/// One byte in twenty is flipped, in turn.
fn every_flipped_byte_is_noticed(gateway: &Gateway, file: &Path, anchor: &str) -> Result<()> {
    let proof = std::fs::read(file)?;
    let bad = gateway.dir.path().join("bad.proof");
    let mut failed = std::collections::BTreeSet::new();
    for at in (0..proof.len()).step_by(20) {
        let mut bytes = proof.clone();
        bytes[at] ^= 0x01;
        std::fs::write(&bad, &bytes)?;
        let output = gateway.ctl(&["verify", text(&bad)?, "--anchor", anchor, "--json"])?;
        ensure!(output.status.code() == Some(7), "byte {at}: {}", output.status);
        let verdict: Value = serde_json::from_slice(&output.stdout)?;
        let name = verdict["failed"].as_str().with_context(|| format!("byte {at}: no name"))?;
        failed.insert(name.to_owned());
    }
    assert!(failed.len() > 2, "all fail the same check: {failed:?}");
    Ok(())
}

#[test]
fn noise_on_the_line_loses_nothing() -> Result<()> {
    let options = ["--count", "4", "--interval", "0.1", "--garbage", "--truncate", "--oversize"];
    let paired = paired(&[&options[..], &["--replay"]].concat())?;
    let (code, lines) = paired.peer.finish()?;
    assert_eq!(code, Some(0), "a replay was answered: {lines:?}");
    assert!(lines.iter().any(|line| line == "replay refused"), "{lines:?}");
    assert_eq!(counters(&paired.gateway, 4)?, acknowledged(&lines));
    paired.gateway.wait_for("the replay to be counted", |gateway| refused(gateway, "replay") == 1)
}

#[test]
fn a_counter_jump_shows_as_a_gap() -> Result<()> {
    let paired = paired(&["--count", "3", "--interval", "0.1", "--jump", "5"])?;
    let (code, lines) = paired.peer.finish()?;
    assert_eq!(code, Some(0), "{lines:?}");
    assert_eq!(acknowledged(&lines), [1, 7, 8]);
    paired.gateway.wait_for("the gap on the record", |gateway| {
        let shown = gateway.ctl_json(&["sensor", "show", "cellar"]).unwrap_or_default();
        shown["highest"] == 8 && shown["gaps"] == serde_json::json!([[2, 6]])
    })?;
    let people = paired.gateway.ctl_code(0, &["sensor", "show", "cellar"])?;
    assert!(people.contains("Missing counters") && people.contains("2–6"), "{people}");
    assert_eq!(counters(&paired.gateway, 3)?, [1, 7, 8]);
    Ok(())
}

#[test]
fn a_wrong_key_gets_no_answer_after_pairing() -> Result<()> {
    let paired = paired(&["--count", "1"])?;
    let (code, lines) = paired.peer.finish()?;
    assert_eq!(code, Some(0), "{lines:?}");
    let port = paired.cable.sensor();
    let options = ["--wrong-key", "--patience", "3"];
    let (code, lines) = paired.sensor.switch_on(port, &options)?.finish()?;
    assert_eq!(code, Some(0), "a sensor with another key was answered: {lines:?}");
    ensure!(refused(&paired.gateway, "wrong-key") > 0, "it is not counted");
    assert_eq!(counters(&paired.gateway, 1)?, [1]);
    Ok(())
}

/// What was measured must be on record once; the last one may be there before its sensor knows.
pub(crate) fn each_value_is_there_once(gateway: &Gateway, lines: &[String]) -> Result<()> {
    let done =
        lines.iter().filter(|line| line.starts_with("acknowledged ") || *line == "settled").count();
    ensure!(done > 0, "nothing was acknowledged: {lines:?}");
    let expected = |at: usize| 21.5 + 0.5 * f64::from(u32::try_from(at).unwrap_or(0));
    let known = listed(gateway)?;
    let total = known.len();
    ensure!(total == done || total == done + 1, "{total} readings, {done} acknowledged");
    let mut values: Vec<f64> =
        known.iter().filter_map(|reading| reading["values"][0]["value"].as_f64()).collect();
    values.sort_by(f64::total_cmp);
    let all: Vec<f64> = (0..total).map(expected).collect();
    assert_eq!(values, all, "{}", lines.join("\n"));
    let key = |reading: &Value| [&reading["epoch"], &reading["counter"]].map(Value::as_u64);
    let shown = tail(gateway, total)?;
    assert_eq!(
        shown.iter().map(key).collect::<Vec<_>>(),
        known.iter().map(key).collect::<Vec<_>>(),
        "the command line shows something else"
    );
    gateway.wait_for("all to be on the record", |gateway| {
        let status = gateway.ctl_json(&["status"]).unwrap_or_default();
        status["readings_committed"] == total && status["readings_unrecorded"] == 0
    })
}

#[test]
fn a_killed_daemon_loses_and_doubles_nothing() -> Result<()> {
    let mut paired = paired(&["--count", "0", "--interval", "0.05"])?;
    for round in 1..=3 {
        paired.peer.wait_count("acknowledged ", 6 * round)?;
        paired.gateway.kill()?;
        paired.gateway.start()?;
    }
    paired.peer.wait_count("acknowledged ", 24)?;
    let lines = paired.peer.stop();
    each_value_is_there_once(&paired.gateway, &lines)?;
    let shown = paired.gateway.ctl_json(&["sensor", "show", "cellar"])?;
    assert_eq!(shown["id"], paired.id.as_str());
    assert_eq!(shown["standing"], "active");
    Ok(())
}

#[test]
fn a_pulled_cable_comes_back() -> Result<()> {
    let mut paired = paired(&["--count", "0", "--interval", "0.02", "--reopen"])?;
    let folder = paired.gateway.dir.path().to_owned();
    for round in 1..=2 {
        paired.peer.wait_count("acknowledged ", 8 * round)?;
        // The beginning of a frame, without its end.
        let frame_begins = [&[0, 0x20, 0x14][..], &[0xA5; 17]].concat();
        let port = std::fs::OpenOptions::new().write(true).open(paired.cable.sensor());
        port?.write_all(&frame_begins)?;
        paired.cable.pull()?;
        paired.gateway.wait_for("the port to be missed", |gateway| {
            let shown = gateway.ctl_json(&["sensor", "show", "cellar"]).unwrap_or_default();
            shown["link_state"].as_str().is_some_and(|state| state.starts_with("waiting"))
        })?;
        paired.cable = Cable::plug(&folder, "cable")?;
    }
    paired.peer.wait_count("acknowledged ", 24)?;
    let lines = paired.peer.stop();
    assert!(lines.iter().any(|line| line == "gone"), "{lines:?}");
    each_value_is_there_once(&paired.gateway, &lines)
}

#[test]
fn a_sensor_is_renamed_forgotten_and_paired_again() -> Result<()> {
    let paired = paired(&["--count", "2", "--interval", "0.1"])?;
    let (code, lines) = paired.peer.finish()?;
    assert_eq!(code, Some(0), "{lines:?}");
    let gateway = &paired.gateway;
    gateway.ctl_code(0, &["sensor", "rename", "cellar", "attic"])?;
    gateway.ctl_code(5, &["sensor", "show", "cellar"])?;
    assert_eq!(gateway.ctl_json(&["sensor", "show", "attic"])?["id"], paired.id.as_str());
    let history = gateway.ctl_json(&["sensor", "history", "attic"])?;
    let entries = history.as_array().context("a list")?.len();
    assert!(entries > 0, "{history}");
    gateway.ctl_code(0, &["sensor", "forget", "attic", "--yes"])?;
    assert_eq!(gateway.ctl_json(&["sensor", "list"])?, serde_json::json!([]));
    gateway.ctl_code(5, &["sensor", "show", "attic"])?;

    let again = paired.sensor.switch_on(paired.cable.sensor(), &["--count", "1"])?;
    let described = paired.sensor.pair(gateway, paired.cable.gateway(), "again")?;
    assert_eq!(described["id"], paired.id.as_str(), "the same identity is the same node");
    let (code, lines) = again.finish()?;
    assert_eq!(code, Some(0), "{lines:?}");
    let described = gateway.ctl_json(&["sensor", "show", "again"])?;
    assert_eq!(described["standing"], "active");
    Ok(())
}
