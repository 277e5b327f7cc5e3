//! Who is there, and who is not (design §6 "Failure detection"). Pure: `step(now, input) ->
//! effects`; no clock, socket, disk or key.
//!
//! Every member sends heartbeats to the voters. A voter that has acknowledged none of a member for
//! `offline_after` signs, when it is asked, that the member is silent; from the moment at which it
//! decides so it acknowledges no further heartbeat of that liveness epoch, and answers *signed*.
//! The voter whose turn it is asks the others, and only while it hears enough of them to make a
//! quorum: in the smaller part of a divided site nobody signs anything.
//!
//! Silence counts by boot time, and only while this gateway itself was running: its start, a
//! suspend and a vote that is new begin it anew. Too late is never wrong here, too early is.

use std::collections::{BTreeMap, VecDeque};

use ledger::ids::{Era, Height, NodeId};
use ledger::state::{Standing, State};
use ledger::validator_set::quorum_of;

use super::beat::Beat;
use crate::admission::membership::in_turn;

/// Longest time between heartbeats, ms.
const LONGEST_INTERVAL_MS: u64 = 3_000;

/// Gateways that are watched; those beyond it are not, which no site has.
const MAX_WATCHED: usize = 256;

/// Statements that are kept; a voter that holds so many that still hold signs no more.
pub const MAX_SIGNED: usize = 256;

/// A gateway that has just been admitted fetches the record before it can be heard, ms.
const NEWCOMER_MS: u64 = 60_000;

/// Own heartbeats that an acknowledgement may be of.
const MAX_STAMPS: usize = 8;

/// A voter counts as heard for so many intervals.
const HEARD_INTERVALS: u64 = 3;

/// How long one voter has the turn to collect, ms: one that does nothing delays by no more.
const TURN_MS: u64 = 5_000;

/// Collections under way at the same time.
const MAX_COLLECTING: usize = 4;

/// Pauses after a collection in vain, ms; they double.
const COLLECT_AGAIN_MS: (u64, u64) = (1_000, 30_000);

/// Pauses between tries to come back, ms; they double.
const COME_AGAIN_MS: (u64, u64) = (3_000, 60_000);

/// The same voter makes this gateway come back again only after such pauses, ms; they double:
/// one that says *signed* for ever must not fill the record.
const BELIEVE_AGAIN_MS: (u64, u64) = (10_000, 3_600_000);

/// While somebody is silent and nothing can be done about it, it is looked at so often, ms.
const LOOK_AGAIN_MS: u64 = 1_000;

/// Time of a step.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Boot time, ms: it goes on in suspend.
    pub mono_ms: u64,
    /// The site's time, Unix ms: for turns alone.
    pub site_ms: u64,
    /// Newest block here.
    pub tip: Height,
}

/// A gateway as the record has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Who.
    pub node: NodeId,
    /// Its liveness epoch.
    pub epoch: u32,
    /// Whether it counts as online.
    pub online: bool,
    /// Whether it has rights that it could lose.
    pub rights: bool,
}

/// The ledger's word, as of one block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Era.
    pub era: Era,
    /// Voters, ascending.
    pub voters: Vec<NodeId>,
    /// `Policy::offline_after_ms`.
    pub offline_after_ms: u64,
    /// Gateways that may ever come back, ascending.
    pub gateways: Vec<Known>,
}

impl Facts {
    /// Copies them out of the state.
    pub fn of(state: &State) -> Self {
        let fit = |gateway: &ledger::state::Gateway| {
            gateway.replaced_by.is_none() && gateway.standing.standing != Standing::Revoked
        };
        let known = state.gateways().filter(|(_, gateway)| fit(gateway)).map(|(node, it)| Known {
            node: *node,
            epoch: it.liveness_epoch,
            online: it.online,
            rights: it.standing.standing.may_record(),
        });
        Self {
            era: state.era(),
            voters: state.voters().to_vec(),
            offline_after_ms: state.policy().offline_after_ms.into(),
            gateways: known.take(MAX_WATCHED).collect(),
        }
    }

    /// Time between heartbeats.
    fn interval_ms(&self) -> u64 {
        (self.offline_after_ms / 4).clamp(1, LONGEST_INTERVAL_MS)
    }

    /// A gateway with rights.
    fn member(&self, node: &NodeId) -> Option<&Known> {
        self.gateways.iter().find(|known| known.node == *node && known.rights)
    }

