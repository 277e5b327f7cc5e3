//! A site made of fixed keys, for the tests of node and store and for the simulation.
//!
//! Several gateways vote from the first block on: the genesis state is written as if they had
//! been admitted, for admission is not what is tested here.

#![allow(dead_code, reason = "each test binary uses another part")]

use ledger::codec::Text;
use ledger::crypto::{SigningKey, sha256};
use ledger::genesis::{Founder, FounderAttestation, Genesis, TpmName};
use ledger::ids::{ChainId, Era, Hash, Height, Identity, IdentityKind, NodeId};
use ledger::policy::Policy;
use ledger::state::map::{SparseMap, value_hash};
use ledger::state::{Attestation, Endorsement, Gateway, Key, Record, State, records};
use ledger::store::Founding;
use ledger::transaction::*;
use ledger::validator_set::{Validator, ValidatorSet};

/// Time of the genesis record, Unix milliseconds.
pub(crate) const START_MS: u64 = 1_700_000_000_000;

/// Name of every attestation key: what it names is not tested here.
pub(crate) const AK_NAME: TpmName = TpmName([2; 34]);

/// All keys of a site.
pub(crate) struct Site {
    pub(crate) operator: SigningKey,
    pub(crate) identities: Vec<SigningKey>,
    pub(crate) votes: Vec<SigningKey>,
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) genesis: Genesis,
    /// So many of the gateways vote.
    pub(crate) voters: usize,
    /// So many are members; the others have keys alone.
    pub(crate) members: usize,
}

impl Site {
    /// A site with this many voters.
    pub(crate) fn new(voters: usize) -> Self {
        Self::with_followers(voters, 0)
    }

    /// A site whose last gateways have no vote.
    pub(crate) fn with_followers(voters: usize, followers: usize) -> Self {
        Self::with_strangers(voters, followers, 0)
    }

    /// A site beside which there are gateways that are no members.
    pub(crate) fn with_strangers(voters: usize, followers: usize, strangers: usize) -> Self {
        let members = voters + followers;
        let gateways = members + strangers;
        let operator = key(b"operator", 0);
        let identities: Vec<_> = (0..gateways).map(|index| key(b"identity", index)).collect();
        let votes: Vec<_> = (0..gateways).map(|index| key(b"vote", index)).collect();
        let nodes = identities.iter().map(|key| NodeId::of_key(&key.public_key())).collect();
        let salt = Hash([7; 32]);
        let context = Genesis::context(&salt);
        let proof = prove_vote_key(&context, &identities[0], &votes[0]);
        let founder = Founder {
            identity: identities[0].public_key(),
            vote: votes[0].public_key(),
            vote_certificate: proof.certificate,
            vote_possession: proof.possession,
            ek_digest: Hash([1; 32]),
            ak_name: AK_NAME,
            attestation: FounderAttestation::Unattested,
        };
        let site_name = Text::new("test site").unwrap();
        let (operator_key, policy) = (operator.public_key(), Policy::default());
        let genesis =
            Genesis { time_ms: START_MS, site_name, operator: operator_key, founder, policy, salt };
        Self { operator, identities, votes, nodes, genesis, voters, members }
    }

    pub(crate) fn chain_id(&self) -> ChainId {
        self.genesis.chain_id()
    }

    /// What the store of every gateway begins with.
    pub(crate) fn founding(&self) -> Founding {
        let mut founding = Founding::new(self.genesis.clone());
        // Beside an unattested founder nobody comes in: with strangers it is attested.
        if self.nodes.len() == 1 {
            return founding;
        }
        let mut entries: std::collections::BTreeMap<Vec<u8>, Vec<u8>> =
            founding.entries.into_iter().collect();
        let state = State::from_genesis(&self.genesis);
        let founder = state.gateway(&self.nodes[0]).unwrap().clone();
        for index in 0..self.members {
            let (identity, vote_key) =
                (self.identities[index].public_key(), self.votes[index].public_key());
            let policy_hash = self.genesis.policy.attestation_hash();
            let (height, time_ms, warnings) = (Height(0), START_MS, 0);
            let attestation = Attestation::Attested { height, time_ms, policy_hash, warnings };
            let gateway = Gateway { identity, vote_key, attestation, ..founder.clone() };
            let (node, ek) = (self.nodes[index], self.ek_digest(index));
            let endorsement = Endorsement { gateway: node, ak_name: AK_NAME, pinned: false };
            for (key, record) in [
                (Key::Gateway(node), Record::Gateway(gateway)),
                (Key::VoteKey(vote_key), Record::VoteKey(node)),
                (Key::Endorsement(ek), Record::Endorsement(endorsement)),
            ] {
                entries.insert(key.to_bytes(), record.to_bytes());
            }
        }
        let mut nodes = self.nodes[..self.voters].to_vec();
        nodes.sort_unstable();
        let voters = Record::Voters(records::Voters::new(nodes));
        entries.insert(Key::Voters.to_bytes(), voters.to_bytes());
        let mut map = SparseMap::new();
        let leaf = |(key, value): (&Vec<u8>, &Vec<u8>)| {
            (Key::from_bytes(key).unwrap().path(), Some(value_hash(value)))
        };
        map.update(entries.iter().map(leaf).collect());
        founding.validators = self.validators();
        founding.header.state_root = map.root();
        founding.header.validators_hash = founding.validators.hash();
        founding.header.next_validators_hash = founding.validators.hash();
        founding.entries = entries.into_iter().collect();
        founding
    }

