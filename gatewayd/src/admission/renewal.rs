//! When a gateway renews its attestation, and what it does with the voters' answers. The gateway
//! itself drives it: it asks the voters, and whoever answers makes a challenge of its own.

use ledger::codec::Decode;
use ledger::crypto::PublicKey;
use ledger::ids::NodeId;
use ledger::state::{Attestation, Gateway, State};
use ledger::transaction::{Attest, Purpose, QuorumSignature, Statement};

use super::messages::Appraised;

/// First pause after a renewal that did not succeed, ms; it doubles.
const FIRST_PAUSE_MS: u64 = 15_000;

/// Longest pause, ms.
const LONGEST_PAUSE_MS: u64 = 900_000;

/// After a start a gateway renews at once, but not all gateways of a site in the same second.
const START_SPREAD_MS: u64 = 30_000;

/// When an attestation is renewed, block time: at about half of what it holds, each gateway at its
/// own moment, so that a site does not renew all at once.
pub fn due_ms(attested_ms: u64, valid_s: u32, node: &NodeId) -> u64 {
    let valid_ms = u64::from(valid_s) * 1_000;
    // 45 to 55 % of it.
    attested_ms.saturating_add(valid_ms / 100 * 45 + valid_ms / 10 * spread(node) / 256)
}

/// How long after its start a gateway renews.
pub fn start_pause_ms(node: &NodeId) -> u64 {
    START_SPREAD_MS * spread(node) / 256
}

/// How long to wait after so many tries in vain.
pub fn pause_ms(failures: u32, node: &NodeId) -> u64 {
    let pause = FIRST_PAUSE_MS.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let pause = pause.min(LONGEST_PAUSE_MS);
    pause + pause * spread(node) / 1_024
}

/// 0 to 255, another for each gateway.
fn spread(node: &NodeId) -> u64 {
    u64::from(node.0[19])
}

/// Collects what verifiers have signed about this gateway.
#[derive(Debug, Default)]
pub struct Collected(Vec<(Statement, Vec<QuorumSignature>)>);

/// Who may sign a renewal, with its vote key, and how many it takes.
#[derive(Debug, Clone)]
pub struct Endorsers {
    /// Vote keys of those who may sign.
    pub keys: Vec<(NodeId, PublicKey)>,
    /// How many must.
    pub needed: usize,
}

impl Endorsers {
    /// Of a gateway: the voters, or for the sole voter itself the other attested full members.
    pub fn of(state: &State, own: &NodeId) -> Self {
        let set = state.validator_set();
        if state.voters() != [*own] {
            let keys = set.voters().iter().map(|voter| (voter.node, voter.vote_key)).collect();
            return Self { keys, needed: set.quorum() };
        }
        let fit = |gateway: &Gateway| {
            gateway.full
                && gateway.standing.standing.may_record()
                && matches!(gateway.attestation, Attestation::Attested { .. })
        };
        let others = state.gateways().filter(|(node, gateway)| *node != own && fit(gateway));
        Self { keys: others.map(|(node, gateway)| (*node, gateway.vote_key)).collect(), needed: 1 }
    }

    fn key(&self, node: &NodeId) -> Option<&PublicKey> {
        self.keys.iter().find(|(known, _)| known == node).map(|(_, key)| key)
    }
}

impl Collected {
    /// Takes an answer. `None` when it is not what this gateway asked for, or not signed by who it
    /// names.
    pub fn take(
        &mut self,
        endorsers: &Endorsers,
        own: &NodeId,
        appraised: &Appraised,
    ) -> Option<()> {
        let statement = Statement::from_bytes(&appraised.statement).ok()?;
        let fits = statement.node() == *own && statement.purpose == Purpose::Attest;
        let key = endorsers.key(&appraised.voter).filter(|_| fits)?;
        let signed = QuorumSignature { voter: appraised.voter, signature: appraised.signature };
        signed.verify(&statement.digest(), key).ok()?;
        let group = match self.0.iter().position(|(known, _)| *known == statement) {
            Some(index) => index,
            None => {
                self.0.push((statement, Vec::new()));
                self.0.len() - 1
            }
        };
        let signatures = &mut self.0[group].1;
        if !signatures.iter().any(|known| known.voter == signed.voter) {
            signatures.push(signed);
        }
        Some(())
    }

    /// The renewal, once enough have signed the same; not this gateway alone.
    pub fn attest(&self, endorsers: &Endorsers, own: &NodeId) -> Option<Attest> {
        let enough = |group: &[QuorumSignature]| {
            group.len() >= endorsers.needed && group.iter().any(|signed| signed.voter != *own)
        };
        let (statement, group) = self.0.iter().find(|(_, group)| enough(group))?;
        let (statement, mut endorsements) = (statement.clone(), group.clone());
        endorsements.sort_by_key(|signed| signed.voter);
        Some(Attest { statement, endorsements })
    }

    /// How many have signed the same.
    pub fn most(&self) -> usize {
        self.0.iter().map(|(_, group)| group.len()).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_are_spread_around_the_middle() {
        for byte in [0, 1, 128, 255] {
            let due = due_ms(1_000, 86_400, &NodeId([byte; 20])) - 1_000;
            assert!((38_880_000..=47_520_000).contains(&due), "{byte}: {due}");
        }
        assert!(due_ms(0, 60, &NodeId([0; 20])) < due_ms(0, 60, &NodeId([255; 20])));
        assert!(due_ms(u64::MAX, 60, &NodeId([0; 20])) == u64::MAX, "no overflow");
    }

    #[test]
    fn pauses_grow_and_end() {
        let node = NodeId([0; 20]);
        let pauses: Vec<_> = [1, 2, 3, 7, 40, u32::MAX].map(|n| pause_ms(n, &node)).to_vec();
        assert_eq!(pauses, [15_000, 30_000, 60_000, 900_000, 900_000, 900_000]);
    }
}
