//! Plans drawn from the seed: any number of voters, any trouble, any liar, any life.

use crate::adversary::Villain;
use crate::plan::{Clocks, Life, Plan, Rollback};
use crate::random::Random;

const HOUR_MS: u64 = 3_600_000;

/// The plan of a seed. Short, for there are many.
pub(crate) fn plan(seed: u64) -> Plan {
    // Another stream than that of the run, which begins with the seed itself.
    let mut random = Random::new(!seed);
    let voters = match random.below(40) {
        0..7 => 1,
        7..29 => 4,
        29..39 => 7,
        _ => 16,
    };
    let any = random.below(Villain::ALL.len() as u64) as usize;
    let villain = Some(Villain::ALL[any]).filter(|_| voters > 1 && random.percent(50));
    let honest = voters > 1 && villain.is_none();
    let damage = honest && random.percent(15);
    let rollback = [Rollback::Seen, Rollback::Unseen][random.below(2) as usize];
    let rollback = Some(rollback).filter(|_| honest && !damage && random.percent(15));
    let plan = Plan {
        voters,
        blocks: 3 + random.below(4),
        crashes: random.below(4),
        loss: random.below(20),
        doubled: random.below(20),
        late: random.below(10),
        cuts: random.below(3),
        followers: random.below(2) as usize,
        damage,
        clocks: [Clocks::Near, Clocks::Near, Clocks::Wrong, Clocks::Jumping]
            [random.below(4) as usize],
        blackout_ms: Some(random.below(7_200) * HOUR_MS).filter(|_| random.percent(10)),
        rollback,
        villain,
        punish: random.percent(50),
        ..Plan::quiet(seed)
    };
    Plan { life: life(&plan, &mut random), ..plan }
}

/// What such a site can go through: all honest voters together are a quorum, and often no more.
fn life(plan: &Plan, random: &mut Random) -> Vec<Life> {
    let honest = (0..plan.members()).filter(|gateway| !plan.is_villain(*gateway));
    let honest: Vec<usize> = honest.collect();
    let last = plan.voters - 1;
    // Elsewhere block time leaps, and nobody's attestation is fresh enough.
    let fresh = plan.clocks == Clocks::Near && plan.blackout_ms.is_none();
    let spare = plan.villain.is_none() && plan.voters > 1;
    let mut life = Vec::new();
    for _ in 0..random.below(3) {
        let any = honest[random.below(honest.len() as u64) as usize];
        let voter = random.below(plan.voters as u64) as usize;
        match random.below(5) {
            0 => life.push(Life::Rotate(any)),
            1 if spare => life.push(Life::Silence(voter)),
            1 if plan.villain.is_some() && !plan.punish => life.push(Life::Silence(last)),
            // Nobody attests a sole voter without others.
            2 if plan.voters > 1 => life.push(Life::Renew(any)),
            3 if spare && fresh => life.push(Life::Suspend(voter)),
            4 if fresh => {
                let newcomers = life.iter().filter(|each| matches!(each, Life::Admit(_)));
                life.push(Life::Admit(plan.members() + newcomers.count()));
            }
            _ => {}
        }
    }
    if plan.voters > 1 && random.percent(20) {
        life.push(Life::Revoke(last));
    }
    life
}
