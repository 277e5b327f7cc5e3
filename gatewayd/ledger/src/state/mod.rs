//! The state machine: pure, deterministic, and all of it in memory.
//!
//! ```text
//! State ─begin(context)─> Execution ─apply(transaction)…─> finish ─> Outcome ─commit─> State
//! ```
//!
//! A block is tried on an [`Execution`], which leaves the state as it is; its [`Outcome`] has
//! the new root, the changed entries for the store, and the events. `apply` either records a
//! transaction wholly or changes nothing. Nothing here reads a clock: time is the block's.

mod activity;
pub mod counters;
pub mod error;
pub mod event;
mod execution;
pub mod key;
pub mod map;
mod participation;
mod proof;
pub mod records;
mod rules;
#[cfg(test)]
mod tests;
mod verify;

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};

pub use activity::{Activity, MAX_NONCE_STEP, NONCE_WINDOW};
pub use error::{ApplyError, StateError, VerifyError};
pub use event::Event;
pub use execution::{BlockContext, Change, Execution, Outcome};
pub use key::Key;
pub use participation::{Participation, Seen};
pub use proof::StateProof;
pub use records::{
    APPROVAL_MS, Approval, Attestation, DOWN_WINDOW, Endorsement, Gateway, JOIN_WINDOW, LightNode,
    Record, SessionRecord, Site, Standing, StandingRecord, Voters,
};
pub use verify::VerifiedTransaction;

use crate::{
    crypto::PublicKey,
    genesis::{FounderAttestation, Genesis},
    header::Header,
    ids::{ChainId, Era, Hash, Height, NodeId},
    merkle::{self, Tag},
    policy::Policy,
    transaction::{Author, Document},
    validator_set::{Validator, ValidatorSet, quorum_of},
};
use map::{MapProof, SparseMap, value_hash};

/// For fuzzing: reads bytes as a stored entry, `length of key ‖ key ‖ value`, and as a proof.
///
/// # Panics
/// When one entry or proof has two encodings.
pub fn fuzz(bytes: &[u8]) {
    use crate::codec::{Decode, Encode};

    if let Ok(proof) = StateProof::from_bytes(bytes) {
        assert_eq!(proof.to_bytes(), bytes, "one proof, one encoding");
        assert!(proof.under(&Hash([0xff; 32])).is_none());
    }
    let Some((length, rest)) = bytes.split_first() else {
        return;
    };
    let Some((key, value)) = rest.split_at_checked(usize::from(*length)) else {
        return;
    };
    if let Ok(key) = Key::from_bytes(key)
        && let Ok(record) = Record::from_bytes(&key, value)
    {
        assert_eq!(record.to_bytes(), value, "one entry, one encoding");
    }
}

/// Everything that the ledger knows now.
#[derive(Clone, Debug)]
pub struct State {
    /// Shared with the outcomes of blocks, so that a block moves pointers and not entries.
    records: BTreeMap<Key, Arc<Record>>,
    map: SparseMap,
}

impl State {
    /// The state that a genesis record founds.
    pub fn from_genesis(genesis: &Genesis) -> Self {
        let founder = &genesis.founder;
        let node = founder.node();
        let attestation = match founder.attestation {
            FounderAttestation::Unverified => Attestation::Unverified,
            FounderAttestation::Unattested => Attestation::Unattested,
        };
        let gateway = Gateway {
            identity: founder.identity,
            vote_key: founder.vote,
            full: true,
            coordinator: true,
            standing: StandingRecord::active(Height::GENESIS),
            attestation,
            member_since: Height::GENESIS,
            online: true,
            liveness_epoch: 0,
            ready: None,
            replaced_by: None,
        };
        let site = Site {
            chain_id: genesis.chain_id(),
            era: Era(0),
            operator: genesis.operator,
            recoveries: Vec::new(),
        };
        let endorsement = Endorsement { gateway: node, ak_name: founder.ak_name, pinned: false };
        let records = [
            (Key::Site, Record::Site(site)),
            (Key::Policy, Record::Policy(genesis.policy.clone())),
            (Key::Voters, Record::Voters(Voters::new(alloc::vec![node]))),
            (Key::VoteKey(founder.vote), Record::VoteKey(node)),
            (Key::Endorsement(founder.ek_digest), Record::Endorsement(endorsement)),
            (Key::Gateway(node), Record::Gateway(gateway)),
        ];
        Self::from_records(records)
    }

