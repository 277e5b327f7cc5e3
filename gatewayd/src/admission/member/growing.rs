//! Carries out what `membership` plans: signs blocks while this gateway has no vote, and when
//! it is this voter's turn collects what `Activate` takes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ledger::crypto::verify_digest;
use ledger::ids::{Hash, Height, NodeId};
use ledger::policy::Policy;
use ledger::store::Reader;
use ledger::transaction::{Activate, Body, activate_digest, ready_digest};
use ledger::validator_set::quorum_of;

use super::asking::{ATTEST_TIMEOUT, Conversation, answers};
use super::serving::{Reply, denied, failed, send};
use super::{Member, Shared};
use crate::admission::endorsing::{Activation, sign_activation};
use crate::admission::exchange::Ask;
use crate::admission::membership::{
    COLLECTORS, Plan, collector, heard, is_candidate, ready_height, to_leave_out, wanted,
};
use crate::admission::messages::{Endorse, Ready, Request, Response};
use crate::admission::quorum::Answers;
use crate::admission::verifier::Denial;
use crate::clock;
use crate::control::{ControlError, Result};
use crate::peers::Session;

/// A signed block is said again after this long: who collects may have changed.
const READY_AGAIN_MS: u64 = 10_000;

/// A collection that led to nothing is tried again after this long.
const COLLECT_AGAIN_MS: u64 = 3_000;

/// The transport probes who is silent and shows it a little later: a shorter silence is none, ms.
const SHOWN_WITHIN_MS: u32 = 15_000;

/// Whom the others have not heard is left out of the steps for so long, ms.
const LEFT_OUT_MS: u64 = 60_000;

/// Gateways that are left out, and until when (boot time, ms).
#[derive(Default, Clone)]
struct LeftOut(Arc<Mutex<BTreeMap<NodeId, u64>>>);

impl LeftOut {
    fn add(&self, nodes: &[NodeId], now_ms: u64) {
        let mut left_out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        left_out.retain(|_, until_ms| *until_ms > now_ms);
        left_out.extend(nodes.iter().map(|node| (*node, now_ms.saturating_add(LEFT_OUT_MS))));
    }

    fn has(&self, node: &NodeId, now_ms: u64) -> bool {
        let left_out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        left_out.get(node).is_some_and(|until_ms| *until_ms > now_ms)
    }
}

/// What is under way.
#[derive(Default)]
pub(super) struct Growing {
    left_out: LeftOut,
    /// The blocks that were signed last, and when (boot time): the rounded one, and the tip.
    said: [Option<(Height, Hash, u64)>; 2],
    /// The tip of the last look.
    tip: Option<Height>,
    collecting: Arc<AtomicBool>,
    collected_ms: u64,
}

/// The ledger's word on who votes.
struct Votes {
    voters: Vec<NodeId>,
    candidates: Vec<NodeId>,
    policy: Policy,
    tip: Height,
}

impl Member {
    /// Looks whether this gateway is to say that it is ready, or to collect.
    pub(super) async fn grow(&mut self) -> Result<()> {
        let votes = self.shared.ledger.with_node(|node| {
            let state = node.state();
            let fit = |id: &NodeId| is_candidate(state, id);
            Votes {
                voters: state.voters().to_vec(),
                candidates: state.gateways().map(|(id, _)| *id).filter(fit).collect(),
                policy: state.policy().clone(),
                tip: node.tip().height,
            }
        });
        let votes = votes.await?;
        let own = self.shared.gateway;
        let fit = |id: &NodeId| votes.candidates.contains(id);
        self.readiness.forget(votes.tip, fit);
        let connected: Vec<_> = self.shared.peers.peers().borrow().iter().map(|p| p.node).collect();
        if fit(&own) {
            return self.say_ready(&votes, &connected).await;
        }
        let (site_ms, _) = self.shared.ledger.clock().borrow().now();
        if collector(&votes.voters, &own, &connected, site_ms) == Some(own) {
            self.plan(&votes);
        }
        Ok(())
    }

