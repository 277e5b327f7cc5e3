//! A block being tried on a state: layers of changes that are dropped or kept as a whole.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};

use super::{
    Activity, Event, Key, Record, State, VerifiedTransaction,
    error::ApplyError,
    map::{SparseMap, value_hash},
    records::{
        Approval, Endorsement, Gateway, LightNode, SessionRecord, Site, UsedTickets, Voters,
    },
    rules,
    verify::Signer,
};
use crate::{
    crypto::PublicKey,
    ids::{Era, Hash, Height, NodeId},
    policy::Policy,
    transaction::{Author, Body, Document, Transaction},
    validator_set::{Validator, ValidatorSet},
};

/// What the rules may know about the block besides its transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockContext {
    /// Height of the block.
    pub height: Height,
    /// Time of the block, Unix milliseconds.
    pub time_ms: u64,
    /// Hash of the parent's header.
    pub parent_hash: Hash,
}

impl BlockContext {
    /// Hours of block time since the Unix epoch.
    pub(super) fn hour(&self) -> u64 {
        self.time_ms / 3_600_000
    }
}

/// Longest chain of replacements that is followed from one gateway.
const MAX_REPLACEMENTS: usize = 64;

/// A changed entry, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Stored form of the key.
    pub key: Vec<u8>,
    /// The new value.
    pub value: Vec<u8>,
}

/// A block being tried: reads fall through to the state, writes stay here.
#[derive(Debug)]
pub struct Execution<'a> {
    base: &'a State,
    pub(super) context: BlockContext,
    /// Changes of the transactions that were applied.
    pub(super) block: BTreeMap<Key, Arc<Record>>,
    /// Changes of the transaction being applied.
    staged: BTreeMap<Key, Arc<Record>>,
    by_author: BTreeMap<Author, u32>,
    events: Vec<(Hash, Vec<Event>)>,
    recovered: bool,
}

/// What a block does to the state it was begun on.
#[derive(Clone, Debug)]
pub struct Outcome {
    base_root: Hash,
    map: SparseMap,
    records: BTreeMap<Key, Arc<Record>>,
    /// Changed entries, ascending by key.
    pub changes: Vec<Change>,
    /// Events of each transaction, by its hash, in order.
    pub events: Vec<(Hash, Vec<Event>)>,
    /// The validator set after the block.
    pub validators: ValidatorSet,
    /// The era after the block.
    pub era: Era,
}

impl Outcome {
    /// Root of the state after the block.
    pub fn root(&self) -> Hash {
        self.map.root()
    }

    pub(super) fn into_parts(self) -> (Hash, BTreeMap<Key, Arc<Record>>, SparseMap) {
        (self.base_root, self.records, self.map)
    }
}

impl<'a> Execution<'a> {
    pub(super) fn new(base: &'a State, context: BlockContext) -> Self {
        Self {
            base,
            context,
            block: BTreeMap::new(),
            staged: BTreeMap::new(),
            by_author: BTreeMap::new(),
            events: Vec::new(),
            recovered: false,
        }
    }

    /// Number of transactions applied.
    pub fn count(&self) -> usize {
        self.events.len()
    }

    /// Records a transaction.
    ///
    /// # Errors
    /// [`ApplyError`]; then nothing has changed, and the next one can be tried.
    pub fn apply(&mut self, verified: &VerifiedTransaction) -> Result<Vec<Event>, ApplyError> {
        let transaction = verified.transaction();
        let current =
            verified.keys().iter().all(|(signer, key)| self.key_of(*signer) == Some(*key));
        if !current {
            return Err(ApplyError::KeyChanged);
        }
        self.record_transaction(transaction)
    }

    /// As [`Execution::apply`] for a transaction that nobody has signed yet: shows the operator
    /// what the act would do. The outcome must not become a block.
    pub(crate) fn preview(&mut self, transaction: &Transaction) -> Result<Vec<Event>, ApplyError> {
        self.record_transaction(transaction)
    }

    fn record_transaction(&mut self, transaction: &Transaction) -> Result<Vec<Event>, ApplyError> {
        self.staged.clear();
        match self.stage(transaction) {
            Ok(events) => {
                self.block.append(&mut self.staged);
                *self.by_author.entry(transaction.draft().author).or_default() += 1;
                self.recovered |= matches!(transaction.draft().body, Body::Recover(_));
                self.events.push((transaction.hash(), events.clone()));
                Ok(events)
            }
            Err(error) => {
                self.staged.clear();
                Err(error)
            }
        }
    }

    /// Ends the block.
    pub fn finish(self) -> Outcome {
        let validators = self.validator_set();
        let era = self.site().era;
        let mut map = self.base.map.clone();
        let mut updates = Vec::with_capacity(self.block.len());
        let mut changes = Vec::with_capacity(self.block.len());
        for (key, record) in &self.block {
            let value = record.to_bytes();
            updates.push((key.path(), Some(value_hash(&value))));
            changes.push(Change { key: key.to_bytes(), value });
        }
        map.update(updates);
        Outcome {
            base_root: self.base.root(),
            map,
            records: self.block,
            changes,
            events: self.events,
            validators,
            era,
        }
    }