    fn votes(&self, node: &NodeId) -> bool {
        self.voters.contains(node)
    }
}

/// A statement that this gateway has decided to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed {
    /// Who is silent.
    pub node: NodeId,
    /// In which era of the ledger.
    pub era: Era,
    /// In which of its lives.
    pub epoch: u32,
}

/// What happens.
#[derive(Debug, Clone)]
pub enum Input {
    /// There is another block.
    Record(Facts),
    /// A member says something.
    Beat {
        /// Who, as its connection proves.
        from: NodeId,
        /// What.
        beat: Beat,
    },
    /// Time has passed.
    Tick,
    /// This gateway is asked to sign that a member is silent.
    Asked {
        /// The member.
        node: NodeId,
        /// Its liveness epoch.
        epoch: u32,
    },
    /// A collection has ended.
    Collected {
        /// About whom.
        node: NodeId,
        /// Whether it is on the record.
        done: bool,
    },
    /// A try to come back has ended.
    Came,
}

/// What is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send to a member.
    Send(NodeId, Beat),
    /// Sign that this member is silent; before that make this list durable, if there is one.
    Sign {
        /// What.
        statement: Signed,
        /// All statements, to be kept.
        keep: Option<Vec<Signed>>,
    },
    /// Answer that nothing is signed.
    Decline(Declined),
    /// Ask these voters to sign, and record what a quorum has signed.
    Collect {
        /// What.
        statement: Signed,
        /// Whom to ask; this gateway is not among them.
        voters: Vec<NodeId>,
        /// How many must sign, this gateway included.
        needed: usize,
    },
    /// Record that this gateway is here, in this life.
    ComeOnline {
        /// The next liveness epoch.
        epoch: u32,
    },
    /// The record says something else about a gateway than before.
    Changed(Known),
}

/// Why a voter does not sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Declined {
    /// It has not read its own record yet.
    #[error("this gateway is starting")]
    Starting,
    /// It does not vote.
    #[error("this gateway has no vote")]
    NoVote,
    /// The record here has no such member, or not in this life, or offline already.
    #[error("the record here says something else about that gateway")]
    Otherwise,
    /// It has heard the member, or has not run for long enough.
    #[error("this gateway has not missed it for long enough")]
    Heard,
    /// Too many statements are kept.
    #[error("this gateway keeps too many statements that still hold")]
    Full,
}

/// What is kept of another gateway.
#[derive(Debug, Clone, Copy)]
struct Watched {
    epoch: u32,
    /// Silence counts from here: its last acknowledged heartbeat, or when this life began.
    from_ms: u64,
    /// When it last said anything.
    heard_ms: Option<u64>,
    /// Newest block that it has acknowledged with.
    tip: Option<Height>,
    collecting: bool,
    again: Pause,
}

/// A time before which something is not done again, and how long the next pause is.
#[derive(Debug, Clone, Copy, Default)]
struct Pause {
    not_before_ms: u64,
    pause_ms: u64,
}

impl Pause {
    fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.not_before_ms
    }

    /// Begins the next pause, twice as long as the one before.
    fn begin(&mut self, now_ms: u64, (first, longest): (u64, u64)) {
        self.pause_ms = self.pause_ms.saturating_mul(2).clamp(first, longest);
        self.not_before_ms = now_ms.saturating_add(self.pause_ms);
    }
}

/// Keeps watch for one gateway. All of it is bounded by the members of the site.
#[derive(Debug)]
pub struct Liveness {
    own: NodeId,
    facts: Option<Facts>,
    /// Silence counts from here on at the earliest.
    since_ms: u64,
    /// When the last step was.
    stepped_ms: u64,
    watched: BTreeMap<NodeId, Watched>,
    signed: BTreeMap<NodeId, (Era, u32)>,
    /// What was signed is not known: the file is damaged.
    unsure: bool,
    next_beat_ms: u64,
    stamps: VecDeque<u64>,
    coming: bool,
    come_again: Pause,
    believed: BTreeMap<NodeId, Pause>,
}