    /// The header of height 0. Nobody certifies it: whoever knows the genesis record makes it.
    pub fn genesis_header(genesis: &Genesis) -> Header {
        let set = genesis.validator_set().hash();
        Header {
            state_version: genesis.policy.state_version,
            chain_id: genesis.chain_id(),
            era: Era(0),
            height: Height::GENESIS,
            time_ms: genesis.time_ms,
            parent_hash: Hash::ZERO,
            tx_root: merkle::root(Tag::TX, &[]),
            tx_count: 0,
            state_root: Self::from_genesis(genesis).root(),
            history_root: merkle::root(Tag::HISTORY, &[]),
            validators_hash: set,
            next_validators_hash: set,
            last_commit_hash: Hash::ZERO,
            proposer: genesis.founder.node(),
        }
    }

    /// Rebuilds the state from stored entries and checks that they lead to the header's root.
    ///
    /// # Errors
    /// [`StateError`]: the store is damaged.
    pub fn from_entries<K, V>(
        entries: impl IntoIterator<Item = (K, V)>,
        expected_root: &Hash,
    ) -> Result<Self, StateError>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let mut state = Self { records: BTreeMap::new(), map: SparseMap::new() };
        let mut updates = Vec::new();
        for (key, value) in entries {
            let key = Key::from_bytes(key.as_ref())?;
            let record = Record::from_bytes(&key, value.as_ref())?;
            updates.push((key.path(), Some(value_hash(value.as_ref()))));
            state.records.insert(key, Arc::new(record));
        }
        state.map.update(updates);
        let found = state.root();
        if found != *expected_root {
            return Err(StateError::Root { expected: *expected_root, found });
        }
        state.check_required()?;
        Ok(state)
    }

    /// Every entry as (key, value) bytes: what the store holds.
    pub fn entries(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
        self.records.iter().map(|(key, record)| (key.to_bytes(), record.to_bytes()))
    }

    fn from_records(records: impl IntoIterator<Item = (Key, Record)>) -> Self {
        let records: BTreeMap<_, _> =
            records.into_iter().map(|(key, record)| (key, Arc::new(record))).collect();
        let leaf = |(key, record): (&Key, &Arc<Record>)| {
            (key.path(), Some(value_hash(&record.to_bytes())))
        };
        let mut map = SparseMap::new();
        map.update(records.iter().map(leaf).collect());
        Self { records, map }
    }

    /// The state with one entry set by hand.
    #[cfg(test)]
    pub(crate) fn with_record(&self, key: Key, record: Record) -> Self {
        let others = self.records.iter().map(|(key, record)| (*key, Record::clone(record)));
        Self::from_records(others.chain([(key, record)]))
    }

    /// The getters below rely on these entries; genesis makes them and nothing removes them.
    fn check_required(&self) -> Result<(), StateError> {
        for (key, name) in [(Key::Site, "site"), (Key::Policy, "policy"), (Key::Voters, "voters")] {
            if !self.records.contains_key(&key) {
                return Err(StateError::Missing(name));
            }
        }
        let members = self.voters().iter().all(|node| self.gateway(node).is_some());
        if members { Ok(()) } else { Err(StateError::Missing("voter's")) }
    }

    /// Root of the authenticated map.
    pub fn root(&self) -> Hash {
        self.map.root()
    }

    /// Proves an entry, or that there is none.
    pub fn prove(&self, key: &Key) -> MapProof {
        self.map.prove(&key.path())
    }

    /// The stored value of an entry.
    pub fn value(&self, key: &Key) -> Option<Vec<u8>> {
        self.record(key).map(Record::to_bytes)
    }

    pub(crate) fn record(&self, key: &Key) -> Option<&Record> {
        self.records.get(key).map(Arc::as_ref)
    }

    /// The site as a whole.
    pub fn site(&self) -> &Site {
        match self.record(&Key::Site) {
            Some(Record::Site(site)) => site,
            _ => unreachable!("every state has a site entry"),
        }
    }

    /// The ledger's name.
    pub fn chain_id(&self) -> ChainId {
        self.site().chain_id
    }

    /// Recoveries so far.
    pub fn era(&self) -> Era {
        self.site().era
    }

    /// The operator's current key.
    pub fn operator(&self) -> &PublicKey {
        &self.site().operator
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        match self.record(&Key::Policy) {
            Some(Record::Policy(policy)) => policy,
            _ => unreachable!("every state has a policy entry"),
        }
    }

    /// The voters, ascending.
    pub fn voters(&self) -> &[NodeId] {
        &self.voters_record().nodes
    }

    /// The voters, and those that a rule took out and the operator has not yet decided on.
    pub fn voters_record(&self) -> &Voters {
        match self.record(&Key::Voters) {
            Some(Record::Voters(voters)) => voters,
            _ => unreachable!("every state has a voters entry"),
        }
    }

    /// How many more voters may fail before no block is decided any more: those that are online
    /// above the quorum.
    pub fn tolerance(&self) -> usize {
        let online = |node: &&NodeId| self.gateway(node).is_some_and(|gateway| gateway.online);
        let online = self.voters().iter().filter(online).count();
        online.saturating_sub(quorum_of(self.voters().len()))
    }

    /// The voters with their keys, and the operator's: what votes on the next block.
    pub fn validator_set(&self) -> ValidatorSet {
        let voters = self.voters().iter().filter_map(|node| {
            let vote_key = self.gateway(node)?.vote_key;
            Some(Validator { node: *node, vote_key })
        });
        ValidatorSet::new(*self.operator(), voters.collect())
            .expect("the rules keep voters and their keys distinct and never let the last go")
    }

    /// A gateway.
    pub fn gateway(&self, node: &NodeId) -> Option<&Gateway> {
        match self.record(&Key::Gateway(*node)) {
            Some(Record::Gateway(gateway)) => Some(gateway),
            _ => None,
        }
    }

    /// All gateways, ascending by ID.
    pub fn gateways(&self) -> impl Iterator<Item = (&NodeId, &Gateway)> {
        let first = Key::Gateway(NodeId([0; 20]));
        self.records.range(first..).filter_map(|(key, record)| match (key, &**record) {
            (Key::Gateway(node), Record::Gateway(gateway)) => Some((node, gateway)),
            _ => None,
        })
    }

    /// A gateway and those whose place it took, itself first: who answers for what they recorded.
    pub fn lineage(&self, node: &NodeId) -> Vec<NodeId> {
        let mut lineage = alloc::vec![*node];
        let mut next = 0;
        while let Some(successor) = lineage.get(next).copied() {
            let before =
                |(_, gateway): &(&NodeId, &Gateway)| gateway.replaced_by == Some(successor);
            let new: Vec<NodeId> = self
                .gateways()
                .filter(before)
                .map(|(node, _)| *node)
                .filter(|node| !lineage.contains(node))
                .collect();
            lineage.extend(new);
            next += 1;
        }
        lineage
    }

    /// A light node, retired ones included.
    pub fn light_node(&self, node: &NodeId) -> Option<&LightNode> {
        match self.record(&Key::LightNode(*node)) {
            Some(Record::LightNode(light_node)) => Some(light_node),
            _ => None,
        }
    }

    /// All light nodes, ascending by ID, retired ones included.
    pub fn light_nodes(&self) -> impl Iterator<Item = (&NodeId, &LightNode)> {
        let range = Key::LightNode(NodeId([0; 20]))..=Key::LightNode(NodeId([0xff; 20]));
        self.records.range(range).filter_map(|(key, record)| match (key, &**record) {
            (Key::LightNode(node), Record::LightNode(light_node)) => Some((node, light_node)),
            _ => None,
        })
    }

    /// Session, counters and windows of a light node.
    pub fn session(&self, node: &NodeId) -> Option<&SessionRecord> {
        match self.record(&Key::Session(*node)) {
            Some(Record::Session(session)) => Some(session),
            _ => None,
        }
    }

    /// Nonces and budgets of an author; `None` when it has authored nothing yet.
    pub fn activity(&self, author: &Author) -> Option<&Activity> {
        match self.record(&Key::Activity(*author)) {
            Some(Record::Activity(activity)) => Some(activity),
            _ => None,
        }
    }

    /// The gateway that uses or used a vote key.
    pub fn vote_key_owner(&self, key: &PublicKey) -> Option<&NodeId> {
        match self.record(&Key::VoteKey(*key)) {
            Some(Record::VoteKey(node)) => Some(node),
            _ => None,
        }
    }

    /// Whether a member's attestation is older than the policy allows.
    pub fn is_stale(&self, node: &NodeId, time_ms: u64) -> bool {
        let valid_s = self.policy().attestation_valid_s;
        self.gateway(node).is_some_and(|known| known.attestation.is_stale(valid_s, time_ms))
    }

    /// The operator's approval of a newcomer, used and expired ones included.
    pub fn approval(&self, node: &NodeId) -> Option<&Approval> {
        match self.record(&Key::Approval(*node)) {
            Some(Record::Approval(approval)) => Some(approval),
            _ => None,
        }
    }

    /// The gateway in whose TPM an EK is, by SHA-256 of the EK public key.
    pub fn endorsement(&self, ek_digest: &Hash) -> Option<&Endorsement> {
        match self.record(&Key::Endorsement(*ek_digest)) {
            Some(Record::Endorsement(endorsement)) => Some(endorsement),
            _ => None,
        }
    }

    /// All TPMs that are or were here: SHA-256 of the EK public key, and the gateway.
    pub fn endorsements(&self) -> impl Iterator<Item = (&Hash, &Endorsement)> {
        let range = Key::Endorsement(Hash::ZERO)..=Key::Endorsement(Hash([0xff; 32]));
        self.records.range(range).filter_map(|(key, record)| match (key, &**record) {
            (Key::Endorsement(digest), Record::Endorsement(endorsement)) => {
                Some((digest, endorsement))
            }
            _ => None,
        })
    }

    /// The one type of EK that is accepted of a TPM model; `None` when the model is new.
    pub fn tpm_model(&self, model: &Hash) -> Option<u8> {
        match self.record(&Key::TpmModel(*model)) {
            Some(Record::TpmModel(kind)) => Some(*kind),
            _ => None,
        }
    }

    /// A document that a policy names or named, by SHA-256 of its bytes.
    pub fn document(&self, hash: &Hash) -> Option<&Document> {
        match self.record(&Key::Document(*hash)) {
            Some(Record::Document(document)) => Some(document),
            _ => None,
        }
    }

    /// The documents that the current policy names, anchors first.
    pub fn documents(&self) -> impl Iterator<Item = (&Hash, &Document)> {
        self.policy().documents().filter_map(|hash| Some((hash, self.document(hash)?)))
    }

    /// The gateway that serves a light node: the first of its list that can.
    ///
    /// `None` when the light node is unknown, retired or unserved.
    pub fn serving_gateway(&self, node: &NodeId) -> Option<NodeId> {
        let light_node = self.light_node(node)?;
        if light_node.retired.is_some() {
            return None;
        }
        let can_serve = |id: &&NodeId| self.gateway(id).is_some_and(Gateway::can_serve);
        light_node.gateways.iter().find(can_serve).copied()
    }

    /// Since when keys of a light node are exposed: a gateway that held them is revoked.
    pub fn exposed_since(&self, node: &NodeId) -> Option<Height> {
        let light_node = self.light_node(node)?;
        let held = light_node.gateways.iter().filter_map(|id| self.gateway(id));
        let revoked = held
            .filter(|gateway| gateway.standing.standing == Standing::Revoked)
            .map(|gateway| gateway.standing.since);
        revoked.chain(light_node.exposed_since).min()
    }

    /// Begins a block on top of this state, which stays as it is.
    pub fn begin(&self, context: BlockContext) -> Execution<'_> {
        Execution::new(self, context)
    }

    /// Takes over the outcome of a block that was begun on exactly this state.
    ///
    /// # Panics
    /// When the outcome was begun on another state: the caller has mixed up its blocks, and to
    /// go on would destroy the ledger.
    pub fn commit(&mut self, outcome: Outcome) {
        let (base, records, map) = outcome.into_parts();
        assert_eq!(base, self.root(), "an outcome belongs to the state it was begun on");
        self.records.extend(records);
        self.map = map;
    }
}
