//! Blackouts, losses, recoveries, disks of yesterday, ledgers that begin from a snapshot; and the
//! calm after all that, in which everything must come right.

use ledger::ids::{Era, NodeId};
use ledger::node::{Behind, Input};
use ledger::store::{Store, set_aside};
use ledger::sync::client::{Effect, Input as Asked};
use ledger::sync::{Client, VerifiedSnapshot};
use ledger::transaction::Survivor;

use crate::run::{Event, Run};

/// Everything comes right within so much virtual time once nothing disturbs any more.
const CALM_MS: u64 = 240_000;
/// Idleness is looked at for so long; below the heartbeat.
const IDLE_MS: u64 = 40_000;
/// Idle voters make a block of nothing after this.
const HEARTBEAT_MS: u64 = 60_000;

impl Run {
    /// The power of the whole site goes, and comes back much later.
    pub(crate) fn black_out(&mut self) {
        let Some(length_ms) = self.blackout_ms.take() else {
            return;
        };
        self.witness.mix(b"blackout");
        let running: Vec<usize> = (0..self.plan.gateways())
            .filter(|gateway| {
                let each = &self.gateways[*gateway];
                each.host.is_some() || each.client.is_some()
            })
            .collect();
        // What was on its way never arrives; what was planned happens after the blackout.
        let events = std::mem::take(&mut self.events);
        self.patience_ms += length_ms;
        for ((at_ms, sequence), event) in events {
            if !matches!(event, Event::Deliver { .. } | Event::Wake { .. }) {
                self.events.insert((at_ms + length_ms, sequence), event);
            }
        }
        for gateway in running {
            let pause = length_ms + self.random.below(60_000);
            self.lose_power(gateway, pause);
        }
    }

    /// The last voters are lost for ever; the operator notices later.
    pub(crate) fn lose(&mut self) {
        for gateway in self.plan.voters - self.plan.lost..self.plan.voters {
            self.gone.insert(gateway);
            self.gateways[gateway].host = None;
            self.pending.retain(|_, at| *at != gateway);
        }
        self.after(10_000, Event::Recover);
    }

    /// The operator begins a new era on the highest block that a survivor has.
    pub(crate) fn recover(&mut self) {
        let survivors: Vec<_> =
            (0..self.plan.voters).filter(|gateway| !self.gone.contains(gateway)).collect();
        let height = |gateway: &usize| {
            self.gateways[*gateway].host.as_ref().map(|host| host.node().tip().height)
        };
        // Followers count: the operator is shown every tip that there is. One that has no power
        // now may be the highest: a careful operator waits for it.
        let left: Vec<_> = self.honest().collect();
        let seen = self.plan.hasty || left.iter().all(|gateway| height(gateway).is_some());
        // Where it was submitted once it may be stored, and is submitted again.
        let best = self.recovering.or(left.into_iter().max_by_key(height).filter(|_| seen));
        let Some(best) = best.filter(|best| height(best).is_some()) else {
            return self.after(500, Event::Recover);
        };
        let node = self.gateways[best].host.as_ref().map(|host| host.node());
        if node.is_some_and(|node| node.state().era() == Era(1)) {
            self.unrecovered = false;
            return;
        }
        let mut nodes: Vec<_> = survivors.iter().map(|gateway| self.site.nodes[*gateway]).collect();
        nodes.sort_unstable();
        let list = nodes.into_iter().map(|node| Survivor { node, new_vote_key: None }).collect();
        self.nonce += 1;
        let node = self.gateways[best].host.as_ref().map(|host| host.node());
        let Some(Ok(draft)) = node.map(|node| node.prepare_recovery(list, self.nonce, u64::MAX))
        else {
            return self.after(500, Event::Recover);
        };
        self.recovering = Some(best);
        let act = draft.sign(&self.site.operator);
        self.feed(best, Input::Submit(Box::new(act)));
        self.after(500, Event::Recover);
    }

    /// Its ledger does not lead on, if that is true: a snapshot is asked for.
    pub(crate) fn fall_behind(&mut self, gateway: usize, behind: Behind) {
        let (Behind::NoBlocks { trusted } | Behind::Recovered { trusted, .. }) = behind;
        self.witness.mix(b"behind");
        self.gateways[gateway].trusted = Some(trusted);
        self.ask_for_snapshot(gateway);
    }

    /// A snapshot is verified: the ledger that does not lead there is set aside.
    fn begin_from(&mut self, gateway: usize, snapshot: &VerifiedSnapshot) {
        let each = &mut self.gateways[gateway];
        each.client = None;
        let place = (snapshot.header().era, snapshot.header().height);
        if let Some(host) = each.host.take() {
            let tip = host.node().tip();
            if (tip.era, tip.height) >= place {
                each.host = Some(host);
                return;
            }
        }
        if each.has_ledger() {
            set_aside(each.directory.path()).unwrap();
            each.disks.iter().for_each(|disk| disk.replace(&[]));
        }
        let mut store = Store::found_from(each.directory.path(), snapshot).unwrap();
        each.begin_count(&mut store);
        drop(store);
        self.pending.retain(|_, at| *at != gateway);
        self.witness.founded(gateway, snapshot.header());
        self.start(gateway);
    }

