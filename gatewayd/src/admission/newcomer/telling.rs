//! Where a join stands, in words.

use std::time::Duration;

use attestation::tpm::IdentityInfo;
use attestation::{Claim, ClaimKind, Status};
use ledger::ids::NodeId;
use ledger::validator_set::ValidatorSet;
use tokio::sync::watch;

use super::not_asked;
use crate::admission::messages::ClaimWords;
use crate::clock;
use crate::control::{ClaimInfo, JoinProgress, JoinStep};
use crate::identity::identity_key;

/// Writes the progress that management sees.
pub(super) struct Teller(watch::Sender<JoinProgress>);

impl Teller {
    pub(super) fn new(progress: watch::Sender<JoinProgress>, info: &IdentityInfo) -> Self {
        let gateway = identity_key(info).ok().map(|key| NodeId::of_key(&key));
        let teller = Self(progress);
        teller.0.send_modify(|shown| {
            shown.gateway = gateway.map(|node| node.to_gateway_string());
        });
        teller
    }

    /// A step begins, or goes on.
    pub(super) fn step(&self, step: JoinStep, detail: String) {
        self.0.send_modify(|shown| {
            if shown.step != step {
                shown.since_ms = clock::wall_ms();
            }
            if matches!(step, JoinStep::Attesting | JoinStep::Done) {
                shown.claims.clear();
            }
            (shown.step, shown.detail, shown.next_try_ms) = (step, detail, None);
        });
    }

    /// A round has ended: it is said why, and when the next begins.
    pub(super) fn rest(&self, step: JoinStep, detail: String, pause: Duration) {
        let (before, said) = (self.0.borrow().step, self.0.borrow().detail.clone());
        if (before, &said) != (step, &detail) {
            tracing::info!(step = step.words(), detail, "joining");
        }
        let again = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.0.send_modify(|shown| {
            if shown.step != step {
                shown.since_ms = clock::wall_ms();
            }
            (shown.step, shown.detail) = (step, detail);
            shown.attempts = shown.attempts.saturating_add(1);
            shown.next_try_ms = Some(clock::wall_ms().saturating_add(again));
        });
    }

    pub(super) fn site(&self, name: &str) {
        self.0.send_modify(|shown| shown.site = Some(name.to_owned()));
    }

    pub(super) fn claims(&self, claims: Vec<ClaimInfo>) {
        self.0.send_modify(|shown| shown.claims = claims);
    }

    /// The voters that are going to be asked; what they said before is forgotten.
    pub(super) fn voters(&self, voters: &ValidatorSet) {
        let list = voters.voters().iter().map(|voter| not_asked(&voter.node)).collect();
        self.0.send_modify(|shown| shown.verifiers = list);
    }

    /// What a voter said.
    pub(super) fn verifier(&self, node: &NodeId, (state, detail): (&'static str, String)) {
        let id = node.to_gateway_string();
        self.0.send_modify(|shown| {
            if let Some(verifier) = shown.verifiers.iter_mut().find(|one| one.gateway == id) {
                (verifier.state, verifier.detail) = (state, detail);
            }
        });
    }

    /// Where a voter was reached.
    pub(super) fn address(&self, node: &NodeId, address: &str) {
        let id = node.to_gateway_string();
        self.0.send_modify(|shown| {
            if let Some(verifier) = shown.verifiers.iter_mut().find(|one| one.gateway == id) {
                verifier.address = Some(address.to_owned());
            }
        });
    }
}

/// A claim of an appraisal made here.
pub(super) fn claim_info(claim: &Claim) -> ClaimInfo {
    ClaimInfo {
        claim: claim.kind.as_str(),
        status: claim.status.as_str(),
        reason: claim.reason.to_string(),
    }
}

/// Claims as a verifier sent them; numbers that this build does not know are named so.
pub(super) fn claim_infos(claims: &[ClaimWords]) -> Vec<ClaimInfo> {
    let statuses = [Status::Affirming, Status::Warning, Status::Contraindicated];
    let one = |claim: &ClaimWords| {
        let kind = ClaimKind::ALL.into_iter().find(|kind| *kind as u8 == claim.claim);
        let status = statuses.into_iter().find(|status| *status as u8 == claim.status);
        ClaimInfo {
            claim: kind.map_or("unknown", ClaimKind::as_str),
            status: status.map_or("unknown", Status::as_str),
            reason: claim.reason.as_str().to_owned(),
        }
    };
    claims.iter().map(one).collect()
}
