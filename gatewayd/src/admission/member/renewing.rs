//! Carries out what `renewal` says: asks the voters in turn, answers their challenges with the TPM,
//! and submits what they have signed.

use ledger::ids::{Height, NodeId};
use ledger::state::{Attestation, State};
use ledger::transaction::Body;
use tokio::sync::{mpsc, oneshot};

use super::asking::{ATTEST_TIMEOUT, Conversation};
use super::{Member, Shared};
use crate::admission::exchange::{self, AskError, Said};
use crate::admission::messages::{Appraised, Request};
use crate::admission::renewal::{Collected, Endorsers, due_ms, pause_ms, start_pause_ms};
use crate::clock;
use crate::control::{CommittedInfo, ControlError, Result};
use crate::ledger_task::Done;

/// No machine is attested, restarted and back within this time, ms: a newcomer need not renew.
const REBOOT_MS: u64 = 20_000;

/// An answer of management's.
type Waiter = oneshot::Sender<Result<CommittedInfo>>;

/// What is under way.
pub(super) struct Renewing {
    running: Option<mpsc::Receiver<Result<Done>>>,
    waiters: Vec<Waiter>,
    /// Not before, boot time in ms.
    not_before_ms: u64,
    /// When this task began, boot time in ms.
    began_ms: u64,
    /// This start was followed by a renewal: the machine may have booted something else.
    renewed: bool,
    failures: u32,
    words: String,
}

impl Renewing {
    pub(super) fn new(own: &NodeId, now_ms: u64) -> Self {
        Self {
            running: None,
            waiters: Vec::new(),
            not_before_ms: now_ms.saturating_add(start_pause_ms(own)),
            began_ms: now_ms,
            renewed: false,
            failures: 0,
            words: "waits for its first renewal since the start".into(),
        }
    }

    /// What the renewal waits for, in a sentence.
    pub(super) fn words(&self) -> &str {
        &self.words
    }
}

/// The ledger's word on this gateway.
struct Own {
    attested_ms: Option<u64>,
    valid_s: u32,
    has_rights: bool,
    endorsers: Endorsers,
    tip: Height,
}

impl Member {
    /// Renews now, whether it is due or not.
    pub(super) async fn renew_now(&mut self, waiter: Waiter) {
        self.renewing.waiters.push(waiter);
        if self.renewing.running.is_none()
            && let Err(error) = self.begin_renewal(true).await
        {
            self.answer_waiters(Err(error));
        }
    }

    pub(super) async fn renew_when_due(&mut self) -> Result<()> {
        match self.renewing.running.as_mut().map(mpsc::Receiver::try_recv) {
            None => self.begin_renewal(false).await,
            Some(Err(mpsc::error::TryRecvError::Empty)) => Ok(()),
            Some(Ok(done)) => {
                self.end_renewal(done);
                Ok(())
            }
            Some(Err(mpsc::error::TryRecvError::Disconnected)) => {
                self.end_renewal(Err(ControlError::Internal("a task of ours broke".into())));
                Ok(())
            }
        }
    }

