//! The founder of an unattested site moves to a hardware TPM (another software TPM, certified by a
//! maker that the site trusts, on a site that takes it for a chip) and keeps what it has recorded.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ledger::store::Reader;
use serde_json::Value;
use tests::gateway::{Gateway, PATIENCE, text};
use tests::network::Place;
use tests::sensor::Load;
use tests::site::{Links, Plan, Site};
use tests::swtpm::Swtpm;
use tests::tpm_maker::Ek;

use crate::store::{committed, wait_state};

/// An unattested founder with a sensor, and beside it a TPM of the site's maker.
fn unattested(gateways: &[Ek]) -> Result<(Site, Swtpm)> {
    let site = Site::founded(Plan { tpms: gateways, links: Links::Loopback, insecure: false })?;
    let chip = Swtpm::made_by(&site.maker, Ek::Both, &site.dir().join("chip"), Place::Here)?;
    Ok((site, chip))
}

/// Has the site take software TPMs of its maker for chips.
fn take_for_chips(site: &Site) -> Result<()> {
    site.policy(&["insecure_software_tpm_sites=true"])?;
    site.trust(&site.maker.anchors())
}

/// The command with the operator's key at hand.
fn upgrade(site: &Site, tcti: &str, code: i32) -> Result<String> {
    let (key, passphrase) = site.gateways[0].operator_key();
    let key = ["--operator-key", text(&key)?, "--passphrase-file", text(&passphrase)?, "--yes"];
    let command = ["identity", "upgrade", "--tpm", tcti];
    site.gateways[0].ctl_code(code, &[&command[..], &key].concat())
}

/// Exports a reading and verifies it offline; what the verdict says.
fn proof(gateway: &Gateway, which: &[&str], code: &str) -> Result<String> {
    let file = gateway.dir.path().join("reading.proof");
    let export = [&["reading", "export", "cellar", "--out", text(&file)?], which].concat();
    gateway.ctl_code(0, &export)?;
    gateway.ctl_code(0, &["verify", text(&file)?, "--anchor", code])
}

fn gateway_of(status: &Value) -> Result<String> {
    Ok(status["gateway"].as_str().context("a gateway")?.to_owned())
}

#[test]
fn an_unattested_founder_moves_to_a_chip_with_its_history() -> Result<()> {
    let (mut site, chip) = unattested(&[Ek::Both; 2])?;
    let (code, old) = (site.code(0)?, site.id(0)?);
    let load = Load::counting(&site.gateways[0], "cellar", "0.1")?;
    load.wait_more(5)?;
    let kept = site.dir().join("before.proof");
    let export = ["reading", "export", "cellar", "--last", "--out", text(&kept)?];
    site.gateways[0].ctl_code(0, &export)?;
    take_for_chips(&site)?;

    let words = upgrade(&site, &chip.tcti(), 0)?;
    for step in ["1 of 4", "2 of 4", "for ever by", "3 of 4", "4 of 4", "set tpm.tcti"] {
        ensure!(words.contains(step), "no {step} in {words}");
    }
    let status = wait_state(&site.gateways[0], "running")?;
    let new = gateway_of(&status)?;
    ensure!(new != old && status["attestation"] == "unverified", "{status}");
    let standing = site.gateways[0].ctl_json(&["gateway", "show", &old])?;
    ensure!(standing["standing"] == "candidate", "{standing}");
    ensure!(standing["reason"].as_str().is_some_and(|why| why.contains(&new)), "{standing}");

    // The old TPM is gone for good, and the configuration still names it.
    site.gateways[0].stop()?;
    site.gateways[0].tpm = chip;
    site.gateways[0].start()?;
    let status = wait_state(&site.gateways[0], "running")?;
    ensure!(gateway_of(&status)? == new, "{status}");
    ensure!(status["warnings"].to_string().contains("set tpm.tcti"), "{status}");
    site.gateways[0].stop()?;
    site.gateways[0].configure("")?;
    site.gateways[0].start()?;
    let status = wait_state(&site.gateways[0], "running")?;
    ensure!(!status["warnings"].to_string().contains("set tpm.tcti"), "{status}");

    // What was recorded before says what it was, and the sensor's session goes on.
    let recorded = committed(&site.gateways[0])?;
    load.wait_more(5)?;
    site.gateways[0].wait_for("readings on the record", |gateway| {
        committed(gateway).is_ok_and(|now| now >= recorded + 5)
    })?;
    let verify = ["verify", text(&kept)?, "--anchor", &code];
    let verdict = site.gateways[0].ctl_code(0, &verify)?;
    ensure!(verdict.contains(&old) && verdict.contains("UNATTESTED"), "{verdict}");
    let verdict = proof(&site.gateways[0], &["--counter", "1:1"], &code)?;
    ensure!(verdict.contains(&old) && verdict.contains("UNATTESTED"), "{verdict}");
    ensure!(verdict.contains(&format!("replaced by {new}")), "{verdict}");
    let verdict = proof(&site.gateways[0], &["--last"], &code)?;
    ensure!(verdict.contains(&new) && verdict.contains("NOT VERIFIED"), "{verdict}");
    ensure!(site.figure(0, "readings_unrecorded") == 0, "readings are lost to the record");

    // The second gateway attests the founder, live.
    site.admit(1)?;
    site.gateways[0].wait_for("the founder to be attested", |gateway| {
        let status = gateway.ctl_json(&["status"]).unwrap_or_default();
        status["attestation"] == "attested"
    })?;
    let verdict = proof(&site.gateways[0], &["--last"], &code)?;
    ensure!(verdict.contains("attested by other gateways"), "{verdict}");
    drop(load);
    site.gateways.iter_mut().try_for_each(|gateway| gateway.stop())
}

