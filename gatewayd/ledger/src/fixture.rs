//! A site for unit tests: keys, a state, and blocks made by the real rules.

mod membership;
mod proofs;

pub(crate) use membership::signatures;

use alloc::{boxed::Box, collections::BTreeMap, vec, vec::Vec};

use crate::{
    batch::{CutBatch, Leaf, TimeQuality},
    block::Block,
    certificate::{Certificate, Signers, VoteType, Votes, vote_digest},
    chain::{BlockError, Tip, execute},
    codec::Text,
    crypto::SigningKey,
    genesis::{Founder, FounderAttestation, Genesis, TpmName},
    header::Header,
    ids::{Era, Hash, Height, Identity, IdentityKind, NodeId},
    merkle::Frontier,
    policy::Policy,
    state::{
        ApplyError, Attestation, Event, Gateway, Key, Record, StandingRecord, State, VerifyError,
    },
    transaction::{
        Assign, AssignItem, AssignReason, Author, Body, Draft, HolderProof, Receipt, Register,
        Session, Ticket, TicketIssuer, TicketPurpose, Transaction, holder_digest, vote_key_digest,
        vote_possession_digest,
    },
    validator_set::ValidatorSet,
};

pub(crate) const START_MS: u64 = 1_800_000_000_000;

pub(crate) fn key(byte: u8) -> SigningKey {
    SigningKey::from_bytes(&[byte; 32]).unwrap()
}

/// Keys of one gateway.
#[derive(Clone)]
pub(crate) struct GatewayKeys {
    pub(crate) identity: SigningKey,
    pub(crate) vote: SigningKey,
}

impl GatewayKeys {
    pub(crate) fn new(byte: u8) -> Self {
        Self { identity: key(byte), vote: key(byte + 100) }
    }

    pub(crate) fn node(&self) -> NodeId {
        NodeId::of_key(&self.identity.public_key())
    }
}

/// A site with one founder; further gateways come in by real transactions, or are put into the
/// state by hand where admission is not what is tested.
#[derive(Clone)]
pub(crate) struct Fixture {
    pub(crate) genesis: Genesis,
    pub(crate) operator: SigningKey,
    pub(crate) founder: GatewayKeys,
    pub(crate) state: State,
    pub(crate) tip: Tip,
    pub(crate) tip_set: ValidatorSet,
    pub(crate) last_commit: Option<Certificate>,
    parent_tip: Option<Tip>,
    /// Blocks and certificates by height, from 1.
    pub(crate) chain: Vec<(Block, Certificate)>,
    /// The voters that certified each of them.
    pub(crate) sets: Vec<ValidatorSet>,
    /// Gateways that sign blocks.
    pub(crate) voters: Vec<GatewayKeys>,
    nonces: BTreeMap<Author, u64>,
}

pub(crate) fn genesis(
    operator: &SigningKey,
    founder: &GatewayKeys,
    attestation: FounderAttestation,
) -> Genesis {
    let salt = Hash([7; 32]);
    let context = Genesis::context(&salt);
    let (identity, vote) = (founder.identity.public_key(), founder.vote.public_key());
    Genesis {
        time_ms: START_MS,
        site_name: Text::new("cold store").unwrap(),
        operator: operator.public_key(),
        founder: Founder {
            identity,
            vote,
            vote_certificate: founder
                .identity
                .sign_digest(&vote_key_digest(&context, &identity, &vote)),
            vote_possession: founder
                .vote
                .sign_digest(&vote_possession_digest(&context, &identity, &vote)),
            ek_digest: Hash([8; 32]),
            ak_name: TpmName([9; 34]),
            attestation,
        },
        policy: Policy::default(),
        salt,
    }
}

impl Fixture {
    /// A site on a software TPM.
    pub(crate) fn new() -> Self {
        Self::founded(FounderAttestation::Unattested)
    }

