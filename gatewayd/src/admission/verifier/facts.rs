//! What the ledger says that a verdict depends on, copied out of the state for one attester. The
//! state itself stays with its owner.

use ledger::codec::Decode;
use ledger::crypto::PublicKey;
use ledger::ids::{ChainId, Era, Hash, Height, NodeId};
use ledger::policy::Policy;
use ledger::state::{Approval, Attestation, Endorsement, Gateway, Key, State};

use super::Introduced;

/// What this gateway may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seat {
    /// It votes, and its own attestation holds.
    Votes,
    /// It votes, but its own attestation is stale or was never made: it endorses renewals and
    /// nothing else.
    Stale,
    /// It has no vote, but is attested: it may renew this sole voter, which cannot renew itself.
    Second(NodeId),
    /// It endorses nothing.
    None,
}

/// The ledger's word on one attester, as of one block.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Chain of this site.
    pub chain_id: ChainId,
    /// Its era.
    pub era: Era,
    /// Height of the newest block.
    pub tip: Height,
    /// The site's time, Unix ms.
    pub time_ms: u64,
    /// The policy.
    pub policy: Policy,
    /// What of it was applied.
    pub policy_hash: Hash,
    /// This gateway.
    pub own: NodeId,
    /// What it may sign.
    pub seat: Seat,
    /// Whether some voter's own TPM is known to be a program.
    pub unattested_voter: bool,
    /// The attester's record, if there is one.
    pub gateway: Option<Gateway>,
    /// The record of its EK, if that is known.
    pub endorsement: Option<Endorsement>,
    /// The gateway of that EK.
    pub sibling: Option<Gateway>,
    /// The type of EK that is accepted of its TPM's model.
    pub model_kind: Option<u8>,
    /// The operator's approval.
    pub approval: Option<Approval>,
    /// Who has, or had, its vote key.
    pub vote_key_owner: Option<NodeId>,
}

/// What facts are asked about.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    /// The attester.
    pub node: NodeId,
    /// SHA-256 of its EK.
    pub ek_digest: Hash,
    /// Its TPM's model.
    pub tpm_model: Hash,
    /// Its vote key.
    pub vote_key: PublicKey,
}

impl Query {
    /// About who has introduced itself.
    pub fn of(introduced: &Introduced) -> Self {
        Self {
            node: introduced.node,
            ek_digest: introduced.ek_digest,
            tpm_model: introduced.tpm_model,
            vote_key: introduced.vote.vote_key,
        }
    }
}

impl Facts {
    /// Copies them out of the state.
    pub fn of(state: &State, tip: Height, time_ms: u64, own: NodeId, query: &Query) -> Self {
        let endorsement: Option<Endorsement> = entry(state, &Key::Endorsement(query.ek_digest));
        let sibling = endorsement.and_then(|found| state.gateway(&found.gateway).cloned());
        let policy = state.policy().clone();
        Self {
            chain_id: state.chain_id(),
            era: state.era(),
            tip,
            time_ms,
            policy_hash: policy.attestation_hash(),
            policy,
            own,
            seat: seat(state, &own, time_ms),
            unattested_voter: unattested_voter(state),
            gateway: state.gateway(&query.node).cloned(),
            endorsement,
            sibling,
            model_kind: entry(state, &Key::TpmModel(query.tpm_model)),
            approval: entry(state, &Key::Approval(query.node)),
            vote_key_owner: state.vote_key_owner(&query.vote_key).copied(),
        }
    }

    /// Whether the operator's approval lets this attester in now.
    pub fn approved(&self, introduced: &Introduced) -> bool {
        self.approval.is_some_and(|approval| {
            approval.holds(self.time_ms)
                && approval.ek_digest == introduced.ek_digest
                && approval.label == introduced.label
                && approval.policy_hash == self.policy_hash
        })
    }

    /// Whether the operator trusts this very EK without a certificate.
    pub fn pinned(&self, introduced: &Introduced) -> bool {
        let kept =
            self.endorsement.is_some_and(|found| found.pinned && found.gateway == introduced.node);
        let approved = self.approval.is_some_and(|approval| {
            approval.pin
                && approval.ek_digest == introduced.ek_digest
                && approval.holds(self.time_ms)
        });
        kept || approved
    }
}

/// What a gateway may sign.
pub fn seat(state: &State, node: &NodeId, time_ms: u64) -> Seat {
    let Some(gateway) = state.gateway(node) else { return Seat::None };
    let attested = matches!(gateway.attestation, Attestation::Attested { .. });
    let voters = state.voters();
    if voters.binary_search(node).is_err() {
        let fit = gateway.full && gateway.standing.standing.may_record() && attested;
        return match voters {
            [sole] if fit => Seat::Second(*sole),
            _ => Seat::None,
        };
    }
    // A founder that nobody has attested yet endorses the newcomer that attests it.
    let excused = voters.len() == 1 || state.policy().insecure_software_tpm_sites;
    if is_stale(state, node, time_ms) || !(attested || excused) { Seat::Stale } else { Seat::Votes }
}

/// Whether an attestation is older than the policy allows.
pub fn is_stale(state: &State, node: &NodeId, time_ms: u64) -> bool {
    match state.gateway(node).map(|gateway| gateway.attestation) {
        Some(Attestation::Attested { time_ms: attested, .. }) => {
            time_ms > valid_until_ms(state.policy(), attested)
        }
        _ => false,
    }
}

/// Until when an attestation of a block time holds, Unix ms.
pub fn valid_until_ms(policy: &Policy, attested_ms: u64) -> u64 {
    attested_ms.saturating_add(u64::from(policy.attestation_valid_s) * 1_000)
}

fn unattested_voter(state: &State) -> bool {
    let attestation = |node| state.gateway(node).map(|gateway| gateway.attestation);
    state.voters().iter().any(|node| attestation(node) == Some(Attestation::Unattested))
}

/// An entry of the state.
pub fn entry<T: Decode>(state: &State, key: &Key) -> Option<T> {
    // What the state holds is canonical: it was read or made by the same code.
    state.value(key).and_then(|bytes| T::from_bytes(&bytes).ok())
}
