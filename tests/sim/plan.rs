//! What a run is to go through.

use crate::adversary::Villain;

/// A plan; [`Plan::quiet`] is the one without trouble.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) voters: usize,
    /// The run ends when every honest gateway that is not away has stored this many blocks.
    pub(crate) blocks: u64,
    /// Power cuts, spread over the run.
    pub(crate) crashes: u64,
    /// Messages lost, percent.
    pub(crate) loss: u64,
    /// Messages that arrive twice, percent.
    pub(crate) doubled: u64,
    /// Messages that take up to two seconds and so overtake each other, percent.
    pub(crate) late: u64,
    /// Times at which the gateways fall apart into two groups for a while.
    pub(crate) cuts: u64,
    /// Gateways without a vote.
    pub(crate) followers: usize,
    /// Gateways that never run.
    pub(crate) away: usize,
    /// Each power cut of the first voter also damages its log, in one copy or both.
    pub(crate) damage: bool,
    /// What the wall clocks show.
    pub(crate) clocks: Clocks,
    /// All power is off once, for so many milliseconds.
    pub(crate) blackout_ms: Option<u64>,
    /// So many of the last voters are lost for ever, and the operator begins a new era with the
    /// others.
    pub(crate) lost: usize,
    /// The operator does not wait for a survivor that has no power: it may have newer blocks.
    pub(crate) hasty: bool,
    /// One gateway's disk is replaced by an older copy of it.
    pub(crate) rollback: Option<Rollback>,
    /// What members and operator do, one after the other.
    pub(crate) life: Vec<Life>,
    /// The last voters are this: at most as many as the site stands.
    pub(crate) villain: Option<Villain>,
    /// Whoever notices two signed votes for one place has the liar suspended.
    pub(crate) punish: bool,
}

/// Whether an older copy of a disk is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rollback {
    /// The TPM has counted the starts.
    Seen,
    /// The TPM is a program on the same disk.
    Unseen,
}

/// What happens to gateways in the life of a site; gateways by their number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It changes its vote key.
    Rotate(usize),
    /// A quorum says that it is silent; then it comes back.
    Silence(usize),
    /// Its TPM is attested once more.
    Renew(usize),
    /// A quorum suspends it for its attestation, the operator pardons, and it votes again.
    Suspend(usize),
    /// The operator revokes it for ever.
    Revoke(usize),
    /// It is admitted, and begins with a snapshot.
    Admit(usize),
    /// Followers become voters, all at once, by the voters' own rule.
    Grow(Vec<usize>),
}

/// What the wall clocks show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clocks {
    /// Within two seconds, every third not synchronised.
    Near,
    /// 1970, 2035, stopped, and ten percent too fast; all of them believe themselves.
    Wrong,
    /// Steps of hours, both ways.
    Jumping,
}

impl Plan {
    pub(crate) fn quiet(seed: u64) -> Self {
        Self {
            seed,
            voters: 1,
            blocks: 10,
            crashes: 0,
            loss: 0,
            doubled: 0,
            late: 0,
            cuts: 0,
            followers: 0,
            away: 0,
            damage: false,
            clocks: Clocks::Near,
            blackout_ms: None,
            lost: 0,
            hasty: false,
            rollback: None,
            life: Vec::new(),
            villain: None,
            punish: false,
        }
    }

    /// All followers become voters.
    pub(crate) fn growing(self) -> Self {
        let followers = (self.voters..self.members()).collect();
        Self { life: vec![Life::Grow(followers)], ..self }
    }

    /// Gateways of the beginning.
    pub(crate) fn members(&self) -> usize {
        self.voters + self.followers
    }

    /// Gateways that are admitted later; their numbers follow on those of the members.
    pub(crate) fn newcomers(&self) -> usize {
        self.life.iter().filter(|each| matches!(each, Life::Admit(_))).count()
    }

    pub(crate) fn gateways(&self) -> usize {
        self.members() + self.newcomers()
    }

    /// The first members run; those that are away never do.
    pub(crate) fn running(&self) -> usize {
        self.members() - self.away
    }

    /// Whether a gateway is dishonest: the last third of the voters, rounded down.
    pub(crate) fn is_villain(&self, gateway: usize) -> bool {
        let villains = if self.villain.is_some() { (self.voters - 1) / 3 } else { 0 };
        (self.voters - villains..self.voters).contains(&gateway)
    }
}