    /// The TPM of a gateway, as far as the ledger knows it.
    pub(crate) fn ek_digest(&self, gateway: usize) -> Hash {
        match gateway {
            0 => self.genesis.founder.ek_digest,
            _ => sha256(&[b"ek", &self.nodes[gateway].0]),
        }
    }

    pub(crate) fn validators(&self) -> ValidatorSet {
        let voter = |(node, vote): (&NodeId, &SigningKey)| Validator {
            node: *node,
            vote_key: vote.public_key(),
        };
        let all = self.nodes.iter().zip(&self.votes);
        let voters = all.take(self.voters).map(voter).collect();
        ValidatorSet::new(self.operator.public_key(), voters).unwrap()
    }

    /// An act of the operator that always applies: urgent, and different for every nonce.
    pub(crate) fn act(&self, nonce: u64) -> Transaction {
        let receipts = 1 + (nonce % 2) as u8;
        self.operator_draft(nonce, Policy { receipts, ..Policy::default() }.into())
            .sign(&self.operator)
    }

    pub(crate) fn operator_draft(&self, nonce: u64, body: Body) -> Draft {
        Draft {
            chain_id: self.chain_id(),
            era: Era(0),
            author: Author::Operator,
            nonce,
            expiry: u64::MAX,
            attachment: None,
            body,
        }
    }

    pub(crate) fn gateway_draft(&self, gateway: usize, nonce: u64, body: Body) -> Draft {
        let author = Author::Node(self.nodes[gateway]);
        Draft { author, ..self.operator_draft(nonce, body) }
    }

    /// A refusal by a gateway: not urgent.
    pub(crate) fn refusal(&self, gateway: usize, nonce: u64) -> Transaction {
        let reason = Text::new("not on the list").unwrap();
        let body = Body::Refusal(Refusal { node: light_node(nonce), reason });
        self.gateway_draft(gateway, nonce, body).sign(&self.votes[gateway])
    }

    /// Registration, assignment to one gateway and first session of a light node.
    pub(crate) fn pair(&self, gateway: usize, first_nonce: u64, node: NodeId) -> [Transaction; 3] {
        let chain_id = self.chain_id();
        let own = self.nodes[gateway];
        let ticket = Ticket::sign(
            &chain_id,
            TicketPurpose::Register,
            &node,
            TicketIssuer::Operator,
            u64::MAX,
            &self.operator,
        );
        let register = Register {
            node,
            identity_kind: IdentityKind::SerialDevice,
            public_key: None,
            class: Text::new("test").unwrap(),
            level: 1,
            expected_interval_s: 60,
            downlink: false,
            wire_counter: true,
            owner: None,
            descriptor_hash: Hash::ZERO,
            sponsor: own,
            ticket,
        };
        let item = AssignItem { node, expected_epoch: 0, session_epoch: 0, gateways: vec![own] };
        let digest = holder_digest(&chain_id, Era(0), &own, std::slice::from_ref(&item));
        let signature = self.votes[gateway].sign_digest(&digest);
        let assign = Assign {
            reason: AssignReason::Refill,
            items: vec![item],
            holders: vec![HolderProof { gateway: own, signature }],
        };
        let session = Session { node, expected_epoch: 0, digest: Hash([3; 32]), liveness_epoch: 0 };
        let bodies = [Body::Register(register), Body::Assign(assign), Body::Session(session)];
        let mut nonce = first_nonce;
        bodies.map(|body| {
            let draft = self.gateway_draft(gateway, nonce, body);
            nonce += 1;
            draft.sign(&self.votes[gateway])
        })
    }

    /// A batch of one reading of each of these light nodes, all with the same counter.
    pub(crate) fn batch(
        &self,
        gateway: usize,
        nonce: u64,
        sequence: u64,
        nodes: &[NodeId],
        counter: u64,
    ) -> Transaction {
        let mut nodes = nodes.to_vec();
        nodes.sort_unstable();
        let ranges = vec![CounterRange { epoch: 1, first: counter, last: counter }];
        let list = nodes.iter().map(|node| NodeRanges { node: *node, ranges: ranges.clone() });
        let attachment = Attachment { list: list.collect(), receipts: Vec::new() };
        let head = BatchHead {
            sequence,
            first_ms: START_MS,
            last_ms: START_MS + 1,
            count: nodes.len() as u32,
            root: sha256(&[&sequence.to_be_bytes()]),
        };
        let mut draft = self.gateway_draft(gateway, nonce, Body::Batch(head));
        draft.attachment = Some(attachment.digest());
        draft.sign(&self.votes[gateway]).attach(attachment).unwrap()
    }
}

/// The identity key's and the vote key's statements about each other.
pub(crate) fn prove_vote_key(
    context: &Hash,
    identity: &SigningKey,
    vote: &SigningKey,
) -> VoteKeyProof {
    let (identity_key, vote_key) = (identity.public_key(), vote.public_key());
    VoteKeyProof {
        vote_key,
        certificate: identity.sign_digest(&vote_key_digest(context, &identity_key, &vote_key)),
        possession: vote.sign_digest(&vote_possession_digest(context, &identity_key, &vote_key)),
    }
}

pub(crate) fn light_node(number: u64) -> NodeId {
    let chain = ChainId(Hash::ZERO);
    NodeId::derive(&Identity::SerialDevice(number.to_be_bytes()), &chain)
}

pub(crate) fn key(purpose: &[u8], index: usize) -> SigningKey {
    let mut seed = sha256(&[purpose, &index.to_be_bytes()]);
    // A hash is below the group order but for one in 2^32.
    seed.0[0] = 1;
    SigningKey::from_bytes(&seed.0).unwrap()
}
