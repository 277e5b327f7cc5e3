//! Four gateways under load for a long time: killed, restarted, cut off and joined again in a
//! random order. What must hold all along: the record goes on whenever three are connected, all
//! have the same blocks, and nothing that a sensor was told to be kept is lost or doubled.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::sensor::Load;
use tests::site::Site;

const ALL: [usize; 4] = [0, 1, 2, 3];

/// Seconds between the readings of each sensor.
const INTERVAL_S: &str = "0.5";

/// Most memory that a daemon may have gained over the run, MiB.
const GROWTH_MIB: f64 = 40.0;

#[test]
fn four_gateways_for_a_long_time() -> Result<()> {
    let minutes = number("SOAK_MINUTES").unwrap_or(20);
    let seed = number("SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("SOAK_MINUTES={minutes} SEED={seed}");
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut site = Site::grown_to_four()?;
    let load = |gateway| Load::counting(gateway, "sensor", INTERVAL_S);
    let loads: Vec<Load> = site.gateways.iter().map(load).collect::<Result<_>>()?;
    let before: Vec<f64> = ALL.iter().map(|&at| memory_mib(&site, at)).collect::<Result<_>>()?;
    let (begun, mut rounds) = (Instant::now(), 0_u64);
    while begun.elapsed() < Duration::from_secs(minutes * 60) {
        trouble(&mut site, &mut random).with_context(|| format!("round {rounds}, SEED={seed}"))?;
        rounds += 1;
        let elapsed = begun.elapsed().as_secs();
        println!("{elapsed} s, round {rounds}: height {}", site.figure(0, "height"));
    }
    for at in ALL {
        let grown = memory_mib(&site, at)? - before[at];
        println!("gateway {at}: {grown:.1} MiB more than at the start (or since its restart)");
        ensure!(grown < GROWTH_MIB, "gateway {at} has grown by {grown:.1} MiB");
    }
    println!("{rounds} rounds");
    for (at, load) in loads.into_iter().enumerate() {
        site.nothing_lost(at, load)?;
        // It runs on for the others: three of them are a quorum, two are not.
        site.gateways[at].start()?;
    }
    Ok(())
}

/// One thing that goes wrong with one gateway, the others go on, and it is mended.
fn trouble(site: &mut Site, random: &mut Random) -> Result<()> {
    let victim = random.below(4) as usize;
    let others: Vec<usize> = ALL.into_iter().filter(|at| *at != victim).collect();
    let what = random.below(4) as usize;
    println!(
        "{} gateway {victim}",
        ["kill", "restart", "cut off", "kill all, beginning with"][what as usize]
    );
    match what {
        0 => site.gateways[victim].kill()?,
        1 => site.gateways[victim].stop()?,
        2 => site.network()?.split(&[&others])?,
        _ => {
            for at in 0..4 {
                site.gateways[(victim + at) % 4].kill()?;
            }
            site.gateways.iter_mut().try_for_each(|gateway| gateway.start())?;
        }
    }
    let height = site.commit(others[0])?;
    site.wait_height(&others, height)?;
    // How long it lasts is part of what is tried.
    std::thread::sleep(Duration::from_millis(random.below(10_000)));
    match what {
        0 | 1 => site.gateways[victim].start()?,
        2 => site.network()?.heal()?,
        _ => {}
    }
    let height = site.commit(others[1])?;
    site.wait_height(&ALL, height)?;
    site.same_blocks(&ALL, height)
}

/// Resident memory of a gateway's daemon.
fn memory_mib(site: &Site, at: usize) -> Result<f64> {
    let process = site.gateways[at].pid().context("it runs")?;
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse::<f64>()? / 1024.0)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Pseudo-random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % bound
    }
}
