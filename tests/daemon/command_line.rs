//! `gatewayctl` on a real gateway: exit codes, stable keys, acts of the operator, and the end.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::gateway::{Gateway, PATIENCE, text};
use tests::peer::Peer;
use tests::pty::Cable;
use tests::sensor::SerialSensor;

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().map(|object| object.keys().map(String::as_str).collect()).unwrap_or_default()
}

fn has_keys(value: &Value, expected: &[&str]) -> Result<()> {
    let present = keys(value);
    for key in expected {
        ensure!(present.contains(key), "`{key}` is missing: {present:?}");
    }
    Ok(())
}

#[test]
fn without_a_daemon_commands_end_with_3_and_say_what_to_do() -> Result<()> {
    let mut gateway = Gateway::with_site()?;
    gateway.stop()?;
    for arguments in [&["status"][..], &["sensor", "list"], &["ledger", "head"], &["site", "card"]]
    {
        let words = gateway.ctl_code(3, arguments)?;
        ensure!(words.contains("systemctl start gatewayd"), "{words}");
    }
    Ok(())
}

#[test]
fn before_there_is_a_site_commands_say_so() -> Result<()> {
    let gateway = Gateway::start_new()?;
    let status = gateway.ctl_json(&["status"])?;
    assert_eq!(status["state"], "uninitialised");
    assert_eq!(status.get("site"), None, "what is unknown is left out");
    for arguments in [&["ledger", "head"][..], &["site", "show"], &["sensor", "list"]] {
        let words = gateway.ctl_code(1, arguments)?;
        ensure!(words.contains("gatewayctl site init"), "{words}");
    }
    // An attested site is not founded on a software TPM.
    let (key, passphrase) = gateway.operator_key();
    std::fs::write(&passphrase, "correct horse battery staple\n")?;
    let words = gateway.ctl_code(
        4,
        &[
            "site",
            "init",
            "--name",
            "s",
            "--operator-key",
            text(&key)?,
            "--passphrase-file",
            text(&passphrase)?,
        ],
    )?;
    ensure!(words.contains("--unattested"), "{words}");
    ensure!(!key.exists(), "a key that belongs to no site is left behind");
    gateway.init_site()?;
    // It is never overwritten.
    let other = gateway.dir.path().join("other.pem");
    let words = gateway.ctl_code(
        4,
        &[
            "site",
            "init",
            "--name",
            "s",
            "--unattested",
            "--operator-key",
            text(&other)?,
            "--passphrase-file",
            text(&passphrase)?,
        ],
    )?;
    ensure!(words.contains("never overwritten") && !other.exists(), "{words}");
    Ok(())
}

#[test]
fn machines_find_the_same_keys_always() -> Result<()> {
    let gateway = Gateway::with_site()?;
    let status = gateway.ctl_json(&["status"])?;
    has_keys(
        &status,
        &[
            "version",
            "state",
            "reasons",
            "warnings",
            "site",
            "gateway",
            "attestation",
            "height",
            "era",
            "voters",
            "members",
            "sensors",
            "presence",
            "readings_waiting",
            "readings_committed",
            "strangers",
            "clock",
            "tpm",
            "tpm_software",
        ],
    )?;
    assert_eq!(status["attestation"], "unattested");
    ensure!(status["warnings"].to_string().to_lowercase().contains("software"), "{status}");
    let site = gateway.ctl_json(&["site", "show"])?;
    has_keys(
        &site,
        &["name", "chain_id", "site_code", "height", "genesis_code", "gateway", "operator_key"],
    )?;
    ensure!(site["site_code"].as_str().is_some_and(|code| code.starts_with("gws1")), "{site}");
    gateway.make_block()?;
    let head = gateway.ctl_json(&["ledger", "head"])?;
    has_keys(&head, &["height", "era", "hash", "parent", "state_root", "signed", "transactions"])?;
    let height = head["height"].to_string();
    let again = gateway.ctl_json(&["ledger", "show", &height])?;
    assert_eq!(again["hash"], head["hash"]);
    let identity = gateway.ctl_json(&["identity", "show"])?;
    has_keys(&identity, &["gateway", "tpm", "software", "ek_digest", "ak_name", "identity_key"])?;
    assert_eq!(identity["software"], true);
    let doctor = gateway.ctl_json(&["doctor"])?;
    ensure!(doctor.as_array().is_some_and(|checks| !checks.is_empty()), "{doctor}");
    Ok(())
}

