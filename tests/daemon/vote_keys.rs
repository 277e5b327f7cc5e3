//! New vote keys on request: what the record says, what is destroyed, and kills between the steps.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::gateway::{Gateway, text};
use tests::sensor::Load;
use tests::site::{Links, Plan, Site as Several};
use tests::tpm_maker::Ek;

use crate::store::{Site, committed, wait_state};

/// The vote key that this gateway works with, which must be the one that the record names.
fn vote_key(gateway: &Gateway) -> Result<String> {
    let own = gateway.ctl_json(&["identity", "show"])?["vote_key"].clone();
    let recorded = gateway.ctl_json(&["gateway", "show", "self"])?["vote_key"].clone();
    ensure!(own == recorded, "it works with {own}, the record names {recorded}");
    Ok(own.as_str().context("a vote key")?.to_owned())
}

#[test]
fn a_new_vote_key_is_recorded_and_the_old_one_is_destroyed() -> Result<()> {
    let mut site = Site::with_sensor(&["--count", "0", "--interval", "0.1", "--reopen"])?;
    site.peer.wait_count("acknowledged", 3)?;
    let file = site.gateway.dir.path().join("before.proof");
    let export = ["reading", "export", "cellar", "--last", "--out", text(&file)?];
    site.gateway.ctl_code(0, &export)?;
    let card = site.gateway.ctl_json(&["site", "card"])?;
    let code = card["site_code"].as_str().context("site code")?;
    let (old, sealed) = (vote_key(&site.gateway)?, site.gateway.data_dir().join("vote.sealed"));
    let before = std::fs::read(&sealed)?;

    let done = site.gateway.ctl_json(&["identity", "rotate"])?;
    ensure!(done["old_vote_key"] == old && done["vote_key"] != old, "{done}");
    let new = vote_key(&site.gateway)?;
    ensure!(done["vote_key"] == new, "{done}: {new}");
    ensure!(std::fs::read(&sealed)? != before, "the old key is still on the disk");
    ensure!(!site.gateway.data_dir().join("vote-next.sealed").exists(), "it waits for nothing");
    let words = site.gateway.ctl_code(0, &["identity", "rotate"])?;
    ensure!(words.contains(&new) && words.contains("the old one is destroyed"), "{words}");

    // The record goes on under the new key, and what was recorded before stays provable.
    let recorded = committed(&site.gateway)?;
    site.gateway.wait_for("readings on the record", |gateway| {
        committed(gateway).is_ok_and(|now| now > recorded)
    })?;
    let verify = ["verify", text(&file)?, "--anchor", code];
    let verdict = site.gateway.ctl_code(0, &verify)?;
    ensure!(verdict.contains("VALID"), "{verdict}");
    site.gateway.ctl_code(0, &export)?;
    site.gateway.ctl_code(0, &verify)?;
    site.gateway.stop()
}

/// A crash after the new key was made, and one after it was recorded and before the disk has it in
/// its place: the record says which key counts.
#[test]
fn a_kill_between_two_steps_leaves_the_key_that_the_record_names() -> Result<()> {
    let mut gateway = Gateway::with_site()?;
    let old = vote_key(&gateway)?;
    let [current, next] = ["vote.sealed", "vote-next.sealed"].map(|it| gateway.data_dir().join(it));

    // The key is made, and the TPM does not come to certifying it.
    gateway.tpm.hang(true)?;
    let _asking = gateway.ctl_peer(&["identity", "rotate"])?;
    gateway.wait_for("the next key on the disk", |_| next.exists())?;
    gateway.kill()?;
    gateway.tpm.hang(false)?;
    gateway.tpm.kill();
    gateway.tpm.start()?;
    gateway.start()?;
    wait_state(&gateway, "running")?;
    ensure!(vote_key(&gateway)? == old, "a key that the record does not name");
    gateway.make_block()?;
    let both = (std::fs::read(&current)?, std::fs::read(&next)?);

    // The record has taken it, and the disk has both.
    gateway.ctl_json(&["identity", "rotate"])?;
    let new = vote_key(&gateway)?;
    gateway.kill()?;
    std::fs::write(&current, both.0)?;
    std::fs::write(&next, both.1)?;
    gateway.start()?;
    wait_state(&gateway, "running")?;
    ensure!(vote_key(&gateway)? == new && new != old, "the key of before");
    ensure!(!next.exists(), "it still waits");
    gateway.make_block()?;
    gateway.stop()
}

#[test]
fn a_kill_at_any_moment_of_a_rotation_leaves_a_gateway_that_signs() -> Result<()> {
    /// Kills, each a little later after the request.
    const KILLS: u64 = 8;
    const LATER: Duration = Duration::from_millis(60);
    let mut gateway = Gateway::with_site()?;
    for kill in 0..KILLS {
        let _asking = gateway.ctl_peer(&["identity", "rotate"])?;
        // A moment, not a condition: whatever is under way then is what is tested.
        std::thread::sleep(LATER * u32::try_from(kill)?);
        gateway.kill()?;
        gateway.start()?;
        wait_state(&gateway, "running")?;
        vote_key(&gateway).with_context(|| format!("kill {kill}"))?;
        gateway.make_block().with_context(|| format!("kill {kill}"))?;
    }
    gateway.ctl_json(&["identity", "rotate"])?;
    vote_key(&gateway)?;
    gateway.stop()
}

/// Each of four voters in turn, under load: the others go on with it, and whoever holds the card
/// of the founding day follows all of its keys.
#[test]
fn four_voters_rotate_one_after_another() -> Result<()> {
    let mut site =
        Several::founded(Plan { tpms: &[Ek::Both; 4], links: Links::Loopback, insecure: true })?;
    let first_code = site.code(0)?;
    site.grow()?;
    let load = Load::counting(&site.gateways[2], "cellar", "0.1")?;
    load.wait_more(5)?;
    for gateway in 0..4 {
        let done = site.gateways[gateway].ctl_json(&["identity", "rotate"])?;
        let height = done["height"].as_u64().context("height")?;
        site.wait_height(&[0, 1, 2, 3], height)?;
        vote_key(&site.gateways[gateway])?;
        site.wait_all("everybody to hear everybody", &[0, 1, 2, 3], |site, gateway| {
            site.figure(gateway, "connected") == 3 && site.figure(gateway, "voters") == 4
        })?;
    }
    load.wait_more(5)?;
    let height = site.commit(1)?;
    site.wait_height(&[0, 1, 2, 3], height)?;
    site.same_blocks(&[0, 1, 2, 3], height)?;
    let file = site.dir().join("reading.proof");
    let export = ["reading", "export", "cellar", "--last", "--out", text(&file)?];
    site.gateways[2].ctl_code(0, &export)?;
    site.gateways[1].ctl_code(0, &["verify", text(&file)?, "--anchor", &first_code])?;
    site.nothing_lost(2, load)
}
