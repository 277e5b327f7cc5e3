//! Simulation: gateways of the real node, store and log under a seeded network, disk and clock.
//!
//! Every run checks: no fork, never two different signed votes of one voter for one (era, height,
//! round, kind), every block that was stored survives, and the same seed gives the same
//! fingerprint. A failure names the seed; `SIM_SEED=n tests/run sim` replays it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod adversary;
mod clock;
mod disk;
mod network;
mod plan;
mod random;
mod run;
#[path = "../../gatewayd/ledger/tests/site/mod.rs"]
mod site;
mod storm;
mod witness;

use adversary::Villain;
use plan::{Clocks, Plan};
use run::{Report, Run};

/// Runs a plan with its seeds, or with the one that the environment names; `SIM_TIMES` (default
/// 1) asks for so many times as many. Returns how many there were and how often a liar was caught.
fn with_seeds(name: &str, seeds: u64, plan: impl Fn(u64) -> Plan) -> (u64, u64) {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let times = number("SIM_TIMES").unwrap_or(1);
    let seeds = number("SIM_SEED").map_or(0..seeds * times, |seed| seed..seed + 1);
    let count = seeds.end - seeds.start;
    let mut evidence = 0;
    for seed in seeds {
        let _named = Named { name, seed };
        evidence += Run::new(plan(seed)).finish().evidence;
    }
    println!("{name}: {count} seeds");
    (count, evidence)
}

/// Says how to run a seed again when it fails.
struct Named<'a> {
    name: &'a str,
    seed: u64,
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            println!("{}: replay with SIM_SEED={} tests/run sim {test}", self.name, self.seed);
        }
    }
}

#[test]
fn one_voter_without_trouble() {
    with_seeds("one voter", 2, |seed| Plan { voters: 1, blocks: 40, ..Plan::quiet(seed) });
}

#[test]
fn one_voter_with_crashes() {
    let plan = |seed| Plan { voters: 1, blocks: 40, crashes: 12, ..Plan::quiet(seed) };
    with_seeds("one voter, crashes", 4, plan);
}

#[test]
fn four_voters_without_trouble() {
    with_seeds("four voters", 2, |seed| Plan { voters: 4, blocks: 30, ..Plan::quiet(seed) });
}

#[test]
fn four_voters_with_loss_and_crashes() {
    let plan = |seed| Plan { voters: 4, blocks: 25, crashes: 10, loss: 10, ..Plan::quiet(seed) };
    with_seeds("four voters, loss, crashes", 8, plan);
}

#[test]
fn four_voters_of_which_one_is_away() {
    let plan = |seed| Plan { voters: 4, blocks: 20, away: 1, loss: 5, ..Plan::quiet(seed) };
    with_seeds("one away", 3, plan);
}

#[test]
fn followers_of_one_voter_and_of_four() {
    let plan = |seed| Plan { blocks: 25, followers: 2, crashes: 6, loss: 15, ..Plan::quiet(seed) };
    with_seeds("one voter, two followers", 4, plan);
    with_seeds("four voters, two followers", 3, |seed| Plan { voters: 4, ..plan(seed) });
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
    with_seeds("damaged logs", 8, plan);
}

#[test]
fn one_voter_becomes_four_at_once() {
    let plan = |seed| Plan { blocks: 25, followers: 3, grows: true, ..Plan::quiet(seed) };
    with_seeds("growth", 3, plan);
    let plan = |seed| Plan { crashes: 8, loss: 10, cuts: 2, ..plan(seed) };
    with_seeds("growth, crashes, loss", 12, plan);
    // All power goes at about the moment at which the newcomers vote for the first time.
    let plan = |seed| Plan { blackout_ms: Some(60_000), crashes: 0, ..plan(seed) };
    with_seeds("growth, blackout", 12, plan);
    let seven = |seed| Plan { followers: 6, crashes: 4, blackout_ms: None, ..plan(seed) };
    with_seeds("growth to seven", 3, seven);
}

#[test]
fn seven_voters() {
    let plan = |seed| Plan { voters: 7, blocks: 10, crashes: 4, loss: 5, ..Plan::quiet(seed) };
    with_seeds("seven voters", 2, plan);
}

#[test]
fn messages_that_come_twice_late_and_not_at_all() {
    let plan =
        |seed| Plan { voters: 4, blocks: 10, loss: 15, doubled: 30, late: 20, ..Plan::quiet(seed) };
    with_seeds("twice, late, lost", 10, plan);
}

#[test]
fn a_site_that_falls_apart_and_heals() {
    let plan =
        |seed| Plan { voters: 4, followers: 1, blocks: 10, cuts: 6, loss: 5, ..Plan::quiet(seed) };
    with_seeds("cuts", 10, plan);
}

#[test]
fn clocks_that_are_wrong_or_jump() {
    for clocks in [Clocks::Wrong, Clocks::Jumping] {
        let plan = |seed| Plan { voters: 4, blocks: 10, crashes: 3, clocks, ..Plan::quiet(seed) };
        with_seeds("clocks", 10, plan);
    }
}

#[test]
fn the_power_of_the_whole_site_is_off_for_two_days_and_for_a_season() {
    const DAY_MS: u64 = 86_400_000;
    for days in [2, 300] {
        for clocks in [Clocks::Near, Clocks::Wrong] {
            let blackout_ms = Some(days * DAY_MS);
            let plan = |seed| Plan {
                voters: 4,
                blocks: 10,
                followers: 1,
                clocks,
                blackout_ms,
                ..Plan::quiet(seed)
            };
            with_seeds("blackout", 5, plan);
        }
    }
}

#[test]
fn one_voter_of_four_lies() {
    for villain in Villain::ALL {
        let villain = Some(villain);
        let plan = |seed| Plan {
            voters: 4,
            blocks: 8,
            followers: 1,
            crashes: 2,
            loss: 5,
            villain,
            ..Plan::quiet(seed)
        };
        let (_, evidence) = with_seeds("a liar", 12, plan);
        if villain == Some(Villain::Equivocator) && std::env::var_os("SIM_SEED").is_none() {
            assert!(evidence > 0, "two signed votes for one place were never noticed");
        }
    }
}

#[test]
fn two_voters_of_seven_lie() {
    for villain in Villain::ALL {
        let villain = Some(villain);
        let plan = |seed| Plan { voters: 7, blocks: 5, loss: 5, villain, ..Plan::quiet(seed) };
        with_seeds("two liars", 3, plan);
    }
}

#[test]
fn two_voters_of_four_are_lost_for_ever_and_the_operator_recovers() {
    let plan =
        |seed| Plan { voters: 4, blocks: 12, followers: 1, loss: 5, lost: 2, ..Plan::quiet(seed) };
    with_seeds("recovery", 10, plan);
    with_seeds("recovery, cuts", 10, |seed| Plan { cuts: 2, crashes: 2, ..plan(seed) });
}

#[test]
fn everything_at_once() {
    with_seeds("storm", 200, storm::plan);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let plan = || Plan {
        voters: 4,
        blocks: 15,
        crashes: 5,
        loss: 10,
        villain: Some(Villain::Replayer),
        ..Plan::quiet(42)
    };
    let first: Report = Run::new(plan()).finish();
    assert_eq!(first, Run::new(plan()).finish());
    assert_ne!(first, Run::new(Plan { seed: 43, ..plan() }).finish());
}