impl Liveness {
    /// Begins to watch. `kept` is what was signed before; `None` when that cannot be read: then
    /// everything may have been signed.
    pub fn new(own: NodeId, now_ms: u64, kept: Option<Vec<Signed>>) -> Self {
        let unsure = kept.is_none();
        let signed = kept.unwrap_or_default().into_iter().map(|it| (it.node, (it.era, it.epoch)));
        Self {
            own,
            facts: None,
            since_ms: now_ms,
            stepped_ms: now_ms,
            watched: BTreeMap::new(),
            signed: signed.collect(),
            unsure,
            next_beat_ms: now_ms,
            stamps: VecDeque::new(),
            coming: false,
            come_again: Pause::default(),
            believed: BTreeMap::new(),
        }
    }

    /// One input.
    pub fn step(&mut self, now: Now, input: Input) -> Vec<Effect> {
        self.notice_standstill(now.mono_ms);
        match input {
            Input::Record(facts) => self.record(now.mono_ms, facts),
            Input::Beat { from, beat: Beat::Heartbeat { epoch, stamp } } => {
                let acknowledged = self.heartbeat(now, from, epoch, stamp);
                acknowledged.map(|beat| Effect::Send(from, beat)).into_iter().collect()
            }
            Input::Beat { from, beat: Beat::Acknowledgement { epoch, stamp, tip, signed } } => {
                let comes = self.acknowledged(now.mono_ms, from, epoch, stamp, tip, signed);
                comes.into_iter().collect()
            }
            Input::Tick => self.tick(now),
            Input::Asked { node, epoch } => {
                let asked = self.asked(now.mono_ms, node, epoch);
                vec![asked.unwrap_or_else(Effect::Decline)]
            }
            Input::Collected { node, done } => {
                self.collected(now.mono_ms, &node, done);
                vec![]
            }
            Input::Came => {
                self.coming = false;
                vec![]
            }
        }
    }

    /// When there is something to do by time alone, boot time in ms.
    pub fn next_wake(&self, now_ms: u64) -> u64 {
        let Some(facts) = &self.facts else { return now_ms.saturating_add(LONGEST_INTERVAL_MS) };
        let mut wake = self.next_beat_ms;
        if facts.votes(&self.own) {
            let online = facts.gateways.iter().filter(|it| it.rights && it.online);
            for watched in online.filter_map(|known| self.watched.get(&known.node)) {
                let due = self.silence_from(watched).saturating_add(facts.offline_after_ms);
                let look = now_ms.saturating_add(LOOK_AGAIN_MS);
                wake = wake.min(if due > now_ms { due } else { look });
            }
        }
        wake.max(now_ms)
    }

    /// The newest block of each gateway that has acknowledged something.
    pub fn tips(&self) -> impl Iterator<Item = (NodeId, Height)> {
        self.watched.iter().filter_map(|(node, watched)| watched.tip.map(|tip| (*node, tip)))
    }

    /// What was not running could not hear: a suspend, or a machine that stood still.
    fn notice_standstill(&mut self, now_ms: u64) {
        let allowed = self.facts.as_ref().map_or(u64::MAX, |facts| facts.offline_after_ms / 2);
        if now_ms.saturating_sub(self.stepped_ms) > allowed {
            self.since_ms = now_ms;
        }
        self.stepped_ms = now_ms;
    }

    fn record(&mut self, now_ms: u64, facts: Facts) -> Vec<Effect> {
        let before = self.facts.take();
        if self.unsure {
            let all = facts.gateways.iter().filter(|known| known.node != self.own);
            self.signed.extend(all.map(|known| (known.node, (facts.era, known.epoch))));
            self.unsure = false;
        }
        let voted = before.as_ref().is_some_and(|before| before.votes(&self.own));
        if facts.votes(&self.own) && !voted {
            self.since_ms = now_ms;
        }
        let mut changes = Vec::new();
        for known in &facts.gateways {
            let old = before.as_ref().and_then(|before| {
                before.gateways.iter().find(|old| old.node == known.node).copied()
            });
            if old.is_some_and(|old| (old.epoch, old.online) != (known.epoch, known.online)) {
                changes.push(Effect::Changed(*known));
            }
            if known.node != self.own {
                let newcomer = before.is_some() && !old.is_some_and(|old| old.rights);
                self.watch(now_ms, known, newcomer, facts.offline_after_ms);
            } else if old.is_some_and(|old| old.epoch != known.epoch) {
                self.come_again = Pause::default();
            }
        }
        let here = |node: &NodeId| facts.gateways.iter().find(|known| known.node == *node);
        self.watched.retain(|node, _| here(node).is_some());
        self.believed.retain(|node, _| facts.votes(node));
        // Void is what was said in another era, about an earlier life, or about who is gone for
        // good.
        self.signed.retain(|node, (era, epoch)| {
            *era == facts.era && here(node).is_some_and(|known| known.epoch <= *epoch)
        });
        self.facts = Some(facts);
        changes
    }

