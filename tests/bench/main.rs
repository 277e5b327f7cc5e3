//! `tests/run bench`: the figures of this build on this machine, as a table or (`--json`) one
//! object a line. It judges nothing: no figure is a pass mark.
//!
//! The daemon is the real one: a process of its own on one core, with its TPM, bus, ledger and
//! buffer on the disk under the temporary folder. The load has the other cores.

mod cluster;
mod daemon;
mod figures;
mod handshake;
mod lora;
mod proofs;
mod rates;
mod serial;
mod site;
#[allow(dead_code, reason = "shared with the tests of the driver")]
#[allow(unreachable_pub, clippy::expect_used, reason = "as there")]
#[path = "../../drivers/src/lora/testing.rs"]
mod testing;

use std::time::Duration;

use anyhow::{Context, Result};
use tests::gateway::Gateway;

use daemon::{Daemon, folder_bytes};
use figures::Figures;
use site::Parts;

/// LoRaWAN devices of the site.
const DEVICES: u64 = 1_000;

/// Blocks in the chain when the start is timed.
const BLOCKS: u64 = 10_000;

/// How long an idle daemon is looked at.
const IDLE: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = arguments.iter().any(|each| each == "--json");
    // `cargo bench` adds `--bench`; a word without dashes names a part to be measured.
    let wanted: Vec<&String> = arguments.iter().filter(|each| !each.starts_with('-')).collect();
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|each| *each == part);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut figures = Figures::new(json);

    if wants("handshake") {
        handshake::measure(&runtime, &mut figures)?;
    }
    if wants("gateways") {
        cluster::measure(&runtime, &mut figures)?;
    }
    alone(&runtime, &wants, &mut figures)?;
    if wants("serial") {
        let mut gateway = Gateway::with_site()?;
        gateway.stop()?;
        rates::serial(&runtime, &gateway, &mut figures)?;
    }
    if wants("attestation") {
        proofs::verifier(&mut figures)?;
    }
    figures.finish();
    Ok(())
}

/// What one gateway does with many LoRaWAN devices, or with nothing.
fn alone(
    runtime: &tokio::runtime::Runtime,
    wants: &dyn Fn(&str) -> bool,
    figures: &mut Figures,
) -> Result<()> {
    let loaded = ["lorawan", "disk", "proof", "start"].iter().any(|part| wants(part));
    if !loaded && !wants("idle") {
        return Ok(());
    }
    let mut gateway = Gateway::with_site()?;
    gateway.stop()?;
    if wants("idle") {
        idle(&gateway, figures)?;
    }
    if !loaded {
        return Ok(());
    }
    let mut devices = runtime.block_on(async {
        let parts = Parts::open(&gateway)?;
        let devices = parts.add_lora(DEVICES).await?;
        tokio::task::block_in_place(|| parts.close())?;
        anyhow::Ok(devices)
    })?;
    rates::open_sessions(&gateway, &mut devices)?;
    if wants("disk") {
        rates::disk(&gateway, &mut devices, figures)?;
    }
    if wants("lorawan") {
        rates::lorawan(&gateway, &mut devices, figures)?;
    }
    if wants("proof") {
        proofs::measure(&gateway, figures)?;
    }
    if wants("start") {
        start(runtime, &gateway, &devices[0], figures)?;
    }
    Ok(())
}

/// A gateway with a site and no sensors, left alone.
fn idle(gateway: &Gateway, figures: &mut Figures) -> Result<()> {
    eprintln!("idle, {} s", IDLE.as_secs());
    let daemon = Daemon::start(gateway)?;
    // What a start leaves to be done is no idling.
    std::thread::sleep(Duration::from_secs(5));
    let before = daemon.usage()?;
    std::thread::sleep(IDLE);
    let after = daemon.usage()?;
    let seconds = IDLE.as_secs_f64();
    let how = "a site of one gateway, no sensors, over 60 s with its heartbeat";
    let cpu = (after.cpu_s - before.cpu_s) * 100.0 / seconds;
    figures.add("cpu_idle_percent_n1", cpu, "%", &format!("{how}; ticks of 10 ms"));
    figures.add("disk_idle_bytes_per_s_n1", (after.written - before.written) / seconds, "B/s", how);
    figures.add("rss_idle_mib_n1", after.rss_mib, "MiB", how);
    daemon.stop()
}

/// Lets the chain grow and starts the daemon on it.
fn start(
    runtime: &tokio::runtime::Runtime,
    gateway: &Gateway,
    device: &testing::TestDevice,
    figures: &mut Figures,
) -> Result<()> {
    eprintln!("start on {BLOCKS} blocks");
    let begun = std::time::Instant::now();
    let before = folder_bytes(&gateway.data_dir())?;
    let blocks = runtime.block_on(async {
        let parts = Parts::open(gateway)?;
        let node = parts.node(device);
        let blocks = parts.grow(node, BLOCKS).await?;
        tokio::task::block_in_place(|| parts.close())?;
        anyhow::Ok(blocks)
    })?;
    let rate = blocks as f64 / begun.elapsed().as_secs_f64();
    let how = "one voter, one transaction a block, one after the other, disk syncs on";
    figures.add("blocks_per_s_n1", rate, "1/s", how);
    let bytes = (folder_bytes(&gateway.data_dir())? - before) / blocks as f64;
    figures.add("disk_bytes_per_block", bytes, "B", how);
    let mut times = Vec::new();
    for _ in 0..5 {
        let daemon = Daemon::start(gateway)?;
        times.push(daemon.ready_s);
        daemon.stop()?;
    }
    times.sort_by(f64::total_cmp);
    let how = format!(
        "median of 5, process to READY=1 (the figure's aim is for 1,000,000 blocks): {BLOCKS} \
         blocks, {DEVICES} sensors, software TPM, one core"
    );
    let median = *times.get(2).context("five starts")?;
    figures.add("start_to_ready_s", median, "s", &how);
    Ok(())
}
