//! Simulation: gateways of the real node, store and log under a seeded network, disk and clock.
//!
//! Every run checks: no fork, never two different signed votes of one voter for one (era, height,
//! round, kind), every block that was stored survives, and the same seed gives the same
//! fingerprint. A failure names the seed; `SIM_SEED=n tests/run sim` replays it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod disk;
mod random;
mod run;
#[path = "../../gatewayd/ledger/tests/site/mod.rs"]
mod site;
mod witness;

use run::{Plan, Run};

/// Runs a plan with its seeds, or with the one that the environment names.
fn with_seeds(name: &str, seeds: std::ops::Range<u64>, plan: impl Fn(u64) -> Plan) {
    let chosen = std::env::var("SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = chosen.map_or(seeds, |seed| seed..seed + 1);
    for seed in seeds {
        println!("{name}: seed {seed}");
        Run::new(plan(seed)).finish();
    }
}

#[test]
fn one_voter_without_trouble() {
    with_seeds("one voter", 0..2, |seed| Plan { voters: 1, blocks: 40, ..Plan::quiet(seed) });
}

#[test]
fn one_voter_with_crashes() {
    let plan = |seed| Plan { voters: 1, blocks: 40, crashes: 12, ..Plan::quiet(seed) };
    with_seeds("one voter, crashes", 0..4, plan);
}

#[test]
fn four_voters_without_trouble() {
    with_seeds("four voters", 0..2, |seed| Plan { voters: 4, blocks: 30, ..Plan::quiet(seed) });
}

#[test]
fn four_voters_with_loss_and_crashes() {
    let plan = |seed| Plan { voters: 4, blocks: 25, crashes: 10, loss: 10, ..Plan::quiet(seed) };
    with_seeds("four voters, loss, crashes", 0..8, plan);
}

#[test]
fn four_voters_of_which_one_is_away() {
    let plan = |seed| Plan { voters: 4, blocks: 20, away: 1, loss: 5, ..Plan::quiet(seed) };
    with_seeds("one away", 0..3, plan);
}

#[test]
fn followers_of_one_voter_and_of_four() {
    let plan = |seed| Plan { blocks: 25, followers: 2, crashes: 6, loss: 15, ..Plan::quiet(seed) };
    with_seeds("one voter, two followers", 0..4, plan);
    with_seeds("four voters, two followers", 0..3, |seed| Plan { voters: 4, ..plan(seed) });
}

#[test]
fn voters_with_damaged_logs() {
    let plan = |seed| Plan {
        voters: 4,
        blocks: 15,
        crashes: 12,
        loss: 15,
        damage: true,
        ..Plan::quiet(seed)
    };
    with_seeds("damaged logs", 0..8, plan);
}

#[test]
fn seven_voters() {
    let plan = |seed| Plan { voters: 7, blocks: 10, crashes: 4, loss: 5, ..Plan::quiet(seed) };
    with_seeds("seven voters", 0..2, plan);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let plan = || Plan { voters: 4, blocks: 15, crashes: 5, loss: 10, ..Plan::quiet(42) };
    let first = Run::new(plan()).finish();
    assert_eq!(first, Run::new(plan()).finish());
    assert_ne!(first, Run::new(Plan { seed: 43, ..plan() }).finish());
}