    /// Asks all members.
    pub(crate) fn ask_for_snapshot(&mut self, gateway: usize) {
        let Some(trusted) = self.gateways[gateway].trusted.clone() else {
            return;
        };
        self.gateways[gateway].client = Some(Client::new(trusted));
        let members: Vec<NodeId> = (0..self.plan.gateways())
            .filter(|other| *other != gateway && self.gateways[*other].host.is_some())
            .map(|other| self.site.nodes[other])
            .collect();
        for member in members {
            self.step_client(gateway, Asked::PeerUp(member));
        }
        // Nobody was there: later.
        self.wake_at(gateway, self.now_ms + 5_000);
    }

    pub(crate) fn answer_client(&mut self, gateway: usize, from: NodeId, bytes: Vec<u8>) {
        self.step_client(gateway, Asked::Answer { from, bytes });
    }

    pub(crate) fn wake_client(&mut self, gateway: usize) {
        let Some(client) = &self.gateways[gateway].client else {
            return;
        };
        match client.next_wake() {
            Some(_) => self.step_client(gateway, Asked::Wake),
            None => self.ask_for_snapshot(gateway),
        }
    }

    fn step_client(&mut self, gateway: usize, input: Asked) {
        let now = self.gateways[gateway].now(self.now_ms);
        let Some(client) = &mut self.gateways[gateway].client else {
            return;
        };
        let effects = client.step(now.mono_ms, input);
        let wake = client.next_wake();
        for effect in effects {
            match effect {
                Effect::Request { to, bytes } => {
                    self.witness.mix(&bytes);
                    let to = self.site.nodes.iter().position(|node| *node == to);
                    self.say(gateway, to.as_slice(), bytes);
                }
                Effect::Failed { .. } => self.witness.mix(b"failed"),
                Effect::Done(snapshot) => return self.begin_from(gateway, &snapshot),
            }
        }
        if let Some(wake) = wake {
            self.wake_at(gateway, self.gateways[gateway].booted_ms + wake);
        }
    }

    /// Nothing disturbs any more. All gateways come to one tip, every transaction that was taken
    /// is recorded, and then there is nothing to do but the heartbeat.
    pub(crate) fn calm_down(&mut self) {
        self.network.heal_for_good();
        self.submit_act();
        self.calm = true;
        let running: Vec<usize> = self.honest().collect();
        running.iter().for_each(|gateway| self.gateways[*gateway].fuse.put_out());
        self.patience_ms = self.now_ms + CALM_MS;
        while !self.is_level() {
            self.next_event();
        }
        if self.lies() {
            return;
        }
        let (began_ms, height) = (self.now_ms, self.top());
        self.patience_ms = self.now_ms + CALM_MS;
        while self.now_ms < began_ms + IDLE_MS {
            self.next_event();
        }
        assert_eq!(self.top(), height, "blocks while there is nothing to do");
        for gateway in self.honest().collect::<Vec<_>>() {
            self.check_idle(gateway);
        }
        while self.top() == height {
            self.next_event();
        }
        let first = self.honest().map(|gateway| self.gateways[gateway].tip_since_ms).max();
        assert_eq!(first, Some(self.now_ms), "the heartbeat has made the block");
    }

    /// The highest block.
    fn top(&self) -> Option<u64> {
        self.honest().filter_map(|g| self.witness.stored.get(&g)).map(|height| height.0).max()
    }

    fn check_idle(&self, gateway: usize) {
        let (wake, heartbeat) = self.wakes(gateway).expect("it runs");
        self.witness.idle(gateway, wake, heartbeat);
    }

    /// When a gateway wants to be woken, and when it would if there were nothing to do.
    fn wakes(&self, gateway: usize) -> Option<(Option<u64>, Option<u64>)> {
        let each = &self.gateways[gateway];
        let host = each.host.as_ref()?;
        let wake = host.next_wake(each.now(self.now_ms)).map(|wake| each.booted_ms + wake);
        let votes = host.node().is_voter();
        Some((wake, votes.then_some(each.tip_since_ms + HEARTBEAT_MS)))
    }

    /// Whether all honest gateways have the same newest block and nothing to do. Where somebody
    /// lies there is always something to do.
    fn is_level(&self) -> bool {
        let lies = self.lies();
        let tip = |gateway: usize| {
            let (wake, heartbeat) = self.wakes(gateway)?;
            let node = self.gateways[gateway].host.as_ref()?.node();
            // What a follower was told by one that has lost it since is nobody's any more.
            let waits = node.is_voter() && node.waiting() > 0;
            let rests = !waits && (lies || wake == heartbeat);
            rests.then(|| node.tip().hash())
        };
        let tips: Vec<_> = self.honest().map(tip).collect();
        let same = tips.iter().all(|tip| tip.is_some() && *tip == tips[0]);
        same && self.pending.is_empty()
    }

    fn lies(&self) -> bool {
        self.plan.villain.is_some() || !self.witness.liars.is_empty()
    }
}
