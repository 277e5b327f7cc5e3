//! Four gateways that are killed, one or all, and a record that goes on.

use anyhow::{Context, Result, ensure};
use tests::sensor::Load;
use tests::site::Site;

use crate::store::state;

/// Seconds between readings.
const INTERVAL_S: &str = "0.05";

#[test]
fn each_in_turn_is_killed_under_load_and_nothing_acknowledged_is_lost() -> Result<()> {
    let mut site = Site::grown_to_four()?;
    let load = Load::counting(&site.gateways[1], "cellar", INTERVAL_S)?;
    load.wait_more(10)?;
    for victim in 0..4 {
        site.gateways[victim].kill()?;
        let others: Vec<usize> = (0..4).filter(|other| *other != victim).collect();
        let height = site.commit(others[0]).with_context(|| format!("without {victim}"))?;
        site.wait_height(&others, height)?;
        site.gateways[victim].start()?;
        site.wait_height(&[victim], height)?;
        load.wait_more(3)?;
    }
    let height = site.commit(0)?;
    site.wait_height(&[0, 1, 2, 3], height)?;
    site.same_blocks(&[0, 1, 2, 3], height)?;
    site.nothing_lost(1, load)
}

#[test]
fn all_four_are_killed_at_once_and_come_back() -> Result<()> {
    let mut site = Site::grown_to_four()?;
    let load = Load::counting(&site.gateways[0], "cellar", INTERVAL_S)?;
    for round in 0..2 {
        load.wait_more(10)?;
        let height = site.figure(2, "height");
        for gateway in &mut site.gateways {
            gateway.kill()?;
        }
        // Spawned together: nobody waits for the next one to be ready.
        site.gateways.iter_mut().try_for_each(|gateway| gateway.spawn())?;
        site.wait_all("it to run again", &[0, 1, 2, 3], |site, gateway| {
            state(&site.gateways[gateway]) == "running"
        })?;
        let after = site.commit(1).with_context(|| format!("round {round}"))?;
        ensure!(after > height, "the record goes on");
        site.wait_height(&[0, 1, 2, 3], after)?;
    }
    let height = site.commit(3)?;
    site.wait_height(&[0, 1, 2, 3], height)?;
    site.same_blocks(&[0, 1, 2, 3], height)?;
    site.nothing_lost(0, load)
}

/// As an upgrade does it: one after the other, each only when the last one is back.
#[test]
fn a_rolling_restart_loses_nothing() -> Result<()> {
    let mut site = Site::grown_to_four()?;
    let load = Load::counting(&site.gateways[3], "cellar", INTERVAL_S)?;
    for gateway in 0..4 {
        load.wait_more(5)?;
        site.gateways[gateway].stop()?;
        site.gateways[gateway].start()?;
        let height = site.commit(gateway)?;
        site.wait_height(&[0, 1, 2, 3], height)?;
    }
    let height = site.commit(0)?;
    site.wait_height(&[0, 1, 2, 3], height)?;
    site.same_blocks(&[0, 1, 2, 3], height)?;
    site.nothing_lost(3, load)
}
