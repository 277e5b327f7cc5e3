//! Who is there: a gateway that falls silent is found offline by a quorum, comes back in its next
//! life, and nobody is accused where no quorum misses it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::site::Site;

/// From the last sign of life to the block that says so, by the default `offline_after` of 10 s; a
/// busy machine is given twice the time.
const FOUND_WITHIN: Duration = Duration::from_secs(30);

/// How long divided halves are watched: longer than `offline_after` by far.
const WATCHED: Duration = Duration::from_secs(20);

/// What a gateway says about another one.
fn shown(site: &Site, by: usize, id: &str) -> Result<Value> {
    site.gateways[by].ctl_json(&["gateway", "show", id])
}

fn wait_online(site: &Site, by: &[usize], id: &str, online: bool) -> Result<()> {
    site.wait_all(&format!("{id} online: {online}"), by, |site, gateway| {
        shown(site, gateway, id).is_ok_and(|shown| shown["online"] == online)
    })
}

fn epoch(site: &Site, by: usize, id: &str) -> Result<u64> {
    shown(site, by, id)?["liveness_epoch"].as_u64().context("liveness_epoch")
}

#[test]
fn a_killed_gateway_is_found_offline_and_comes_back_in_its_next_life() -> Result<()> {
    let mut site = Site::grown_to_four()?;
    let (id, others) = (site.id(3)?, [0, 1, 2]);
    let before = epoch(&site, 0, &id)?;
    let monitor = site.gateways[0].ctl_peer(&["monitor", "--json"])?;
    // Heartbeats make no blocks: a quiet record stays as it is.
    let height = site.figure(0, "height");
    std::thread::sleep(Duration::from_secs(12));
    ensure!(site.figure(0, "height") <= height + 1, "a quiet record has grown");
    for gateway in 0..4 {
        ensure!(shown(&site, gateway, &id)?["online"] == true, "while it runs it is online");
    }

    let killed = Instant::now();
    site.gateways[3].kill()?;
    wait_online(&site, &others, &id, false)?;
    let took = killed.elapsed();
    println!("found offline {:.1} s after it was killed", took.as_secs_f64());
    ensure!(took > Duration::from_secs(7), "too early: {took:?}");
    ensure!(took < FOUND_WITHIN, "too late: {took:?}");
    let mut by = Value::Null;
    site.gateways[1].wait_for("who found it so", |_| {
        by = shown(&site, 1, &id).unwrap_or_default()["offline_by"].clone();
        by.as_array().is_some_and(|by| by.len() >= 3)
    })?;
    let warning = format!("{id} is UNREACHABLE since height");
    site.gateways[1].wait_for("the status to say so", |gateway| {
        gateway.ctl_code(0, &["status"]).is_ok_and(|status| status.contains(&warning))
    })?;
    let words = site.gateways[2].ctl_code(0, &["gateway", "show", &id])?;
    ensure!(words.contains("no: UNREACHABLE since"), "{words}");
    let list = site.gateways[2].ctl_code(0, &["gateway", "list"])?;
    ensure!(list.contains("no, since"), "{list}");
    let history = site.gateways[2].ctl_code(0, &["gateway", "history", &id])?;
    ensure!(history.contains("found offline by a quorum"), "{history}");
    monitor.wait_line("\"change\":\"offline\"")?;
    // It keeps its vote: whoever is away for a night is no less trusted for it.
    ensure!(site.figure(0, "voters") == 4, "the votes are as they were");
    let height = site.commit(0)?;

    site.gateways[3].start()?;
    wait_online(&site, &[0, 1, 2, 3], &id, true)?;
    ensure!(epoch(&site, 1, &id)? == before + 1, "the next life");
    monitor.wait_line("\"change\":\"online\"")?;
    site.wait_height(&[0, 1, 2, 3], height)?;
    // And it stays there.
    std::thread::sleep(Duration::from_secs(15));
    ensure!(epoch(&site, 2, &id)? == before + 1, "it does not flap");
    let height = site.commit(3)?;
    site.wait_height(&[0, 1, 2, 3], height)?;
    site.same_blocks(&[0, 1, 2, 3], height)
}

#[test]
fn one_that_is_cut_off_is_found_offline_and_halves_accuse_nobody() -> Result<()> {
    let site = Site::grown_to_four()?;
    let ids = (0..4).map(|gateway| site.id(gateway)).collect::<Result<Vec<_>>>()?;
    let epochs =
        |site: &Site| -> Result<Vec<u64>> { ids.iter().map(|id| epoch(site, 0, id)).collect() };
    let before = epochs(&site)?;

    // Two and two: each half misses the other, and neither is a quorum.
    site.network()?.split(&[&[0, 1], &[2, 3]])?;
    std::thread::sleep(WATCHED);
    for gateway in 0..4 {
        for id in &ids {
            ensure!(shown(&site, gateway, id)?["online"] == true, "{gateway} has {id} offline");
        }
    }
    site.network()?.heal()?;
    let height = site.commit(1)?;
    site.wait_height(&[0, 1, 2, 3], height)?;
    ensure!(epochs(&site)? == before, "nobody had to come back");

    // Three and one: the one is offline for the three, and finds nobody offline itself.
    site.network()?.split(&[&[0, 1, 2]])?;
    wait_online(&site, &[0, 1, 2], &ids[3], false)?;
    for id in &ids[..3] {
        ensure!(shown(&site, 3, id)?["online"] == true, "the one alone has {id} offline");
        ensure!(shown(&site, 0, id)?["online"] == true, "{id} is with the three");
    }
    site.network()?.heal()?;
    wait_online(&site, &[0, 1, 2, 3], &ids[3], true)?;
    let after = epochs(&site)?;
    ensure!(after[3] == before[3] + 1, "{after:?} after {before:?}");
    ensure!(after[..3] == before[..3], "only the one came back: {after:?}");
    let height = site.commit(3)?;
    site.wait_height(&[0, 1, 2, 3], height)?;
    site.same_blocks(&[0, 1, 2, 3], height)
}
