//! Simulation: gateways of the real node, store and log under a seeded network, disk and clock.
//!
//! Every run checks at every step: no fork, one state, never two different signed votes of one
//! voter for one place across power cuts, every stored block and recorded transaction survives,
//! and what a quorum said counts once. Then all trouble ends: the gateways come to one tip within
//! minutes, what was taken is recorded, and idle voters do nothing but the heartbeat. A failure
//! prints the one command that repeats it; `tests/run --help` says how to run more seeds.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod adversary;
mod clock;
mod disk;
mod gateway;
mod life;
mod network;
mod plan;
mod random;
mod run;
#[path = "../../gatewayd/ledger/tests/site/mod.rs"]
mod site;
mod storm;
mod trouble;
mod witness;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use adversary::Villain;
use plan::{Clocks, Life, Plan, Rollback};
use run::{Report, Run};

/// Runs a plan with its seeds. `SIM_SEED` names one, `SIM_SEEDS` and `SIM_FIRST` so many from one
/// on. Returns how many there were and how often a liar was caught.
fn with_seeds(name: &str, seeds: u64, plan: impl Fn(u64) -> Plan + Sync) -> (u64, u64) {
    let first = number("SIM_FIRST").unwrap_or(0);
    let seeds = first..first + number("SIM_SEEDS").unwrap_or(seeds);
    let seeds = number("SIM_SEED").map_or(seeds, |seed| seed..seed + 1);
    let (next, evidence) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let failed = AtomicBool::new(false);
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failed.load(Ordering::Relaxed) {
                return;
            }
            let _named = Named { name, seed, test: &test, failed: &failed };
            evidence.fetch_add(Run::new(plan(seed)).finish().evidence, Ordering::Relaxed);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let count = seeds.end - seeds.start;
    std::thread::scope(|scope| {
        (0..threads.min(count)).for_each(|_| {
            scope.spawn(work);
        });
    });
    println!("{name}: {count} seeds");
    (count, evidence.into_inner())
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Says how to run a seed again when it fails.
struct Named<'a> {
    name: &'a str,
    seed: u64,
    test: &'a str,
    failed: &'a AtomicBool,
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.failed.store(true, Ordering::Relaxed);
            let Self { name, seed, test, .. } = self;
            println!("{name}: replay with SIM_SEED={seed} tests/run sim --exact {test}");
        }
    }
}

#[test]
fn one_voter_without_trouble() {
    with_seeds("one voter", 4, |seed| Plan { voters: 1, blocks: 40, ..Plan::quiet(seed) });
}

#[test]
fn one_voter_with_crashes() {
    let plan = |seed| Plan { voters: 1, blocks: 40, crashes: 12, ..Plan::quiet(seed) };
    with_seeds("one voter, crashes", 20, plan);
}

#[test]
fn four_voters_without_trouble() {
    with_seeds("four voters", 4, |seed| Plan { voters: 4, blocks: 30, ..Plan::quiet(seed) });
}

#[test]
fn four_voters_with_loss_and_crashes() {
    let plan = |seed| Plan { voters: 4, blocks: 25, crashes: 10, loss: 10, ..Plan::quiet(seed) };
    with_seeds("four voters, loss, crashes", 30, plan);
}

#[test]
fn four_voters_of_which_one_is_away() {
    let plan = |seed| Plan { voters: 4, blocks: 20, away: 1, loss: 5, ..Plan::quiet(seed) };
    with_seeds("one away", 10, plan);
}

#[test]
fn without_a_quorum_there_is_no_progress_and_that_is_noticed() {
    let plan = |seed| Plan { voters: 4, blocks: 1, away: 2, ..Plan::quiet(seed) };
    let run = std::panic::catch_unwind(|| with_seeds("two away", 1, plan));
    assert!(run.is_err(), "two of four went on");
}

#[test]
fn followers_of_one_voter_and_of_four() {
    let plan = |seed| Plan { blocks: 25, followers: 2, crashes: 6, loss: 15, ..Plan::quiet(seed) };
    with_seeds("one voter, two followers", 10, plan);
    with_seeds("four voters, two followers", 10, |seed| Plan { voters: 4, ..plan(seed) });
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
    with_seeds("damaged logs", 30, plan);
}

