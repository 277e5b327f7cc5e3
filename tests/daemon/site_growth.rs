//! From one gateway to four: admission by the command line, voters, and a record that all keep.

use anyhow::{Context, Result, ensure};
use tests::gateway::text;
use tests::sensor::Load;
use tests::site::{Links, Plan, Site};
use tests::tpm_maker::Ek;

/// Chips of three kinds: what one verifier can check and another maker's tools have written.
#[test]
fn four_gateways_are_admitted_one_after_another() -> Result<()> {
    let tpms = &[Ek::Both, Ek::Rsa, Ek::P256, Ek::Both];
    let mut site = Site::founded(Plan { tpms, links: Links::Bridge, insecure: true })?;
    let first_code = site.code(0)?;
    for gateway in 1..4 {
        ensure!(site.figure(0, "voters") == 1, "voters grow from one to four and not between");
        site.admit(gateway)?;
    }
    site.wait_voters(4)?;
    // Each hears all others, also those whose address it was told by others.
    site.wait_all("everybody to hear everybody", &[0, 1, 2, 3], |site, gateway| {
        site.figure(gateway, "members") == 4
            && site.figure(gateway, "connected") == 3
            && site.figure(gateway, "voters_may_fail") == 1
    })?;

    let load = Load::start(&site.gateways[2], "cellar", &["--count", "0", "--interval", "0.1"])?;
    load.wait_more(5)?;
    let before = site.figure(0, "readings_committed");
    site.wait_all("its readings on everybody's record", &[0, 1, 2, 3], |site, gateway| {
        site.figure(gateway, "height") > 0
            && site.figure(2, "readings_committed") > before
            && knows(site, gateway, "cellar")
    })?;
    let file = site.dir().join("reading.proof");
    let export = ["reading", "export", "cellar", "--last", "--out", text(&file)?];
    site.gateways[2].ctl_code(0, &export)?;
    // Whoever holds the card of the founding day follows the voters from one to four.
    let verdict =
        site.gateways[1].ctl_code(0, &["verify", text(&file)?, "--anchor", &first_code])?;
    ensure!(verdict.contains("VALID"), "{verdict}");
    // And another gateway's code of today does as well.
    let code = site.code(3)?;
    site.gateways[0].ctl_code(0, &["verify", text(&file)?, "--anchor", &code])?;
    drop(load);
    site.gateways.iter_mut().try_for_each(|gateway| gateway.stop())
}

/// Whether a gateway's record has this sensor of another.
fn knows(site: &Site, gateway: usize, sensor: &str) -> bool {
    let shown = site.gateways[2].ctl_json(&["sensor", "show", sensor]).unwrap_or_default();
    let Some(id) = shown["id"].as_str() else { return false };
    let file = site.dir().join(format!("registered-{gateway}.proof"));
    let Ok(path) = text(&file) else { return false };
    site.gateways[gateway]
        .ctl(&["prove", id, "--out", path])
        .is_ok_and(|done| done.status.success())
}

/// A gateway that is away while the others go on, and a fresh one, both end with the same record.
#[test]
fn a_gateway_that_was_off_catches_up() -> Result<()> {
    let mut site = Site::grown_to_four()?;
    site.gateways[3].stop()?;
    for _ in 0..20 {
        site.commit(0)?;
    }
    let height = site.figure(0, "height");
    ensure!(height >= 20, "only {height} blocks");
    site.gateways[3].start()?;
    site.wait_height(&[3], height)?;
    site.same_blocks(&[0, 1, 2, 3], height).context("after catching up")?;
    site.gateways.iter_mut().try_for_each(|gateway| gateway.stop())
}

/// With the site code and no address: the members are found on the network, by mDNS.
#[test]
fn a_newcomer_finds_the_members_by_itself() -> Result<()> {
    let plan = Plan { tpms: &[Ek::Both; 2], links: Links::Bridge, insecure: true };
    let mut site = Site::prepared(plan)?;
    for gateway in &mut site.gateways {
        gateway.stand.discovery = true;
        gateway.configure("")?;
    }
    site.found()?;
    site.gateways[1].start()?;
    let code = site.code(0)?;
    let join = site.gateways[1].ctl_peer(&["gateway", "join", "--discover", "--site", &code])?;
    site.admitted(1, 0, join)?;
    site.wait_all("two members as seen by the newcomer", &[1], |site, newcomer| {
        site.figure(newcomer, "members") == 2
    })?;
    Ok(())
}

/// A newcomer that waits for the operator asks again and again in the session it has, within what a
/// guest may use: a handshake costs two TPMs a signature each.
#[test]
fn a_newcomer_that_waits_keeps_its_session() -> Result<()> {
    let plan = Plan { tpms: &[Ek::Both; 2], links: Links::Loopback, insecure: true };
    let mut site = Site::founded(plan)?;
    site.gateways[1].start()?;
    let join = site.join(1, 0)?;
    join.wait_line("awaiting-approval")?;
    let sessions = |site: &Site| {
        let log = site.gateways[0].log();
        log.lines().filter(|line| line.contains(": connected")).count()
    };
    let tries = |site: &Site| -> Result<u64> {
        let progress = site.gateways[1].ctl_json(&["gateway", "progress"])?;
        progress["attempts"].as_u64().context("attempts")
    };
    let (tried, before) = (tries(&site)?, sessions(&site));
    ensure!(before > 0, "the log shows connections: {}", site.gateways[0].log());
    site.gateways[1]
        .wait_for("five more rounds", |_| tries(&site).is_ok_and(|now| now >= tried + 5))?;
    let new = sessions(&site) - before;
    ensure!(new <= 3, "{new} new sessions in five rounds");
    site.admitted(1, 0, join)
}
