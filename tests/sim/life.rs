//! What members and operator of a site do: one act after the other, each repeated until it is on
//! the record.
//!
//! A quorum consists of honest gateways that run, and of nobody else: a liar signs nothing that
//! helps.

use std::collections::VecDeque;

use ledger::codec::Text;
use ledger::crypto::{PublicKey, SigningKey};
use ledger::header::Header;
use ledger::ids::{Hash, Height, NodeId};
use ledger::node::Input;
use ledger::state::{Attestation, Standing, State};
use ledger::transaction::*;

use crate::plan::{Life, Plan, Rollback};
use crate::run::{Event, Run};
use crate::site::{AK_NAME, key, prove_vote_key};
use crate::witness::Said;

/// One act.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    Rotate { gateway: usize, number: usize },
    Offline(usize),
    Online(usize),
    Renew { gateway: usize, after: Option<Height> },
    Accuse(usize),
    Pardon(usize),
    Activate(Vec<usize>),
    Revoke(usize),
    Approve(usize),
    Admit(usize),
    CopyDisk(usize),
    Blocks(u64),
    Reach(Height),
    PutCopyBack(usize),
}

/// Between two looks at what there is to do.
const PAUSE_MS: u64 = 700;
const LABEL: Label = Label { full: true, coordinator: true };

impl Task {
    /// What a plan asks for.
    pub(crate) fn list(plan: &Plan) -> VecDeque<Self> {
        let mut tasks = VecDeque::new();
        if plan.rollback.is_some() {
            let gateway = plan.seed as usize % plan.voters;
            tasks.extend([Self::CopyDisk(gateway), Self::Blocks(3), Self::PutCopyBack(gateway)]);
        }
        for (number, each) in plan.life.iter().enumerate() {
            match each.clone() {
                Life::Rotate(gateway) => tasks.push_back(Self::Rotate { gateway, number }),
                Life::Silence(g) => tasks.extend([Self::Offline(g), Self::Online(g)]),
                Life::Renew(gateway) => tasks.push_back(Self::Renew { gateway, after: None }),
                Life::Suspend(g) => {
                    tasks.extend([Self::Accuse(g), Self::Pardon(g), Self::Activate(vec![g])]);
                }
                Life::Revoke(gateway) => tasks.push_back(Self::Revoke(gateway)),
                Life::Admit(gateway) => {
                    tasks.extend([Self::Approve(gateway), Self::Admit(gateway)]);
                }
                Life::Grow(gateways) => tasks.push_back(Self::Activate(gateways)),
            }
        }
        tasks
    }
}

/// What there is to sign with.
struct Scene<'a> {
    state: &'a State,
    tip: &'a Header,
    /// Honest voters that run, with their keys.
    signers: Vec<(usize, SigningKey)>,
}

impl Run {
    /// Does what is next, or finds it done.
    pub(crate) fn work(&mut self) {
        let Some(task) = self.tasks.front().cloned() else {
            return;
        };
        self.after(PAUSE_MS, Event::Work);
        let height = |gateway: &usize| {
            self.gateways[*gateway].host.as_ref().map(|host| host.node().tip().height)
        };
        let view = self.honest().filter(|gateway| height(gateway).is_some()).max_by_key(height);
        let Some((view, Some(tip))) = view.map(|view| (view, height(&view))) else {
            return;
        };
        match task {
            Task::CopyDisk(gateway) => {
                self.lose_power(gateway, 500);
                self.gateways[gateway].copy_disk();
                self.tasks.pop_front();
            }
            Task::Blocks(more) => self.tasks[0] = Task::Reach(Height(tip.0 + more)),
            Task::Renew { gateway, after: None } => {
                self.tasks[0] = Task::Renew { gateway, after: Some(tip) };
            }
            Task::PutCopyBack(gateway) => self.put_copy_back(gateway),
            task if self.is_finished(&task, view) => {
                self.tasks.pop_front();
                self.follow_up(&task, view);
            }
            task => {
                if let Some((gateway, transaction)) = self.act(&task, view) {
                    self.feed(gateway, Input::Submit(Box::new(transaction)));
                }
            }
        }
    }