#[test]
fn one_voter_becomes_four_at_once() {
    let plan = |seed| Plan { blocks: 25, followers: 3, ..Plan::quiet(seed) }.growing();
    with_seeds("growth", 5, plan);
    let plan = |seed| Plan { crashes: 8, loss: 10, cuts: 2, ..plan(seed) };
    with_seeds("growth, crashes, loss", 20, plan);
    // All power goes at about the moment at which the newcomers vote for the first time.
    let plan = |seed| Plan { blackout_ms: Some(60_000), crashes: 0, ..plan(seed) };
    with_seeds("growth, blackout", 20, plan);
    let seven = |seed| {
        Plan { blocks: 25, followers: 6, crashes: 4, loss: 10, ..Plan::quiet(seed) }.growing()
    };
    with_seeds("growth to seven", 5, seven);
}

#[test]
fn seven_voters() {
    let plan = |seed| Plan { voters: 7, blocks: 10, crashes: 4, loss: 5, ..Plan::quiet(seed) };
    with_seeds("seven voters", 10, plan);
}

#[test]
fn many_voters() {
    let plan = |seed| Plan { voters: 16, blocks: 5, crashes: 4, loss: 5, ..Plan::quiet(seed) };
    with_seeds("sixteen voters", 5, plan);
    let voters = number("SIM_VOTERS").map_or(40, |voters| voters as usize);
    with_seeds("very many", 1, |seed| Plan { voters, blocks: 3, crashes: 1, ..plan(seed) });
}

#[test]
fn messages_that_come_twice_late_and_not_at_all() {
    let plan =
        |seed| Plan { voters: 4, blocks: 10, loss: 15, doubled: 30, late: 20, ..Plan::quiet(seed) };
    with_seeds("twice, late, lost", 30, plan);
}

#[test]
fn a_site_that_falls_apart_and_heals() {
    let plan =
        |seed| Plan { voters: 4, followers: 1, blocks: 10, cuts: 6, loss: 5, ..Plan::quiet(seed) };
    with_seeds("cuts", 30, plan);
}

#[test]
fn clocks_that_are_wrong_or_jump() {
    for clocks in [Clocks::Wrong, Clocks::Jumping] {
        let plan = |seed| Plan { voters: 4, blocks: 10, crashes: 3, clocks, ..Plan::quiet(seed) };
        with_seeds("clocks", 20, plan);
    }
}

/// All that was attested is stale then: the members attest each other anew.
#[test]
fn the_power_of_the_whole_site_is_off_for_two_days_and_for_a_season() {
    const DAY_MS: u64 = 86_400_000;
    for days in [2, 300] {
        for clocks in [Clocks::Near, Clocks::Wrong] {
            let plan = |seed| Plan {
                voters: 4,
                blocks: 10,
                followers: 1,
                clocks,
                blackout_ms: Some(days * DAY_MS),
                life: (0..5).map(Life::Renew).collect(),
                ..Plan::quiet(seed)
            };
            with_seeds("blackout", 10, plan);
        }
    }
}

#[test]
fn vote_keys_change_again_and_again() {
    let life = |voters: usize| (0..30).map(|number| Life::Rotate(number % voters)).collect();
    let plan = |seed| Plan { voters: 4, crashes: 6, loss: 5, life: life(4), ..Plan::quiet(seed) };
    with_seeds("rotations", 15, plan);
    with_seeds("rotations of one", 5, |seed| Plan { voters: 1, life: life(1), ..plan(seed) });
}

#[test]
fn members_are_suspended_pardoned_and_revoked() {
    let life = vec![Life::Silence(1), Life::Suspend(2), Life::Suspend(0), Life::Revoke(3)];
    let plan =
        |seed| Plan { voters: 4, crashes: 3, loss: 5, life: life.clone(), ..Plan::quiet(seed) };
    with_seeds("standing", 20, plan);
    with_seeds("standing of seven", 5, |seed| Plan { voters: 7, ..plan(seed) });
}