#[test]
fn what_is_not_there_ends_with_5_and_nonsense_with_2() -> Result<()> {
    let gateway = Gateway::with_site()?;
    let proof = gateway.dir.path().join("p");
    let proof = text(&proof)?;
    for arguments in [
        &["sensor", "show", "nobody"][..],
        &["sensor", "history", "nobody"],
        &["sensor", "forget", "nobody", "--yes"],
        &["sensor", "rename", "nobody", "somebody"],
        &["reading", "export", "nobody", "--out", proof],
        &["ledger", "show", "1000000"],
    ] {
        gateway.ctl_code(5, arguments)?;
    }
    let long = "x".repeat(10_000);
    for arguments in [
        &["prove", "ln1nonsense", "--out", proof][..],
        &["operator", "act", "dance", "--request", proof],
        &["site", "policy", "set", "colour=red", "--request", proof],
        &["site", "policy", "set", "batch_interval_ms=-1", "--request", proof],
        &["pair", "serial", "not/absolute", "--line", "/dev/null"],
        &["ledger", "show", "-1"],
        &["sensor", "history", "x", "--limit", "0"],
        &["verify", proof, "--anchor", &long],
        &["frobnicate"],
    ] {
        gateway.ctl_code(2, arguments)?;
    }
    Ok(())
}

#[test]
fn proofs_tell_presence_and_absence() -> Result<()> {
    let gateway = Gateway::with_site()?;
    gateway.make_block()?;
    let site = gateway.ctl_json(&["site", "show"])?;
    let anchor = site["site_code"].as_str().context("a site code")?;
    let own = site["gateway"].as_str().context("an ID")?;
    let file = gateway.dir.path().join("own.proof");
    let file = text(&file)?;
    gateway.ctl_code(0, &["prove", own, "--out", file])?;
    let verdict = gateway.ctl_json(&["verify", file, "--anchor", anchor])?;
    assert_eq!(verdict["valid"], true);
    ensure!(verdict["statements"].to_string().contains(own), "{verdict}");
    // Another site's proofs do not hold here.
    let other = Gateway::with_site()?;
    let foreign = other.ctl_json(&["site", "show"])?;
    let foreign_code = foreign["site_code"].as_str().context("a site code")?;
    let words = gateway.ctl_code(7, &["verify", file, "--anchor", foreign_code])?;
    ensure!(words.contains("NOT VALID"), "{words}");
    // Its gateway is not on this record.
    let stranger = foreign["gateway"].as_str().context("an ID")?;
    gateway.ctl_code(0, &["prove", stranger, "--out", file])?;
    let verdict = gateway.ctl_json(&["verify", file, "--anchor", anchor])?;
    assert_eq!(verdict["valid"], true);
    let said = verdict["statements"].to_string();
    ensure!(said.contains(stranger) && said.contains("was ever registered"), "{said}");
    Ok(())
}

#[test]
fn the_operator_acts_in_one_step_and_in_three() -> Result<()> {
    let gateway = Gateway::with_site()?;
    let (key, passphrase) = gateway.operator_key();
    let (key, passphrase) = (text(&key)?, text(&passphrase)?);
    let signing = ["--operator-key", key, "--passphrase-file", passphrase, "--yes"];
    let policy = |name: &str| -> Result<String> {
        let site = gateway.ctl_json(&["site", "show"])?;
        Ok(site["policy"][name].as_str().context("a policy")?.to_owned())
    };
    let act = [&["site", "policy", "set", "registrations_per_hour=77"], &signing[..]].concat();
    let done = gateway.ctl_json(&act)?;
    ensure!(done["height"].as_u64().is_some_and(|height| height > 0), "{done}");
    ensure!(policy("registrations_per_hour")?.contains("77"), "the policy is as before");

    let file = gateway.dir.path().join("act.request");
    let file = text(&file)?;
    let step = |way: &str| {
        ["site", "policy", "set", "registrations_per_hour=88", way, file].map(String::from)
    };
    let run = |way: &str, code: i32| -> Result<String> {
        let arguments = step(way);
        gateway.ctl_code(code, &arguments.each_ref().map(String::as_str))
    };
    let words = run("--request", 0)?;
    ensure!(words.contains("operator sign"), "it does not say what is next: {words}");
    run("--apply", 2)?;
    let sign = [&["operator", "sign", file], &signing[..]].concat();
    gateway.ctl_code(0, &sign)?;
    run("--apply", 0)?;
    ensure!(policy("registrations_per_hour")?.contains("88"), "the policy is as before");
    // The same act again is a replay.
    run("--apply", 4)?;

    // Another key is not the operator's.
    let other = Gateway::with_site()?;
    let (foreign, _) = other.operator_key();
    let foreign = ["--operator-key", text(&foreign)?, "--passphrase-file", passphrase, "--yes"];
    let act = [&["site", "policy", "set", "registrations_per_hour=99"], &foreign[..]].concat();
    gateway.ctl_code(4, &act)?;
    ensure!(policy("registrations_per_hour")?.contains("88"), "a stranger changed the policy");
    Ok(())
}