    pub(crate) fn founded(attestation: FounderAttestation) -> Self {
        let (operator, founder) = (key(200), GatewayKeys::new(1));
        let genesis = genesis(&operator, &founder, attestation);
        Self {
            state: State::from_genesis(&genesis),
            tip: Tip::genesis(&genesis),
            tip_set: genesis.validator_set(),
            voters: vec![founder.clone()],
            operator,
            founder,
            genesis,
            last_commit: None,
            parent_tip: None,
            chain: Vec::new(),
            sets: Vec::new(),
            nonces: BTreeMap::new(),
        }
    }

    /// Adds a full member and coordinator that does not vote.
    pub(crate) fn add_member(&mut self, byte: u8) -> GatewayKeys {
        let keys = GatewayKeys::new(byte);
        let gateway = Gateway {
            identity: keys.identity.public_key(),
            vote_key: keys.vote.public_key(),
            full: true,
            coordinator: true,
            standing: StandingRecord::active(self.tip.header.height),
            attestation: Attestation::Unverified,
            member_since: self.tip.header.height,
            online: true,
            liveness_epoch: 0,
            ready: None,
            replaced_by: None,
        };
        self.put(Key::Gateway(keys.node()), Record::Gateway(gateway));
        self.put(Key::VoteKey(keys.vote.public_key()), Record::VoteKey(keys.node()));
        keys
    }

    /// Changes an entry by hand; the tip and its certificate follow, so that blocks can go on.
    pub(crate) fn put(&mut self, key: Key, record: Record) {
        self.state = self.state.with_record(key, record);
        let mut header = self.tip.header.clone();
        header.state_root = self.state.root();
        header.next_validators_hash = self.state.validator_set().hash();
        self.tip = self.parent_tip.as_ref().map_or_else(
            || Tip::on(&Frontier::new(), header.clone()),
            |parent| parent.advance(header.clone()),
        );
        if let Some((block, certificate)) = self.chain.last_mut() {
            block.header = header.clone();
            *certificate = certify(&self.voters, &self.tip_set, &header);
            self.last_commit = Some(certificate.clone());
        }
    }

    pub(crate) fn gateway(&self) -> NodeId {
        self.founder.node()
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.tip.header.time_ms + 1_000
    }

    pub(crate) fn draft(&mut self, author: Author, body: Body) -> Draft {
        let nonce = self.nonces.entry(author).or_default();
        *nonce += 1;
        let expiry = match author {
            Author::Operator => self.tip.header.time_ms + 3_600_000,
            Author::Node(_) => self.tip.header.height.0 + 100,
        };
        Draft {
            chain_id: self.state.chain_id(),
            era: self.state.era(),
            author,
            nonce: *nonce,
            expiry,
            attachment: None,
            body,
        }
    }

    pub(crate) fn by_operator(&mut self, body: Body) -> Transaction {
        let key = self.operator.clone();
        self.draft(Author::Operator, body).sign(&key)
    }

    /// Signed by the founder's vote key.
    pub(crate) fn by_founder(&mut self, body: Body) -> Transaction {
        let keys = self.founder.clone();
        self.by(&keys, body)
    }

    pub(crate) fn by(&mut self, keys: &GatewayKeys, body: Body) -> Transaction {
        self.draft(Author::Node(keys.node()), body).sign(&keys.vote)
    }

    pub(crate) fn by_identity(&mut self, body: Body) -> Transaction {
        let key = self.founder.identity.clone();
        self.draft(Author::Node(self.gateway()), body).sign(&key)
    }

    /// Tries one transaction in the next block, without making the block.
    pub(crate) fn try_one(&self, transaction: &Transaction) -> Result<Vec<Event>, Refused> {
        let verified = self.state.verify(transaction.clone()).map_err(Refused::Verify)?;
        let mut execution = self.state.begin(self.tip.next_context(self.now_ms()));
        execution.apply(&verified).map_err(Refused::Apply)
    }

    /// Makes, checks, certifies and commits a block one second later.
    pub(crate) fn commit(&mut self, transactions: Vec<Transaction>) -> Result<(), BlockError> {
        let time_ms = self.now_ms();
        self.commit_at(time_ms, transactions)
    }

