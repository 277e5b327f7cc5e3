//! One run: a plan, a queue of events in virtual time, and the gateways.

use std::collections::BTreeMap;

use ledger::host::{Host, HostError, Outward};
use ledger::ids::{Era, NodeId};
use ledger::node::{Input, Now};
use ledger::store::Store;
use ledger::transaction::Survivor;
use tempfile::TempDir;

use crate::adversary::Adversary;
use crate::clock::WallClock;
use crate::disk::{Disk, Fuse};
use crate::network::Network;
use crate::plan::Plan;
use crate::random::Random;
use crate::site::Site;
use crate::witness::Witness;

enum Event {
    Deliver { to: usize, from: NodeId, bytes: Vec<u8> },
    Wake { gateway: usize },
    Submit,
    LightFuse,
    Restart { gateway: usize },
    Cut,
    Heal,
    Jump,
    Blackout,
    Lose,
    Recover,
    Grow,
}

struct Gateway {
    directory: TempDir,
    disks: [Disk; 2],
    fuse: Fuse,
    /// None while the power is off.
    host: Option<Host<Disk>>,
    /// Virtual time of its last start: its monotonic clock counts from there.
    booted_ms: u64,
    wake_ms: Option<u64>,
    clock: WallClock,
    adversary: Option<Adversary>,
}

pub(crate) struct Run {
    plan: Plan,
    site: Site,
    random: Random,
    witness: Witness,
    gateways: Vec<Gateway>,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    now_ms: u64,
    nonce: u64,
    network: Network,
    crashes_left: u64,
    cuts_left: u64,
    blackout_ms: Option<u64>,
    /// Gateways that will never run again.
    lost: Vec<usize>,
    /// A new era is to begin.
    unrecovered: bool,
    /// More voters are to come.
    ungrown: bool,
    activations: u64,
    /// Virtual time by which there must be progress again.
    patience_ms: u64,
}

/// What a run leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// Of everything that was said and stored.
    pub(crate) fingerprint: u64,
    /// How often an honest gateway noticed two signed votes for one place.
    pub(crate) evidence: u64,
}

/// No run takes longer, in virtual time.
const PATIENCE_MS: u64 = 1_800_000;

impl Run {
    pub(crate) fn new(plan: Plan) -> Self {
        let site = Site::with_followers(plan.voters, plan.followers);
        let founding = site.founding();
        let mut random = Random::new(plan.seed);
        let gateways = (0..plan.gateways())
            .map(|index| {
                let directory = folder();
                Store::found(directory.path(), &founding).unwrap();
                let fuse = Fuse::default();
                let disks = [Disk::new(&fuse), Disk::new(&fuse)];
                let clock = WallClock::new(plan.clocks, index, &mut random);
                let villain = plan.villain.filter(|_| plan.is_villain(index));
                let key = || site.votes[index].clone();
                let adversary =
                    villain.map(|villain| Adversary::new(villain, key(), site.chain_id()));
                let (host, wake_ms) = (None, None);
                Gateway { directory, disks, fuse, host, booted_ms: 0, wake_ms, clock, adversary }
            })
            .collect();
        let (crashes_left, cuts_left) = (plan.crashes, plan.cuts);
        let (blackout_ms, unrecovered, grows) = (plan.blackout_ms, plan.lost > 0, plan.grows);
        let liars = (0..plan.gateways()).filter(|gateway| plan.is_villain(*gateway));
        let liars = liars.map(|gateway| site.nodes[gateway]).collect();
        let mut run = Self {
            plan,
            site,
            random,
            witness: Witness::new(liars),
            gateways,
            events: BTreeMap::new(),
            sequence: 0,
            now_ms: 0,
            nonce: 0,
            network: Network::default(),
            crashes_left,
            cuts_left,
            blackout_ms,
            lost: Vec::new(),
            unrecovered,
            ungrown: grows,
            activations: 0,
            patience_ms: PATIENCE_MS,
        };
        for gateway in 0..run.plan.running() {
            run.start(gateway);
        }
        run.after(100, Event::Submit);
        run.after(2_000, Event::Jump);
        if run.crashes_left > 0 {
            run.after(500, Event::LightFuse);
        }
        if run.cuts_left > 0 {
            run.after(1_000, Event::Cut);
        }
        if run.unrecovered {
            run.after(4_000, Event::Lose);
        }
        if run.ungrown {
            run.after(2_500, Event::Grow);
        }
        if run.blackout_ms.is_some() {
            run.after(3_000, Event::Blackout);
        }
        run
    }

