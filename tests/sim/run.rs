//! One run: a plan, a queue of events in virtual time, and the gateways.

use std::collections::BTreeMap;

use ledger::host::{Host, HostError, Outward};
use ledger::ids::NodeId;
use ledger::node::{Input, Now};
use ledger::store::Store;
use tempfile::TempDir;

use crate::disk::{Disk, Fuse};
use crate::random::Random;
use crate::site::{START_MS, Site};
use crate::witness::Witness;

/// What a run is to go through.
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) voters: usize,
    /// The run ends when every gateway that is not away has stored this many blocks.
    pub(crate) blocks: u64,
    /// Power cuts, spread over the run.
    pub(crate) crashes: u64,
    /// Messages lost, percent.
    pub(crate) loss: u64,
    /// Gateways without a vote.
    pub(crate) followers: usize,
    /// Gateways that never run.
    pub(crate) away: usize,
    /// Each power cut of the first voter also damages its log, in one copy or both.
    pub(crate) damage: bool,
}

impl Plan {
    pub(crate) fn quiet(seed: u64) -> Self {
        Self {
            seed,
            voters: 1,
            blocks: 10,
            crashes: 0,
            loss: 0,
            followers: 0,
            away: 0,
            damage: false,
        }
    }
}

impl Plan {
    fn gateways(&self) -> usize {
        self.voters + self.followers
    }
}

enum Event {
    Deliver { to: usize, from: NodeId, bytes: Vec<u8> },
    Wake { gateway: usize },
    Submit,
    LightFuse,
    Restart { gateway: usize },
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
    /// How far its wall clock is off, milliseconds.
    skew_ms: u64,
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
    crashes_left: u64,
}

/// No run takes longer, in virtual time.
const PATIENCE_MS: u64 = 1_800_000;

impl Run {
    pub(crate) fn new(plan: Plan) -> Self {
        let site = Site::with_followers(plan.voters, plan.followers);
        let founding = site.founding();
        let mut random = Random::new(plan.seed);
        let gateways = (0..plan.gateways())
            .map(|_| {
                let directory = tempfile::tempdir().unwrap();
                Store::found(directory.path(), &founding).unwrap();
                let fuse = Fuse::default();
                let disks = [Disk::new(&fuse), Disk::new(&fuse)];
                let skew_ms = random.below(2_000);
                let wake_ms = None;
                Gateway { directory, disks, fuse, host: None, booted_ms: 0, wake_ms, skew_ms }
            })
            .collect();
        let crashes_left = plan.crashes;
        let mut run = Self {
            plan,
            site,
            random,
            witness: Witness::default(),
            gateways,
            events: BTreeMap::new(),
            sequence: 0,
            now_ms: 0,
            nonce: 0,
            crashes_left,
        };
        for gateway in 0..run.plan.gateways() - run.plan.away {
            run.start(gateway);
        }
        run.after(100, Event::Submit);
        if run.crashes_left > 0 {
            run.after(500, Event::LightFuse);
        }
        run
    }

    /// Runs to the end of the plan and returns the fingerprint of everything that happened.
    pub(crate) fn finish(mut self) -> u64 {
        while !self.is_done() {
            let ((at_ms, _), event) = self.events.pop_first().expect("something is always due");
            self.now_ms = at_ms;
            assert!(at_ms < PATIENCE_MS, "no progress: {}", self.describe());
            self.handle(event);
        }
        self.check_stores();
        self.witness.fingerprint()
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
        self.crashes_left == 0 && (0..self.plan.gateways() - self.plan.away).all(stored)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver { to, from, bytes } => self.feed(to, Input::Message { from, bytes }),
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
            Event::Restart { gateway } => self.start(gateway),
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
                self.witness.sent(&bytes);
                for to in (0..self.plan.gateways()).filter(|to| *to != gateway) {
                    self.send(gateway, to, bytes.clone());
                }
            }
            Outward::Send { to, bytes } => {
                self.witness.sent(&bytes);
                if let Some(to) = self.site.nodes.iter().position(|node| *node == to) {
                    self.send(gateway, to, bytes);
                }
            }
            Outward::Committed(committed) => {
                self.witness.committed(gateway, committed.height, committed.header.hash());
            }
            // An act whose nonce came too late or whose twin was first: the network's doing.
            Outward::Refused { .. } => {}
            Outward::Equivocation(votes) => panic!("nobody is dishonest here: {votes:?}"),
            Outward::DiskFull => panic!("the disk is not full"),
        }
    }

    fn send(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        if self.random.percent(self.plan.loss) {
            return;
        }
        let delay = 1 + self.random.below(30);
        let from = self.site.nodes[from];
        self.after(delay, Event::Deliver { to, from, bytes });
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
        let pause = 10 + self.random.below(5_000);
        self.after(pause, Event::Restart { gateway });
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
            wall_ms: START_MS + each.skew_ms + self.now_ms,
            synchronised: gateway % 3 != 2,
        }
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now_ms + ms, self.sequence), event);
    }

    /// At the end every store holds the one chain.
    fn check_stores(&self) {
        for (index, each) in self.gateways.iter().enumerate() {
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