    pub(crate) fn commit_at(
        &mut self,
        time_ms: u64,
        transactions: Vec<Transaction>,
    ) -> Result<(), BlockError> {
        let block = self.block(time_ms, transactions)?;
        let outcome = execute(&self.state, &self.tip, &self.tip_set, &block)?;
        let certificate = self.certify(&block);
        self.take(block, certificate, outcome);
        Ok(())
    }

    pub(crate) fn take(
        &mut self,
        block: Block,
        certificate: Certificate,
        outcome: crate::state::Outcome,
    ) {
        self.tip_set = self.state.validator_set();
        self.sets.push(self.tip_set.clone());
        certificate.verify(&block.header, &self.tip_set).unwrap();
        self.state.commit(outcome);
        let parent = self.tip.clone();
        self.tip = parent.advance(block.header.clone());
        self.parent_tip = Some(parent);
        self.last_commit = Some(certificate.clone());
        self.chain.push((block, certificate));
    }

    /// The block that a proposer would make of these transactions.
    pub(crate) fn block(
        &self,
        time_ms: u64,
        transactions: Vec<Transaction>,
    ) -> Result<Block, BlockError> {
        let last_commit = self.last_commit.as_ref();
        let mut execution =
            crate::chain::begin(&self.state, &self.tip, &self.tip_set, last_commit, time_ms);
        for (index, transaction) in transactions.iter().enumerate() {
            let verified = self
                .state
                .verify(transaction.clone())
                .map_err(|error| BlockError::Verify { index, error })?;
            execution.apply(&verified).map_err(|error| BlockError::Apply { index, error })?;
        }
        let outcome = execution.finish();
        let last_commit = self.last_commit.clone();
        let header = self.tip.next_header(
            &self.state,
            &outcome,
            &transactions,
            last_commit.as_ref(),
            time_ms,
            self.gateway(),
        );
        Ok(Block { header, transactions, last_commit })
    }

    pub(crate) fn certify(&self, block: &Block) -> Certificate {
        certify(&self.voters, &self.state.validator_set(), &block.header)
    }

    pub(crate) fn recovery_certificate(transaction: Transaction, block: &Block) -> Certificate {
        Certificate {
            height: block.header.height,
            block_hash: block.header.hash(),
            signers: Signers::Operator(Box::new(transaction)),
        }
    }

    pub(crate) fn light_node_id(&self, byte: u8) -> NodeId {
        NodeId::derive(&Identity::DevEui([byte; 8]), &self.state.chain_id())
    }

    pub(crate) fn window_ticket(&self, purpose: TicketPurpose, node: &NodeId) -> Ticket {
        let opened_ms = self.tip.header.time_ms;
        let issuer = TicketIssuer::Window { sponsor: self.gateway(), opened_ms };
        let chain = self.state.chain_id();
        Ticket::sign(&chain, purpose, node, issuer, opened_ms + 120_000, &self.founder.vote)
    }

    pub(crate) fn registration(&self, node: NodeId) -> Register {
        Register {
            node,
            identity_kind: IdentityKind::DevEui,
            public_key: None,
            class: Text::new("A").unwrap(),
            level: 1,
            expected_interval_s: 60,
            downlink: true,
            wire_counter: true,
            owner: None,
            descriptor_hash: Hash([5; 32]),
            sponsor: self.gateway(),
            ticket: self.window_ticket(TicketPurpose::Register, &node),
        }
    }

    pub(crate) fn assignment(&self, node: NodeId, gateways: Vec<NodeId>) -> AssignItem {
        let expected_epoch = self.state.light_node(&node).map_or(0, |known| known.assign_epoch);
        let session_epoch = self.state.session(&node).map_or(0, |known| known.counters.epoch);
        AssignItem { node, expected_epoch, session_epoch, gateways }
    }

    /// An `Assign` by the founder, with the holder signatures of the others.
    pub(crate) fn assign(&mut self, items: Vec<AssignItem>, others: &[&GatewayKeys]) -> Body {
        let (chain, era) = (self.state.chain_id(), self.state.era());
        let mut holders: Vec<_> = others
            .iter()
            .map(|keys| HolderProof {
                gateway: keys.node(),
                signature: keys.vote.sign_digest(&holder_digest(&chain, era, &keys.node(), &items)),
            })
            .collect();
        holders.sort_by_key(|proof| proof.gateway);
        Body::Assign(Assign { reason: AssignReason::Refill, items, holders })
    }