    /// The disk of long ago is in the gateway's place. Nobody can rely on what such a gateway
    /// signs, unless it notices.
    fn put_copy_back(&mut self, gateway: usize) {
        self.lose_power(gateway, 500);
        self.gateways[gateway].put_copy_back();
        self.witness.stored.insert(gateway, Height::GENESIS);
        if self.plan.rollback == Some(Rollback::Unseen) {
            self.witness.liars.insert(self.site.nodes[gateway]);
        }
        self.tasks.pop_front();
    }

    /// The vote key was destroyed: a new one, and a quorum that attests the gateway again.
    pub(crate) fn replace_key(&mut self, gateway: usize) {
        let number = 1_000 + self.now_ms as usize;
        self.tasks.push_front(Task::Renew { gateway, after: None });
        self.tasks.push_front(Task::Rotate { gateway, number });
        if self.tasks.len() == 2 {
            self.after(PAUSE_MS, Event::Work);
        }
    }

    /// Two votes for one place: whoever noticed has the voter suspended.
    pub(crate) fn punish(&mut self, gateway: usize, evidence: Equivocation) {
        let each = &self.gateways[gateway];
        let state = each.host.as_ref().map(|host| host.node().state());
        let key = state.and_then(|state| each.vote_key(state));
        if let Some(key) = key.filter(|_| self.plan.punish) {
            let node = evidence.first.voter;
            self.witness.said.insert(Said::Guilty(node));
            let cause = SuspendCause::Equivocation(Box::new(evidence));
            let body = Body::Suspend(Suspend { node, reason: reason(), cause });
            let nonce = self.gateways[gateway].next_nonce();
            let act = self.site.gateway_draft(gateway, nonce, body).sign(&key);
            self.after(1, Event::Hand { gateway, transaction: Box::new(act) });
        }
    }

    fn is_finished(&self, task: &Task, view: usize) -> bool {
        let Some(node) = self.gateways[view].host.as_ref().map(|host| host.node()) else {
            return false;
        };
        let state = node.state();
        let known = |gateway: &usize| state.gateway(&self.site.nodes[*gateway]);
        let standing = |gateway: &usize| known(gateway).map(|known| known.standing.standing);
        match task {
            Task::Rotate { gateway, number } => {
                known(gateway).map(|known| known.vote_key) == Some(rotated(*number).public_key())
            }
            Task::Offline(gateway) => known(gateway).is_some_and(|known| !known.online),
            Task::Online(gateway) => known(gateway).is_some_and(|known| known.online),
            Task::Renew { gateway, after } => {
                let attested = known(gateway).map(|known| known.attestation);
                matches!(attested, Some(Attestation::Attested { height, .. })
                    if after.is_some_and(|after| height > after))
            }
            Task::Accuse(gateway) => standing(gateway) == Some(Standing::Suspended),
            Task::Pardon(gateway) => standing(gateway) == Some(Standing::Active),
            Task::Activate(gateways) => {
                gateways.iter().all(|each| state.voters().contains(&self.site.nodes[*each]))
            }
            Task::Revoke(gateway) => standing(gateway) == Some(Standing::Revoked),
            Task::Approve(gateway) => state.approval(&self.site.nodes[*gateway]).is_some(),
            Task::Admit(gateway) => known(gateway).is_some(),
            Task::Reach(height) => node.tip().height >= *height,
            Task::CopyDisk(_) | Task::Blocks(_) | Task::PutCopyBack(_) => false,
        }
    }

    fn follow_up(&mut self, task: &Task, view: usize) {
        match task {
            // Its connections are dropped.
            Task::Revoke(gateway) => {
                self.gone.insert(*gateway);
                self.gateways[*gateway].host = None;
                self.pending.retain(|_, at| at != gateway);
            }
            Task::Admit(gateway) => {
                let newest = self.gateways[view].host.as_ref().map(|host| host.node().tip());
                let code = self.site.founding().header;
                let trusted = newest.filter(|_| self.random.percent(50)).cloned();
                self.gateways[*gateway].trusted = Some(trusted.unwrap_or(code));
                self.start(*gateway);
            }
            _ => {}
        }
    }

