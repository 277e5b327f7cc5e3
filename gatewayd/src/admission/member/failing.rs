//! A member whose re-attestation was contraindicated: the quorum suspends it, each voter by what
//! it found itself. Who is merely silent or stale is not suspended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ledger::codec::Encode;
use ledger::ids::NodeId;
use ledger::transaction::{Body, FailedAttestation, Statement, Suspend, SuspendCause};

use super::asking::collect;
use super::serving::{denied, failed};
use super::{Member, Shared, now};
use crate::admission::endorsing::{agrees, sign_statement};
use crate::admission::membership::collector;
use crate::admission::messages::{Bytes, Endorse, Response};
use crate::admission::verifier::{Denial, fitting};
use crate::clock;
use crate::control::{ControlError, Event, Result};

/// How long a failure found here is held against a member, ms.
const FAILED_MS: u64 = 600_000;

/// Signatures are collected again after this long: others may have seen it by then.
const COLLECT_AGAIN_MS: u64 = 10_000;

/// What is under way.
#[derive(Default)]
pub(super) struct Failing {
    collecting: Arc<AtomicBool>,
    collected_ms: u64,
    /// Whose turn it is, where several have failed.
    turn: usize,
}

impl Member {
    /// Tells people at once.
    pub(super) fn alert_failed(&self, statement: &Statement) {
        let gateway = statement.node().to_gateway_string();
        tracing::error!(gateway, "its re-attestation failed");
        let message = format!("{gateway} failed its re-attestation; see `gatewayctl gateway show`");
        // Nobody listening is no error.
        let _ = self.shared.events.send(Event::Alert { kind: "attestation", message });
    }

    /// Collects the signatures of the others, where this gateway is who does that.
    pub(super) async fn fail(&mut self) -> Result<()> {
        let now_ms = clock::boot_ms();
        let since = now_ms.saturating_sub(FAILED_MS);
        // One after the other: one that the others do not find failing keeps nobody else.
        let count = self.verifier.failures(since).count();
        let turn = self.failing.turn.checked_rem(count).unwrap_or(0);
        let Some(statement) = self.verifier.failures(since).nth(turn).cloned() else {
            return Ok(());
        };
        if now_ms.saturating_sub(self.failing.collected_ms) < COLLECT_AGAIN_MS {
            return Ok(());
        }
        let node = statement.node();
        let view = move |state: &ledger::state::State| {
            let known = state.gateway(&node);
            let has_rights = known.is_some_and(|known| known.standing.standing.may_record());
            (has_rights, state.voters().to_vec())
        };
        let (has_rights, mut voters) = self.shared.ledger.view(view).await?;
        if !has_rights {
            self.verifier.settled(&node);
            return Ok(());
        }
        let needed = voters.len() * 2 / 3 + 1;
        voters.retain(|voter| *voter != node);
        let connected: Vec<NodeId> =
            self.shared.peers.peers().borrow().iter().map(|peer| peer.node).collect();
        let own = self.shared.gateway;
        let (site_ms, _) = self.shared.ledger.clock().borrow().now();
        let mine = collector(&voters, &own, &connected, site_ms) == Some(own);
        if !mine || self.failing.collecting.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.failing.collected_ms = now_ms;
        self.failing.turn = self.failing.turn.wrapping_add(1);
        let (shared, done) = (self.shared.clone(), Arc::clone(&self.failing.collecting));
        self.tasks.spawn(async move {
            if let Err(error) = suspend(&shared, &voters, needed, statement).await {
                tracing::warn!(%error, "a gateway that failed its re-attestation is not suspended");
            }
            done.store(false, Ordering::Relaxed);
        });
        Ok(())
    }

    /// Signs another voter's statement, if this gateway has found the same itself.
    pub(super) async fn sign_failed(&mut self, asked: Statement) -> Response {
        let since = now().mono_ms.saturating_sub(FAILED_MS);
        if !self.verifier.failures(since).any(|own| agrees(own, &asked)) {
            self.call_soon(asked.node());
            return denied(&Denial::NotThereYet);
        }
        match self.shared.ledger.with_key(move |here| sign_statement(here, &asked)).await {
            Ok(Ok(signed)) => {
                Response::Endorsed { voter: signed.voter, signature: signed.signature }
            }
            Ok(Err(denial)) => denied(&denial),
            Err(error) => failed(&error),
        }
    }
}

async fn suspend(
    shared: &Shared,
    voters: &[NodeId],
    needed: usize,
    statement: Statement,
) -> Result<()> {
    let internal = |_| ControlError::Internal("the statement is too long for a message".into());
    let asked = Endorse::Statement(Bytes::new(statement.to_bytes()).map_err(internal)?);
    let mut endorsements = collect(shared, voters, &asked, &statement.digest()).await?;
    let own = statement.clone();
    let signed = shared.ledger.with_key(move |here| sign_statement(here, &own)).await?;
    endorsements.push(signed.map_err(|denial| ControlError::Refused(denial.to_string()))?);
    endorsements.sort_by_key(|signed| signed.voter);
    if endorsements.len() < needed {
        let what = format!("{} of {needed} voters found the same", endorsements.len());
        return Err(ControlError::Unavailable(what));
    }
    let node = statement.node();
    let failed = FailedAttestation { statement, endorsements };
    let body = Body::Suspend(Suspend {
        node,
        reason: fitting("its re-attestation failed"),
        cause: SuspendCause::FailedAttestation(Box::new(failed)),
    });
    let done = shared.ledger.propose(move |_| Ok(body)).await?;
    tracing::warn!(gateway = node.to_gateway_string(), height = done.height, "suspended");
    Ok(())
}
