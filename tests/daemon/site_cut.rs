//! Links that are cut: no half of four commits, three of four do, and all agree when healed.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::network::Wire;
use tests::site::{Links, Plan, Site};
use tests::tpm_maker::Ek;

const ALL: [usize; 4] = [0, 1, 2, 3];

/// How long a half is watched that must not commit: many times what a commit takes.
const WATCHED: Duration = Duration::from_secs(5);

#[test]
fn halves_stop_and_three_of_four_go_on() -> Result<()> {
    let site = Site::grown_to_four()?;
    let height = site.commit(0)?;
    site.wait_height(&ALL, height)?;

    site.network()?.split(&[&[0, 1], &[2, 3]])?;
    // Both halves are asked to commit, and neither may.
    let asked = [site.commit_in_vain(0)?, site.commit_in_vain(2)?];
    std::thread::sleep(WATCHED);
    for gateway in ALL {
        let now = site.figure(gateway, "height");
        ensure!(now <= height + 1, "gateway {gateway} has gone on to {now} from {height}");
    }
    drop(asked);
    site.network()?.heal()?;
    let height = site.commit(3)?;
    site.wait_height(&ALL, height)?;
    site.same_blocks(&ALL, height)?;

    site.network()?.split(&[&[1, 2, 3]])?;
    let before = site.figure(0, "height");
    let height = site.commit(1)?;
    let height = height.max(site.commit(2)?);
    site.wait_height(&[1, 2, 3], height)?;
    let behind = site.figure(0, "height");
    ensure!(behind < height && behind <= before + 1, "the one alone has {behind} of {height}");
    site.network()?.heal()?;
    site.wait_height(&ALL, height)?;
    site.same_blocks(&ALL, height)?;
    let last = site.commit(0)?;
    site.wait_height(&ALL, last)
}

/// A slow radio link: round trips of a quarter of a second, and one frame of twenty lost.
#[test]
fn a_slow_and_lossy_network_is_only_slow() -> Result<()> {
    let links = Links::Bad(Wire { delay_ms: 100, loss_percent: 5 });
    let mut site = Site::founded(Plan { tpms: &[Ek::Both; 4], links, insecure: true })?;
    site.grow()?;
    for gateway in ALL {
        site.commit(gateway)?;
    }
    let height = site.commit(0)?;
    site.wait_height(&ALL, height)?;
    site.same_blocks(&ALL, height)
}