    pub(crate) fn open_session(&self, node: NodeId) -> Body {
        let expected_epoch = self.state.session(&node).map_or(0, |known| known.counters.epoch);
        Body::Session(Session { node, expected_epoch, digest: Hash([6; 32]), liveness_epoch: 0 })
    }

    /// Registers a light node, assigns it to the founder and opens its first session.
    pub(crate) fn join(&mut self, byte: u8) -> NodeId {
        let node = self.light_node_id(byte);
        let register = self.by_founder(Body::Register(self.registration(node)));
        let item = self.assignment(node, vec![self.gateway()]);
        let assign = self.assign(vec![item], &[]);
        let assign = self.by_founder(assign);
        let session = self.by_founder(self.open_session(node));
        self.commit(vec![register, assign, session]).unwrap();
        node
    }

    pub(crate) fn leaf(&self, node: NodeId, epoch: u32, counter: u64) -> Leaf {
        Leaf {
            chain_id: self.state.chain_id(),
            node,
            epoch,
            counter,
            time_ms: self.tip.header.time_ms,
            time_quality: TimeQuality::Synced,
            level: 1,
            witnesses: Vec::new(),
            // A SenML pack in CBOR: [{0: "temp", 1: "Cel", 2: 21.5}] (RFC 8428 §6).
            senml: vec![
                0x81, 0xa3, 0x00, 0x64, b't', b'e', b'm', b'p', 0x01, 0x63, b'C', b'e', b'l', 0x02,
                0xf9, 0x4d, 0x60,
            ],
            device_signature: None,
        }
    }

    pub(crate) fn cut(&self, positions: &[(NodeId, u32, u64)]) -> CutBatch {
        let author = Author::Node(self.gateway());
        let sequence = self.state.activity(&author).map_or(0, |a| a.batch_sequence) + 1;
        let leaves = positions
            .iter()
            .map(|(node, epoch, counter)| {
                ([*counter as u8; 16], self.leaf(*node, *epoch, *counter))
            })
            .collect();
        CutBatch::build(sequence, leaves).unwrap()
    }

    pub(crate) fn batch(&mut self, batch: &CutBatch, receipts: Vec<Receipt>) -> Transaction {
        let attachment = batch.attachment(receipts);
        let mut draft = self.draft(Author::Node(self.gateway()), Body::Batch(batch.head));
        draft.attachment = Some(attachment.digest());
        draft.sign(&self.founder.vote).attach(attachment).unwrap()
    }

    pub(crate) fn receipt(&self, keys: &GatewayKeys, batch: &CutBatch) -> Receipt {
        let retained_until_ms = self.now_ms() + 1_000_000;
        let digest = Receipt::digest(
            &self.state.chain_id(),
            self.state.era(),
            &self.gateway(),
            batch.head.sequence,
            &batch.head.root,
            retained_until_ms,
        );
        Receipt {
            holder: keys.node(),
            retained_until_ms,
            signature: keys.vote.sign_digest(&digest),
        }
    }

    pub(crate) fn height(&self) -> Height {
        self.tip.header.height
    }

    pub(crate) fn era(&self) -> Era {
        self.state.era()
    }
}

fn certify(voters: &[GatewayKeys], set: &ValidatorSet, header: &Header) -> Certificate {
    let hash = header.hash();
    let (chain, era, height) = (&header.chain_id, header.era, header.height);
    let digest = vote_digest(chain, era, VoteType::Precommit, height, 0, Some(&hash));
    let votes = voters
        .iter()
        .filter_map(|keys| Some((set.position(&keys.node())?, keys.vote.sign_digest(&digest))));
    let votes = Votes::collect(0, set.count(), votes);
    Certificate { height, block_hash: hash, signers: Signers::Votes(votes) }
}

/// At which of the two checks a transaction was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Verify(VerifyError),
    Apply(ApplyError),
}
