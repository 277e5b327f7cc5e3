//! A voter wants to see a member now: one that was away and may have booted something else, one
//! that is marked, one that another voter says has failed. Who does not answer is not suspended
//! for it: it goes stale.
//!
//! The voter makes the member's side of the exchange its own: what the member hands over goes
//! through the same requests as if the member had come by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ledger::codec::{Decode, Encode};
use ledger::ids::{Height, NodeId};
use ledger::state::{Attestation, Standing, State};
use tokio::sync::oneshot;

use super::asking::ATTEST_TIMEOUT;
use super::{Member, Shared};
use crate::admission::handing::Taking;
use crate::admission::messages::{Request, Response};
use crate::clock;
use crate::control::{ControlError, Result};
use crate::peers::{Allowance, Incoming, Session};

/// A member that came back renews by itself; who has not done so after this long is asked, ms.
const PATIENCE_MS: u64 = 120_000;

/// One member is asked at most so often, ms.
const CALL_EVERY_MS: u64 = 600_000;

/// Members whose last call is remembered: no site has more.
const MAX_CALLED: usize = 128;

/// Whom another voter has found failing is asked at most so often, ms.
const URGENT_EVERY_MS: u64 = 60_000;

/// This gateway asks for whole logs once, where it has read in others' before.
const MAX_CHALLENGES: usize = 2;

/// What is under way.
#[derive(Default)]
pub(super) struct Calling {
    running: Arc<AtomicBool>,
    called: BTreeMap<NodeId, u64>,
    urgent: Option<NodeId>,
}

/// A connected member as the ledger knows it.
struct Known {
    node: NodeId,
    attested: Height,
    attested_ms: u64,
    /// Since when it is marked.
    marked: Option<Height>,
}

impl Member {
    /// Another voter says that this member has failed: this one wants to see for itself.
    pub(super) fn call_soon(&mut self, node: NodeId) {
        self.calling.urgent = Some(node);
    }

    /// Asks one member, if one is due. Only voters do.
    pub(super) async fn call(&mut self) -> Result<()> {
        let own = self.shared.gateway;
        let view = move |state: &State| {
            let votes = state.voters().binary_search(&own).is_ok() && state.voters().len() > 1;
            votes.then(|| known(state, &own))
        };
        let Some(members) = self.shared.ledger.view(view).await? else { return Ok(()) };
        if self.calling.running.load(Ordering::Relaxed) {
            return Ok(());
        }
        let now_ms = clock::boot_ms();
        let (site_ms, _) = self.shared.ledger.clock().borrow().now();
        let urgent = self.calling.urgent.take();
        let connected = self.shared.peers.peers().borrow().clone();
        let due = members.iter().find(|member| {
            let Some(peer) = connected.iter().find(|peer| peer.node == member.node) else {
                return false;
            };
            let asked = urgent == Some(member.node);
            let every = if asked { URGENT_EVERY_MS } else { CALL_EVERY_MS };
            let called = self.calling.called.get(&member.node);
            let again = called.is_none_or(|at| now_ms.saturating_sub(*at) >= every);
            let here_ms = now_ms.saturating_sub(peer.since_ms);
            again && (asked || is_due(member, here_ms, site_ms))
        });
        let Some(node) = due.map(|member| member.node) else { return Ok(()) };
        self.calling.running.store(true, Ordering::Relaxed);
        self.calling.called.retain(|_, at| now_ms.saturating_sub(*at) < CALL_EVERY_MS);
        if self.calling.called.len() < MAX_CALLED {
            self.calling.called.insert(node, now_ms);
        }
        let (shared, done) = (self.shared.clone(), Arc::clone(&self.calling.running));
        self.tasks.spawn(async move {
            if let Err(error) = call(&shared, node).await {
                let gateway = node.to_gateway_string();
                tracing::info!(gateway, %error, "does not show its TPM");
            }
            done.store(false, Ordering::Relaxed);
        });
        Ok(())
    }
}

fn known(state: &State, own: &NodeId) -> Vec<Known> {
    let with_rights = state
        .gateways()
        .filter(|(node, gateway)| *node != own && gateway.standing.standing.may_record());
    with_rights
        .filter_map(|(node, gateway)| match gateway.attestation {
            Attestation::Attested { height, time_ms, .. } => Some(Known {
                node: *node,
                attested: height,
                attested_ms: time_ms,
                marked: (gateway.standing.standing == Standing::Marked)
                    .then_some(gateway.standing.since),
            }),
            Attestation::Unverified | Attestation::Unattested => None,
        })
        .collect()
}