    fn stage(&mut self, transaction: &Transaction) -> Result<Vec<Event>, ApplyError> {
        let draft = transaction.draft();
        let recovery = matches!(draft.body, Body::Recover(_));
        if self.recovered || (recovery && !self.events.is_empty()) {
            return Err(ApplyError::RecoveryNotAlone);
        }
        if draft.era > self.site().era {
            return Err(ApplyError::Era(draft.era));
        }
        let now = match draft.author {
            Author::Operator => self.context.time_ms,
            Author::Node(_) => self.context.height.0,
        };
        if now > draft.expiry {
            return Err(ApplyError::Expired(draft.expiry));
        }
        let limit = self.policy().transactions_per_author;
        if self.by_author.get(&draft.author).is_some_and(|count| *count >= limit) {
            return Err(ApplyError::TooMany(limit));
        }
        let mut activity = self.activity(&draft.author);
        if !activity.use_nonce(draft.nonce) {
            return Err(ApplyError::Nonce(draft.nonce));
        }
        self.put(Key::Activity(draft.author), Record::Activity(activity));
        rules::apply(self, transaction)
    }

    pub(super) fn put(&mut self, key: Key, record: Record) {
        self.staged.insert(key, Arc::new(record));
    }

    pub(super) fn record(&self, key: &Key) -> Option<&Record> {
        let here = self.staged.get(key).or_else(|| self.block.get(key));
        here.map(Arc::as_ref).or_else(|| self.base.record(key))
    }

    fn key_of(&self, signer: Signer) -> Option<PublicKey> {
        match signer {
            Signer::Operator => Some(self.site().operator),
            Signer::Vote(node) => self.gateway(&node).map(|gateway| gateway.vote_key),
            Signer::Identity(node) => self.gateway(&node).map(|gateway| gateway.identity),
        }
    }

    pub(super) fn site(&self) -> &Site {
        match self.record(&Key::Site) {
            Some(Record::Site(site)) => site,
            _ => self.base.site(),
        }
    }

    pub(super) fn policy(&self) -> &Policy {
        match self.record(&Key::Policy) {
            Some(Record::Policy(policy)) => policy,
            _ => self.base.policy(),
        }
    }

    pub(super) fn voters_record(&self) -> &Voters {
        match self.record(&Key::Voters) {
            Some(Record::Voters(voters)) => voters,
            _ => self.base.voters_record(),
        }
    }

    /// The voters, ascending.
    pub(super) fn voters(&self) -> &[NodeId] {
        &self.voters_record().nodes
    }

    pub(super) fn gateway(&self, node: &NodeId) -> Option<&Gateway> {
        match self.record(&Key::Gateway(*node)) {
            Some(Record::Gateway(gateway)) => Some(gateway),
            _ => None,
        }
    }

    pub(super) fn light_node(&self, node: &NodeId) -> Option<&LightNode> {
        match self.record(&Key::LightNode(*node)) {
            Some(Record::LightNode(light_node)) => Some(light_node),
            _ => None,
        }
    }

    pub(super) fn session(&self, node: &NodeId) -> SessionRecord {
        match self.record(&Key::Session(*node)) {
            Some(Record::Session(session)) => session.clone(),
            _ => SessionRecord::default(),
        }
    }

    pub(super) fn used_tickets(&self, node: &NodeId) -> UsedTickets {
        match self.record(&Key::Tickets(*node)) {
            Some(Record::Tickets(tickets)) => tickets.clone(),
            _ => UsedTickets::default(),
        }
    }

    pub(super) fn activity(&self, author: &Author) -> Activity {
        match self.record(&Key::Activity(*author)) {
            Some(Record::Activity(activity)) => activity.clone(),
            _ => Activity::default(),
        }
    }

    /// The gateway that uses or used a vote key.
    pub(super) fn vote_key_owner(&self, key: &PublicKey) -> Option<NodeId> {
        match self.record(&Key::VoteKey(*key)) {
            Some(Record::VoteKey(node)) => Some(*node),
            _ => None,
        }
    }

    pub(super) fn endorsement(&self, ek_digest: &Hash) -> Option<&Endorsement> {
        match self.record(&Key::Endorsement(*ek_digest)) {
            Some(Record::Endorsement(endorsement)) => Some(endorsement),
            _ => None,
        }
    }

    pub(super) fn tpm_model(&self, model: &Hash) -> Option<u8> {
        match self.record(&Key::TpmModel(*model)) {
            Some(Record::TpmModel(kind)) => Some(*kind),
            _ => None,
        }
    }

    pub(super) fn approval(&self, node: &NodeId) -> Option<&Approval> {
        match self.record(&Key::Approval(*node)) {
            Some(Record::Approval(approval)) => Some(approval),
            _ => None,
        }
    }

    pub(super) fn document(&self, hash: &Hash) -> Option<&Document> {
        match self.record(&Key::Document(*hash)) {
            Some(Record::Document(document)) => Some(document),
            _ => None,
        }
    }

    /// Who answers for a gateway's past now: itself, or whoever took its place.
    pub(super) fn successor(&self, node: NodeId) -> NodeId {
        let next = |node: &NodeId| self.gateway(node)?.replaced_by;
        // Each step is a recorded replacement; a bound keeps a block from costing more than it may.
        core::iter::successors(Some(node), next).take(MAX_REPLACEMENTS).last().unwrap_or(node)
    }

    /// The gateway that serves a light node: the first of its list that can.
    pub(super) fn serving(&self, gateways: &[NodeId]) -> Option<NodeId> {
        let can_serve = |id: &&NodeId| self.gateway(id).is_some_and(Gateway::can_serve);
        gateways.iter().find(can_serve).copied()
    }

    fn validator_set(&self) -> ValidatorSet {
        let voters = self.voters().iter().filter_map(|node| {
            let vote_key = self.gateway(node)?.vote_key;
            Some(Validator { node: *node, vote_key })
        });
        ValidatorSet::new(self.site().operator, voters.collect())
            .expect("the rules keep voters and their keys distinct and never let the last go")
    }
}