#[test]
fn newcomers_begin_from_a_snapshot_while_blocks_go_on() {
    let life = |first| vec![Life::Admit(first), Life::Rotate(0), Life::Admit(first + 1)];
    let plan = |seed| Plan { voters: 4, crashes: 3, loss: 10, life: life(4), ..Plan::quiet(seed) };
    with_seeds("newcomers", 20, plan);
    with_seeds("newcomers of one", 10, |seed| Plan { voters: 1, life: life(1), ..plan(seed) });
}

/// The old copy has an old vote key, an old log and old blocks.
#[test]
fn a_disk_of_yesterday_is_put_back() {
    let plan = |seed| Plan {
        voters: 4,
        blocks: 20,
        crashes: 2,
        loss: 5,
        rollback: Some(Rollback::Seen),
        ..Plan::quiet(seed)
    };
    with_seeds("rollback, seen", 25, plan);
    let plan = |seed| Plan { rollback: Some(Rollback::Unseen), ..plan(seed) };
    with_seeds("rollback, unseen", 25, plan);
}

#[test]
fn one_voter_of_four_lies() {
    for villain in Villain::ALL {
        let plan = |seed| Plan {
            voters: 4,
            blocks: 8,
            followers: 1,
            crashes: 2,
            loss: 5,
            life: vec![Life::Renew(0), Life::Silence(3), Life::Admit(5), Life::Silence(3)],
            villain: Some(villain),
            ..Plan::quiet(seed)
        };
        let (_, evidence) = with_seeds("a liar", 20, plan);
        if villain == Villain::Equivocator && std::env::var_os("SIM_SEED").is_none() {
            assert!(evidence > 0, "two signed votes for one place were never noticed");
        }
    }
}

/// Whoever votes twice loses the vote by rule, and the operator agrees.
#[test]
fn a_liar_is_suspended_and_revoked() {
    let plan = |seed| Plan {
        voters: 4,
        blocks: 12,
        villain: Some(Villain::Equivocator),
        punish: true,
        life: vec![Life::Rotate(0), Life::Revoke(3)],
        ..Plan::quiet(seed)
    };
    with_seeds("punished", 10, plan);
}

#[test]
fn two_voters_of_seven_lie() {
    for villain in Villain::ALL {
        let villain = Some(villain);
        let plan = |seed| Plan { voters: 7, blocks: 5, loss: 5, villain, ..Plan::quiet(seed) };
        with_seeds("two liars", 5, plan);
    }
}

#[test]
fn two_voters_of_four_are_lost_for_ever_and_the_operator_recovers() {
    let plan =
        |seed| Plan { voters: 4, blocks: 12, followers: 1, loss: 5, lost: 2, ..Plan::quiet(seed) };
    with_seeds("recovery", 20, plan);
    with_seeds("recovery, cuts", 20, |seed| Plan { cuts: 2, crashes: 2, ..plan(seed) });
    // A survivor without power may have blocks that the new era leaves out.
    let hasty = |seed| Plan { crashes: 8, late: 20, loss: 15, hasty: true, ..plan(seed) };
    with_seeds("hasty recovery", 20, hasty);
}

#[test]
fn everything_at_once() {
    with_seeds("storm", 240, storm::plan);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let plan = || Plan {
        voters: 4,
        blocks: 15,
        crashes: 5,
        loss: 10,
        villain: Some(Villain::Replayer),
        life: vec![Life::Rotate(0), Life::Admit(4)],
        ..Plan::quiet(42)
    };
    let first: Report = Run::new(plan()).finish();
    assert_eq!(first, Run::new(plan()).finish());
    assert_ne!(first, Run::new(Plan { seed: 43, ..plan() }).finish());
    for seed in 0..10 {
        let [one, other] = [seed; 2].map(|seed| Run::new(storm::plan(seed)).finish());
        assert_eq!(one, other, "storm of seed {seed}");
    }
}
