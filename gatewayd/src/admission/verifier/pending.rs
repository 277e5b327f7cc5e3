//! Newcomers that were appraised here and are no members yet: what `gateway list` shows and an
//! operator approves. In memory only: a newcomer asks again.

use std::collections::VecDeque;
use std::net::SocketAddr;

use ledger::ids::{Hash, NodeId};

use super::appraisal::Verdict;
use super::{Introduced, Now};
use crate::control::{AdmissionInfo, ClaimInfo};
use crate::sensors::settings::hex;

/// Newcomers that are kept.
pub(super) const MAX_PENDING: usize = 64;

/// Where a newcomer stands here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stand {
    /// Refused, with the reason.
    Refused(String),
    /// The operator has not approved it; `pin`: nobody but the operator can vouch for its EK.
    NeedsApproval {
        /// The approval must pin its EK.
        pin: bool,
    },
    /// This gateway has endorsed it.
    Endorsed,
}

/// One newcomer.
#[derive(Debug, Clone)]
pub(super) struct Newcomer {
    introduced: Introduced,
    stand: Stand,
    verdicts: Vec<Verdict>,
    policy_hash: Hash,
    replaces: Option<NodeId>,
    from: SocketAddr,
    since_ms: u64,
    seen_ms: u64,
}

/// What is noted about a newcomer.
pub(super) struct Note {
    /// Where it stands.
    pub stand: Stand,
    /// The verdicts, when there are any.
    pub verdicts: Vec<Verdict>,
    /// Policy that it was appraised under.
    pub policy_hash: Hash,
    /// Whose place it would take.
    pub replaces: Option<NodeId>,
    /// Where it asked from.
    pub from: SocketAddr,
}

/// The list; the newest last.
#[derive(Debug, Default)]
pub(super) struct Pending(VecDeque<Newcomer>);

impl Pending {
    /// Notes what became of a newcomer. When the list is full those go first who were refused,
    /// then those for whom nobody vouches, then the oldest.
    pub(super) fn note(&mut self, now: Now, introduced: &Introduced, note: Note) {
        let known = self.0.iter().position(|newcomer| newcomer.introduced.node == introduced.node);
        let before = known.and_then(|index| self.0.remove(index));
        if self.0.len() >= MAX_PENDING {
            let worst = (0..self.0.len()).min_by_key(|index| self.0[*index].worth());
            self.0.remove(worst.unwrap_or(0));
        }
        let Note { stand, verdicts, policy_hash, replaces, from } = note;
        self.0.push_back(Newcomer {
            introduced: introduced.clone(),
            stand,
            verdicts,
            policy_hash,
            replaces,
            from,
            since_ms: before.map_or(now.wall_ms, |newcomer| newcomer.since_ms),
            seen_ms: now.wall_ms,
        });
    }

    /// Those that have become members are not pending any more.
    pub(super) fn forget(&mut self, is_member: impl Fn(&NodeId) -> bool) {
        self.0.retain(|newcomer| !is_member(&newcomer.introduced.node));
    }

    /// Where a newcomer stands.
    pub(super) fn stand(&self, node: &NodeId) -> Option<&Stand> {
        let found = self.0.iter().find(|newcomer| newcomer.introduced.node == *node);
        found.map(|newcomer| &newcomer.stand)
    }

    /// Its keys.
    pub(super) fn introduced(&self, node: &NodeId) -> Option<&Introduced> {
        let found = self.0.iter().find(|newcomer| newcomer.introduced.node == *node);
        found.map(|newcomer| &newcomer.introduced)
    }

    /// All, for people.
    pub(super) fn list(&self) -> Vec<AdmissionInfo> {
        self.0.iter().map(Newcomer::info).collect()
    }
}

impl Newcomer {
    fn worth(&self) -> u8 {
        match self.stand {
            Stand::Refused(_) => 0,
            Stand::NeedsApproval { pin: true } => 1,
            Stand::NeedsApproval { pin: false } | Stand::Endorsed => 2,
        }
    }

    fn info(&self) -> AdmissionInfo {
        let (state, reason) = match &self.stand {
            Stand::Refused(reason) => ("refused", reason.clone()),
            Stand::NeedsApproval { pin: false } => {
                ("needs-approval", "waits for the operator's approval".into())
            }
            Stand::NeedsApproval { pin: true } => {
                let what = "nobody the site trusts vouches for its endorsement key; an approval \
                            must pin it";
                ("needs-approval", what.into())
            }
            Stand::Endorsed => ("endorsed", "endorsed here; a quorum decides".into()),
        };
        let Introduced { label, .. } = self.introduced;
        AdmissionInfo {
            id: self.introduced.node.to_gateway_string(),
            identity_key: hex(self.introduced.identity.as_bytes()),
            ek_digest: hex(&self.introduced.ek_digest.0),
            ek_type: self.introduced.ek_kind.as_str(),
            tpm: self.introduced.tpm_words(),
            full: label.full,
            coordinator: label.coordinator,
            measurements: self.introduced.measurements.clone(),
            policy_hash: hex(&self.policy_hash.0),
            claims: self.verdicts.iter().map(Verdict::info).collect(),
            state,
            reason,
            needs_pin: self.stand == Stand::NeedsApproval { pin: true },
            from: self.from.to_string(),
            since_ms: self.since_ms,
            seen_ms: self.seen_ms,
            replaces: self.replaces.map(NodeId::to_gateway_string),
        }
    }
}

impl Verdict {
    /// For people.
    pub fn info(&self) -> ClaimInfo {
        let (claim, status) = (self.kind.as_str(), self.status.as_str());
        ClaimInfo { claim, status, reason: self.reason.clone() }
    }
}
