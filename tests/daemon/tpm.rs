//! The TPM that is not there, goes, comes back, hangs, or is another one.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::gateway::{Gateway, text};
use tests::peer::Peer;
use tests::pty::Cable;
use tests::swtpm::Swtpm;

use crate::store::{
    Site, batches, committed, figure, height_on_disk, init, state, wait_recorded, wait_state,
};

#[test]
fn absent_at_start_it_is_waited_for() -> Result<()> {
    let mut gateway = Gateway::with_site()?;
    let name = gateway.ctl_json(&["status"])?["gateway"].clone();
    gateway.stop()?;
    gateway.tpm.kill();
    gateway.start()?;
    let status = wait_state(&gateway, "no-tpm")?;
    let reasons = status["reasons"].to_string();
    ensure!(reasons.contains("is its service running"), "no way out in {reasons}");
    // What exists is not founded again because the TPM is away.
    let (founded, words) = init(&gateway, "second.pem", &["--unattested"])?;
    ensure!(!founded, "a second site: {words}");
    gateway.tpm.start()?;
    let status = wait_state(&gateway, "running")?;
    ensure!(status["gateway"] == name, "another identity");
    gateway.stop()
}

#[test]
fn killed_and_restarted_under_the_daemon() -> Result<()> {
    let mut site = Site::with_sensor(&["--count", "0", "--interval", "0.1"])?;
    site.peer.wait_count("acknowledged", 3)?;
    site.gateway.tpm.kill();
    let status = wait_state(&site.gateway, "no-tpm")?;
    let reasons = status["reasons"].to_string();
    ensure!(reasons.contains("still served"), "{reasons}");
    let (acknowledged, recorded) = (site.peer.count("acknowledged"), committed(&site.gateway)?);
    site.peer.wait_count("acknowledged", acknowledged + 5)?;
    site.gateway.wait_for("readings on the record", |gateway| {
        committed(gateway).is_ok_and(|now| now > recorded)
    })?;
    site.gateway.tpm.start()?;
    let status = wait_state(&site.gateway, "running")?;
    ensure!(status["reasons"].as_array().is_some_and(Vec::is_empty), "{status}");
    site.gateway.stop()
}

#[test]
fn another_tpm_than_at_init_is_named_and_signs_nothing() -> Result<()> {
    let mut gateway = Gateway::with_site()?;
    gateway.stop()?;
    let before = height_on_disk(&gateway)?;
    let other = Swtpm::manufacture(&gateway.dir.path().join("other-tpm"))?;
    let own = std::mem::replace(&mut gateway.tpm, other);
    gateway.configure("")?;
    gateway.start()?;
    let status = wait_state(&gateway, "degraded")?;
    let reasons = status["reasons"].to_string();
    ensure!(reasons.contains("another TPM than at init"), "{reasons}");
    ensure!(status["height"].is_null(), "a record that is written: {status}");
    gateway.stop()?;
    assert_eq!(height_on_disk(&gateway)?, before);
    gateway.tpm = own;
    gateway.configure("")?;
    gateway.start()?;
    wait_state(&gateway, "running")?;
    gateway.stop()
}

#[test]
fn a_hung_one_hangs_nobody() -> Result<()> {
    let mut site = Site::with_sensor(&["--count", "0", "--interval", "0.2"])?;
    site.gateway.tpm.hang(true)?;
    let status = wait_state(&site.gateway, "no-tpm")?;
    let reasons = status["reasons"].to_string();
    ensure!(reasons.contains("has not answered"), "{reasons}");
    let acknowledged = site.peer.count("acknowledged");
    site.peer.wait_count("acknowledged", acknowledged + 3)?;
    site.gateway.stop().context("with a TPM that hangs")?;

    site.gateway.start().context("with a TPM that hangs")?;
    let status = wait_state(&site.gateway, "no-tpm")?;
    let reasons = status["reasons"].to_string();
    ensure!(reasons.contains("has not answered"), "{reasons}");
    site.gateway.stop().context("while a TPM is waited for")?;
    site.gateway.start()?;
    wait_state(&site.gateway, "no-tpm")?;
    site.gateway.tpm.hang(false)?;
    wait_state(&site.gateway, "running")?;
    site.gateway.stop()
}

#[test]
fn a_software_one_has_to_be_asked_for() -> Result<()> {
    let mut gateway = Gateway::start_new()?;
    let (founded, words) = init(&gateway, "operator.pem", &[])?;
    ensure!(!founded, "founded on a software TPM");
    ensure!(words.contains("software") && words.contains("--unattested"), "{words}");
    assert_eq!(state(&gateway), "uninitialised");
    let (key, _) = gateway.operator_key();
    ensure!(!key.exists(), "a key of no site is left behind");
    ensure!(!gateway.data_dir().join("genesis.cbor").exists(), "a record of no site");
    gateway.init_site()?;
    wait_state(&gateway, "running")?;
    gateway.stop()
}

#[test]
fn a_second_site_is_refused() -> Result<()> {
    let mut gateway = Gateway::with_site()?;
    let genesis = std::fs::read(gateway.data_dir().join("genesis.cbor"))?;
    let (founded, words) = init(&gateway, "second.pem", &["--unattested"])?;
    ensure!(!founded, "a second site");
    ensure!(words.contains("never overwritten"), "{words}");
    ensure!(!gateway.dir.path().join("second.pem").exists(), "a key of no site is left behind");
    assert_eq!(std::fs::read(gateway.data_dir().join("genesis.cbor"))?, genesis);
    assert_eq!(state(&gateway), "running");
    gateway.stop()
}

/// Prints a number on each line, ten a second.
const COUNTING: &str =
    "exec > \"$1\"; n=0; while :; do n=$((n + 1)); echo $n || exit; sleep 0.1; done";

#[test]
fn without_one_line_sources_are_buffered_and_recorded_later() -> Result<()> {
    let mut gateway = Gateway::with_site()?;
    let cable = Cable::plug(gateway.dir.path(), "line")?;
    let map = gateway.dir.path().join("map.toml");
    std::fs::write(&map, "format = \"value\"\n[[field]]\nname = \"n\"\n")?;
    let mut command = Command::new("sh");
    let device = Peer::start(command.args(["-c", COUNTING, "sh"]).arg(cable.sensor()), "sh")?;
    let pair = ["pair", "serial", text(cable.gateway())?, "--line", text(&map)?];
    gateway.ctl_json(&[&pair[..], &["--name", "line", "--window", "50", "--yes"]].concat())?;
    gateway.stop()?;
    let height = height_on_disk(&gateway)?;

    gateway.tpm.kill();
    let mut waiting = 0;
    for start in ["first", "second"] {
        gateway.start()?;
        let status = wait_state(&gateway, "no-tpm").context(start)?;
        gateway.wait_for("lines to be buffered", |gateway| {
            figure(gateway, "readings_waiting").is_ok_and(|now| now >= waiting + 5)
        })?;
        waiting = figure(&gateway, "readings_waiting")?;
        ensure!(status["gateway"].is_string(), "{status}");
        let status = wait_state(&gateway, "no-tpm")?;
        let reasons = status["reasons"].to_string();
        ensure!(reasons.contains("line sources are still buffered"), "{reasons}");
        gateway.stop()?;
        assert_eq!(height_on_disk(&gateway)?, height, "something was signed");
    }
    drop(device);
    gateway.tpm.start()?;
    gateway.start()?;
    wait_state(&gateway, "running")?;
    wait_recorded(&gateway)?;
    gateway.stop()?;
    ensure!(batches(&gateway, None)?.len() as u64 >= waiting, "readings are missing");
    Ok(())
}
