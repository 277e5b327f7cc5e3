//! A gateway that has lost its disk, or its mainboard.

use anyhow::{Result, ensure};
use tests::site::Site;

/// The same TPM with an empty disk: a replacement, which retires the old identity. While the record
/// counts the old one as online its TPM is taken, so the operator says that it is gone; what the
/// operator holds against the old one holds against the new one, until it is pardoned.
#[test]
fn a_wiped_gateway_is_admitted_again_as_its_own_replacement() -> Result<()> {
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
    ensure!(new != old, "a fresh identity: the old vote key is gone with the disk");
    site.sign(0, &["gateway", "pardon", &new, "--reason", "it is ours, with a new disk"])?;
    let (code, said) = join.finish()?;
    ensure!(code == Some(0), "{code:?}: {}", said.join("\n"));
    site.wait_voters(4)?;
    let height = site.commit(3)?;
    site.wait_height(&[0, 1, 2, 3], height)?;
    site.same_blocks(&[0, 1, 2, 3], height)?;
    let standing = site.standing(0, &old)?;
    ensure!(standing != "active", "the old identity is {standing}");
    site.gateways.iter_mut().try_for_each(|gateway| gateway.stop())
}