    fn watch(&mut self, now_ms: u64, known: &Known, newcomer: bool, offline_after_ms: u64) {
        let patience_ms = if newcomer { NEWCOMER_MS.saturating_sub(offline_after_ms) } else { 0 };
        let watched = self.watched.entry(known.node).or_insert(Watched {
            epoch: known.epoch,
            from_ms: now_ms,
            heard_ms: None,
            tip: None,
            collecting: false,
            again: Pause::default(),
        });
        if newcomer {
            watched.from_ms = now_ms.saturating_add(patience_ms);
        }
        if watched.epoch != known.epoch {
            watched.epoch = known.epoch;
            watched.from_ms = watched.from_ms.max(now_ms);
            watched.again = Pause::default();
        }
    }

    /// A member is there.
    fn heartbeat(&mut self, now: Now, from: NodeId, epoch: u32, stamp: u64) -> Option<Beat> {
        let facts = self.facts.as_ref()?;
        facts.member(&from)?;
        let watched = self.watched.get_mut(&from)?;
        watched.heard_ms = Some(now.mono_ms);
        // A heartbeat of an older life than the signed one is of a gateway that is behind its own
        // record: nothing is promised to it either.
        let signed = self.signed.get(&from);
        let signed = signed.is_some_and(|(era, of)| *era == facts.era && epoch <= *of);
        if !signed {
            watched.from_ms = now.mono_ms;
            watched.again = Pause::default();
        }
        Some(Beat::Acknowledgement { epoch, stamp, tip: now.tip, signed })
    }

    fn acknowledged(
        &mut self,
        now_ms: u64,
        from: NodeId,
        epoch: u32,
        stamp: u64,
        tip: Height,
        signed: bool,
    ) -> Option<Effect> {
        let facts = self.facts.as_ref()?;
        // What this gateway did not send is not acknowledged.
        if !facts.votes(&from) || !self.stamps.contains(&stamp) {
            return None;
        }
        let watched = self.watched.get_mut(&from)?;
        (watched.heard_ms, watched.tip) = (Some(now_ms), Some(tip));
        let own = *facts.member(&self.own)?;
        if !signed || epoch != own.epoch {
            return None;
        }
        let believed = self.believed.entry(from).or_default();
        if !believed.is_over(now_ms) {
            return None;
        }
        // One that has long said nothing of the kind is believed at once again.
        if now_ms.saturating_sub(believed.not_before_ms) > believed.pause_ms {
            *believed = Pause::default();
        }
        let comes = self.come(now_ms, own.epoch);
        if comes.is_some() {
            self.believed.entry(from).or_default().begin(now_ms, BELIEVE_AGAIN_MS);
        }
        comes
    }

    /// Begins the next life, unless that is under way.
    fn come(&mut self, now_ms: u64, epoch: u32) -> Option<Effect> {
        if self.coming || !self.come_again.is_over(now_ms) {
            return None;
        }
        let epoch = epoch.checked_add(1)?;
        self.coming = true;
        self.come_again.begin(now_ms, COME_AGAIN_MS);
        Some(Effect::ComeOnline { epoch })
    }

    fn tick(&mut self, now: Now) -> Vec<Effect> {
        let Some(facts) = &self.facts else { return vec![] };
        let own = facts.member(&self.own).copied();
        let mut effects = Vec::new();
        if now.mono_ms >= self.next_beat_ms {
            self.next_beat_ms = now.mono_ms.saturating_add(facts.interval_ms());
            if let Some(own) = own {
                let beat = Beat::Heartbeat { epoch: own.epoch, stamp: now.mono_ms };
                let voters = facts.voters.iter().filter(|voter| **voter != self.own);
                effects.extend(voters.map(|voter| Effect::Send(*voter, beat)));
                self.stamps.push_back(now.mono_ms);
                while self.stamps.len() > MAX_STAMPS {
                    self.stamps.pop_front();
                }
            }
        }
        effects.extend(self.collect(now));
        if let Some(own) = own.filter(|own| !own.online) {
            effects.extend(self.come(now.mono_ms, own.epoch));
        }
        effects
    }

