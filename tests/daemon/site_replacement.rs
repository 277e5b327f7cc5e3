//! A gateway that has lost its disk, or its mainboard.

use anyhow::{Result, ensure};
use tests::site::Site;

/// The same TPM with an empty disk: a replacement, which retires the old identity. While the record
/// counts the old one as online its TPM is taken, for the newcomer may be a clone of it: it is told
/// so and goes on trying, until a quorum has found the old one silent. The operator approves, and
/// does nothing else.
#[test]
fn a_wiped_gateway_is_admitted_again_as_its_own_replacement() -> Result<()> {
    let mut site = Site::grown_to_four()?;
    let old = site.id(3)?;
    site.wipe(3)?;
    site.gateways[3].start()?;
    let (address, code) = (site.address(0), site.code(0)?);
    let asked = ["gateway", "join", &address, "--site", &code];
    let refused = site.gateways[3].ctl_code(4, &asked)?;
    ensure!(refused.contains("which is online: one TPM, one gateway"), "{refused}");
    ensure!(refused.contains("the daemon goes on trying by itself"), "{refused}");
    // The same order again, shown until it is done.
    let join = site.gateways[3].ctl_peer(&[&asked[..], &["--wait"]].concat())?;
    site.gateways[0].wait_for("the old one to be found offline", |gateway| {
        let shown = gateway.ctl_json(&["gateway", "show", &old]).unwrap_or_default();
        shown["online"] == false
    })?;
    site.approve(3, 0)?;
    let (code, said) = join.finish()?;
    ensure!(code == Some(0), "{code:?}: {}", said.join("\n"));
    let new = site.id(3)?;
    ensure!(new != old, "a fresh identity: the old vote key is gone with the disk");
    site.wait_voters(4)?;
    let height = site.commit(3)?;
    site.wait_height(&[0, 1, 2, 3], height)?;
    site.same_blocks(&[0, 1, 2, 3], height)?;
    let standings = (site.standing(0, &old)?, site.standing(0, &new)?);
    ensure!(standings == ("candidate".into(), "active".into()), "{standings:?}");
    site.gateways.iter_mut().try_for_each(|gateway| gateway.stop())
}

/// What the operator holds against the old identity holds against the new one, until it is
/// pardoned.
#[test]
fn a_suspension_is_not_shaken_off_with_the_disk() -> Result<()> {
    let mut site = Site::grown_to_four()?;
    let old = site.id(3)?;
    site.wipe(3)?;
    site.sign(0, &["gateway", "suspend", &old, "--reason", "its disk is lost"])?;
    site.gateways[3].start()?;
    let join = site.join(3, 0)?;
    site.approve(3, 0)?;
    let mut new = String::new();
    site.gateways[0].wait_for("the replacement to be on the record", |_| {
        new = site.id(3).unwrap_or_default();
        site.standing(0, &new).is_ok_and(|standing| standing == "suspended")
    })?;
    site.sign(0, &["gateway", "pardon", &new, "--reason", "it is ours, with a new disk"])?;
    let (code, said) = join.finish()?;
    ensure!(code == Some(0), "{code:?}: {}", said.join("\n"));
    site.wait_voters(4)
}