    /// Says so over the rounded block; on a quiet site over its tip, too: that stands for all, and
    /// a record that began with a snapshot may not have the rounded one.
    async fn say_ready(&mut self, votes: &Votes, connected: &[NodeId]) -> Result<()> {
        let (rounded, tip) = (ready_height(votes.tip), votes.tip);
        let stands = self.growing.tip.replace(tip) == Some(tip);
        let heights = [Some(rounded), (stands && tip != rounded).then_some(tip)];
        for (which, height) in heights.into_iter().enumerate() {
            if let Some(height) = height.filter(|height| *height <= tip) {
                self.say_ready_at(which, height, &votes.voters, connected).await?;
            }
        }
        Ok(())
    }

    async fn say_ready_at(
        &mut self,
        which: usize,
        height: Height,
        voters: &[NodeId],
        connected: &[NodeId],
    ) -> Result<()> {
        let Some(hash) = header_hash(&self.shared, height).await? else { return Ok(()) };
        let now_ms = clock::boot_ms();
        let said = self.growing.said[which].is_some_and(|(at, of, when)| {
            (at, of) == (height, hash) && now_ms.saturating_sub(when) < READY_AGAIN_MS
        });
        if said {
            return Ok(());
        }
        let sign = move |here: &crate::ledger_task::Here<'_>| {
            here.key.sign_digest(&ready_digest(&here.chain_id, here.era, height, &hash))
        };
        let signature = self.shared.ledger.with_key(sign).await?;
        self.growing.said[which] = Some((height, hash, now_ms));
        let request = Request::Ready(Ready { height, hash, signature });
        for voter in voters.iter().filter(|node| connected.contains(node)).take(COLLECTORS) {
            let conversation = Conversation::new(self.shared.clone(), *voter, ATTEST_TIMEOUT);
            let request = request.clone();
            self.tasks.spawn(async move {
                if let Err(error) = conversation.ask(&request).await {
                    tracing::debug!(%error, "a voter does not hear that this gateway is ready");
                }
            });
        }
        Ok(())
    }

    /// Notes that a member is ready. What is not signed right, or is about no block of this record,
    /// would spoil every step that it is planned into, and is not noted.
    pub(super) async fn ready(
        &mut self,
        session: &Session,
        ready: Ready,
        reply: Reply,
    ) -> Result<()> {
        if !session.member {
            send(reply, &denied(&Denial::NotAMember));
            return Ok(());
        }
        let node = session.node;
        let known = self.shared.ledger.view(move |state| {
            let key = state.gateway(&node).map(|gateway| gateway.vote_key);
            (key, state.chain_id(), state.era())
        });
        let (key, chain_id, era) = known.await?;
        let digest = ready_digest(&chain_id, era, ready.height, &ready.hash);
        let good = |key| verify_digest(&key, &digest, &ready.signature).is_ok();
        if !key.is_some_and(good) {
            send(reply, &denied(&Denial::Malformed("signature")));
        } else if header_hash(&self.shared, ready.height).await? == Some(ready.hash) {
            self.readiness.note(node, ready);
            send(reply, &Response::Heard);
        } else {
            send(reply, &denied(&Denial::NotThereYet));
        }
        Ok(())
    }

    fn heard_long_enough(&self, policy: &Policy) -> Vec<NodeId> {
        let (now_ms, peers) = (clock::boot_ms(), self.shared.peers.peers());
        let silence_ms = policy.offline_after_ms.max(SHOWN_WITHIN_MS);
        let for_ms = policy.activation_after_ms;
        let long = |peer: &&crate::peers::PeerStatus| {
            heard(peer, now_ms, for_ms.into(), silence_ms.into())
        };
        peers.borrow().iter().filter(long).map(|peer| peer.node).collect()
    }

    fn plan(&mut self, votes: &Votes) {
        let now_ms = clock::boot_ms();
        let mut heard = self.heard_long_enough(&votes.policy);
        heard.retain(|node| !self.growing.left_out.has(node, now_ms));
        let wanted = wanted(votes.policy.voters, votes.voters.len());
        let Some(plan) = self.readiness.plan(&heard, wanted) else { return };
        let soon = now_ms.saturating_sub(self.growing.collected_ms) < COLLECT_AGAIN_MS;
        if soon || self.growing.collecting.swap(true, Ordering::Relaxed) {
            return;
        }
        self.growing.collected_ms = now_ms;
        let (shared, done) = (self.shared.clone(), Arc::clone(&self.growing.collecting));
        let (voters, left_out) = (votes.voters.clone(), self.growing.left_out.clone());
        self.tasks.spawn(async move {
            match activate(&shared, &voters, plan, &left_out).await {
                Ok(height) => tracing::info!(height, "the site has more voters"),
                Err(error) => tracing::info!(%error, "no more voters yet"),
            }
            done.store(false, Ordering::Relaxed);
        });
    }

    /// Signs as one of the quorum that these gateways were heard for long enough.
    pub(super) async fn sign_activation(
        &mut self,
        height: Height,
        hash: Hash,
        nodes: Vec<NodeId>,
    ) -> Response {
        let policy = self.shared.ledger.view(|state| state.policy().clone()).await;
        let policy = match policy {
            Ok(policy) => policy,
            Err(error) => return failed(&error),
        };
        let heard = self.heard_long_enough(&policy);
        // The collector goes on without whom too few have heard.
        let missed: Vec<NodeId> =
            nodes.iter().filter(|node| !heard.contains(node)).copied().collect();
        if !missed.is_empty() {
            return Response::NotHeard(missed);
        }
        match sign_own(&self.shared, Activation { height, hash, nodes }).await {
            Ok(signed) => Response::Endorsed { voter: signed.voter, signature: signed.signature },
            Err(error) => failed(&error),
        }
    }
}