/// Whether a member is to be asked: it was away and has not been attested since it came back, or
/// was marked and has not been attested since.
fn is_due(member: &Known, here_ms: u64, site_ms: u64) -> bool {
    let marked = member.marked.is_some_and(|since| member.attested < since);
    let back = here_ms >= PATIENCE_MS && member.attested_ms < site_ms.saturating_sub(here_ms);
    marked || back
}

async fn call(shared: &Shared, node: NodeId) -> Result<()> {
    let (session, introduced) = ask(shared, node, &Request::Introduce).await?;
    let Response::Introduction(introduction) = introduced else { return Err(unexpected()) };
    let mut said = as_member(shared, &session, &Request::Attest(introduction)).await?;
    for _ in 0..MAX_CHALLENGES {
        let challenge = match said {
            Response::Challenge(challenge) => challenge,
            Response::Refused(no) => return Err(ControlError::Refused(no.reason.as_str().into())),
            // The verdict is kept by the verifier; nothing is to be answered to anybody.
            _ => return Ok(()),
        };
        let wanted = challenge.logs;
        let (same, evidence) = ask(shared, node, &Request::Prove(challenge)).await?;
        let Response::Evidence(evidence) = evidence else { return Err(unexpected()) };
        if same.exporter != session.exporter {
            return Err(ControlError::Unavailable("the connection was made anew".into()));
        }
        let announced = Taking::announced(&evidence, wanted);
        said = as_member(shared, &session, &Request::Evidence(evidence)).await?;
        if let (Response::SendLogs, Ok(logs)) = (&said, announced) {
            said = relay(shared, &session, node, logs).await?;
        }
        // Keys are shown before each challenge.
        if matches!(said, Response::Challenge(_)) {
            ask(shared, node, &Request::Introduce).await?;
        }
    }
    Err(unexpected())
}

/// Fetches a member's logs and hands each part in for it; what is answered to the last.
async fn relay(
    shared: &Shared,
    session: &Session,
    node: NodeId,
    mut logs: Taking,
) -> Result<Response> {
    while let Some(question) = logs.missing() {
        let (_, Response::Log(part)) = ask(shared, node, &Request::Logs(question)).await? else {
            return Err(unexpected());
        };
        logs.take(&part).map_err(|denial| ControlError::Refused(denial.to_string()))?;
        match as_member(shared, session, &Request::Log(part)).await? {
            Response::Heard => {}
            last => return Ok(last),
        }
    }
    Err(unexpected())
}

fn unexpected() -> ControlError {
    ControlError::Unavailable("another answer than expected".into())
}

async fn ask(shared: &Shared, node: NodeId, request: &Request) -> Result<(Session, Response)> {
    let unavailable =
        |error: crate::peers::RequestError| ControlError::Unavailable(error.to_string());
    let answer = shared.peers.request(node, request.to_bytes(), ATTEST_TIMEOUT).await;
    let answer = answer.map_err(unavailable)?;
    let response = Response::from_bytes(&answer.bytes).map_err(|_| unexpected())?;
    Ok((answer.session, response))
}

/// A member's request, handed in for it.
async fn as_member(shared: &Shared, session: &Session, request: &Request) -> Result<Response> {
    let gone = || ControlError::Unavailable("this gateway is stopping".into());
    let (reply, answer) = oneshot::channel();
    let (session, allowance) = (session.clone(), Allowance::default());
    let incoming = Incoming { session, bytes: request.to_bytes(), reply, allowance };
    shared.own.send(incoming).await.map_err(|_| gone())?;
    let bytes = answer.await.map_err(|_| gone())?;
    Response::from_bytes(&bytes).map_err(|_| unexpected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_away_or_is_marked_is_asked_until_it_was_attested_since() {
        let member = |attested: u64, attested_ms, marked: Option<u64>| Known {
            node: NodeId([1; 20]),
            attested: Height(attested),
            attested_ms,
            marked: marked.map(Height),
        };
        // It has been back for five minutes.
        let (here_ms, site_ms) = (300_000, 10_000_000);
        for (what, member, here_ms, due) in [
            ("attested before it was away", member(1, 9_600_000, None), here_ms, true),
            ("attested since", member(1, 9_800_000, None), here_ms, false),
            ("it has a moment to do so", member(1, 9_600_000, None), PATIENCE_MS - 1, false),
            ("marked since", member(1, 9_999_000, Some(2)), 0, true),
            ("attested since it was marked", member(3, 9_999_000, Some(2)), 0, false),
        ] {
            assert_eq!(is_due(&member, here_ms, site_ms), due, "{what}");
        }
    }
}
