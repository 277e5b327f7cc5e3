//! Plans drawn from the seed: any number of voters, any trouble, any liar.

use crate::adversary::Villain;
use crate::plan::{Clocks, Plan};
use crate::random::Random;

const HOUR_MS: u64 = 3_600_000;

/// The plan of a seed. Short, for there are many.
pub(crate) fn plan(seed: u64) -> Plan {
    // Another stream than that of the run, which begins with the seed itself.
    let mut random = Random::new(!seed);
    let voters = [1, 4, 4, 4, 7][random.below(5) as usize];
    let any = random.below(Villain::ALL.len() as u64) as usize;
    let villain = Some(Villain::ALL[any]).filter(|_| voters > 1 && random.percent(50));
    Plan {
        voters,
        blocks: 3 + random.below(4),
        crashes: random.below(4),
        loss: random.below(20),
        doubled: random.below(20),
        late: random.below(10),
        cuts: random.below(3),
        followers: random.below(2) as usize,
        damage: voters > 1 && villain.is_none() && random.percent(20),
        clocks: [Clocks::Near, Clocks::Near, Clocks::Wrong, Clocks::Jumping]
            [random.below(4) as usize],
        blackout_ms: Some(random.below(7_200) * HOUR_MS).filter(|_| random.percent(10)),
        ..Plan::quiet(seed)
    }
}
