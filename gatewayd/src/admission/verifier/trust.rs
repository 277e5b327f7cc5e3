//! What the site trusts: the documents that its policy names, parsed once per policy.

use attestation::endorsement::Anchor;
use attestation::pcr::PcrSelection;
use attestation::{Policy, Profile, ReferenceValues};
use ledger::ids::Hash;
use ledger::state::{Key, State};
use ledger::transaction::Document;

use super::facts::entry;
use super::{Denial, Facts, Introduced};

/// Anchors and reference values of one policy.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    policy_hash: Option<Hash>,
    anchors: Vec<Anchor>,
    /// With the block time until which they hold; 0 for no end.
    values: Vec<(u64, ReferenceValues)>,
    /// A document that the policy names is missing or cannot be read.
    damaged: bool,
}

impl Trust {
    /// Whether it is of this policy.
    pub fn is_of(&self, policy_hash: &Hash) -> bool {
        self.policy_hash.as_ref() == Some(policy_hash)
    }

    /// The documents of the policy in force, unread: a copy for another thread.
    pub fn documents(state: &State) -> Documents {
        let policy = state.policy();
        let bytes = |hash: &Hash| {
            entry::<Document>(state, &Key::Document(*hash)).map(|document| document.bytes)
        };
        Documents {
            policy_hash: policy.attestation_hash(),
            anchors: policy.ek_anchors.iter().map(bytes).collect(),
            values: policy
                .reference_values
                .iter()
                .map(|window| (window.until_ms, bytes(&window.document)))
                .collect(),
        }
    }

    /// Reads documents.
    pub fn read(documents: Documents) -> Self {
        let Documents { policy_hash, anchors, values } = documents;
        let mut trust = Self { policy_hash: Some(policy_hash), ..Self::default() };
        for bytes in anchors {
            match bytes.and_then(|bytes| Anchor::from_der(&bytes).ok()) {
                Some(anchor) => trust.anchors.push(anchor),
                None => trust.damaged = true,
            }
        }
        for (until_ms, bytes) in values {
            match bytes.and_then(|bytes| ReferenceValues::from_bytes(&bytes).ok()) {
                Some(values) => trust.values.push((until_ms, values)),
                None => trust.damaged = true,
            }
        }
        trust
    }

    /// Reference values that hold at a block time: old and new ones together inside their windows.
    pub fn values_at(&self, time_ms: u64) -> Vec<ReferenceValues> {
        let holds = |until_ms: u64| until_ms == 0 || time_ms <= until_ms;
        self.values.iter().filter(|(until, _)| holds(*until)).map(|(_, it)| it.clone()).collect()
    }

    /// The policy as the verifier applies it to one attester.
    ///
    /// # Errors
    /// [`Denial::Documents`], [`Denial::PolicyChanged`] when it is of another policy.
    pub fn policy(&self, facts: &Facts, introduced: &Introduced) -> Result<Policy, Denial> {
        if !self.is_of(&facts.policy_hash) {
            return Err(Denial::PolicyChanged);
        }
        let profile = Profile::from_number(facts.policy.profile as u8);
        let pcrs = PcrSelection::from_bits(facts.policy.pcrs);
        let (Some(profile), Ok(pcrs), false) = (profile, pcrs, self.damaged) else {
            return Err(Denial::Documents);
        };
        let pinned = facts.pinned(introduced).then_some(introduced.ek_digest.0);
        Ok(Policy {
            profile,
            pcrs,
            anchors: self.anchors.clone(),
            pinned_eks: pinned.into_iter().collect(),
            allow_software_tpm: facts.policy.insecure_software_tpm_sites,
        })
    }
}

/// Documents of a policy, as the ledger has them.
pub struct Documents {
    policy_hash: Hash,
    anchors: Vec<Option<Vec<u8>>>,
    values: Vec<(u64, Option<Vec<u8>>)>,
}