    /// What is to be collected now, if it is this voter's turn.
    fn collect(&mut self, now: Now) -> Vec<Effect> {
        let Some(facts) = self.facts.as_ref().filter(|facts| facts.votes(&self.own)) else {
            return vec![];
        };
        let needed = quorum_of(facts.voters.len());
        let mut under_way = self.watched.values().filter(|watched| watched.collecting).count();
        let mut effects = Vec::new();
        for known in facts.gateways.iter().filter(|known| known.rights && known.online) {
            let Some(watched) = self.watched.get(&known.node) else { continue };
            let idle = !watched.collecting && watched.again.is_over(now.mono_ms);
            if !idle || under_way >= MAX_COLLECTING || !self.is_silent(now.mono_ms, &known.node) {
                continue;
            }
            let heard: Vec<NodeId> = self.heard(facts, now.mono_ms, &known.node);
            let (here, turn_ms) = (heard.len() + 1 >= needed, TURN_MS);
            let turn = in_turn(&facts.voters, &self.own, &heard, now.site_ms, turn_ms);
            if !here || turn != Some(self.own) {
                continue;
            }
            under_way += 1;
            let statement = Signed { node: known.node, era: facts.era, epoch: known.epoch };
            effects.push(Effect::Collect { statement, voters: heard, needed });
        }
        for effect in &effects {
            if let Effect::Collect { statement, .. } = effect
                && let Some(watched) = self.watched.get_mut(&statement.node)
            {
                watched.collecting = true;
            }
        }
        effects
    }

    /// Voters beside this one and `but` that were heard lately.
    fn heard(&self, facts: &Facts, now_ms: u64, but: &NodeId) -> Vec<NodeId> {
        let lately_ms = HEARD_INTERVALS * facts.interval_ms();
        let heard = |node: &&NodeId| {
            let at = self.watched.get(node).and_then(|watched| watched.heard_ms);
            at.is_some_and(|at| now_ms.saturating_sub(at) <= lately_ms)
        };
        facts.voters.iter().filter(|node| *node != but).filter(heard).copied().collect()
    }

    fn silence_from(&self, watched: &Watched) -> u64 {
        watched.from_ms.max(self.since_ms)
    }

    fn is_silent(&self, now_ms: u64, node: &NodeId) -> bool {
        let (Some(facts), Some(watched)) = (&self.facts, self.watched.get(node)) else {
            return false;
        };
        now_ms.saturating_sub(self.silence_from(watched)) >= facts.offline_after_ms
    }

    fn asked(&mut self, now_ms: u64, node: NodeId, epoch: u32) -> Result<Effect, Declined> {
        let facts = self.facts.as_ref().ok_or(Declined::Starting)?;
        if !facts.votes(&self.own) {
            return Err(Declined::NoVote);
        }
        let known = facts.member(&node).filter(|known| known.online && known.epoch == epoch);
        if known.is_none() || node == self.own {
            return Err(Declined::Otherwise);
        }
        let statement = Signed { node, era: facts.era, epoch };
        if self.signed.get(&node) == Some(&(facts.era, epoch)) {
            // It is kept already, and so nothing was promised to the member since.
            return Ok(Effect::Sign { statement, keep: None });
        }
        if !self.is_silent(now_ms, &node) {
            return Err(Declined::Heard);
        }
        if self.signed.len() >= MAX_SIGNED && !self.signed.contains_key(&node) {
            return Err(Declined::Full);
        }
        self.signed.insert(node, (statement.era, epoch));
        let all = self.signed.iter().map(|(node, (era, epoch))| Signed {
            node: *node,
            era: *era,
            epoch: *epoch,
        });
        Ok(Effect::Sign { statement, keep: Some(all.collect()) })
    }

    fn collected(&mut self, now_ms: u64, node: &NodeId, done: bool) {
        let Some(watched) = self.watched.get_mut(node) else { return };
        watched.collecting = false;
        if done {
            // The block that this gateway has yet to read says the rest.
            watched.again.pause_ms = COLLECT_AGAIN_MS.1;
        }
        watched.again.begin(now_ms, COLLECT_AGAIN_MS);
    }
}

#[cfg(test)]
#[path = "liveness_tests.rs"]
mod tests;