#[test]
fn a_suspended_sensor_is_pardoned() -> Result<()> {
    let gateway = Gateway::with_site()?;
    let cable = Cable::plug(gateway.dir.path(), "cable")?;
    let sensor = SerialSensor::new(gateway.dir.path(), "one")?;
    let peer = sensor.switch_on(cable.sensor(), &["--count", "1"])?;
    let described = sensor.pair(&gateway, cable.gateway(), "one")?;
    peer.finish()?;
    let (key, passphrase) = gateway.operator_key();
    let id = described["id"].as_str().context("an ID")?;
    let node = format!("node={id}");
    let signing = ["--operator-key", text(&key)?, "--passphrase-file", text(&passphrase)?, "--yes"];
    for (kind, standing) in [("suspend", "suspended"), ("pardon", "active")] {
        let act = ["operator", "act", kind, &node, "reason=a test of it"];
        gateway.ctl_json(&[&act[..], &signing].concat())?;
        let shown = gateway.ctl_json(&["sensor", "show", "one"])?;
        assert_eq!(shown["standing"], standing);
    }
    let history = gateway.ctl_json(&["sensor", "history", "one"])?.to_string();
    ensure!(history.contains("a test of it"), "the reason is not told: {history}");
    Ok(())
}

#[test]
fn monitor_shows_what_happens_until_the_daemon_leaves() -> Result<()> {
    let mut gateway = Gateway::with_site()?;
    let monitor = gateway.ctl_peer(&["monitor", "--json"])?;
    let (key, passphrase) = gateway.operator_key();
    let act = [
        "site",
        "policy",
        "set",
        "registrations_per_hour=50",
        "--operator-key",
        text(&key)?,
        "--passphrase-file",
        text(&passphrase)?,
        "--yes",
    ];
    // It may not have subscribed yet when the first block is made.
    gateway.wait_for("a block", |gateway| {
        gateway.ctl_code(0, &act).is_ok()
            && monitor.lines().iter().any(|line| line.contains("committed"))
    })?;
    gateway.stop()?;
    let (code, lines) = monitor.finish()?;
    assert_eq!(code, Some(3), "{lines:?}");
    let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    ensure!(events.into_iter().any(|event| event["event"] == "committed"), "{lines:?}");
    Ok(())
}

#[test]
fn sigterm_ends_it_well_while_everything_is_busy() -> Result<()> {
    let mut gateway = Gateway::with_site()?;
    let cable = Cable::plug(gateway.dir.path(), "cable")?;
    let sensor = SerialSensor::new(gateway.dir.path(), "one")?;
    let peer = sensor.switch_on(cable.sensor(), &["--count", "0", "--interval", "0.01"])?;
    sensor.pair(&gateway, cable.gateway(), "one")?;
    let other = SerialSensor::new(gateway.dir.path(), "two")?;
    let spare = Cable::plug(gateway.dir.path(), "spare")?;
    let window = gateway.ctl_peer(&[
        "pair",
        "serial",
        text(spare.gateway())?,
        "--key-file",
        text(other.key_file())?,
    ])?;
    window.wait_line("waiting:")?;
    peer.wait_count("acknowledged ", 5)?;
    let begun = Instant::now();
    gateway.stop()?;
    ensure!(begun.elapsed() < PATIENCE / 4, "it took {:?}", begun.elapsed());
    let (code, lines) = window.finish()?;
    ensure!(code.is_some_and(|code| code != 0), "{lines:?}");
    ensure!(!gateway.log().contains("panicked"), "{}", gateway.log());
    gateway.start()?;
    let listed = gateway.ctl_json(&["sensor", "list"])?;
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    assert_eq!(listed[0]["name"], json!("one"));
    Ok(())
}

#[test]
fn two_daemons_do_not_share_a_folder() -> Result<()> {
    let gateway = Gateway::with_site()?;
    gateway.make_block()?;
    let mut second = std::process::Command::new(tests::gateway::binary("gatewayd")?);
    second.arg("--config").arg(gateway.config()).env("TSS2_LOG", "all+NONE");
    let second = Peer::start(&mut second, "gatewayd")?;
    // It waits, says why, and touches nothing.
    second.wait_line("another gatewayd works on this ledger")?;
    second.wait_line("another process holds org.gatewayd.Gateway1")?;
    gateway.make_block()?;
    assert_eq!(gateway.ctl_json(&["status"])?["state"], "running");
    Ok(())
}