    /// The transaction that does it, and where it is submitted.
    fn act(&mut self, task: &Task, view: usize) -> Option<(usize, Transaction)> {
        if let Task::Rotate { gateway, number } = task {
            let own = &mut self.gateways[*gateway].keys;
            let key = rotated(*number);
            if !own.iter().any(|known| known.public_key() == key.public_key()) {
                own.push(key);
            }
        }
        let (body, said) = self.body(task, view)?;
        self.witness.said.extend(said);
        let (site, nonce) = (&self.site, self.nonce + 1);
        match task {
            Task::Rotate { gateway, .. } | Task::Online(gateway) => {
                let nonce = self.gateways[*gateway].next_nonce();
                let draft = site.gateway_draft(*gateway, nonce, body);
                Some((*gateway, draft.sign(&site.identities[*gateway])))
            }
            Task::Pardon(_) | Task::Revoke(_) | Task::Approve(_) => {
                let act = site.operator_draft(nonce, body).sign(&site.operator);
                self.nonce = nonce;
                Some((view, act))
            }
            _ => {
                let (author, key) = self.scene(view)?.signers.into_iter().next()?;
                let nonce = self.gateways[author].next_nonce();
                Some((author, self.site.gateway_draft(author, nonce, body).sign(&key)))
            }
        }
    }

