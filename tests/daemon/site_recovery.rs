//! The operator recovers the record with one gateway, while the others are not lost at all: they
//! went on, and follow when they hear of it.

use anyhow::{Result, ensure};
use tests::sensor::Load;
use tests::site::Site;

const ALL: [usize; 4] = [0, 1, 2, 3];

/// What the others had recorded meanwhile is set aside and recorded once more, each reading once.
#[test]
fn members_that_were_ahead_of_a_recovery_begin_anew_and_lose_nothing() -> Result<()> {
    let mut site = Site::grown_to_four()?;
    let load = Load::counting(&site.gateways[1], "cellar", "0.05")?;
    load.wait_more(5)?;
    let height = site.commit(0)?;
    site.wait_height(&ALL, height)?;

    site.network()?.split(&[&[0, 1, 2]])?;
    load.wait_more(40)?;
    let ahead = site.commit(1)?.max(site.commit(0)?);
    site.wait_height(&[0, 1, 2], ahead)?;
    ensure!(site.figure(3, "height") < ahead, "the one alone stands");
    site.sign(3, &["site", "recover"])?;
    site.wait_all("the new era", &[3], |site, gateway| site.figure(gateway, "era") == 1)?;

    site.network()?.heal()?;
    site.wait_all("the new era", &ALL, |site, gateway| site.figure(gateway, "era") == 1)?;
    load.wait_more(10)?;
    let height = site.commit(3)?;
    site.wait_height(&ALL, height)?;
    site.same_blocks(&ALL, height)?;
    for gateway in [0, 1, 2] {
        let folders = std::fs::read_dir(site.gateways[gateway].data_dir())?;
        let aside = folders
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("aside-0-"));
        ensure!(aside.count() == 1, "gateway {gateway} keeps what it had");
    }
    // The one that was never ahead has every block.
    site.nothing_lost_on(1, load, 3)
}