    /// Runs to the end of the plan.
    pub(crate) fn finish(mut self) -> Report {
        while !self.is_done() {
            let ((at_ms, _), event) = self.events.pop_first().expect("something is always due");
            self.now_ms = at_ms;
            assert!(at_ms < self.patience_ms, "no progress: {}", self.describe());
            self.handle(event);
        }
        self.check_stores();
        Report { fingerprint: self.witness.fingerprint(), evidence: self.witness.evidence }
    }

    fn describe(&self) -> String {
        let each = |gateway: &Gateway| {
            gateway.host.as_ref().map(|host| {
                let node = host.node();
                (node.tip().height, node.silent_through(), node.waiting())
            })
        };
        let gateways: Vec<_> = self.gateways.iter().map(each).collect();
        format!("seed {}, (height, silent through, waiting): {gateways:?}", self.plan.seed)
    }

    fn is_done(&self) -> bool {
        let stored =
            |gateway| self.witness.stored.get(&gateway).is_some_and(|h| h.0 >= self.plan.blocks);
        self.crashes_left == 0
            && self.cuts_left == 0
            && self.blackout_ms.is_none()
            && !self.unrecovered
            && !self.ungrown
            && self.honest().all(stored)
    }

    /// Gateways that run and do not lie.
    fn honest(&self) -> impl Iterator<Item = usize> {
        let honest =
            |gateway: &usize| !self.plan.is_villain(*gateway) && !self.lost.contains(gateway);
        (0..self.plan.running()).filter(honest)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver { to, from, bytes } => {
                if let Some(adversary) = &mut self.gateways[to].adversary {
                    adversary.hears(&bytes, &mut self.random);
                }
                self.feed(to, Input::Message { from, bytes });
            }
            Event::Wake { gateway } => {
                if self.gateways[gateway].wake_ms == Some(self.now_ms) {
                    self.gateways[gateway].wake_ms = None;
                    self.feed(gateway, Input::Wake);
                }
            }
            Event::Submit => {
                self.nonce += 1;
                let act = self.site.act(self.nonce);
                let gateway = self.random.below(self.plan.gateways() as u64) as usize;
                self.feed(gateway, Input::Submit(Box::new(act)));
                let pause = 50 + self.random.below(1_000);
                self.after(pause, Event::Submit);
            }
            Event::LightFuse => {
                let hurt_first = self.plan.damage && self.random.percent(50);
                let any = self.random.below(self.plan.gateways() as u64) as usize;
                let gateway = if hurt_first { 0 } else { any };
                let operations = self.random.below(60);
                self.gateways[gateway].fuse.light(operations);
                if self.crashes_left > 0 {
                    let pause = 500 + self.random.below(2_500);
                    self.after(pause, Event::LightFuse);
                }
            }
            // A blackout may have brought it back already.
            Event::Restart { gateway }
                if self.gateways[gateway].host.is_none() && !self.lost.contains(&gateway) =>
            {
                self.start(gateway);
            }
            Event::Restart { .. } => {}
            Event::Cut => {
                self.network.cut(&mut self.random);
                let pause = 500 + self.random.below(10_000);
                self.after(pause, Event::Heal);
            }
            Event::Heal => {
                self.network.heal();
                self.cuts_left = self.cuts_left.saturating_sub(1);
                if self.cuts_left > 0 {
                    let pause = 500 + self.random.below(3_000);
                    self.after(pause, Event::Cut);
                }
            }
            Event::Jump => {
                for each in &mut self.gateways {
                    each.clock.jump(&mut self.random);
                }
                self.after(5_000, Event::Jump);
            }
            Event::Blackout => self.black_out(),
            Event::Lose => {
                self.lost = (self.plan.voters - self.plan.lost..self.plan.voters).collect();
                for gateway in self.lost.clone() {
                    self.gateways[gateway].host = None;
                }
                self.after(10_000, Event::Recover);
            }
            Event::Recover => self.recover(),
            Event::Grow => self.grow(),
        }
    }

    /// The sole voter makes voters of all others.
    fn grow(&mut self) {
        self.after(2_000, Event::Grow);
        let Some(node) = self.gateways[0].host.as_ref().map(Host::node) else {
            return;
        };
        self.ungrown = node.state().voters().len() < self.plan.gateways();
        if self.ungrown {
            let tip = node.tip().clone();
            let others: Vec<usize> = (1..self.plan.gateways()).collect();
            self.activations += 1;
            let activation = self.site.activation(self.activations, &tip, &others);
            self.feed(0, Input::Submit(Box::new(activation)));
        }
    }

    /// The operator begins a new era on the highest block that a survivor has.
    fn recover(&mut self) {
        let survivors: Vec<_> =
            (0..self.plan.voters).filter(|gateway| !self.lost.contains(gateway)).collect();
        let height = |gateway: &usize| {
            self.gateways[*gateway].host.as_ref().map(|host| host.node().tip().height)
        };
        // Followers count: the operator is shown every tip that there is. One that has no power
        // now may be the highest: wait for it.
        let left: Vec<_> = self.honest().collect();
        let all_there = left.iter().all(|gateway| height(gateway).is_some());
        let Some(best) = left.into_iter().max_by_key(height).filter(|_| all_there) else {
            return self.after(500, Event::Recover);
        };
        let mut nodes: Vec<_> = survivors.iter().map(|gateway| self.site.nodes[*gateway]).collect();
        nodes.sort_unstable();
        let list = nodes.into_iter().map(|node| Survivor { node, new_vote_key: None }).collect();
        self.nonce += 1;
        let node = self.gateways[best].host.as_ref().map(Host::node);
        let Some(Ok(draft)) = node.map(|node| node.prepare_recovery(list, self.nonce, u64::MAX))
        else {
            return self.after(500, Event::Recover);
        };
        let act = draft.sign(&self.site.operator);
        // What the lost ones alone had stored is lost with them.
        self.witness.chain.retain(|stored, _| Some(*stored) <= height(&best));
        self.feed(best, Input::Submit(Box::new(act)));
        let node = self.gateways[best].host.as_ref().map(Host::node);
        if node.is_some_and(|node| node.state().era() == Era(1)) {
            self.unrecovered = false;
        } else {
            self.after(500, Event::Recover);
        }
    }

    /// The power of the whole site goes, and comes back much later.
    fn black_out(&mut self) {
        let Some(length_ms) = self.blackout_ms.take() else {
            return;
        };
        self.witness.mix(b"blackout");
        for gateway in 0..self.plan.running() {
            if let Some(host) = self.gateways[gateway].host.take() {
                drop(host);
                self.lose_power(gateway);
            }
        }
        // What was on its way never arrives; what was planned happens after the blackout.
        let events = std::mem::take(&mut self.events);
        self.patience_ms += length_ms;
        for ((at_ms, sequence), event) in events {
            if !matches!(event, Event::Deliver { .. } | Event::Wake { .. }) {
                self.events.insert((at_ms + length_ms, sequence), event);
            }
        }
        for gateway in 0..self.plan.running() {
            let pause = length_ms + self.random.below(60_000);
            self.after(pause, Event::Restart { gateway });
        }
    }

    fn feed(&mut self, gateway: usize, input: Input) {
        let now = self.clock(gateway);
        let Some(mut host) = self.gateways[gateway].host.take() else {
            return;
        };
        let mut out = Vec::new();
        let result = host.step(now, input, &mut |each| out.push(each));
        // What left before a power cut has left.
        out.into_iter().for_each(|each| self.outward(gateway, each));
        match result {
            Ok(()) => {
                self.gateways[gateway].host = Some(host);
                self.schedule_wake(gateway, now);
            }
            Err(HostError::Log(_)) => self.cut_power(gateway, host),
            Err(error) => panic!("seed {}: gateway {gateway}: {error}", self.plan.seed),
        }
    }

    fn outward(&mut self, gateway: usize, out: Outward) {
        match out {
            Outward::Publish(bytes) => {
                let others: Vec<_> =
                    (0..self.plan.gateways()).filter(|to| *to != gateway).collect();
                self.say(gateway, &others, bytes);
            }
            Outward::Send { to, bytes } => {
                if let Some(to) = self.site.nodes.iter().position(|node| *node == to) {
                    self.say(gateway, &[to], bytes);
                }
            }
            Outward::Committed(committed) => {
                self.witness.committed(gateway, committed.height, committed.header.hash());
            }
            // An act whose nonce came too late or whose twin was first: the network's doing.
            Outward::Refused { .. } => {}
            Outward::Equivocation(votes) => {
                let accused = self.site.nodes.iter().position(|node| *node == votes.first.voter);
                assert!(accused.is_some_and(|node| self.plan.is_villain(node)), "{votes:?}");
                self.witness.evidence += 1;
            }
            Outward::DiskFull => panic!("the disk is not full"),
            Outward::Behind(behind) => panic!("nobody is that far behind: {behind:?}"),
        }
    }

    /// What a gateway says, or what an adversary makes of it.
    fn say(&mut self, from: usize, to: &[usize], bytes: Vec<u8>) {
        let letters = match &mut self.gateways[from].adversary {
            Some(adversary) => adversary.says(to, bytes, &mut self.random),
            None => {
                self.witness.sent(&bytes);
                to.iter().map(|to| (*to, bytes.clone())).collect()
            }
        };
        let node = self.site.nodes[from];
        for (to, bytes) in letters {
            for delay in self.network.delays(&self.plan, from, to, &mut self.random) {
                let bytes = bytes.clone();
                self.after(delay, Event::Deliver { to, from: node, bytes });
            }
        }
    }

    fn start(&mut self, gateway: usize) {
        let id = self.site.nodes[gateway];
        let key = self.site.votes[gateway].clone();
        let now_ms = self.now_ms;
        let each = &mut self.gateways[gateway];
        each.fuse.put_out();
        each.booted_ms = now_ms;
        let store = Store::open(each.directory.path()).unwrap();
        let host = Host::with_media(store, each.disks.clone(), id, Some(key)).unwrap();
        let tip = host.node().tip();
        self.witness.restarted(gateway, tip.height, tip.hash());
        // A block stored in the very step of the cut was never announced.
        self.witness.stored.insert(gateway, tip.height);
        each.host = Some(host);
        self.feed(gateway, Input::Start);
    }

    fn cut_power(&mut self, gateway: usize, host: Host<Disk>) {
        drop(host);
        self.crashes_left = self.crashes_left.saturating_sub(1);
        self.witness.mix(b"cut");
        self.lose_power(gateway);
        let pause = 10 + self.random.below(5_000);
        self.after(pause, Event::Restart { gateway });
    }

    /// What a power cut does to the log.
    fn lose_power(&mut self, gateway: usize) {
        let disks = self.gateways[gateway].disks.clone();
        // A voter whose log is lost is silent for a height: more than f of them at once are a
        // case for `site recover`, so it is always the same one.
        if self.plan.damage && gateway == 0 {
            let copies = 1 + self.random.below(2) as usize;
            let back = 1 + self.random.below(600) as usize;
            disks.iter().take(copies).for_each(|disk| disk.flip(back));
        }
        for disk in &disks {
            disk.cut_power(&mut self.random);
        }
    }

    fn schedule_wake(&mut self, gateway: usize, now: Now) {
        let each = &mut self.gateways[gateway];
        let Some(wake) = each.host.as_ref().and_then(|host| host.next_wake(now)) else {
            return;
        };
        let at_ms = (each.booted_ms + wake).max(self.now_ms + 1);
        if each.wake_ms.is_none_or(|planned| planned > at_ms || planned <= self.now_ms) {
            each.wake_ms = Some(at_ms);
            self.after(at_ms - self.now_ms, Event::Wake { gateway });
        }
    }

    fn clock(&self, gateway: usize) -> Now {
        let each = &self.gateways[gateway];
        Now {
            mono_ms: self.now_ms - each.booted_ms,
            wall_ms: each.clock.wall_ms(self.now_ms),
            synchronised: each.clock.is_synchronised(),
        }
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now_ms + ms, self.sequence), event);
    }

    /// At the end every store holds the one chain.
    fn check_stores(&self) {
        let kept = |(index, _): &(usize, &Gateway)| !self.lost.contains(index);
        for (index, each) in self.gateways.iter().enumerate().filter(kept) {
            let reader = ledger::store::Reader::open(each.directory.path()).unwrap();
            let tip = reader.tip().unwrap();
            for (height, hash) in self.witness.chain.range(..=tip.height) {
                let header = reader.header(*height).unwrap().unwrap();
                assert_eq!(header.hash(), *hash, "gateway {index} at height {height}");
                let certificate = reader.certificate(*height).unwrap().unwrap();
                let validators = reader.validators(*height).unwrap();
                certificate.verify(&header, &validators).unwrap();
            }
        }
    }
}

/// A folder in memory where there is one: what a sync is worth is the simulated disk's to say.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
