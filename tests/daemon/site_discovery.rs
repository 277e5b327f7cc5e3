//! Finding members by multicast, each gateway on a machine of its own; and somebody on that network
//! who answers in their name.

use std::path::Path;

use anyhow::{Result, ensure};
use tests::network::Network;
use tests::peer::Peer;
use tests::site::{Links, Plan, Site};
use tests::tpm_maker::Ek;

/// Port at which nobody listens but the spoofer.
const NO_GATEWAY: &str = "7999";

/// Port of the gateway of another site.
const STRANGER: &str = "7447";

/// Answers mDNS by hand from the machine of this number.
fn spoof(site: &Site, number: usize) -> Result<Peer> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/mdns_spoofer.py");
    let mut spoofer = site.network()?.place(number).command("python3");
    spoofer.arg(script).args([&Network::address(number), NO_GATEWAY, STRANGER]);
    let spoofer = Peer::start(&mut spoofer, "python3 (package python3)")?;
    spoofer.wait_line("ready")?;
    Ok(spoofer)
}

/// A spoofed answer costs a dial. Whoever answers there is refused, by what it cannot prove, and
/// is told nothing; the member that is found later by its own answer lets the newcomer in.
#[test]
fn a_spoofed_answer_costs_a_dial_and_the_join_goes_on() -> Result<()> {
    let plan = Plan { tpms: &[Ek::Both; 3], links: Links::Bridge, insecure: true };
    let mut site = Site::prepared(plan)?;
    for gateway in &mut site.gateways[..2] {
        gateway.stand.discovery = true;
        gateway.configure("")?;
    }
    site.found()?;
    // The third machine has a gateway of another site, which says nothing by itself.
    site.gateways[2].start()?;
    site.gateways[2].found_site(&[])?;
    site.gateways[2].make_block()?;
    site.gateways[1].start()?;
    let (code, other) = (site.code(0)?, site.address(2));

    // As long as no member is on the network there are the spoofed answers alone.
    site.network()?.split(&[&[1, 2]])?;
    let spoofer = spoof(&site, 2)?;
    let join = site.gateways[1].ctl_peer(&["gateway", "join", "--discover", "--site", &code])?;
    spoofer.wait_line(&format!("dialed {NO_GATEWAY}"))?;
    // Each is named with its reason: one speaks no TLS, the other knows the site code not.
    join.wait_line(&format!("{}:{NO_GATEWAY}: received corrupt message", Network::address(2)))?;
    join.wait_line(&format!("{other}: the site code is of another site"))?;
    let progress = site.gateways[1].ctl_json(&["gateway", "progress"])?;
    ensure!(progress["step"] == "finding", "{progress}");
    let asked = site.gateways[2].ctl_json(&["gateway", "pending"])?;
    ensure!(asked.as_array().is_some_and(Vec::is_empty), "the stranger was told of it: {asked}");

    site.network()?.heal()?;
    site.admitted(1, 0, join)?;
    site.wait_all("two members as seen by the newcomer", &[1], |site, newcomer| {
        site.figure(newcomer, "members") == 2
    })?;
    drop(spoofer);
    Ok(())
}