    fn scene(&self, view: usize) -> Option<Scene<'_>> {
        let host = self.gateways[view].host.as_ref()?;
        let (state, tip) = (host.node().state(), host.node().tip());
        let votes = |gateway: &usize| {
            let each = &self.gateways[*gateway];
            each.host.is_some() && state.voters().contains(&each.node)
        };
        let key = |gateway: usize| Some((gateway, self.gateways[gateway].vote_key(state)?));
        Some(Scene { state, tip, signers: self.honest().filter(votes).filter_map(key).collect() })
    }

    fn body(&self, task: &Task, view: usize) -> Option<(Body, Option<Said>)> {
        let scene = self.scene(view)?;
        let chain = self.site.chain_id();
        let node = |gateway: &usize| self.site.nodes[*gateway];
        let known = |gateway: &usize| scene.state.gateway(&node(gateway));
        Some(match task {
            Task::Rotate { gateway, number } => {
                let identity = self.site.identities[*gateway].public_key();
                let rotation = RotateKey::new(&chain.0, &identity, &rotated(*number));
                (Body::RotateKey(rotation), None)
            }
            Task::Online(gateway) => {
                let liveness_epoch = known(gateway)?.liveness_epoch + 1;
                (Body::Online(Online { liveness_epoch }), None)
            }
            Task::Offline(gateway) => {
                let (node, liveness_epoch) = (node(gateway), known(gateway)?.liveness_epoch);
                let digest = offline_digest(&chain, scene.tip.era, &node, liveness_epoch);
                let quorum = self.quorum(&scene, &digest, Some(*gateway))?;
                let said = Said::Silent(node, liveness_epoch);
                (Body::Offline(Offline { node, liveness_epoch, quorum }), Some(said))
            }
            Task::Renew { gateway, .. } => {
                let key = known(gateway)?.vote_key;
                let statement = self.statement(&scene, Purpose::Attest, *gateway, key);
                let endorsements = self.quorum(&scene, &statement.digest(), None)?;
                (Body::Attest(Box::new(Attest { statement, endorsements })), None)
            }
            Task::Accuse(gateway) => {
                let key = known(gateway)?.vote_key;
                let statement = self.statement(&scene, Purpose::Fail, *gateway, key);
                let endorsements = self.quorum(&scene, &statement.digest(), Some(*gateway))?;
                let failed = Box::new(FailedAttestation { statement, endorsements });
                let (node, cause) = (node(gateway), SuspendCause::FailedAttestation(failed));
                let body = Body::Suspend(Suspend { node, reason: reason(), cause });
                (body, Some(Said::Guilty(node)))
            }
            Task::Pardon(gateway) => (Body::Pardon(act_on(node(gateway))), None),
            Task::Revoke(gateway) => (Body::Revoke(act_on(node(gateway))), None),
            Task::Activate(gateways) => (self.activation(&scene, gateways)?, None),
            Task::Approve(gateway) => (self.approval(&scene, *gateway), None),
            Task::Admit(gateway) => {
                let said = Said::Welcome(node(gateway));
                (self.admission(&scene, *gateway)?, Some(said))
            }
            _ => return None,
        })
    }

    /// More than two thirds of the voters, without one of them.
    fn quorum(
        &self,
        scene: &Scene<'_>,
        digest: &Hash,
        without: Option<usize>,
    ) -> Option<Vec<QuorumSignature>> {
        let mut signed: Vec<_> = (scene.signers.iter())
            .filter(|(gateway, _)| Some(*gateway) != without)
            .map(|(gateway, key)| QuorumSignature::sign(self.site.nodes[*gateway], digest, key))
            .collect();
        signed.sort_by_key(|each| each.voter);
        (signed.len() >= scene.state.validator_set().quorum()).then_some(signed)
    }

    fn statement(
        &self,
        scene: &Scene<'_>,
        purpose: Purpose,
        gateway: usize,
        vote_key: PublicKey,
    ) -> Statement {
        let fails = purpose == Purpose::Fail;
        let status = if fails { ClaimVerdict::CONTRAINDICATED } else { 0 };
        Statement {
            chain_id: self.site.chain_id(),
            era: scene.tip.era,
            purpose,
            identity: self.site.identities[gateway].public_key(),
            vote_key,
            ek_digest: self.site.ek_digest(gateway),
            ak_name: AK_NAME,
            ek_kind: 1,
            tpm_model: Hash([3; 32]),
            label: LABEL,
            policy_hash: scene.state.policy().attestation_hash(),
            claims: vec![ClaimVerdict { claim: 5, status }],
            base_height: scene.tip.height,
        }
    }

    fn approval(&self, scene: &Scene<'_>, gateway: usize) -> Body {
        Body::GatewayApproval(GatewayApproval {
            identity: self.site.identities[gateway].public_key(),
            ek_digest: self.site.ek_digest(gateway),
            label: LABEL,
            policy_hash: scene.state.policy().attestation_hash(),
            pin: false,
        })
    }

    fn admission(&self, scene: &Scene<'_>, gateway: usize) -> Option<Body> {
        let (identity, vote) = (&self.site.identities[gateway], &self.site.votes[gateway]);
        let statement = self.statement(scene, Purpose::Admit, gateway, vote.public_key());
        let endorsements = self.quorum(scene, &statement.digest(), None)?;
        let vote = prove_vote_key(&self.site.chain_id().0, identity, vote);
        Some(Body::Admit(Box::new(Admit { statement, vote, endorsements, founder: None })))
    }

    /// Members that have signed the newest tip; they run and are honest.
    fn activation(&self, scene: &Scene<'_>, gateways: &[usize]) -> Option<Body> {
        let (chain, tip, hash) = (self.site.chain_id(), scene.tip, scene.tip.hash());
        let ready = ready_digest(&chain, tip.era, tip.height, &hash);
        let mut nodes = Vec::new();
        for gateway in gateways {
            let each = &self.gateways[*gateway];
            let key = each.host.as_ref().and_then(|_| each.vote_key(scene.state))?;
            nodes.push(QuorumSignature::sign(each.node, &ready, &key));
        }
        nodes.sort_by_key(|each| each.voter);
        let ids: Vec<NodeId> = nodes.iter().map(|each| each.voter).collect();
        let heard = activate_digest(&chain, tip.era, tip.height, &hash, &ids);
        let quorum = self.quorum(scene, &heard, None)?;
        Some(Body::Activate(Activate { height: tip.height, hash, nodes, quorum }))
    }
}

fn rotated(number: usize) -> SigningKey {
    key(b"rotated", number)
}

fn reason() -> Reason {
    Text::new("a drill").expect("it is short")
}

fn act_on(node: NodeId) -> NodeAct {
    NodeAct { node, reason: reason() }
}