    async fn begin_renewal(&mut self, asked: bool) -> Result<()> {
        let own = self.own().await?;
        if !asked && !self.is_due(&own) {
            return Ok(());
        }
        if !own.has_rights {
            let what = "only a member with its rights renews its attestation";
            return Err(ControlError::Refused(what.into()));
        }
        if own.endorsers.keys.is_empty() {
            let what = "there is no other attested full member that could renew the sole voter";
            self.renewing.words = what.into();
            return Err(ControlError::Unavailable(what.into()));
        }
        let (done, running) = mpsc::channel(1);
        self.renewing.running = Some(running);
        self.renewing.words = "asks the voters".into();
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            let renewed = renew(&shared, own).await;
            // The task may have ended.
            let _ = done.send(renewed).await;
        });
        Ok(())
    }

    async fn own(&self) -> Result<Own> {
        let gateway = self.shared.gateway;
        let own = self.shared.ledger.with_node(move |node| {
            let state = node.state();
            let own = state.gateway(&gateway);
            Own {
                attested_ms: own.and_then(|own| attested_ms(&own.attestation, insecure(state))),
                valid_s: state.policy().attestation_valid_s,
                has_rights: own.is_some_and(|own| own.standing.standing.may_record()),
                endorsers: Endorsers::of(state, &gateway),
                tip: node.tip().height,
            }
        });
        own.await
    }

    fn is_due(&self, own: &Own) -> bool {
        let Some(attested_ms) = own.attested_ms.filter(|_| own.has_rights) else { return false };
        let alone = own.endorsers.keys.is_empty() || self.shared.attester.is_none();
        if alone || clock::boot_ms() < self.renewing.not_before_ms {
            return false;
        }
        let (site_ms, _) = self.shared.ledger.clock().borrow().now();
        let due = due_ms(attested_ms, own.valid_s, &self.shared.gateway) <= site_ms;
        let up_ms = clock::boot_ms().saturating_sub(self.renewing.began_ms);
        let since_start = attested_ms.saturating_add(REBOOT_MS) >= site_ms.saturating_sub(up_ms);
        due || !(self.renewing.renewed || since_start)
    }

    fn end_renewal(&mut self, done: Result<Done>) {
        let Renewing { running, not_before_ms, renewed, failures, words, .. } = &mut self.renewing;
        *running = None;
        match &done {
            Ok(done) => {
                (*renewed, *failures) = (true, 0);
                *words = format!("renewed in block {}", done.height);
                tracing::info!(height = done.height, "this gateway's attestation is renewed");
            }
            Err(error) => {
                *failures = failures.saturating_add(1);
                let pause = pause_ms(*failures, &self.shared.gateway);
                *not_before_ms = clock::boot_ms().saturating_add(pause);
                *words = format!("not renewed, tried again in {} s: {error}", pause / 1_000);
                tracing::warn!(%error, pause_s = pause / 1_000, "the attestation is not renewed");
            }
        }
        let done = done.map(|done| done.info("this gateway's attestation is renewed".into()));
        self.answer_waiters(done);
    }

    fn answer_waiters(&mut self, done: Result<CommittedInfo>) {
        for waiter in self.renewing.waiters.drain(..) {
            // Who has gone away is not told.
            let _ = waiter.send(done.clone());
        }
    }
}

/// When it was attested, block time. Who never was, is due at once; a software TPM cannot be, but
/// where the site lets them in.
fn attested_ms(attestation: &Attestation, insecure: bool) -> Option<u64> {
    match attestation {
        Attestation::Attested { time_ms, .. } => Some(*time_ms),
        Attestation::Unverified => Some(0),
        Attestation::Unattested => insecure.then_some(0),
    }
}

fn insecure(state: &State) -> bool {
    state.policy().insecure_software_tpm_sites
}

/// Asks one after another: each challenge takes the TPM for itself.
async fn renew(shared: &Shared, own: Own) -> Result<Done> {
    let (mut collected, mut said) = (Collected::default(), Vec::new());
    for (endorser, _) in &own.endorsers.keys {
        match ask(shared, *endorser, own.tip).await {
            Ok(appraised) => {
                if collected.take(&own.endorsers, &shared.gateway, &appraised).is_none() {
                    said.push((*endorser, "signed something else".to_owned()));
                }
            }
            Err(error) => said.push((*endorser, error.to_string())),
        }
        if let Some(attest) = collected.attest(&own.endorsers, &shared.gateway) {
            let body = Body::Attest(Box::new(attest));
            return shared.ledger.propose(move |_| Ok(body)).await;
        }
    }
    let said = said.iter().map(|(node, why)| format!("{}: {why}", node.to_gateway_string()));
    let said = said.collect::<Vec<_>>().join("; ");
    let (most, needed) = (collected.most(), own.endorsers.needed);
    Err(ControlError::Unavailable(format!("{most} of {needed} have endorsed it; {said}")))
}

/// One verifier's challenge and its verdict.
async fn ask(shared: &Shared, verifier: NodeId, base: Height) -> Result<Box<Appraised>> {
    let unavailable = |error: AskError| ControlError::Unavailable(error.to_string());
    let none = || ControlError::Unavailable("this gateway cannot prove itself now".into());
    let attester = shared.attester.as_deref().ok_or_else(none)?;
    let conversation = Conversation::new(shared.clone(), verifier, ATTEST_TIMEOUT);
    let introduction = attester.introduce(base).map_err(|error| unavailable(error.into()))?;
    let request = Request::Attest(Box::new(introduction));
    match exchange::attest(&conversation, &request, attester).await.map_err(unavailable)? {
        Said::Endorsed(appraised) => Ok(appraised),
        Said::Refused(refused) => Err(ControlError::Refused(refused.reason.as_str().into())),
        Said::Wait(wait) => Err(ControlError::Unavailable(wait.reason.as_str().into())),
        Said::NeedsApproval(_) => {
            Err(ControlError::Unavailable("another answer than expected".into()))
        }
    }
}