#[test]
fn what_is_no_upgrade_is_refused_in_words() -> Result<()> {
    let (mut site, chip) = unattested(&[Ek::Both; 2])?;
    let own = site.gateways[0].tpm.tcti();
    let refused = |site: &Site, tcti: &str, code: i32, word: &str| -> Result<()> {
        let words = upgrade(site, tcti, code)?;
        ensure!(words.contains(word), "no `{word}` in {words}");
        Ok(())
    };
    refused(&site, "/dev/tpmrm0", 1, "write device:/dev/tpmrm0")?;
    refused(&site, "device:/dev/no-such-tpm", 1, "no TPM at /dev/no-such-tpm")?;
    refused(&site, &chip.tcti(), 4, "says that it is software")?;
    take_for_chips(&site)?;
    refused(&site, &own, 4, "the one that this gateway's identity is in")?;
    // The same chip behind another address.
    let (state, copy) = (site.gateways[0].dir.path().join("tpm-state"), site.dir().join("copy"));
    ensure!(Command::new("cp").arg("-a").args([&state, &copy]).status()?.success(), "cp");
    let copy = Swtpm::with_state(&copy, Place::Here)?;
    refused(&site, &copy.tcti(), 4, "the one that this gateway's identity is in")?;
    drop(copy);
    // An act of the operator about keys that are not here.
    let (key, passphrase) = site.gateways[0].operator_key();
    let id = site.id(0)?;
    let act = ["operator", "act", "upgrade", &format!("node={id}"), "reason=why", "--yes"];
    let key = ["--operator-key", text(&key)?, "--passphrase-file", text(&passphrase)?];
    let words = site.gateways[0].ctl_code(4, &[&act[..], &key].concat())?;
    ensure!(words.contains("are not on this gateway"), "{words}");

    upgrade(&site, &chip.tcti(), 0)?;
    let other = Swtpm::made_by(&site.maker, Ek::Both, &site.dir().join("other"), Place::Here)?;
    refused(&site, &other.tcti(), 4, "not unattested")?;
    site.admit(1)?;
    refused(&site, &other.tcti(), 4, "2 gateways keep this record")?;
    site.gateways.iter_mut().try_for_each(|gateway| gateway.stop())
}

/// The operator key is elsewhere, and the daemon is killed after each step.
#[test]
fn a_kill_after_each_step_leaves_the_old_gateway_or_the_new_one() -> Result<()> {
    let (mut site, chip) = unattested(&[Ek::Both])?;
    take_for_chips(&site)?;
    let (old, load) = (site.id(0)?, Load::counting(&site.gateways[0], "cellar", "0.1")?);
    let file = site.dir().join("upgrade.request");
    let request = ["identity", "upgrade", "--tpm", &chip.tcti(), "--request", text(&file)?];

    // Killed while the keys are made, at moments that are not chosen.
    for moment in 0..4_u32 {
        let _asking = site.gateways[0].ctl_peer(&request)?;
        std::thread::sleep(Duration::from_millis(80) * moment);
        site.gateways[0].kill()?;
        site.gateways[0].start()?;
        wait_state(&site.gateways[0], "running")?;
        ensure!(site.id(0)? == old, "moved without the operator");
    }
    site.gateways[0].ctl_code(0, &request)?;
    site.gateways[0].kill()?;
    site.gateways[0].start()?;
    wait_state(&site.gateways[0], "running")?;
    ensure!(site.id(0)? == old, "moved without the operator");

    let (key, passphrase) = site.gateways[0].operator_key();
    let key = ["--operator-key", text(&key)?, "--passphrase-file", text(&passphrase)?, "--yes"];
    let sign = ["operator", "sign", text(&file)?];
    let words = site.gateways[0].ctl_code(0, &[&sign[..], &key].concat())?;
    ensure!(words.contains("Replace") && words.contains(&old), "{words}");

    // Killed as soon as the record holds the act.
    let node = site.node(0)?;
    let apply = ["identity", "upgrade", "--apply", text(&file)?];
    let _applying = site.gateways[0].ctl_peer(&apply)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let gateway = Reader::open(&site.gateways[0].data_dir())?.gateway(&node)?;
        if gateway.is_some_and(|gateway| gateway.replaced_by.is_some()) {
            break;
        }
        if Instant::now() > deadline {
            bail!("the act is not recorded:\n{}", site.gateways[0].log());
        }
    }
    site.gateways[0].kill()?;
    let settled = !site.gateways[0].data_dir().join("upgrade").exists();
    println!("killed {} the files were moved", if settled { "after" } else { "before" });
    site.gateways[0].start()?;
    let status = wait_state(&site.gateways[0], "running")?;
    ensure!(gateway_of(&status)? != old, "{status}");
    ensure!(!site.gateways[0].data_dir().join("upgrade").exists(), "it is still to be moved");
    site.gateways[0].make_block()?;

    // The act is good once.
    site.gateways[0].ctl_code(4, &apply)?;
    load.wait_more(5)?;
    site.gateways[0].wait_for("readings on the record", |gateway| {
        committed(gateway).is_ok_and(|now| now > 0)
    })?;
    drop(load);
    ensure!(site.figure(0, "readings_unrecorded") == 0, "readings are lost to the record");
    site.gateways[0].stop()
}
