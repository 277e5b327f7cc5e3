//! One run: a plan, a queue of events in virtual time, and the gateways.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ledger::host::{Host, HostError, Outward};
use ledger::ids::{Hash, NodeId};
use ledger::node::Input;
use ledger::state::Event as Happened;
use ledger::store::{Reader, Store};
use ledger::transaction::Transaction;

use crate::adversary::Adversary;
use crate::clock::WallClock;
use crate::disk::Disk;
use crate::gateway::Gateway;
use crate::life::Task;
use crate::network::Network;
use crate::plan::{Plan, Rollback};
use crate::random::Random;
use crate::site::Site;
use crate::witness::Witness;

pub(crate) enum Event {
    Deliver { to: usize, from: NodeId, bytes: Vec<u8> },
    Wake { gateway: usize },
    Submit,
    Hand { gateway: usize, transaction: Box<Transaction> },
    LightFuse,
    Restart { gateway: usize },
    Cut,
    Heal,
    Jump,
    Blackout,
    Lose,
    Recover,
    Work,
}

pub(crate) struct Run {
    pub(crate) plan: Plan,
    pub(crate) site: Site,
    pub(crate) random: Random,
    pub(crate) witness: Witness,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    pub(crate) now_ms: u64,
    /// Of the operator's acts.
    pub(crate) nonce: u64,
    pub(crate) network: Network,
    crashes_left: u64,
    cuts_left: u64,
    pub(crate) blackout_ms: Option<u64>,
    /// Gateways that will never run again.
    pub(crate) gone: BTreeSet<usize>,
    /// A new era is to begin.
    pub(crate) unrecovered: bool,
    /// Where the operator's recovery was submitted.
    pub(crate) recovering: Option<usize>,
    /// What is still to be done, one after the other.
    pub(crate) tasks: VecDeque<Task>,
    /// Transactions that were taken by a gateway which runs since, and are not recorded.
    pub(crate) pending: BTreeMap<Hash, usize>,
    /// Virtual time by which there must be progress again.
    pub(crate) patience_ms: u64,
    /// All is well, for good.
    pub(crate) calm: bool,
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
        let site = Site::with_strangers(plan.voters, plan.followers, plan.newcomers());
        let mut random = Random::new(plan.seed);
        let shift = random.below(4) as usize;
        let gateways = (0..plan.gateways())
            .map(|index| {
                let (node, key) = (site.nodes[index], site.votes[index].clone());
                let clock = WallClock::new(plan.clocks, index + shift, &mut random);
                let villain = plan.villain.filter(|_| plan.is_villain(index));
                let adversary = villain
                    .map(|villain| Adversary::new(villain, node, key.clone(), site.chain_id()));
                Gateway::new(node, key, clock, adversary)
            })
            .collect();
        let liars = (0..plan.gateways()).filter(|gateway| plan.is_villain(*gateway));
        let liars = liars.map(|gateway| site.nodes[gateway]).collect();
        let mut run = Self {
            witness: Witness::new(liars),
            gateways,
            events: BTreeMap::new(),
            sequence: 0,
            now_ms: 0,
            nonce: 0,
            network: Network::default(),
            crashes_left: plan.crashes,
            cuts_left: plan.cuts,
            blackout_ms: plan.blackout_ms,
            gone: BTreeSet::new(),
            unrecovered: plan.lost > 0,
            recovering: None,
            tasks: Task::list(&plan),
            pending: BTreeMap::new(),
            patience_ms: PATIENCE_MS,
            calm: false,
            plan,
            site,
            random,
        };
        run.begin();
        run
    }

    fn begin(&mut self) {
        let founding = self.site.founding();
        for gateway in 0..self.plan.members() {
            let each = &mut self.gateways[gateway];
            let mut store = Store::found(each.directory.path(), &founding).unwrap();
            each.begin_count(&mut store);
        }
        for gateway in 0..self.plan.running() {
            self.start(gateway);
        }
        self.after(100, Event::Submit);
        self.after(2_000, Event::Jump);
        if self.crashes_left > 0 {
            self.after(500, Event::LightFuse);
        }
        if self.cuts_left > 0 {
            self.after(1_000, Event::Cut);
        }
        if self.unrecovered {
            self.after(4_000, Event::Lose);
        }
        if !self.tasks.is_empty() {
            self.after(1_500, Event::Work);
        }
        if self.blackout_ms.is_some() {
            self.after(3_000, Event::Blackout);
        }
    }

    /// Runs to the end of the plan, and then until nothing is left to do.
    pub(crate) fn finish(mut self) -> Report {
        while !self.is_done() {
            self.next_event();
        }
        self.calm_down();
        self.check_stores();
        Report { fingerprint: self.witness.fingerprint(), evidence: self.witness.evidence }
    }

    pub(crate) fn next_event(&mut self) {
        let ((at_ms, _), event) = self.events.pop_first().expect("something is always due");
        self.now_ms = at_ms;
        assert!(at_ms < self.patience_ms, "no progress: {}", self.describe());
        self.handle(event);
    }

    pub(crate) fn describe(&self) -> String {
        let each = |gateway: &Gateway| {
            gateway.host.as_ref().map(|host| {
                let node = host.node();
                (node.tip().height, node.silent_through(), node.waiting())
            })
        };
        let gateways: Vec<_> = self.gateways.iter().map(each).collect();
        let Self { plan, tasks, pending, now_ms, crashes_left, cuts_left, .. } = self;
        format!(
            "at {now_ms} ms, (height, silent through, waiting): {gateways:?}, \
             to do: {tasks:?}, crashes and cuts to come: {crashes_left}, {cuts_left}, \
             {} not recorded; {plan:?}",
            pending.len()
        )
    }

    fn is_done(&self) -> bool {
        let stored =
            |gateway| self.witness.stored.get(&gateway).is_some_and(|h| h.0 >= self.plan.blocks);
        self.crashes_left == 0
            && self.cuts_left == 0
            && self.blackout_ms.is_none()
            && !self.unrecovered
            && self.tasks.is_empty()
            && self.honest().all(stored)
    }

    /// Gateways that are members, run and do not lie.
    pub(crate) fn honest(&self) -> impl Iterator<Item = usize> {
        let here = |gateway: &usize| {
            let each = &self.gateways[*gateway];
            let newcomer = *gateway >= self.plan.members();
            let joined = each.has_ledger() || each.trusted.is_some();
            let away = (self.plan.running()..self.plan.members()).contains(gateway);
            !away && (joined || !newcomer)
        };
        let honest =
            |gateway: &usize| !self.plan.is_villain(*gateway) && !self.gone.contains(gateway);
        (0..self.plan.gateways()).filter(here).filter(honest)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver { to, from, bytes } => self.deliver(to, from, bytes),
            Event::Wake { gateway } => {
                if self.gateways[gateway].wake_ms == Some(self.now_ms) {
                    self.gateways[gateway].wake_ms = None;
                    self.wake_client(gateway);
                    self.feed(gateway, Input::Wake);
                }
            }
            Event::Submit if self.calm => {}
            Event::Submit => {
                self.submit_act();
                let pause = 50 + self.random.below(4_000);
                self.after(pause, Event::Submit);
            }
            Event::Hand { gateway, transaction } => {
                self.feed(gateway, Input::Submit(transaction));
            }
            Event::LightFuse => self.light_fuse(),
            // A blackout may have brought it back already.
            Event::Restart { gateway } => {
                let off = self.gateways[gateway].host.is_none()
                    && self.gateways[gateway].client.is_none();
                if off && !self.gone.contains(&gateway) {
                    self.start(gateway);
                }
            }
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
            Event::Lose => self.lose(),
            Event::Recover => self.recover(),
            Event::Work => self.work(),
        }
    }

    /// An act that always applies, at any gateway.
    pub(crate) fn submit_act(&mut self) {
        self.nonce += 1;
        let act = self.site.act(self.nonce);
        let gateway = self.random.below(self.plan.members() as u64) as usize;
        self.feed(gateway, Input::Submit(Box::new(act)));
    }

    fn light_fuse(&mut self) {
        if self.crashes_left == 0 {
            return;
        }
        let hurt_first = self.plan.damage && self.random.percent(50);
        let any = self.random.below(self.plan.members() as u64) as usize;
        let gateway = if hurt_first { 0 } else { any };
        let operations = self.random.below(60);
        self.gateways[gateway].fuse.light(operations);
        let pause = 500 + self.random.below(2_500);
        self.after(pause, Event::LightFuse);
    }

    fn deliver(&mut self, to: usize, from: NodeId, bytes: Vec<u8>) {
        let now = self.gateways[to].now(self.now_ms);
        if let Some(adversary) = &mut self.gateways[to].adversary {
            adversary.hears(&bytes, &mut self.random);
            if let Some(answer) = adversary.answers(now.mono_ms, &bytes, &mut self.random)
                && let Some(asker) = self.site.nodes.iter().position(|node| *node == from)
            {
                return self.carry(to, vec![(asker, answer)]);
            }
        }
        if self.gateways[to].client.is_some() {
            self.answer_client(to, from, bytes.clone());
        }
        self.feed(to, Input::Message { from, bytes });
    }

    pub(crate) fn feed(&mut self, gateway: usize, input: Input) {
        let now = self.gateways[gateway].now(self.now_ms);
        let Some(mut host) = self.gateways[gateway].host.take() else {
            return;
        };
        let honest = self.gateways[gateway].adversary.is_none();
        if let Input::Submit(transaction) = &input
            && honest
        {
            self.pending.insert(transaction.hash(), gateway);
        }
        let era = host.node().state().era();
        let mut out = Vec::new();
        let result = host.step(now, input, &mut |each| out.push(each));
        let committed = out.iter().any(|each| matches!(each, Outward::Committed(_)));
        let behind = out.iter().position(|each| matches!(each, Outward::Behind(_)));
        let behind = behind.filter(|_| result.is_ok()).map(|at| out.remove(at));
        // What left before a power cut has left.
        for each in out {
            if let Outward::Publish(bytes) | Outward::Send { bytes, .. } = &each
                && honest
            {
                self.witness.sent(era, bytes);
            }
            self.outward(gateway, each);
        }
        match result {
            Ok(()) => {
                self.gateways[gateway].host = Some(host);
                match behind {
                    Some(Outward::Behind(behind)) => self.fall_behind(gateway, *behind),
                    _ if committed => self.took_block(gateway),
                    _ => {}
                }
                self.schedule_wake(gateway);
            }
            Err(HostError::Log(_)) => {
                self.crashes_left = self.crashes_left.saturating_sub(1);
                drop(host);
                let pause = 10 + self.random.below(5_000);
                self.lose_power(gateway, pause);
            }
            Err(error) => panic!("seed {}: gateway {gateway}: {error}", self.plan.seed),
        }
    }

    /// Its state is right, and it votes with the key that this state names.
    fn took_block(&mut self, gateway: usize) {
        let each = &mut self.gateways[gateway];
        each.tip_since_ms = self.now_ms;
        let Some(host) = &mut each.host else {
            return;
        };
        let (state, tip) = (host.node().state(), host.node().tip());
        self.witness.state(gateway, tip, state.root(), state.validator_set().hash());
        let height = tip.height;
        if let Some(adversary) = &mut each.adversary {
            return adversary.keep_ledger(height, each.directory.path());
        }
        let host = each.host.take();
        let key = host.as_ref().and_then(|host| each.vote_key(host.node().state()));
        each.host = host;
        let changed = each.voting_with != key.as_ref().map(|key| key.public_key());
        if changed {
            self.use_key(gateway);
            self.feed(gateway, Input::Wake);
        }
    }

    /// Gives the host the key that its state names.
    pub(crate) fn use_key(&mut self, gateway: usize) {
        let each = &mut self.gateways[gateway];
        let Some(mut host) = each.host.take() else {
            return;
        };
        let key = each.vote_key(host.node().state());
        each.voting_with = key.as_ref().map(|key| key.public_key());
        host.set_vote_key(key);
        each.host = Some(host);
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
                let (header, receipts) = (&committed.header, &committed.receipts);
                self.witness.committed(gateway, header, receipts);
                self.pending.retain(|hash, _| receipts.iter().all(|(known, _)| known != hash));
                let node = self.gateways[gateway].node;
                let attested = Happened::Attested { gateway: node };
                if receipts.iter().any(|(_, events)| events.contains(&attested)) {
                    self.gateways[gateway].barred = false;
                }
            }
            // An act whose nonce came too late or whose twin was first: the network's doing.
            Outward::Refused { tx_hash, .. } => {
                self.pending.remove(&tx_hash);
            }
            Outward::Equivocation(votes) => {
                assert!(self.witness.liars.contains(&votes.first.voter), "{votes:?}");
                self.witness.evidence += 1;
                self.punish(gateway, *votes);
            }
            Outward::DiskFull => panic!("the disk is not full"),
            Outward::Behind(_) => {}
        }
    }

    /// What a gateway says, or what an adversary makes of it.
    pub(crate) fn say(&mut self, from: usize, to: &[usize], bytes: Vec<u8>) {
        let letters = match &mut self.gateways[from].adversary {
            Some(adversary) => adversary.says(to, bytes, &mut self.random),
            None => to.iter().map(|to| (*to, bytes.clone())).collect(),
        };
        self.carry(from, letters);
    }

    fn carry(&mut self, from: usize, letters: Vec<(usize, Vec<u8>)>) {
        let node = self.site.nodes[from];
        for (to, bytes) in letters {
            for delay in self.network.delays(&self.plan, from, to, &mut self.random) {
                let bytes = bytes.clone();
                self.after(delay, Event::Deliver { to, from: node, bytes });
            }
        }
    }

    pub(crate) fn start(&mut self, gateway: usize) {
        let now_ms = self.now_ms;
        let each = &mut self.gateways[gateway];
        each.fuse.put_out();
        (each.booted_ms, each.tip_since_ms, each.wake_ms) = (now_ms, now_ms, None);
        if !each.has_ledger() {
            return self.ask_for_snapshot(gateway);
        }
        let mut store = Store::open(each.directory.path()).unwrap();
        let counts = self.plan.rollback != Some(Rollback::Unseen);
        let rolled_back = counts && each.count_start(&mut store);
        let host = Host::with_media(store, each.disks.clone(), each.node, None).unwrap();
        self.witness.restarted(gateway, host.node().tip());
        each.host = Some(host);
        if rolled_back {
            self.replace_key(gateway);
        }
        self.use_key(gateway);
        self.feed(gateway, Input::Start);
    }

    /// What a power cut does; the power comes back after a while.
    pub(crate) fn lose_power(&mut self, gateway: usize, pause_ms: u64) {
        self.witness.mix(b"cut");
        self.gateways[gateway].host = None;
        self.gateways[gateway].client = None;
        self.pending.retain(|_, at| *at != gateway);
        let disks: [Disk; 2] = self.gateways[gateway].disks.clone();
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
        self.after(pause_ms, Event::Restart { gateway });
    }

    fn schedule_wake(&mut self, gateway: usize) {
        let now = self.gateways[gateway].now(self.now_ms);
        let each = &self.gateways[gateway];
        if let Some(wake) = each.host.as_ref().and_then(|host| host.next_wake(now)) {
            self.wake_at(gateway, each.booted_ms + wake);
        }
    }

    pub(crate) fn wake_at(&mut self, gateway: usize, at_ms: u64) {
        let at_ms = at_ms.max(self.now_ms + 1);
        let each = &mut self.gateways[gateway];
        if each.wake_ms.is_none_or(|planned| planned > at_ms || planned <= self.now_ms) {
            each.wake_ms = Some(at_ms);
            self.after(at_ms - self.now_ms, Event::Wake { gateway });
        }
    }

    pub(crate) fn after(&mut self, ms: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now_ms + ms, self.sequence), event);
    }

    /// At the end every store holds the one chain, certified, with all that was recorded.
    fn check_stores(&self) {
        for gateway in self.honest() {
            let reader = Reader::open(self.gateways[gateway].directory.path()).unwrap();
            let tip = reader.tip().unwrap();
            let newest = self.witness.chain.get(&tip.height).map(|(_, hash)| *hash);
            assert_eq!(newest, Some(tip.hash()), "gateway {gateway} ends with another block");
            for (height, (_, hash)) in self.witness.chain.range(..=tip.height) {
                // What was before its snapshot it does not have.
                let Some(block) = reader.block(*height).unwrap() else { continue };
                assert_eq!(block.header.hash(), *hash, "gateway {gateway} at height {height}");
                assert!(block.check_body().is_ok(), "gateway {gateway} at height {height}");
                let certificate = reader.certificate(*height).unwrap().unwrap();
                let validators = reader.validators(*height).unwrap();
                certificate.verify(&block.header, &validators).unwrap();
                let recorded = |each: &Transaction| self.witness.has_recorded(&each.hash());
                assert!(block.transactions.iter().all(recorded));
            }
        }
    }
}
