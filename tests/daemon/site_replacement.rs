//! A gateway that has lost its disk, or its mainboard.

use anyhow::{Result, ensure};
use tests::site::Site;

/// The same TPM with an empty disk: a replacement, which retires the old identity.
#[test]
fn a_wiped_gateway_is_admitted_again_as_its_own_replacement() -> Result<()> {
    let mut site = Site::grown_to_four()?;
    let old = site.id(3)?;
    site.wipe(3)?;
    site.admit(3)?;
    let new = site.id(3)?;
    ensure!(new != old, "a fresh identity: the old vote key is gone with the disk");
    site.wait_voters(4)?;
    let height = site.commit(3)?;
    site.wait_height(&[0, 1, 2, 3], height)?;
    site.same_blocks(&[0, 1, 2, 3], height)?;
    let standing = site.standing(0, &old)?;
    ensure!(standing != "active", "the old identity is {standing}");
    site.gateways.iter_mut().try_for_each(|gateway| gateway.stop())
}