async fn sign_own(
    shared: &Shared,
    asked: Activation,
) -> Result<ledger::transaction::QuorumSignature> {
    if header_hash(shared, asked.height).await? != Some(asked.hash) {
        return Err(ControlError::Refused("that block is not of this record".into()));
    }
    let signed = shared.ledger.with_key(move |here| sign_activation(here, &asked)).await?;
    signed.map_err(|denial| ControlError::Refused(denial.to_string()))
}

/// Collects the quorum and submits.
async fn activate(
    shared: &Shared,
    voters: &[NodeId],
    plan: Plan,
    left_out: &LeftOut,
) -> Result<u64> {
    let Plan { asked, nodes } = plan;
    let Activation { height, hash, nodes: ids } = asked.clone();
    let own = sign_own(shared, asked).await?;
    let (chain_id, era) = shared.ledger.view(|state| (state.chain_id(), state.era())).await?;
    let digest = activate_digest(&chain_id, era, height, &hash, &ids);
    let endorse = Endorse::Activate { height, hash, nodes: ids.clone() };
    let Answers { signed: mut quorum, others } = answers(shared, voters, &endorse, &digest).await?;
    quorum.push(own);
    quorum.sort_by_key(|signed| signed.voter);
    let needed = quorum_of(voters.len());
    if quorum.len() < needed {
        let mut what = format!("{} of {needed} voters have heard them", quorum.len());
        let missed = others.into_iter().filter_map(|(_, answer)| match answer {
            Response::NotHeard(missed) => Some(missed),
            _ => None,
        });
        let missed: Vec<_> = missed.chain(quorum.iter().map(|_| vec![])).collect();
        let without = to_leave_out(&ids, &missed, needed);
        left_out.add(&without, clock::boot_ms());
        for node in &without {
            what.push_str(&format!("; goes on without {}", node.to_gateway_string()));
        }
        return Err(ControlError::Unavailable(what));
    }
    let body = Body::Activate(Activate { height, hash, nodes, quorum });
    Ok(shared.ledger.propose(move |_| Ok(body)).await?.height)
}

/// Hash of this record's header at a height.
async fn header_hash(shared: &Shared, height: Height) -> Result<Option<Hash>> {
    let dir = std::sync::Arc::clone(&shared.data_dir);
    let read = move || {
        let header = Reader::open(&dir).and_then(|reader| reader.header(height));
        let storage = |error: ledger::store::StoreError| ControlError::Storage(error.to_string());
        Ok(header.map_err(storage)?.map(|header| header.hash()))
    };
    let broke = |error: tokio::task::JoinError| ControlError::Internal(error.to_string());
    tokio::task::spawn_blocking(read).await.map_err(broke)?
}
